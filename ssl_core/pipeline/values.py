"""Values of samples in memory as arrays: tensors, Pillow images, images with their channels last, recordings."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Continuous, Field
from ssl_core.errors import BadSample, ConfigError

COLOUR_COUNTS = (1, 3, 4)
"""Numbers of channels by which an axis is known as that of colours."""
GREY_MODES = ("L", "1", "I", "F", "I;16", "I;16B", "I;16L", "LA", "La")
"""Modes of Pillow images of one channel; images of all other modes become RGB."""

NOT_IN_NUMPY = tuple(
    getattr(torch, name)
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


class ValueReader:
    """Reads single values as arrays in the form of a field.

    Args:
        known: whether the fields are those of a trained encoder or of samples seen before, to whose channels values are
            adapted. Without it, only kinds and numbers of axes are taken from them.
        resample: by field, samples per second that recordings are resampled to.

    Attributes:
        rates: by field, the sampling rates of the recordings read so far that name theirs.
        moved: fields whose channels were last and were moved to the front.
        grey: fields in which a Pillow image of one channel was read, and `colour` those with one of three.
    """

    def __init__(self, known: bool, resample: Mapping[str, float] | None = None) -> None:
        self.known, self.resample = known, dict(resample or {})
        self.rates: dict[str, set[float]] = {}
        self.moved: set[str] = set()
        self.grey: set[str] = set()
        self.colour: set[str] = set()

    def read(self, name: str, value: Any, field: Field | None) -> np.ndarray:
        """One value as an array; a channel axis of 1 is added where the field has one and the value lacks it.

        Raises:
            BadSample: the value does not fit the field, or cannot be decoded.
        """
        if is_file(value) and isinstance(field, Continuous) and len(field.shape) == 3:
            value = _open_image(name, value)
        if is_image(value):
            return self._image(name, value, field)
        if is_recording(value):
            value = self._recording(name, value, field)
        array = as_array(value)
        if array.dtype.kind in "cmM":
            raise BadSample(f"'{name}' holds {array.dtype}; convert it to real numbers")
        if not isinstance(field, Continuous):
            return array
        if array.dtype.kind in "SUO":
            other = next((one for one in array.flat if isinstance(one, str | bytes | os.PathLike)), None)
            if self.known and other is not None:
                raise BadSample(
                    f"'{name}' holds {str(other)[:80]!r}, and is of real numbers; give numbers, or paths of files that "
                    f"exist"
                )
            return array
        if array.ndim == len(field.shape) - 1:
            return array[np.newaxis]
        if len(field.shape) == array.ndim == 3 and self._channels_last(array.shape, field):
            self.moved.add(name)
            return np.moveaxis(array, -1, 0)
        return array

    def _channels_last(self, shape: tuple[int, ...], field: Continuous) -> bool:
        if self.known:
            return shape[0] != field.shape[0] and shape[-1] == field.shape[0]
        return shape[-1] in COLOUR_COUNTS and shape[0] not in COLOUR_COUNTS and min(shape[:2]) > max(COLOUR_COUNTS)

    def _image(self, name: str, image: Any, field: Field | None) -> np.ndarray:
        """A Pillow image as (1, H, W) or (3, H, W); a grey one as three channels where colours are expected."""
        channels = field.shape[0] if self.known and isinstance(field, Continuous) else None
        if image.mode in GREY_MODES and channels != 3:
            self.grey.add(name)
            image = _on_white(image).convert("L") if image.mode in ("1", "LA", "La") else image
            return np.asarray(image)[np.newaxis]
        if channels == 1:
            raise BadSample(f"'{name}' is an image of mode {image.mode}, not of one channel; give image.convert('L')")
        (self.grey if image.mode in GREY_MODES else self.colour).add(name)
        return np.moveaxis(np.asarray(_on_white(image).convert("RGB")), -1, 0)

    def _recording(self, name: str, value: Any, field: Field | None) -> Any:
        """The samples of a recording, (n,) or (channels, n), with its rate noted."""
        samples, rate = decode(value)
        if (target := self.resample.get(name, rate)) != rate:
            import librosa

            samples, rate = librosa.resample(samples, orig_sr=rate, target_sr=target), target
        self.rates.setdefault(name, set()).add(rate)
        expected = field.rate if isinstance(field, Continuous) else None
        if self.known and expected is not None and rate != expected:
            raise BadSample(
                f"'{name}' has {rate:g} samples per second, not {expected:g}; resample it, e.g. with "
                f"data.cast_column({name!r}, datasets.Audio(sampling_rate={expected:g}))"
            )
        return samples


def as_array(value: Any) -> np.ndarray:
    """A value as an array.

    Texts among other objects stay objects, of which NumPy would make texts: "nan" of NaN. Tensors of types that NumPy
    lacks, such as bfloat16, become float32.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        array: np.ndarray = (value.float() if value.dtype in NOT_IN_NUMPY else value).numpy()
        return array
    if isinstance(value, list | tuple) and any(isinstance(one, str) for one in value):
        return np.asarray(value, None if all(isinstance(one, str) for one in value) else object)
    return np.asarray(value)


