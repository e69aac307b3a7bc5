"""Reads image files (png, jpg, tif with any number of bands, npy) as (channels, H, W) in the file's own dtype."""

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

PILLOW_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp")
TIFF_EXTENSIONS = (".tif", ".tiff")
RASTER_EXTENSIONS = (*PILLOW_EXTENSIONS, *TIFF_EXTENSIONS, ".npy")
MAX_HEADERS = 500  # headers to read for the common format
MIN_SIZE_SHARE = 0.9  # share of these headers that must agree on a size
READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error)
HIGH_BIT_DEPTH_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")

Order = Literal["auto", "first", "last"]


@dataclass(frozen=True)
class ImageHeader:
    """Format of one file. has_alpha: the file has a transparency channel, which `channels` does not count."""

    channels: int
    size: tuple[int, int]
    dtype: np.dtype
    has_alpha: bool = False


@dataclass(frozen=True)
class CommonFormat:
    """Format of most files. size: (H, W), or None if too few files agree. dtype: holds the values of all files."""

    channels: int
    size: tuple[int, int] | None
    dtype: np.dtype


def read_raster(path: Path, order: Order = "auto") -> np.ndarray:
    """Read an image file as (channels, H, W).

    Args:
        path: the file.
        order: position of the channel axis in an npy or tif file that does not name its axes.

    Raises:
        BadSample: the file cannot be read as an image.
    """
    try:
        if path.suffix.lower() in TIFF_EXTENSIONS:
            import tifffile  # slow to import

            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                return _channels_first(series.asarray(), series.axes, order)
        if path.suffix.lower() == ".npy":
            return _channels_first(np.load(path, allow_pickle=False), "", order)
        with Image.open(path) as image:
            return _pixels(image)
    except BadSample:
        raise
    except (*READ_ERRORS, Image.DecompressionBombError) as error:
        raise BadSample(f"cannot be read as an image ({' '.join(str(error).split()):.200})") from None


def read_image(path: Path, mode: Literal["RGB", "L"]) -> np.ndarray:
    """Read a png, jpg or the like as uint8 (3 or 1, H, W), with palette and transparency resolved.

    Raises:
        BadSample: the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode))
    except (*READ_ERRORS, Image.DecompressionBombError) as error:
        raise BadSample(f"cannot be read as an image ({' '.join(str(error).split()):.200})") from None
    return np.ascontiguousarray(pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def read_header(path: Path, order: Order = "auto") -> ImageHeader | None:
    """The format of a file, without reading the pixels where the format allows it; None if it cannot be read."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return _header_of_array(array.shape, array.dtype, "", order)
        if path.suffix.lower() in TIFF_EXTENSIONS:
            import tifffile

            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                return _header_of_array(series.shape, series.dtype, series.axes, order)
        with Image.open(path) as image:
            channels = 1 if image.mode in (*HIGH_BIT_DEPTH_MODES, "1", "L", "LA") else 3
            dtype = "uint8"
            if image.mode in HIGH_BIT_DEPTH_MODES:
                dtype = "float32" if image.mode == "F" else "uint16"
            return ImageHeader(
                channels, (image.height, image.width), np.dtype(dtype), has_alpha=image.mode in ("LA", "RGBA")
            )
    except (*READ_ERRORS, Image.DecompressionBombError):
        return None


def common_format(paths: Sequence[Path], order: Order = "auto", *, count_alpha: bool = False) -> CommonFormat:
    """The format of most files, from the headers of at most about `2 * MAX_HEADERS` of them, evenly spaced.

    Args:
        paths: the files.
        order: see `read_raster`.
        count_alpha: count a transparency channel as a channel.

    Raises:
        DataError: no file can be read.
    """
    step = max(1, len(paths) // MAX_HEADERS)
    headers = [header for path in paths[::step] if (header := read_header(path, order)) is not None]
    if not headers:
        message = f"none of the {len(paths)} files is a readable image, e.g. {paths[0]}"
        try:
            read_raster(paths[0], order)
        except BadSample as error:
            message += f", which {error}"
        raise DataError(message)
    channels = Counter(header.channels + (count_alpha and header.has_alpha) for header in headers)
    sizes = Counter(header.size for header in headers)
    size, count = min(sizes.items(), key=lambda item: (-item[1], item[0]))
    return CommonFormat(
        min(channels, key=lambda key: (-channels[key], key)),
        size if count >= MIN_SIZE_SHARE * len(headers) else None,
        np.result_type(*(header.dtype for header in headers)),
    )


def convert_channels(x: np.ndarray, channels: int) -> np.ndarray | None:
    """Convert (c, H, W) to `channels`: grey to RGB or back, transparency dropped; None if neither applies."""
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
        luma = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
        grey = np.tensordot(luma, x.astype(np.float64), axes=1)[np.newaxis]
        return (np.rint(grey) if x.dtype.kind in "ui" else grey).astype(x.dtype)
    return None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in HIGH_BIT_DEPTH_MODES:
        x = np.asarray(image)
        if x.dtype == np.int32 and x.size and x.min() >= 0 and x.max() <= np.iinfo(np.uint16).max:
            x = x.astype(np.uint16)  # Pillow opens some 16-bit formats as int32
        return np.array(x[np.newaxis], dtype=x.dtype.newbyteorder("="))
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    x = np.asarray(image)
    return np.ascontiguousarray(x[np.newaxis] if x.ndim == 2 else np.moveaxis(x, -1, 0))


def _channels_first(x: np.ndarray, axes: str, order: Order) -> np.ndarray:
    axis = _channel_axis(x.shape, axes, order)
    if axis is None or x.dtype.kind not in "uifb" or x.size == 0:
        cure = "; save each plane or time point as its own file" if x.ndim > 3 else ""
        raise BadSample(f"holds {x.dtype} of shape {x.shape}, not an image (channels, height, width) of numbers{cure}")
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    x = x[np.newaxis] if x.ndim == 2 else np.moveaxis(x, axis, 0)
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))


def _header_of_array(shape: Sequence[int], dtype: np.dtype, axes: str, order: Order) -> ImageHeader | None:
    axis = _channel_axis(shape, axes, order)
    if axis is None or np.dtype(dtype).kind not in "uifb":
        return None
    height, width = (shape[0], shape[1]) if len(shape) == 2 else (n for i, n in enumerate(shape) if i != axis)
    return ImageHeader(1 if len(shape) == 2 else shape[axis], (height, width), np.dtype(dtype))


def _channel_axis(shape: Sequence[int], axes: str, order: Order) -> int | None:
    """The channel axis: by `order`, by the axes' names, else the shorter of the first and the last axis."""
    if len(shape) == 2:
        return 0
    if len(shape) != 3:
        return None
    if order != "auto":
        return 0 if order == "first" else 2
    axis = next((i for i, name in enumerate(axes) if name in "SC"), None)
    if axis is not None and len(axes) == 3:
        return axis
    return 0 if shape[0] <= shape[2] else 2
