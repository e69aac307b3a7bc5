"""Is the encoder still saying anything? Figures that need no label, and the signs of collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Batch

SAMPLES = 1024  # a few hundred more than the widths in use: with fewer the rank would be theirs
COLLAPSED_SHARE = 0.01
COLLAPSED_RANK = 2.0

Stages = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]


def rankme(features: np.ndarray) -> float:
    """The effective rank of features (n, D): exp of the entropy of their singular values (Garrido et al., 2023).

    Between 1 and min(n, D). p_k = sigma_k / sum(sigma) + 1e-7; the features are not centred.
    """
    sigma = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if sigma.sum() == 0:
        return 1.0
    share = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


class Variance:
    """The variance over samples of each place and feature, in float64, from batches of any size."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.spread = np.zeros(())

    def add(self, x: np.ndarray) -> None:
        """x: (B, ...)."""
        x = x.astype(np.float64)
        more, middle = len(x), x.mean(axis=0)
        off = middle - self.mean
        total = self.count + more
        self.spread = self.spread + np.square(x - middle).sum(axis=0) + off**2 * (self.count * more / total)
        self.mean = self.mean + off * (more / total)
        self.count = total

    def value(self) -> float:
        """Mean over places and features."""
        return float(np.mean(self.spread / max(self.count, 1)))


@torch.no_grad()
def health(stages: Stages, batches: Iterable[Batch]) -> dict[str, float]:
    """ "rankme" of the pooled features, and the variance over samples of each stage.

    `stages` maps a batch's inputs to the tokenizer's output (B, L, D), the encoder's (B, L, D) and pooled features
    (B, D). Variances are means over places and features; 0 means that all samples look the same there.
    """
    tokenizer, encoder = Variance(), Variance()
    pooled: list[np.ndarray] = []
    for batch in batches:
        embeddings, encoded, features = (part.float().cpu().numpy() for part in stages(batch.inputs))
        tokenizer.add(embeddings)
        encoder.add(encoded)
        pooled.append(features)
    return {
        "rankme": rankme(np.concatenate(pooled)),
        "tokenizer_variance": tokenizer.value(),
        "encoder_variance": encoder.value(),
    }


def collapse(now: Mapping[str, float], fresh: Mapping[str, float]) -> str | None:
    """What has collapsed, measured against the untrained encoder, or None."""
    for stage in ("tokenizer", "encoder"):
        before, after = fresh[f"{stage}_variance"], now[f"{stage}_variance"]
        if after < COLLAPSED_SHARE * before:
            return (
                f"the {stage}'s output has collapsed: its variance over samples is {after:.2g}, before training it was "
                f"{before:.2g}; lower train.lr, or look at the objective's options"
            )
    if now["rankme"] < min(COLLAPSED_RANK, fresh["rankme"] / 2):
        return (
            f"the features have collapsed to an effective rank of {now['rankme']:.2g} (before training "
            f"{fresh['rankme']:.3g}); lower train.lr, or look at the objective's options"
        )
    return None
