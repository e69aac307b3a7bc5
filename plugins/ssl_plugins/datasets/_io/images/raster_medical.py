"""Reads DICOM and NIfTI files. Each needs an extra: `sslx[dicom]` (pydicom) or `sslx[nifti]` (nibabel)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample
from ssl_plugins.datasets._io.images.raster_types import Content, ImageHeader, Raster

DICOM_EXTENSIONS = (".dcm", ".dicom")
NIFTI_EXTENSIONS = (".nii", ".nii.gz")
VOLUME_EXTENSIONS = (*DICOM_EXTENSIONS, *NIFTI_EXTENSIONS)


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes is DICOM."""
    return head[128:132] == b"DICM"


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins with these bytes (decompressed) is NIfTI."""
    return head[344:347] in (b"n+1", b"ni1") or head[4:8] == b"n+2\0"


def _import(name: str, extra: str, kind: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadSample(f"is a {kind} file, which needs pip install 'sslx[{extra}]'") from None


def decode_dicom(content: Content) -> Raster:
    """Read a DICOM file as (slices or channels, H, W); several frames are slices.

    Numbers are those of the rescale slope and intercept (Hounsfield units of CT), else the stored ones. MONOCHROME1, in
    which 0 is white, is inverted.

    Raises:
        BadSample: it holds no pixels, or pydicom is missing.
    """
    pydicom = _import("pydicom", "dicom", "DICOM")
    pixels = _import("pydicom.pixels", "dicom", "DICOM")
    data = pydicom.dcmread(io.BytesIO(content) if isinstance(content, bytes) else content)
    if "PixelData" not in data and "FloatPixelData" not in data and "DoubleFloatPixelData" not in data:
        raise BadSample("holds no pixels; remove it")
    colours, frames = int(data.get("SamplesPerPixel", 1)), int(data.get("NumberOfFrames", 1) or 1)
    x = pixels.pixel_array(data)
    kind = str(data.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        x, colours = pixels.apply_color_lut(x, data), 3
    if colours > 1:
        if frames > 1:
            raise BadSample(f"holds {frames} frames in colour; save each as its own file")
        return Raster(np.moveaxis(x, -1, 0))
    x = x[np.newaxis] if x.ndim == 2 else x
    if kind == "MONOCHROME1":
        x = _invert(x, int(data.get("BitsStored", 8 * x.dtype.itemsize)))
    slope, intercept = float(data.get("RescaleSlope", 1) or 1), float(data.get("RescaleIntercept", 0) or 0)
    if (slope, intercept) != (1, 0):
        x = (x * slope + intercept).astype(np.float32)
    return Raster(x)


def header_dicom(content: Content) -> ImageHeader | None:
    """The format of a DICOM file; None if it holds no pixels."""
    pydicom = _import("pydicom", "dicom", "DICOM")
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    data = pydicom.dcmread(source, stop_before_pixels=True)
    if "Rows" not in data:
        return None
    frames, colours = int(data.get("NumberOfFrames", 1) or 1), int(data.get("SamplesPerPixel", 1))
    colours = 3 if str(data.get("PhotometricInterpretation", "")) == "PALETTE COLOR" else colours
    bits, signed = int(data.get("BitsAllocated", 16)), bool(data.get("PixelRepresentation", 0))
    is_rescaled = (float(data.get("RescaleSlope", 1) or 1), float(data.get("RescaleIntercept", 0) or 0)) != (1, 0)
    palette = data.get("RedPaletteColorLookupTableDescriptor")
    bits, signed = (int(palette[2]), False) if palette is not None else (bits, signed)
    dtype = "float32" if is_rescaled else f"{'int' if signed else 'uint'}{max(8, bits)}"
    channels = colours if colours > 1 else frames
    slices = frames if frames > 1 else None
    return ImageHeader(channels, (int(data.Rows), int(data.Columns)), np.dtype(dtype), slices=slices)


def _invert(x: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of `bits` bits with black and white exchanged."""
    if x.dtype.kind == "u":
        return (np.array(2**bits - 1).astype(x.dtype) - x).astype(x.dtype)
    return (-1 - x).astype(x.dtype) if x.dtype.kind == "i" else -x


def decode_nifti(content: Content, choose: Callable[[int], slice | int] | None = None) -> Raster:
    """Read a NIfTI volume as (slices, H, W) float32: axial slices from the feet to the head, the front upwards.

    Args:
        content: the file.
        choose: given the number of slices, which to read; by default all.

    Raises:
        BadSample: it has other than two or three axes, or nibabel is missing.
    """
    image = _open_nifti(content)
    shape = _spatial_shape(image.shape)
    data = np.asanyarray(image.dataobj).reshape(shape)
    part = data if choose is None else data[:, :, choose(shape[2])]
    part = part[:, :, np.newaxis] if part.ndim == 2 else part
    x = np.asarray(part, np.float32)
    return Raster(np.rot90(np.moveaxis(x, 2, 0), 1, (1, 2)))


def header_nifti(content: Content) -> ImageHeader:
    """The format of a NIfTI file."""
    width, height, slices = _spatial_shape(_open_nifti(content).shape)
    return ImageHeader(slices, (height, width), np.dtype("float32"), slices=slices if slices > 1 else None)


def _open_nifti(content: Content) -> Any:
    nibabel = _import("nibabel", "nifti", "NIfTI")
    image = nibabel.Nifti1Image.from_bytes(content) if isinstance(content, bytes) else nibabel.load(Path(content))
    return nibabel.as_closest_canonical(image)


def _spatial_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    sizes = list(shape)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    sizes += [1] * (3 - len(sizes))
    if len(sizes) > 3:
        raise BadSample(f"has the shape {' x '.join(map(str, shape))}; save each volume of three axes as its own file")
    return sizes[0], sizes[1], sizes[2]
