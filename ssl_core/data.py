"""What a data set hands over: fields, a task, samples; and the batch that the engine makes of them."""

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
    """A field of real numbers. shape: (channels, *space); None where the size differs from sample to sample.

    `rate`: samples per second along the last axis, for data that has one (Hz). `dtype`: numpy's name of the numbers
    that samples come in, such as "uint16", where it is known; fields that differ in it alone are the same.
    """

    shape: tuple[int | None, ...]
    rate: float | None = None
    dtype: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Discrete:
    """A field of vocabulary entries: `length` ids, each in [0, vocab)."""

    length: int
    vocab: int


@dataclass(frozen=True)
class Text:
    """A field of text of any length: an array of type str, of shape () or (n,).

    Several texts, shape (n,), belong together in one sample, such as the two sentences of a pair; each may be empty.
    """


Field: TypeAlias = Continuous | Discrete | Text
Fields: TypeAlias = Mapping[str, Field]


@dataclass(frozen=True)
class Task:
    """What is predicted from the frozen features.

    kind "classes": one of `size` classes, label an int; "labels": each of `size` labels yes or no, label (size,) of
    0 and 1; "number": one real number, size 1. `metric` names a metric that is defined for the kind (docs/report.md).
    With `per_token` the label has one entry per token, and entries equal to `ignore` are left out of training and
    metric. `names` are the classes' names, for reports.
    """

    kind: TaskKind
    size: int
    metric: str
    per_token: bool = False
    ignore: int | None = None
    names: tuple[str, ...] = ()
    title: str = "label"


class Sample(TypedDict):
    """One example, as numpy arrays without a batch axis. `label` is None where there is none."""

    inputs: dict[str, np.ndarray]
    label: Any


def send(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. To CUDA from page-locked memory, the only kind from which a copy is not waited for."""
    if device.type == "cuda" and not value.is_cuda:
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """Prepared examples stacked along a first axis B. label: (B, ...) or None."""

    inputs: dict[str, Tensor]
    label: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        inputs = {name: send(value, device) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, label=None if self.label is None else send(self.label, device))

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))
