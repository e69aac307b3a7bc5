"""Reads png, jpg, gif, webp, jp2 and the other formats of Pillow."""

from __future__ import annotations

import importlib
import io

import numpy as np
from PIL import Image, ImageFile

from ssl_core import BadSample
from ssl_plugins.datasets._io.images.raster_colour import TURNED, apply_orientation
from ssl_plugins.datasets._io.images.raster_types import Content, ImageHeader, Raster

PILLOW_EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".webp", ".avif",
    ".jp2", ".j2k", ".jpx", ".tga", ".heic", ".heif", ".hif",
)  # fmt: skip
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
DEEP_PNG = {"RGB;16B": 3, "RGBA;16B": 4, "LA;16B": 2}  # raw modes that Pillow reduces to 8 bits, and channels
ORIENTATION_TAG = 0x0112
PNG_EXIF = ("exif", "Raw profile type exif")


HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_CURE = "pip install 'sslx[heic]'"


def open_image(content: Content) -> ImageFile.ImageFile:
    """Open a file or its bytes with Pillow; HEIC with pillow-heif, which turns it as the file says.

    Raises:
        BadSample: it is a HEIC image, and pillow-heif is not installed.
    """
    if _is_heic(content):
        try:
            pillow_heif = importlib.import_module("pillow_heif")
        except ImportError:
            raise BadSample(f"is a HEIC image, which needs {HEIC_CURE}; or convert it to jpg") from None
        pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


def _is_heic(content: Content) -> bool:
    if isinstance(content, bytes):
        head = content[:12]
    else:
        with content.open("rb") as file:
            head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


def decode_pillow(content: Content, stored: bool) -> Raster:
    """Read an image. stored: see `RasterOptions`.

    Raises:
        BadSample: it is a PNG of 16 bits in a form that Pillow reduces to 8.
    """
    with open_image(content) as image:
        orientation = _orientation(image)
        if not stored and _raw_mode(image) in DEEP_PNG:
            pixels = _deep_png(content)
            return Raster(apply_orientation(pixels, orientation), has_alpha=len(pixels) in (2, 4))
        image.load()
        if image.mode in DEEP_MODES:
            x = np.asarray(image)
            if x.dtype == np.int32 and x.size and x.min() >= 0 and x.max() <= np.iinfo(np.uint16).max:
                x = x.astype(np.uint16)  # Pillow opens some 16-bit formats as int32
            return Raster(apply_orientation(x[np.newaxis], orientation))
        if stored:
            x = np.asarray(image)
            x = x.astype(np.uint8) if x.dtype.kind == "b" else x
        else:
            target = _target_mode(image)
            x = np.asarray(image if image.mode == target else image.convert(target))
        x = x[np.newaxis] if x.ndim == 2 else np.moveaxis(x, -1, 0)
        return Raster(apply_orientation(x, orientation), has_alpha=len(x) in (2, 4) and image.mode != "CMYK")


def header_pillow(content: Content, stored: bool) -> ImageHeader:
    """The format of an image, without reading its pixels."""
    with open_image(content) as image:
        width, height = image.size
        size = (width, height) if _orientation(image) in TURNED else (height, width)
        raw = _raw_mode(image)
        if not stored and raw in DEEP_PNG:
            channels = DEEP_PNG[raw]
            has_alpha = channels in (2, 4)
            return ImageHeader(channels - has_alpha, size, np.dtype("uint16"), has_alpha)
        if image.mode in DEEP_MODES:
            return ImageHeader(1, size, np.dtype("float32" if image.mode == "F" else "uint16"))
        if stored:
            bands = len(image.getbands())
            has_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
            return ImageHeader(bands - has_alpha, size, np.dtype("uint8"), has_alpha)
        target = _target_mode(image)
        return ImageHeader(1 if target in ("L", "LA") else 3, size, np.dtype("uint8"), target in ("LA", "RGBA"))


def _target_mode(image: Image.Image) -> str:
    """The mode in which an image of at most 8 bits is read: L, LA, RGB or RGBA."""
    has_key = "transparency" in image.info
    if image.mode in ("1", "L"):
        return "LA" if has_key else "L"
    if image.mode in ("LA", "La"):
        return "LA"
    return "RGBA" if image.mode in ("RGBA", "RGBa", "PA") or (has_key and image.mode in ("P", "RGB")) else "RGB"


def _orientation(image: Image.Image) -> int:
    """The orientation tag; 1 if there is none. Pillow applies that of a TIFF when it loads the pixels."""
    if image.format in ("TIFF", "AVIF") or (image.format == "PNG" and not any(key in image.info for key in PNG_EXIF)):
        return 1
    value = image.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How a PNG stores a pixel, in Pillow's words."""
    if image.format != "PNG" or not image.tile:
        return ""
    arguments = image.tile[0][3]
    return arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""


def _deep_png(content: Content) -> np.ndarray:
    """(2, 3 or 4, H, W) uint16. Pillow keeps the high byte of each number; a second pass gives the low one.

    Raises:
        BadSample: grey with transparency, of which Pillow gives the high byte only.
    """
    planes = []
    for ending in ("16B", "16L"):  # the high byte of big-endian numbers is the low byte of little-endian ones
        with open_image(content) as image:
            tile = image.tile[0]
            raw = _raw_mode(image)
            if raw == "LA;16B":
                raise BadSample("is grey with transparency in 16 bits, which is not supported; save it without")
            image.tile = [tile._replace(args=raw.replace("16B", ending))]
            image.load()
            planes.append(np.moveaxis(np.asarray(image), -1, 0).astype(np.uint16))
    return planes[0] << 8 | planes[1]
