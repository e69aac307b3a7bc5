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
SPARE = 16  # an array of unknown length grows by one part in so many


@torch.no_grad()
def features(embed: Embed, batches: Iterable[Batch], count: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Features and labels of all batches, in order.

    `embed` maps a batch's inputs to (B, D), or to (B, L, D) for per-token tasks. Returns float32 features (n, D) or
    (n, L, D), and labels (n, ...), None where the batches have none. `embed` is called once for each batch. They are
    written where they stay, so memory holds them once; with `count`, the samples that will come, that place is made
    at once, else it grows.

    Errors: DataError if a feature is not finite, if only some batches are labelled, if there is no batch, or if
    there are not `count` samples.
    """
    out: np.ndarray | None = None
    labels: list[np.ndarray] = []
    done = number = 0
    for batch in batches:
        part = embed(batch.inputs).detach().float().cpu().numpy()
        _check(part, done, len(batch))
        total = done + len(part)
        if count is not None and total > count:
            raise DataError(f"{count} samples were to be evaluated, but the split gives more; give their true number")
        if out is None:
            out = np.empty((count or total, *part.shape[1:]), dtype=np.float32)
        elif total > len(out):
            # in place: on Linux the system moves the pages of a large array and copies nothing
            out.resize((total + total // SPARE, *out.shape[1:]), refcheck=False)
        out[done:total] = part
        done, number = total, number + 1
        if batch.label is not None:
            labels.append(batch.label.detach().cpu().numpy())
    if out is None:
        raise DataError("there is nothing to evaluate: the split holds no sample")
    if labels and len(labels) != number:
        raise DataError(f"{len(labels)} of {number} batches have labels; label all samples or none")
    if count is not None and done < count:
        raise DataError(f"{count} samples were to be evaluated, but the split gives {done}; give their true number")
    if done < len(out):
        out.resize((done, *out.shape[1:]), refcheck=False)
    return out, np.concatenate(labels) if labels else None


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
