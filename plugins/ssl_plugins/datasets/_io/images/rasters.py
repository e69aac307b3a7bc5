"""Reads image files of any kind as (channels, H, W) in the file's own numbers. The content decides, not the ending."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_core import BadSample
from ssl_plugins.datasets._io.images.raster_axes import (
    Order,
    channels_first,
    doubt_of_axes,
    find_channel_axis,
    squeeze_axes,
)
from ssl_plugins.datasets._io.images.raster_colour import convert_channels, finish, scale_bits
from ssl_plugins.datasets._io.images.raster_medical import (
    VOLUME_EXTENSIONS,
    decode_dicom,
    decode_nifti,
    header_dicom,
    header_nifti,
    is_dicom,
    is_nifti,
)
from ssl_plugins.datasets._io.images.raster_pillow import PILLOW_EXTENSIONS, decode_pillow, header_pillow
from ssl_plugins.datasets._io.images.raster_tiff import TIFF_EXTENSIONS, decode_tiff, header_tiff
from ssl_plugins.datasets._io.images.raster_types import (
    Alpha,
    Content,
    Fill,
    ImageHeader,
    Raster,
    RasterOptions,
    Slices,
)

__all__ = [
    "RASTER_EXTENSIONS", "VOLUME_EXTENSIONS", "Alpha", "Content", "Fill", "ImageHeader", "Order", "Raster",
    "RasterOptions", "Slices", "channels_first", "convert_channels", "decode", "finish", "header_of_array",
    "read_header", "read_raster", "unreadable",
]  # fmt: skip

RASTER_EXTENSIONS = (*PILLOW_EXTENSIONS, *TIFF_EXTENSIONS, ".npy")
HEAD_BYTES = 352
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NPY_MAGIC = b"\x93NUMPY"
GZIP_MAGIC = b"\x1f\x8b"
DEFAULT = RasterOptions()


def read_raster(content: Content, options: RasterOptions = DEFAULT) -> np.ndarray:
    """Read an image as (channels, H, W): colours as the file states them, transparency and missing pixels resolved.

    Args:
        content: the path of a file, or its bytes.
        options: what becomes of transparency, of pixels without data, of axes without a name.

    Raises:
        BadSample: the file cannot be read as an image.
    """
    return finish(decode(content, options), options)


def decode(content: Content, options: RasterOptions = DEFAULT) -> Raster:
    """Read an image, colours as the file states them; transparency and missing pixels are not resolved yet.

    Raises:
        BadSample: the file cannot be read as an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _decode(content, options)
    except BadSample:
        raise
    except Exception as error:  # any reader's error concerns this file alone
        raise BadSample(unreadable(content, error)) from None


def _decode(content: Content, options: RasterOptions) -> Raster:
    head = _head(content)
    if head[:4] in TIFF_MAGIC and not is_dicom(head):  # a DICOM file may begin like a TIFF
        return decode_tiff(content, options.stored, options.order)
    if head.startswith(NPY_MAGIC):
        x = np.load(io.BytesIO(content) if isinstance(content, bytes) else content, allow_pickle=False)
        x = channels_first(x, "", options.order)
        if x.dtype.kind == "b":
            x = x.astype(np.uint8) if options.stored else scale_bits(x, 1)
        return Raster(x)
    if is_dicom(head):
        raster = decode_dicom(content)
    elif is_nifti(_decompressed(content, head)):
        raster = decode_nifti(content)
    else:
        return decode_pillow(content, options.stored)
    if options.slices == "middle" and len(raster.pixels) not in (1, 3):
        middle = len(raster.pixels) // 2
        return replace(raster, pixels=raster.pixels[middle : middle + 1])
    return raster


def read_header(content: Content, options: RasterOptions = DEFAULT, name: str = "") -> ImageHeader | None:
    """The format of a file, without reading the pixels where the format allows it; None if it cannot be read.

    Args:
        content: the path of a file, or its bytes.
        options: how pixels are read.
        name: what the file is called in doubts.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _header(content, options, name or (content.name if isinstance(content, Path) else "the image"))
    except Exception:  # the message comes when the file is read
        return None


def _header(content: Content, options: RasterOptions, name: str) -> ImageHeader | None:
    head = _head(content)
    if head[:4] in TIFF_MAGIC and not is_dicom(head):
        header = header_tiff(content, options.stored, options.order, name)
    elif head.startswith(NPY_MAGIC):
        array = np.load(io.BytesIO(content), allow_pickle=False) if isinstance(content, bytes) else _mapped(content)
        header = header_of_array(array.shape, array.dtype, options.order, name)
    elif is_dicom(head):
        header = header_dicom(content)
    elif is_nifti(_decompressed(content, head)):
        header = header_nifti(content)
    else:
        header = header_pillow(content, options.stored)
    if header is not None and header.slices is not None and options.slices != "channels":
        header = replace(header, channels=1)
    return header


def unreadable(content: Content, error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "cannot be read as an image (the format is unknown, or the file is damaged)"
    text = " ".join(str(error).split())
    if "Object arrays" in text:
        return (
            "holds Python objects, as numpy saves lists of different lengths; save one array of numbers for each image "
            "with numpy.save"
        )
    return f"cannot be read as an image ({text or type(error).__name__:.200})"


def _mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def header_of_array(shape: Sequence[int], dtype: np.dtype, order: Order, name: str) -> ImageHeader | None:
    """The format of an array of pixels whose axes have no names; None if it is no image of numbers."""
    shape, _ = squeeze_axes(shape, "")
    axis = find_channel_axis(shape, "", order)
    if axis is None or dtype.kind not in "uifb" or 0 in shape:
        return None
    height, width = (n for i, n in enumerate(shape) if i != axis.index)
    channels = 1 if axis.index is None else shape[axis.index]
    dtype = np.dtype("uint8") if dtype.kind == "b" else dtype.newbyteorder("=")
    doubt = doubt_of_axes(name, shape, axis) if axis.is_doubtful else ""
    guess: Order | None = ("first" if axis.index == 0 else "last") if axis.is_guess else None
    return ImageHeader(channels, (height, width), dtype, doubt=doubt, order=guess)


def _head(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content[:HEAD_BYTES]
    with content.open("rb") as file:
        return file.read(HEAD_BYTES)


def _decompressed(content: Content, head: bytes) -> bytes:
    """The first bytes of a file, decompressed if it is a gzip file."""
    if not head.startswith(GZIP_MAGIC):
        return head
    with gzip.open(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
        return file.read(HEAD_BYTES)
