"""Reads TIFF files of any number of bands: axes, colours, orientation, bands' names and pixels without data."""

from __future__ import annotations

import html
import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from ssl_core import BadSample
from ssl_plugins.datasets._io.images.raster_axes import (
    ChannelAxis,
    Order,
    channels_first,
    doubt_of_axes,
    find_channel_axis,
    squeeze_axes,
)
from ssl_plugins.datasets._io.images.raster_colour import (
    TURNED,
    apply_orientation,
    apply_palette,
    cmyk_to_rgb,
    scale_bits,
    white_of,
)
from ssl_plugins.datasets._io.images.raster_types import Content, ImageHeader, Raster

TIFF_EXTENSIONS = (".tif", ".tiff")
MIN_IS_WHITE, RGB, PALETTE, SEPARATED = 0, 2, 3, 5  # photometric interpretations
ORIENTATION_TAG, GDAL_METADATA_TAG, GDAL_NODATA_TAG = 274, 42112, 42113
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
MAX_BYTES = 1 << 34  # of the pixels of one file
CODEC_EXTRA = "pip install 'sslx[imagecodecs]'"


@dataclass(frozen=True, eq=False)
class TiffFormat:
    """What the tags of the first series say. colour_map: (3, n) uint16 of a palette."""

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype
    photometric: int
    bits: int
    extra_samples: tuple[int, ...]
    orientation: int
    nodata: float | None
    names: tuple[str, ...]
    colour_map: np.ndarray | None

    @property
    def samples(self) -> int:
        """Samples of a pixel: the length of the axis S, or 1."""
        return self.shape[self.axes.index("S")] if "S" in self.axes else 1

    @property
    def has_alpha(self) -> bool:
        """Whether the last sample of a pixel is transparency."""
        is_alpha = bool(self.extra_samples) and self.extra_samples[-1] in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA)
        return is_alpha and self.samples in (2, 4, 5) and len(self.shape) == 3


@contextmanager
def _open(content: Content) -> Iterator[Any]:
    """A tifffile.TiffFile. What is wrong with a damaged file is said when it is read, and not logged."""
    import tifffile  # slow to import

    logger = logging.getLogger("tifffile")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
            yield file
    finally:
        logger.disabled = was_disabled


def decode_tiff(content: Content, stored: bool, order: Order) -> Raster:
    """Read the first series of a TIFF file. stored: see `RasterOptions`.

    Raises:
        BadSample: it is no image of numbers, is too large, or its compression needs imagecodecs.
    """
    with _open(content) as file:
        tags = _read_tags(file)
        series = file.series[0]
        _check_size(series)
        is_oriented = False
        try:
            x = series.asarray()
        except Exception as error:
            if "imagecodecs" not in str(error):
                raise
            x = _read_with_pillow(content, tags, _compression(series))
            is_oriented = True
    x = channels_first(x, tags.axes, order)
    if not stored:
        x = _colours(x, tags, by_pillow=is_oriented)
    elif x.dtype.kind == "b":
        x = x.astype(np.uint8)
    x = x if is_oriented else apply_orientation(x, tags.orientation)
    is_premultiplied = tags.has_alpha and tags.extra_samples[-1] == ASSOCIATED_ALPHA
    return Raster(x, tags.has_alpha, is_premultiplied, tags.nodata)


def header_tiff(content: Content, stored: bool, order: Order, name: str) -> ImageHeader | None:
    """The format of a TIFF file, without reading its pixels; None if it is no image."""
    with _open(content) as file:
        tags = _read_tags(file)
    shape, axes = squeeze_axes(tags.shape, tags.axes)
    axis = find_channel_axis(shape, axes, order)
    if axis is None or tags.dtype.kind not in "uifb" or 0 in shape:
        return None
    sides = tuple(n for i, n in enumerate(shape) if i != axis.index)
    height, width = sides[::-1] if tags.orientation in TURNED else sides
    channels, dtype = _channels(shape, axis) - tags.has_alpha, tags.dtype
    if not stored:
        if tags.photometric == PALETTE and axis.index is None:
            channels, dtype = 3, np.dtype("uint8")
        elif tags.photometric == SEPARATED and channels == 4:
            channels = 3
    dtype = np.dtype("uint8") if dtype.kind == "b" else dtype.newbyteorder("=")
    names = tags.names if len(tags.names) == channels else ()
    doubt = doubt_of_axes(name, shape, axis) if axis.is_doubtful else ""
    guess: Order | None = ("first" if axis.index == 0 else "last") if axis.is_guess else None
    return ImageHeader(channels, (height, width), dtype, tags.has_alpha, names, tags.nodata, doubt=doubt, order=guess)


def _channels(shape: tuple[int, ...], axis: ChannelAxis) -> int:
    return 1 if axis.index is None else shape[axis.index]


