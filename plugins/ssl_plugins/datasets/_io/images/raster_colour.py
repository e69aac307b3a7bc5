"""Transparency, CMYK, palettes, orientation and pixels without data."""

from __future__ import annotations

import numpy as np

from ssl_core import BadSample
from ssl_plugins.datasets._io.images.raster_types import Raster, RasterOptions

TURNED = (5, 6, 7, 8)  # orientations that swap height and width
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def white_of(dtype: np.dtype) -> float:
    """The number that is white: the maximum of an unsigned type, else 1."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def apply_orientation(x: np.ndarray, orientation: int) -> np.ndarray:
    """(C, H, W) turned and mirrored as the orientation tag of EXIF and TIFF says; 1 and unknown values do nothing."""
    if orientation == 2:
        return x[:, :, ::-1]
    if orientation == 3:
        return x[:, ::-1, ::-1]
    if orientation == 4:
        return x[:, ::-1]
    if orientation == 5:
        return x.transpose(0, 2, 1)
    if orientation == 6:
        return np.rot90(x, -1, (1, 2))
    if orientation == 7:
        return x[:, ::-1, ::-1].transpose(0, 2, 1)
    if orientation == 8:
        return np.rot90(x, 1, (1, 2))
    return x


def composite(raster: Raster, background: float) -> np.ndarray:
    """(C, H, W) without transparency. background: 0 for black, 1 for white."""
    colour, alpha = raster.pixels[:-1], raster.pixels[-1]
    dtype, white = colour.dtype, white_of(colour.dtype)
    if dtype.kind == "u" and (alpha == white).all():
        return colour
    opacity = np.clip(alpha.astype(np.float32) / white, 0, 1)
    seen = colour.astype(np.float32) * (1 if raster.is_premultiplied else opacity)
    seen += (1 - opacity) * np.float32(background * white)
    if dtype.kind in "ui":
        seen = np.clip(np.rint(seen), 0, white)
    return seen.astype(dtype)


def cmyk_to_rgb(x: np.ndarray) -> np.ndarray:
    """(4, H, W) of ink, 0 = none, to (3, H, W) of light."""
    white = white_of(x.dtype)
    light = 1 - x.astype(np.float32) / white
    rgb = light[:3] * light[3] * white
    return (np.rint(rgb) if x.dtype.kind in "ui" else rgb).astype(x.dtype)


def apply_palette(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) indices and (3, n) uint16 colours of a TIFF to (3, H, W) uint8.

    Raises:
        BadSample: an index has no colour.
    """
    if indices.size and int(indices.max()) >= palette.shape[1]:
        raise BadSample(f"has the palette index {int(indices.max())}, but {palette.shape[1]} colours")
    return (palette[:, indices] >> 8).astype(np.uint8)


def scale_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned numbers of fewer than 8 bits, or booleans, so that white is 255."""
    if x.dtype.kind == "b" or bits == 1:
        return (x != 0).astype(np.uint8) * np.uint8(255)
    if x.dtype == np.uint8 and bits < 8:
        return (x.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    return x


def finish(raster: Raster, options: RasterOptions) -> np.ndarray:
    """(channels, H, W): pixels without data replaced, transparency resolved, scaled by `max_value`.

    Raises:
        BadSample: pixels without data cannot be replaced.
    """
    x = raster.pixels
    if not options.stored:
        x = _fill(x, len(x) - raster.has_alpha, raster.nodata, options)
    if raster.has_alpha and options.alpha != "keep":
        filled = Raster(x, True, raster.is_premultiplied)
        is_dropped = options.alpha == "drop" or options.stored
        x = x[:-1] if is_dropped else composite(filled, float(options.alpha == "white"))
    if options.max_value is not None:
        x = x.astype(np.float32) / np.float32(options.max_value)
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))


def missing_pixels(x: np.ndarray, values: tuple[float | None, ...]) -> np.ndarray | None:
    """(C, H, W) bool: NaN, or one of the values; None if there are none."""
    mask: np.ndarray | None = np.isnan(x) if x.dtype.kind == "f" else None
    for value in values:
        if value is None or np.isnan(value):
            continue
        if x.dtype.kind in "ui":
            limits = np.iinfo(x.dtype)
            if not (float(value).is_integer() and limits.min <= value <= limits.max):
                continue
        with np.errstate(over="ignore"):
            equal = x == np.array(value).astype(x.dtype)
        mask = equal if mask is None else mask | equal
    return mask if mask is not None and mask.any() else None


def _fill(x: np.ndarray, channels: int, nodata: float | None, options: RasterOptions) -> np.ndarray:
    """The first `channels` channels with pixels without data replaced."""
    mask = missing_pixels(x[:channels], (nodata, options.nodata))
    if mask is None:
        return x
    if options.fill == "refuse":
        raise BadSample(f"{int(mask.any(axis=0).sum())} of {mask[0].size} pixels hold no data; set dataset.fill=mean")
    x = x.copy()
    for index, missing in enumerate(mask):
        if not missing.any():
            continue
        value = 0.0
        if options.fill == "mean":
            valid = x[index][~missing]
            if not len(valid):
                what = f"channel {index + 1} has no pixel with data" if not mask.all() else "no pixel holds data"
                raise BadSample(f"{what}; remove it, or set dataset.fill=zero")
            value = float(valid.mean(dtype=np.float64))
        x[index][missing] = np.rint(value) if x.dtype.kind in "ui" else value
    return x


def convert_channels(x: np.ndarray, channels: int) -> np.ndarray | None:
    """Convert (c, H, W) to `channels`: grey to RGB or back, transparency dropped or added; None if nothing applies."""
    count = len(x)
    if count == channels:
        return x
    if count in (2, 4):
        x, count = x[: count - 1], count - 1
    if count == channels:
        return x
    colours = channels - 1 if channels in (2, 4) else channels
    if (count, colours) == (1, 3):
        x = np.repeat(x, 3, axis=0)
    elif (count, colours) == (3, 1):
        grey = np.tensordot(LUMA, x.astype(np.float64), axes=1)[np.newaxis]
        x = (np.rint(grey) if x.dtype.kind in "ui" else grey).astype(x.dtype)
    elif count != colours:
        return None
    if colours < channels:
        x = np.concatenate([x, np.full((1, *x.shape[1:]), white_of(x.dtype), x.dtype)])
    return x
