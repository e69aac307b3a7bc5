"""Types of a data set: fields, task and samples; and the batches that the engine builds from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
TaskKind = Literal["classes", "labels", "number"]


@dataclass(frozen=True)
class Continuous:
    """A field of real numbers.

    Args:
        shape: (channels, *space), with None for a size that differs between samples.
        rate: Sampling rate along the last axis in Hz, if there is one.
        dtype: numpy's name of the dtype of samples, such as "uint16", if it is known. It is ignored when fields are
            compared.
        longest: largest size along the last axis where that differs between samples, if it is known. It is ignored
            when fields are compared.
        names: names of the numbers of shape (n,), such as the columns of a table, if they have some. They are ignored
            when fields are compared.
    """

    shape: tuple[int | None, ...]
    rate: float | None = None
    dtype: str | None = field(default=None, repr=False, compare=False)
    longest: int | None = field(default=None, compare=False)
    names: tuple[str, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Discrete:
    """A field of `length` vocabulary ids, each in [0, vocab).

    Args:
        length: number of ids of a sample.
        vocab: number of different ids.
        names: what the ids mean, such as the categories of a column, if they have names. They are ignored when fields
            are compared.
    """

    length: int
    vocab: int
    names: tuple[str, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Text:
    """A field of text of any length: an array of type str, of shape () or (n,).

    Shape (n,) is for several texts of one sample, such as the two sentences of a pair. Each may be empty. In
    arrays of objects a text may be missing (`is_missing`), which is the same as empty.

    Args:
        length: number of characters of every text, if they have one length by design, such as windows of a sequence. A
            tokenizer may take it as its default length. It is ignored when fields are compared.
    """

    length: int | None = field(default=None, compare=False)

    @staticmethod
    def is_missing(entry: object) -> bool:
        """Whether an entry stands for a missing text, as libraries of tables write it: None, NaN or pandas' NA."""
        if isinstance(entry, float | np.floating):
            return bool(np.isnan(entry))
        return entry is None or type(entry).__name__ in ("NAType", "NaTType")  # of pandas, which need not be installed


Field: TypeAlias = Continuous | Discrete | Text
Fields: TypeAlias = Mapping[str, Field]


@dataclass(frozen=True)
class Task:
    """What a probe predicts from frozen features.

    Args:
        kind: "classes": one of `size` classes, the label is an int. "labels": `size` independent binary labels, the
            label is an array (size,) of 0 and 1. "number": one real number, size 1.
        size: Number of classes or labels.
        metric: Name of a metric that is defined for the kind (docs/report.md).
        per_token: Whether the label has one entry for each token.
        ignore: Label entries of this value are excluded from training and metric; of several labels, the samples all of
            whose entries have it, and no other sample may hold it.
        names: Names of the classes, for reports.
        title: Name of the label, for reports.
    """

    kind: TaskKind
    size: int
    metric: str
    per_token: bool = False
    ignore: int | None = None
    names: tuple[str, ...] = ()
    title: str = "label"


Role = Literal["input", "label", "group", "id", "time", "split", "path", "left out"]
"""What a column of a data set is used for."""


@dataclass(frozen=True)
class Column:
    """One column, channel or band as it was read.

    Args:
        name: its name in the data.
        role: what it is used for.
        kind: "number", "category", "text", "image" or another word for the kind of its values.
        categories: the different values of a category, in the order of their ids.
        why: why it has this role, if that is not plain, such as "all values are different".
        missing: share of missing values in [0, 1], if it is known. It is ignored when columns are compared.
        range: smallest and largest number, if they are known. It is ignored when columns are compared.
    """

    name: str
    role: Role = "input"
    kind: str = "number"
    categories: tuple[str, ...] = ()
    why: str = ""
    missing: float | None = field(default=None, compare=False)
    range: tuple[float, float] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DataSummary:
    """What a data set read, for the header and the report of a run.

    Args:
        columns: columns, channels or bands, in order; empty if the samples have none with a name.
        files: number of files that were read, by ending.
        ignored: number of files that were found and not read, by ending.
        facts: other facts by name, in words, such as {"range": "0 to 255", "encoding": "cp1252"}.
    """

    columns: tuple[Column, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recognition:
    """What `Dataset.recognise` found at a path.

    Args:
        confidence: in [0, 1]. 0.9 and more: the format or the content is of this modality alone. About 0.5: it can
            well be meant otherwise. Below 0.3: it can be read so, and nothing speaks for it.
        why: what the data look like, in a few words, e.g. "20 recordings (.wav)".
        options: values of the data set's options, by name, that reading the data needs. `root` replaces the path.

    Raises:
        ValueError: If the confidence is outside [0, 1].
    """

    confidence: float
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"a confidence is between 0 and 1, not {self.confidence}")


@dataclass(frozen=True)
class Excerpt:
    """A part of data that are too large to be opened for an inspection; see `Dataset.excerpt`.

    Args:
        options: values of the data set's options, by name, with which the part is opened.
        note: what was taken, e.g. "20,000 of 10,000,000 rows".
        share: share of the whole in (0, 1] that was taken, from which numbers of samples are counted up.
        missing: share of missing values in [0, 1] of each column of the whole.
        constant: columns that hold one value only in the whole.
        ranges: smallest and largest number of each column of the whole.
        files: path of the file of the whole for each file of the part, by its path, for messages.
    """

    options: Mapping[str, Any]
    note: str
    share: float = 1.0
    missing: Mapping[str, float] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Sample(TypedDict):
    """One sample, as numpy arrays without a batch axis. `label` is None if there is no label."""

    inputs: dict[str, np.ndarray]
    label: Any


def send(value: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. For CUDA it is pinned first: only copies from pinned memory are asynchronous."""
    if device.type == "cuda" and not value.is_cuda:
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """Preprocessed samples, stacked along a first axis B. label: (B, ...) or None."""

    inputs: dict[str, Tensor]
    label: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        inputs = {name: send(value, device) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, label=None if self.label is None else send(self.label, device))

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))
