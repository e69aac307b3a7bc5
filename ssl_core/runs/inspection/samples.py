"""What the samples of a split hold: lengths, ranges, missing values, labels, letters, digests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_core.contracts import Dataset, Inputs
from ssl_core.data import Continuous, Text
from ssl_core.errors import BadSample
from ssl_core.pipeline.preprocess import sample_digest

MOST = 2000
"""Samples of a split that are looked at."""
MOST_VALUES = 1 << 27
"""Values of these samples together: of large samples there are fewer."""
FEWEST = 32
KEPT = 200
"""Samples whose inputs are kept, to be tokenised."""
MAX_CHANNELS = 512
"""Fields of more channels are measured as a whole."""
LETTERS = 20_000
"""Letters of a text that are counted."""


@dataclass
class ChannelStats:
    """Statistics of the channels of a numeric field: (channels,) each."""

    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    count: int = 0

    def add(self, x: np.ndarray) -> None:
        """Add a sample, (channels, ...)."""
        rows = x.reshape(len(self.low), -1) if len(self.low) > 1 else x.reshape(1, -1)
        is_missing = ~np.isfinite(rows)
        self.missing += is_missing.sum(axis=1)
        self.count += rows.shape[1]
        self.low = np.minimum(self.low, np.where(is_missing, np.inf, rows).min(axis=1, initial=np.inf))
        self.high = np.maximum(self.high, np.where(is_missing, -np.inf, rows).max(axis=1, initial=-np.inf))

    @property
    def shares(self) -> np.ndarray:
        """(channels,) the share of missing values."""
        return self.missing / max(1, self.count)


@dataclass
class SplitLook:
    """What was seen of a split.

    Args:
        total: number of its samples.
        index: the samples that were looked at.
        bad: a line for each that cannot be used.
        labels: number of samples of each label; numbers and several labels are not counted.
        labelled: number of samples with a label.
        numbers: labels that are numbers.
        lengths: sizes along the last axis, or numbers of characters, by field.
        shapes: shapes of the first samples by field.
        stats: statistics of numeric fields.
        letters: how often each letter occurs, by field of text.
        digests: a digest of each usable sample.
        inputs: the inputs of the first usable samples.
        usable: the numbers of these samples.
    """

    total: int
    index: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    labelled: int = 0
    numbers: list[float] = field(default_factory=list)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stats: dict[str, ChannelStats] = field(default_factory=dict)
    letters: dict[str, Counter[str]] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    inputs: list[Inputs] = field(default_factory=list)
    usable: list[int] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all samples were looked at."""
        return len(self.index) == self.total


def look_at(dataset: Dataset) -> SplitLook:
    """Read samples of a split, evenly spaced; the same each time."""
    look = SplitLook(len(dataset))
    most = min(len(dataset), MOST)
    order = np.unique(np.linspace(0, len(dataset) - 1, most).astype(np.int64)) if most else np.zeros(0, np.int64)
    values = 0
    for position in _spread_first(len(order)):
        if values > MOST_VALUES and len(look.index) >= FEWEST:
            break
        index = int(order[position])
        look.index.append(index)
        try:
            sample = dataset[index]
        except BadSample as error:
            look.bad.append(f"{dataset.describe(index)}: {error}")
            continue
        _add_label(look, dataset, sample["label"])
        look.digests.append(sample_digest(sample["inputs"]))
        for name, value in sample["inputs"].items():
            values += _add_field(look, dataset, name, np.asarray(value))
        if len(look.inputs) < KEPT:
            look.inputs.append(sample["inputs"])
            look.usable.append(index)
    return look


def _spread_first(count: int) -> list[int]:
    """0 to count - 1 in an order in which any beginning is spread over all."""
    bits = max(1, (count - 1).bit_length()) if count else 1
    order = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(1 << bits))
    return [number for number in order if number < count]


def _add_label(look: SplitLook, dataset: Dataset, label: Any) -> None:
    if label is None or dataset.task is None:
        return
    look.labelled += 1
    if dataset.task.kind == "number":
        look.numbers.append(float(label))
    elif dataset.task.kind == "classes" and np.ndim(label) == 0:
        look.labels[int(label)] += 1


def _add_field(look: SplitLook, dataset: Dataset, name: str, value: np.ndarray) -> int:
    """Add a field of a sample; returns its number of values."""
    kind = dataset.fields.get(name)
    look.shapes.setdefault(name, value.shape)
    if isinstance(kind, Text):
        text = " ".join(map(str, value.reshape(-1)))
        look.lengths.setdefault(name, []).append(len(text))
        look.letters.setdefault(name, Counter()).update(text[:LETTERS])
        return len(text)
    if isinstance(kind, Continuous):
        if value.ndim > 1:
            look.lengths.setdefault(name, []).append(value.shape[-1])
        channels = value.shape[0] if value.ndim and value.shape[0] <= MAX_CHANNELS else 1
        stats = look.stats.get(name)
        if stats is None or len(stats.low) != channels:
            start = (np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros(channels))
            stats = look.stats[name] = ChannelStats(*start)
        stats.add(value.astype(np.float64))
    return int(value.size)


def shared_with(train: SplitLook, other: SplitLook) -> int:
    """Number of the samples of another split that equal a training sample, among those looked at."""
    known = set(train.digests)
    return sum(digest in known for digest in other.digests)


def copies(look: SplitLook) -> int:
    """Number of samples that equal an earlier one of their split, among those looked at."""
    return len(look.digests) - len(set(look.digests))
