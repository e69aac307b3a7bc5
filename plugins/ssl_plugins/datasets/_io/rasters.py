"""Picture files of any kind as (channels, H, W) in the file's own numbers: png, jpg, tif of any bands, npy."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ssl_core import BadSample, DataError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp")
TIFFS = (".tif", ".tiff")
RASTERS = (*PICTURES, *TIFFS, ".npy")
LOOKED_AT = 500  # files whose headers decide the common size
COMMON = 0.9  # share of them that must agree for another size to be an error
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

Order = Literal["auto", "first", "last"]


@dataclass(frozen=True)
class Header:
    """What a file says of itself. transparent: one more channel says how clear a pixel is, as in png and the like."""

    channels: int
    size: tuple[int, int]
    dtype: np.dtype
    transparent: bool = False


@dataclass(frozen=True)
class Common:
    """What most files have. size: None if too few have it. dtype: one that holds the numbers of all."""

    channels: int
    size: tuple[int, int] | None
    dtype: np.dtype


def read_raster(path: Path, order: Order = "auto") -> np.ndarray:
    """(channels, H, W). order: where an npy or tif without names of axes has its channels. Errors: BadSample."""
    try:
        if path.suffix.lower() in TIFFS:
            import tifffile  # slow to import

            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                return _channels_first(path, series.asarray(), series.axes, order)
        if path.suffix.lower() == ".npy":
            return _channels_first(path, np.load(path, allow_pickle=False), "", order)
        with Image.open(path) as image:
            return _pixels(image)
    except BadSample:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise BadSample(f"cannot be read as a picture ({' '.join(str(error).split()):.200})") from None


def read_picture(path: Path, mode: Literal["RGB", "L"]) -> np.ndarray:
    """A png, jpg or the like as bytes (3 or 1, H, W), palette and transparency resolved. Errors: BadSample."""
    try:
        with Image.open(path) as image:
            found = np.asarray(image.convert(mode))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise BadSample(f"cannot be read as a picture ({' '.join(str(error).split()):.200})") from None
    return np.ascontiguousarray(found[np.newaxis] if found.ndim == 2 else np.moveaxis(found, -1, 0))


def header(path: Path, order: Order = "auto") -> Header | None:
    """Without reading the pixels where the format allows it; None if it cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return _header(array.shape, array.dtype, "", order)
        if path.suffix.lower() in TIFFS:
            import tifffile

            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                return _header(series.shape, series.dtype, series.axes, order)
        with Image.open(path) as image:
            channels = 1 if image.mode in (*DEEP, "1", "L", "LA") else 3
            kind = "uint8" if image.mode not in DEEP else "float32" if image.mode == "F" else "uint16"
            return Header(channels, (image.height, image.width), np.dtype(kind), image.mode in ("LA", "RGBA"))
    except (*UNREADABLE, Image.DecompressionBombError):
        return None


def common(paths: Sequence[Path], order: Order = "auto", *, all_channels: bool = False) -> Common:
    """What most files are, from some hundred of them spread over all; a size only if nearly all have it.

    all_channels: transparency counts as one. Errors: DataError if none can be read.
    """
    step = max(1, len(paths) // LOOKED_AT)
    found = [one for path in paths[::step] if (one := header(path, order)) is not None]
    if not found:
        said = f"none of the {len(paths)} files is a readable picture, e.g. {paths[0]}"
        try:
            read_raster(paths[0], order)
        except BadSample as error:
            said += f", which {error}"
        raise DataError(said)
    channels = Counter(one.channels + (all_channels and one.transparent) for one in found)
    sizes = Counter(one.size for one in found)
    size, count = min(sizes.items(), key=lambda item: (-item[1], item[0]))
    return Common(
        min(channels, key=lambda key: (-channels[key], key)),
        size if count >= COMMON * len(found) else None,
        np.result_type(*(one.dtype for one in found)),
    )


def as_grey_or_colour(x: np.ndarray, channels: int) -> np.ndarray | None:
    """(c, H, W) with the wanted channels: grey or colour, transparency dropped; None where there is no usual way."""
    count = len(x)
    if count == channels:
        return x
    if count in (2, 4):
        x, count = x[: count - 1], count - 1
    if count == channels:
        return x
    if (count, channels) == (1, 3):
        return np.repeat(x, 3, axis=0)
    if (count, channels) == (3, 1):
        grey = np.tensordot(np.array([0.299, 0.587, 0.114]), x.astype(np.float64), axes=1)[np.newaxis]
        return (np.rint(grey) if x.dtype.kind in "ui" else grey).astype(x.dtype)
    return None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in DEEP:
        x = np.asarray(image)
        if x.dtype == np.int32 and x.size and x.min() >= 0 and x.max() <= np.iinfo(np.uint16).max:
            x = x.astype(np.uint16)  # how 16 bit files of some kinds are opened
        return np.array(x[np.newaxis], dtype=x.dtype.newbyteorder("="))
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    x = np.asarray(image)
    return np.ascontiguousarray(x[np.newaxis] if x.ndim == 2 else np.moveaxis(x, -1, 0))


def _channels_first(path: Path, x: np.ndarray, axes: str, order: Order) -> np.ndarray:
    place = _channel_axis(x.shape, axes, order)
    if place is None or x.dtype.kind not in "uifb" or x.size == 0:
        cure = "; save each plane or moment as a file of its own" if x.ndim > 3 else ""
        raise BadSample(f"holds {x.dtype} of shape {x.shape}, no picture (channels, height, width) of numbers{cure}")
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    x = x[np.newaxis] if x.ndim == 2 else np.moveaxis(x, place, 0)
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))


def _header(shape: Sequence[int], dtype: np.dtype, axes: str, order: Order) -> Header | None:
    place = _channel_axis(shape, axes, order)
    if place is None or np.dtype(dtype).kind not in "uifb":
        return None
    height, width = (shape[0], shape[1]) if len(shape) == 2 else (n for i, n in enumerate(shape) if i != place)
    return Header(1 if len(shape) == 2 else shape[place], (height, width), np.dtype(dtype))


def _channel_axis(shape: Sequence[int], axes: str, order: Order) -> int | None:
    """Which axis holds the channels: as asked, by name, else the shorter one of the first and the last."""
    if len(shape) == 2:
        return 0
    if len(shape) != 3:
        return None
    if order != "auto":
        return 0 if order == "first" else 2
    named = next((i for i, name in enumerate(axes) if name in "SC"), None)
    if named is not None and len(axes) == 3:
        return named
    return 0 if shape[0] <= shape[2] else 2
