"""What preprocessed data look like: ranges of values, constant samples, equal samples in two splits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssl_core.contracts import Tokenizer
from ssl_core.data import Continuous, Fields
from ssl_core.pipeline.cache import PreprocessedSplit

SAMPLES = 1000
"""Samples to measure, evenly spaced."""
MAX_VALUES = 2**23
"""Values of a field to measure: of large samples there are fewer."""
MAX_CHANNELS = 64
"""Fields of more channels are measured as a whole."""
MIN_VALUES = 16
"""Fewer values in a sample are often equal by chance."""
FAR = 10.0
"""A mean lies far from the training data's if it is this many standard deviations away, a scale if it differs by this
factor."""


@dataclass(frozen=True)
class FieldStats:
    """Statistics of a numeric field, one number for each channel, or one for all channels if there are many.

    constant: share of the samples that hold one value only.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    constant: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The attributes."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> FieldStats:
        """The inverse of `to_json`."""
        low, high, mean, std = (tuple(map(float, entry[key])) for key in ("low", "high", "mean", "std"))
        return cls(low, high, mean, std, float(entry["constant"]))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return min(self.low), max(self.high)


def measure_fields(split: PreprocessedSplit, fields: Fields) -> dict[str, FieldStats]:
    """Statistics of the numeric fields of a split, from at most `SAMPLES` of its samples.

    What was made of texts and ids is left out, and so are whole numbers other than bytes (lengths) and booleans.
    """
    index = measured_rows(split)
    words = tuple(name for name, field in fields.items() if not isinstance(field, Continuous))
    found = {}
    for name, array in split.arrays.items():
        if name in words or name.startswith(tuple(f"{word}_" for word in words)):
            continue
        if (array.dtype.kind == "f" or array.dtype == np.uint8) and array.ndim > 1:
            step = -(-len(index) * int(np.prod(array.shape[1:])) // MAX_VALUES)
            found[name] = _stats(np.asarray(array[index[:: max(1, step)]], dtype=np.float64))
    return found


@dataclass(frozen=True)
class InputSpec:
    """One array that a tokenizer prepares of a sample: NumPy's name of its dtype, its shape, its range in training."""

    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """The attributes."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_json`."""
        return cls(entry["dtype"], tuple(map(int, entry["shape"])), entry["low"], entry["high"])

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """(count, *shape) random values in the range."""
        shape, kind = (count, *self.shape), np.dtype(self.dtype).kind
        if kind in "iub":
            return random.integers(int(self.low), int(self.high), shape, endpoint=True).astype(self.dtype)
        return random.uniform(self.low, self.high, shape).astype(self.dtype)


def measure_inputs(split: PreprocessedSplit) -> dict[str, InputSpec]:
    """What the prepared samples of a split are, by name. The range is that of at most `SAMPLES` samples."""
    index, found = measured_rows(split), {}
    for name, array in split.arrays.items():
        step = -(-len(index) * math.prod(array.shape[1:]) // MAX_VALUES)
        part = np.asarray(array[index[:: max(1, step)]])
        low, high = (part.min(), part.max()) if part.size else (0, 0)
        whole = part.dtype.kind in "iub"
        values = (int(v) if whole else float(np.nan_to_num(v)) for v in (low, high))
        found[name] = InputSpec(array.dtype.name, tuple(array.shape[1:]), *values)
    return found


def measured_rows(split: PreprocessedSplit) -> np.ndarray:
    """Indices of at most `SAMPLES` samples, evenly spaced."""
    return np.unique(np.linspace(0, len(split) - 1, min(len(split), SAMPLES)).astype(np.int64))


def measure_facts(split: PreprocessedSplit, tokenizer: Tokenizer) -> dict[str, float]:
    """`Tokenizer.facts` of at most `SAMPLES` samples."""
    index = measured_rows(split)
    return dict(tokenizer.facts({name: array[index] for name, array in split.arrays.items()}))


def _stats(x: np.ndarray) -> FieldStats:
    """Statistics of (n, channels, ...)."""
    rows = x.reshape(len(x), -1)
    constant = float((rows.max(axis=1) == rows.min(axis=1)).mean()) if rows.shape[1] >= MIN_VALUES else 0.0
    parts = x.reshape(len(x), x.shape[1], -1) if x.shape[1] <= MAX_CHANNELS else rows[:, np.newaxis]
    axes = (0, 2)
    values = (parts.min(axis=axes), parts.max(axis=axes), parts.mean(axis=axes), parts.std(axis=axes))
    low, high, mean, std = (tuple(float(f"{v:.6g}") for v in part) for part in values)
    return FieldStats(low, high, mean, std, constant)


def far_channel(trained: FieldStats, now: FieldStats) -> int | None:
    """The first channel whose mean or scale is far from the training data's; None if all are near.

    A channel that was constant in training is far if any of its values differs by more than its own size.
    """
    if len(trained.mean) != len(now.mean):
        return None
    for channel, (mean, std) in enumerate(zip(trained.mean, trained.std, strict=True)):
        scale = std or abs(mean) or 1.0
        spread = now.std[channel] / scale
        is_shifted = abs(now.mean[channel] - mean) > FAR * scale
        is_scaled = spread > FAR or (std > 0 and 0 < spread < 1 / FAR)
        if is_shifted or is_scaled:
            return channel
    return None


def shared_samples(train: PreprocessedSplit, other: PreprocessedSplit) -> np.ndarray:
    """(n,) bool: the samples of `other` that equal a training sample after preprocessing."""
    if train.digests is None or other.digests is None:
        return np.zeros(len(other), bool)
    return np.isin(other.digests, train.digests)