def _colours(x: np.ndarray, tags: TiffFormat, by_pillow: bool) -> np.ndarray:
    """(C, H, W) as the photometric interpretation says. by_pillow: 8 bits or fewer are scaled and inverted already."""
    is_done = by_pillow and tags.bits <= 8
    if tags.photometric == PALETTE and tags.colour_map is not None and len(x) == 1:
        return apply_palette(x[0], tags.colour_map)
    x = scale_bits(x, 8 if is_done and x.dtype.kind != "b" else tags.bits)
    if tags.photometric == SEPARATED and tags.samples >= 4 and len(x) == 4 + tags.has_alpha:
        return np.concatenate([cmyk_to_rgb(x[:4]), x[4:]])
    if tags.photometric == MIN_IS_WHITE and x.dtype.kind == "u" and not is_done:
        colours = len(x) - tags.has_alpha
        x = np.concatenate([(white_of(x.dtype) - x[:colours]).astype(x.dtype), x[colours:]])
    return x


def _read_tags(file: Any) -> TiffFormat:
    series = file.series[0]
    page = series.keyframe
    tag = {code: page.tags.get(code) for code in (ORIENTATION_TAG, GDAL_METADATA_TAG, GDAL_NODATA_TAG)}
    orientation = tag[ORIENTATION_TAG].value if tag[ORIENTATION_TAG] is not None else 1
    nodata = None
    if tag[GDAL_NODATA_TAG] is not None:
        try:
            nodata = float(str(tag[GDAL_NODATA_TAG].value).strip("\0 "))
        except ValueError:
            nodata = None
    return TiffFormat(
        tuple(series.shape), series.axes, np.dtype(series.dtype), int(page.photometric), int(page.bitspersample),
        tuple(int(value) for value in page.extrasamples or ()),
        int(orientation) if isinstance(orientation, int) else 1, nodata, _band_names(file, tag[GDAL_METADATA_TAG]),
        page.colormap if int(page.photometric) == PALETTE else None,
    )  # fmt: skip


def _band_names(file: Any, gdal: Any) -> tuple[str, ...]:
    """The names of bands (GDAL) or channels (OME); empty if there are none, or not all differ."""
    names: list[str] = []
    if gdal is not None:
        text = str(gdal.value)
        found = re.findall(r'<Item name="DESCRIPTION" sample="(\d+)"[^>]*>([^<]+)</Item>', text)
        numbered = {int(number): html.unescape(name).strip() for number, name in found}
        names = [numbered[number] for number in sorted(numbered)] if set(numbered) == set(range(len(numbered))) else []
    elif file.is_ome:
        first = re.search(r"<Image\b.*?</Image>", file.ome_metadata or "", re.DOTALL)
        tags = re.findall(r"<Channel\b[^>]*>", first[0]) if first else []
        matches = [re.search(r'\bName="([^"]+)"', tag) for tag in tags]
        names = [html.unescape(match[1]) for match in matches if match is not None]
    return tuple(names) if len(set(names)) == len(names) else ()


def _check_size(series: Any) -> None:
    count = int(np.prod(series.shape, dtype=np.float64))
    if count < 1:
        raise BadSample(f"has the shape {tuple(series.shape)}, without a pixel; remove it")
    size = count * np.dtype(series.dtype).itemsize
    if size > MAX_BYTES:
        raise BadSample(f"has the shape {tuple(series.shape)}, {size / 2**30:.0f} GiB; cut it into several files")


def _compression(series: Any) -> str:
    return str(getattr(series.keyframe.compression, "name", series.keyframe.compression)).replace("_", " ")


def _read_with_pillow(content: Content, tags: TiffFormat, compression: str) -> np.ndarray:
    """The pixels of a compressed file in the shape of the series, but oriented. Pillow knows 8 bits and few modes.

    Raises:
        BadSample: Pillow cannot read them without loss.
    """
    error = BadSample(f"is compressed by {compression}, which needs {CODEC_EXTRA}")
    is_deep = tags.dtype.itemsize > 1
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            frames = []
            for frame in ImageSequence.Iterator(image):
                frame.load()
                if is_deep and frame.mode not in ("I;16", "I;16B", "I;16L", "I", "F"):
                    raise error
                frames.append(np.asarray(frame))
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):
        raise error from None
    shape = list(tags.shape)
    if tags.orientation in TURNED:
        y, x = tags.axes.index("Y"), tags.axes.index("X")
        shape[y], shape[x] = shape[x], shape[y]
    pages = int(np.prod(shape)) // max(1, frames[0].size)
    stack = np.stack(frames[:pages]) if pages > 1 and len(frames) >= pages else frames[0]
    if stack.size != np.prod(shape):
        raise error
    return stack.reshape(shape)
