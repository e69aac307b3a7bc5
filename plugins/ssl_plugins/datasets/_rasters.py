"""Picture files of any kind as (channels, H, W) in the file's own numbers: png, jpg, tif of any bands, npy."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
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
Shape = tuple[int, int, int]


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


def header(path: Path, order: Order = "auto") -> Shape | None:
    """(channels, H, W) without reading the pixels where the format allows it; None if it cannot be read."""
    try:
        if path.suffix.lower() in (*TIFFS, ".npy"):
            if path.suffix.lower() == ".npy":
                return _shape(np.load(path, mmap_mode="r", allow_pickle=False).shape, "", order)
            import tifffile

            with tifffile.TiffFile(path) as file:
                return _shape(file.series[0].shape, file.series[0].axes, order)
        with Image.open(path) as image:
            bands = 1 if image.mode in (*DEEP, "1") else 3 if image.mode not in ("L", "LA", "RGBA") else 0
            return bands or len(image.mode), image.height, image.width
    except (*UNREADABLE, Image.DecompressionBombError):
        return None


def common(paths: Sequence[Path], order: Order = "auto") -> tuple[int, tuple[int, int] | None]:
    """The most common number of channels, and the size if nearly all files have it.

    Looks at some hundred files spread over all. Errors: DataError if none can be read.
    """
    step = max(1, len(paths) // LOOKED_AT)
    shapes = [shape for path in paths[::step] if (shape := header(path, order)) is not None]
    if not shapes:
        raise DataError(f"none of the {len(paths)} files is a readable picture, e.g. {paths[0]}")
    channels = Counter(shape[0] for shape in shapes)
    sizes = Counter(shape[1:] for shape in shapes)
    size, count = min(sizes.items(), key=lambda item: (-item[1], item[0]))
    return (
        min(channels, key=lambda key: (-channels[key], key)),
        (size[0], size[1]) if count >= COMMON * len(shapes) else None,
    )


def as_grey_or_colour(x: np.ndarray, channels: int) -> np.ndarray | None:
    """(c, H, W) with one or three channels, transparency dropped; None where there is no usual way."""
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
        raise BadSample(f"holds {x.dtype} of shape {x.shape}, no picture (channels, height, width) of numbers")
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    x = x[np.newaxis] if x.ndim == 2 else np.moveaxis(x, place, 0)
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))


def _shape(shape: Sequence[int], axes: str, order: Order) -> Shape | None:
    place = _channel_axis(shape, axes, order)
    if place is None:
        return None
    height, width = (shape[0], shape[1]) if len(shape) == 2 else (n for i, n in enumerate(shape) if i != place)
    return (1 if len(shape) == 2 else shape[place]), height, width


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
