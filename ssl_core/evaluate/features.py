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


@torch.no_grad()
def features(embed: Embed, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray | None]:
    """Features and labels of all batches, in order.

    `embed` maps a batch's inputs to (B, D), or to (B, L, D) for per-token tasks. Returns float32 features (n, D) or
    (n, L, D), and labels (n, ...), None where the batches have none. `embed` is called once for each batch.

    Errors: DataError if a feature is not finite, if only some batches are labelled, or if there is no batch.
    """
    parts: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    done = 0
    for batch in batches:
        part = embed(batch.inputs).detach().float().cpu().numpy()
        _check(part, done, len(batch))
        parts.append(part)
        done += len(batch)
        if batch.label is not None:
            labels.append(batch.label.detach().cpu().numpy())
    if not parts:
        raise DataError("there is nothing to evaluate: the split holds no sample")
    if labels and len(labels) != len(parts):
        raise DataError(f"{len(labels)} of {len(parts)} batches have labels; label all samples or none")
    return np.concatenate(parts), np.concatenate(labels) if labels else None


def _check(part: np.ndarray, done: int, rows: int) -> None:
    if part.ndim not in (2, 3) or len(part) != rows:
        raise DataError(
            f"features of a batch of {rows} have the shape {part.shape}; expected ({rows}, D) or ({rows}, L, D)"
        )
    bad = ~np.isfinite(part).reshape(rows, -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"the features of {int(bad.sum())} samples are not finite (the first: sample {done + int(bad.argmax())}); "
            f"the encoder diverged: look at the loss, lower train.lr, or use train.precision=fp32"
        )
