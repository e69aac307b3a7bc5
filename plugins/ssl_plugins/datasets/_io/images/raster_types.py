"""What the readers of image files take and return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from ssl_plugins.datasets._io.images.raster_axes import Order

Alpha = Literal["white", "black", "keep", "drop"]
Fill = Literal["mean", "zero", "refuse"]
Slices = Literal["each", "middle", "channels"]
Content: TypeAlias = Path | bytes
"""An image file: its path, or its bytes."""


@dataclass(frozen=True)
class RasterOptions:
    """How pixels are read.

    Args:
        order: position of the channel axis in files that do not name it.
        alpha: what becomes of transparency: composited on white or black, kept as the last channel, or dropped.
        stored: keep the numbers as they are stored, as in a map of labels: no palette, no inversion, no transparency.
        nodata: value of pixels without data, besides NaN and the value that a GeoTIFF names.
        fill: what replaces pixels without data: the mean of the others in the same channel, zero, or the sample is bad.
        max_value: the number that is white; numbers are divided by it.
        slices: what becomes of volumes (DICOM, NIfTI): the slices are samples, the middle one, or channels.
    """

    order: Order = "auto"
    alpha: Alpha = "white"
    stored: bool = False
    nodata: float | None = None
    fill: Fill = "mean"
    max_value: float | None = None
    slices: Slices = "channels"


@dataclass(frozen=True)
class Raster:
    """Pixels as a file states them.

    Args:
        pixels: (channels, H, W), colours converted; transparency is the last channel.
        has_alpha: whether the last channel is transparency.
        is_premultiplied: whether the colours are already multiplied by it.
        nodata: the value of pixels without data that the file names.
    """

    pixels: np.ndarray
    has_alpha: bool = False
    is_premultiplied: bool = False
    nodata: float | None = None


@dataclass(frozen=True)
class ImageHeader:
    """Format of one file.

    Args:
        channels: number of channels without transparency.
        size: (H, W).
        dtype: type of the numbers.
        has_alpha: whether there is transparency besides.
        names: names of the channels, if the file holds some.
        nodata: the value of pixels without data that the file names.
        slices: images in the file; None if it is no volume.
        doubt: on the channel axis; empty if it is plain.
        order: how the axes are read, if their lengths decided.
    """

    channels: int
    size: tuple[int, int]
    dtype: np.dtype
    has_alpha: bool = False
    names: tuple[str, ...] = ()
    nodata: float | None = None
    slices: int | None = None
    doubt: str = ""
    order: Order | None = None


def native(x: np.ndarray) -> np.ndarray:
    """The array, contiguous and in the machine's byte order."""
    return np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
