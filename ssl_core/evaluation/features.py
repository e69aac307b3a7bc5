"""Frozen features of a whole split, computed once and held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Batch
from ssl_core.errors import DataError

Embed: TypeAlias = Callable[[dict[str, Tensor]], Tensor]
GROWTH = 16  # an array of unknown length grows by a sixteenth of its length


@torch.no_grad()
def features(embed: Embed, batches: Iterable[Batch], count: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Features and labels of all batches, in order.

    The features of a batch are written into the final array, so memory holds them once. `embed` is called once for
    each batch.

    Args:
        embed: Maps a batch's inputs to (B, D), or to (B, L, D) for token features.
        batches: Batches of the split.
        count: Number of samples, for which the array is allocated at once; without it the array grows.

    Returns:
        Features (n, D) or (n, L, D), float32, and labels (n, ...), None where the batches have none.

    Raises:
        DataError: If a feature is not finite, if only some batches have labels, if there is no batch, or if there are
            not `count` samples.
    """
    array: np.ndarray | None = None
    labels: list[np.ndarray] = []
    rows = batch_count = 0
    for batch in batches:
        part = embed(batch.inputs).detach().float().cpu().numpy()
        _check(part, rows, len(batch))
        total = rows + len(part)
        if count is not None and total > count:
            raise DataError(f"expected {count} samples to evaluate, but the split gives more; give their true number")
        if array is None:
            array = np.empty((count or total, *part.shape[1:]), dtype=np.float32)
        elif total > len(array):
            # in place: on Linux the system moves the pages of a large array and copies nothing
            array.resize((total + total // GROWTH, *array.shape[1:]), refcheck=False)
        array[rows:total] = part
        rows, batch_count = total, batch_count + 1
        if batch.label is not None:
            labels.append(batch.label.detach().cpu().numpy())
    if array is None:
        raise DataError("there is nothing to evaluate: the split holds no sample")
    if labels and len(labels) != batch_count:
        raise DataError(f"{len(labels)} of {batch_count} batches have labels; label all samples or none")
    if count is not None and rows < count:
        raise DataError(f"expected {count} samples to evaluate, but the split gives {rows}; give their true number")
    if rows < len(array):
        array.resize((rows, *array.shape[1:]), refcheck=False)
    return array, np.concatenate(labels) if labels else None


def _check(part: np.ndarray, first: int, rows: int) -> None:
    """Check the features of a batch of `rows` samples, of which the first is sample `first` of the split."""
    if part.ndim not in (2, 3) or len(part) != rows:
        raise DataError(
            f"features of a batch of {rows} have the shape {part.shape}; expected ({rows}, D) or ({rows}, L, D)"
        )
    bad = ~np.isfinite(part).reshape(rows, -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"the features of {int(bad.sum())} samples are not finite (the first: sample {first + int(bad.argmax())}); "
            f"the encoder diverged: look at the loss, lower train.lr, or use train.precision=fp32"
        )
