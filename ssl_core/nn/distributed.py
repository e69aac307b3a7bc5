"""Batches that are divided among processes: what a loss that depends on the whole batch needs.

Each process computes the loss of its own rows, and the engine averages the gradients over the processes. A mean over
rows, each with the same weight, needs nothing of this module. A loss that couples rows does: a mean whose divisor
depends on the batch (`weighted_mean`, `batch_total`), or a comparison of rows (`gather_batch`, `batch_rows`). In a
single process all functions return their input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Group(ABC):
    """The processes that share a batch."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of processes."""

    @abstractmethod
    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum over the processes, a new tensor; the same bits in all of them."""

    @abstractmethod
    def all_gather(self, value: Tensor) -> Tensor:
        """The processes' tensors, all of one shape, one after the other along the first axis."""

    def gather(self, rows: Tensor) -> Tensor:
        """As `all_gather`; it can be differentiated, also twice."""
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered


_group: Group | None = None


@contextmanager
def use_group(group: Group | None) -> Iterator[None]:
    """Divide batches among the processes of a group while the context is open; None: a process by itself."""
    global _group
    before, _group = _group, group if group is not None and group.size > 1 else None
    try:
        yield
    finally:
        _group = before


def gather_batch(rows: Tensor, views: int = 1) -> Tensor:
    """The rows of the whole batch, (B, ...), from those of this process, (B / N, ...). It can be differentiated.

    Args:
        rows: Those of this process: its samples in order, repeated for each view.
        views: Number of views. The result has the order of a batch in one process: all samples of the first view come
            first.
    """
    group = _group
    if group is None:
        return rows
    gathered = group.gather(rows)
    if views == 1:
        return gathered
    parts = gathered.unflatten(0, (group.size, views, -1))
    return parts.transpose(0, 1).flatten(0, 2)


def batch_rows(count: int, device: torch.device, views: int = 1) -> Tensor:
    """(count,) long: the numbers that the rows of this process have in the whole batch."""
    rows = torch.arange(count, device=device)
    group = _group
    if group is None:
        return rows
    samples = count // views
    return rows // samples * (samples * group.size) + group.rank * samples + rows % samples


def batch_total(value: Tensor) -> Tensor:
    """The sum of a value over the processes, as a constant: no gradient flows through it."""
    group = _group
    return value.detach() if group is None else group.all_reduce(value.detach())


def process_count() -> int:
    """Number of processes among which the batch is divided."""
    return 1 if _group is None else _group.size


def is_sharded(value: Tensor) -> bool:
    """Whether this process holds a part of a tensor that is divided among the processes (a `DTensor`)."""
    return hasattr(value, "to_local")


def own_part(value: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory: the tensor itself, unless it is sharded."""
    return value.detach().to_local() if is_sharded(value) else value  # type: ignore[attr-defined]


def weighted_mean(values: Tensor, weights: Tensor, whole_batch: bool = True) -> Tensor:
    """The weighted mean over the whole batch; 0 without any weight, with finite derivatives.

    With several processes each gets its own part of the mean, times their number: the average over the processes is
    the mean.

    Args:
        values: Of any shape.
        weights: Of the same shape, without gradient.
        whole_batch: False for the mean over what is given, whatever the other processes have.
    """
    group = _group if whole_batch else None
    total = weights.sum() if group is None else group.all_reduce(weights.sum().detach())
    mean = (weights * values).sum() / torch.where(total > 0, total, 1.0)
    return mean if group is None else mean * group.size


class _Gather(torch.autograd.Function):
    """All rows in each process; backward sums the gradients that the processes have of a row."""

    @staticmethod
    def forward(rows: Tensor, group: Group) -> Tensor:
        return group.all_gather(rows.contiguous())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Group], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(gradient, ctx.group), None


class _Scatter(torch.autograd.Function):
    """The sum over the processes, of which each keeps its own rows; the transpose of `_Gather`."""

    @staticmethod
    def forward(gradient: Tensor, group: Group) -> Tensor:
        count = len(gradient) // group.size
        return group.all_reduce(gradient.contiguous())[group.rank * count :][:count]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Group], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.group), None
