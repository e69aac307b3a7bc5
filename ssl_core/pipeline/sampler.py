"""Batch sampling: the indices of a batch depend on the seed and the step alone; processes take parts of a batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_core.utils.seeds import generator


class HasRank(Protocol):
    """One of several that share a batch: a process, or a micro-batch of a process."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...


class Part(NamedTuple):
    """One of several parts of a batch."""

    rank: int
    size: int


def part_of(number: int, count: int, group: HasRank | None) -> Part | None:
    """Which rows of the batch of a step a process takes for micro-batch `number` of `count`; None for all."""
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    return None if size * count == 1 else Part(number * size + rank, count * size)


def batch_index(seed: int, step: int, count: int, size: int, first_epoch: int = 0) -> np.ndarray:
    """Indices of batch `step`, (size,): each epoch has a new order, and its incomplete last batch is dropped.

    first_epoch: number of the epoch that batch 0 begins.
    """
    per_epoch = count // size
    order = _epoch_order(seed, first_epoch + step // per_epoch, count)
    start = (step % per_epoch) * size
    return order[start : start + size]


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, "order", epoch)).numpy()


def block_index(seed: int, block: int, step: int, count: int, size: int) -> np.ndarray:
    """Indices of batch `step` in the order of one block of `count` samples, (size,)."""
    return _block_order(seed, block, count)[step * size : (step + 1) * size]


@functools.lru_cache(maxsize=4)
def _block_order(seed: int, block: int, count: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, "block", block)).numpy()


def rows_of(group: HasRank | None, count: int, views: int = 1) -> Tensor | slice:
    """Where the rows of a part are in a batch of `count` rows, all views counted: its share of each view."""
    if group is None:
        return slice(None)
    share = count // views // group.size
    first = torch.arange(group.rank * share, (group.rank + 1) * share)
    return (first + torch.arange(views).unsqueeze(1) * (count // views)).flatten()


def draws_of(group: HasRank | None, draws: Mapping[str, Tensor], count: int, views: int = 1) -> dict[str, Tensor]:
    """A part of the draws of a batch. A tensor whose first axis is not the rows is shared by all."""
    if group is None:
        return dict(draws)
    rows = rows_of(group, count, views)
    return {name: value[rows] if value.dim() and value.shape[0] == count else value for name, value in draws.items()}
