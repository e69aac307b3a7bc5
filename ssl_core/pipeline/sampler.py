"""Batch sampling: the indices of each batch are a pure function of the seed and the step."""

from __future__ import annotations

import functools

import numpy as np
import torch

from ssl_core.utils.seeds import generator


def batch_index(seed: int, step: int, count: int, size: int) -> np.ndarray:
    """Indices of batch `step`, (size,): each epoch has a new order, and its incomplete last batch is dropped."""
    per_epoch = count // size
    order = _epoch_order(seed, step // per_epoch, count)
    start = (step % per_epoch) * size
    return order[start : start + size]


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, "order", epoch)).numpy()