def is_image(value: Any) -> bool:
    """Whether a value is a Pillow image."""
    return hasattr(value, "getbands") and hasattr(value, "convert")


def is_file(value: Any) -> bool:
    """Whether a value is an encoded file of a Hugging Face data set, as of `Image(decode=False)`."""
    return isinstance(value, Mapping) and value.keys() == {"bytes", "path"}


def is_recording(value: Any) -> bool:
    """Whether a value is a recording of a Hugging Face data set: samples, an encoded file, or its decoder."""
    if isinstance(value, Mapping):
        return {"array", "sampling_rate"} <= value.keys() or is_file(value)
    return hasattr(value, "get_all_samples")


def _open_image(name: str, value: Mapping[str, Any]) -> Any:
    from PIL import Image

    try:
        return Image.open(value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"]))
    except OSError as error:
        raise BadSample(f"'{name}' {value['path'] or ''} cannot be decoded ({error})") from None


def _on_white(image: Any) -> Any:
    """An image without transparency, composited on white as the readers of files do."""
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
        white = image.copy()
        white.paste((255, 255, 255, 255), (0, 0, *image.size))
        white.alpha_composite(image)
        return white
    return image


def decode(value: Any) -> tuple[np.ndarray, float]:
    """Samples (n,) of a recording, channels averaged, and samples per second.

    Raises:
        BadSample: the file cannot be read.
    """
    if isinstance(value, Mapping) and "array" in value:
        return np.asarray(value["array"]), float(value["sampling_rate"])
    if hasattr(value, "get_all_samples"):  # torchcodec's decoder
        read = value.get_all_samples()
        return read.data.numpy().mean(axis=0), float(read.sample_rate)
    import soundfile

    source = io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, TypeError) as error:
        raise BadSample(f"the recording {value['path'] or ''} cannot be decoded ({error})") from None
    return samples.mean(axis=1), float(rate)


def check_container(x: Any) -> Any:
    """The samples in a form that is indexed by position.

    Raises:
        ConfigError: samples that have no number, or that are of a kind that cannot be indexed.
    """
    if isinstance(x, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(x), np.nan, x.data)
    if hasattr(x, "to_numpy") and hasattr(x, "iloc") and not hasattr(x, "columns"):
        return x.to_numpy()  # a pandas Series: [i] takes labels of its index, and not positions
    if isinstance(x, Mapping) and hasattr(x, "column_names"):
        raise ConfigError(f"x holds the splits {', '.join(x)}; give one of them, as x['{next(iter(x))}']")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise ConfigError("x is a sparse matrix; give x.toarray()")
    if getattr(x, "ndim", None) == 0:
        raise ConfigError("x is a single number; give n samples, with a first axis of n")
    if hasattr(x, "__iter__") and not (hasattr(x, "__len__") and hasattr(x, "__getitem__")):
        if hasattr(x, "column_names") and hasattr(x, "take"):
            raise ConfigError(
                "x is a streamed data set, which has no length; pretrain, evaluate and finetune read it, others a part "
                "of it, as list(x.take(10_000))"
            )
        raise ConfigError(
            f"x is a {type(x).__name__}, which has no length or no [i]; give a sequence, e.g. list(x) if it fits in "
            f"memory"
        )
    return x
