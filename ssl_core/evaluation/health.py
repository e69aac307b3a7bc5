"""Label-free figures of an encoder, and signs of collapse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Batch

SAMPLES = 1024  # more than the feature widths in use: the rank is at most the number of samples
COLLAPSED_SHARE = 0.01
COLLAPSED_RANK = 2.0

Stages = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]


def rankme(features: np.ndarray) -> float:
    """Effective rank of features (n, D): exp of the entropy of their singular values (Garrido et al., 2023).

    Between 1 and min(n, D). p_k = sigma_k / sum(sigma) + 1e-7; the features are not centred.
    """
    sigma = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if sigma.sum() == 0:
        return 1.0
    share = sigma / sigma.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def alpha_req(features: np.ndarray, first: int = 11, last: int = 100) -> float | None:
    """Decay of the spectrum of features (n, D): alpha of lambda_j ~ j^-alpha (Agrawal et al., alpha-ReQ, 2022).

    lambda_1 >= lambda_2 >= ... are the eigenvalues of the covariance. alpha is the negative slope of a least-squares
    line through log(lambda_j) over log(j), for j from `first` to `last`: the tail, without the first eigenvalues, which
    are not of the power law. Values near 1 are best in the paper; larger ones mean few directions, smaller ones noise.

    Returns:
        alpha; None if fewer than three eigenvalues in the range are above rounding.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    values = np.square(np.linalg.svd(centred, compute_uv=False)) / max(len(features) - 1, 1)
    values = values[first - 1 : last][values[first - 1 : last] > 1e-12 * values[:1].sum()]
    if len(values) < 3:
        return None
    slope, _ = np.polyfit(np.log(np.arange(first, first + len(values))), np.log(values), 1)
    return float(-slope)


def lidar(views: np.ndarray, delta: float = 1e-4) -> float:
    """LDA rank of features of views (n, q, D), q views of each of n samples (Thilak et al., LiDAR, 2023).

    Effective rank, exp of the entropy, of the eigenvalues of W^-1/2 B W^-1/2. B is the covariance of the samples'
    means, W the covariance of views about the mean of their sample, plus `delta` on the diagonal. Directions in which
    views of a sample differ as much as samples do count little. Between 1 and min(n - 1, D), up to 1e-7 a share.
    """
    x = views.astype(np.float64)
    means = x.mean(axis=1)
    inner, outer = (x - means[:, None]).reshape(-1, x.shape[-1]), means - means.mean(axis=0)
    values, vectors = np.linalg.eigh(inner.T @ inner / len(inner) + delta * np.eye(x.shape[-1]))
    root = (vectors / np.sqrt(values)) @ vectors.T
    ratios = np.linalg.eigvalsh(root @ (outer.T @ outer / len(outer)) @ root).clip(min=0)
    if ratios.sum() == 0:
        return 1.0
    share = ratios / ratios.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


class Variance:
    """Variance over samples of each position and feature, in float64, from batches of any size."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = np.zeros(())

    def add(self, x: np.ndarray) -> None:
        """Add a batch x (B, ...)."""
        x = x.astype(np.float64)
        batch_count, batch_mean = len(x), x.mean(axis=0)
        shift = batch_mean - self.mean
        total = self.count + batch_count
        between = shift**2 * (self.count * batch_count / total)
        self.squares = self.squares + np.square(x - batch_mean).sum(axis=0) + between
        self.mean = self.mean + shift * (batch_count / total)
        self.count = total

    def value(self) -> float:
        """Mean over positions and features."""
        return float(np.mean(self.squares / max(self.count, 1)))


@torch.no_grad()
def health(stages: Stages, batches: Iterable[Batch]) -> dict[str, float]:
    """Effective rank of the pooled features ("rankme"), decay of their spectrum, and the variance of each stage.

    "alpha_req" is left out where it is undefined, see `alpha_req`.

    Variances are means over positions and features; 0 means that all samples look the same there.

    Args:
        stages: Maps a batch's inputs to the tokenizer's output (B, L, D), the encoder's (B, L, D) and pooled features
            (B, D).
        batches: Samples to measure.
    """
    tokenizer, encoder = Variance(), Variance()
    pooled: list[np.ndarray] = []
    for batch in batches:
        embeddings, encoded, features = (part.float().cpu().numpy() for part in stages(batch.inputs))
        tokenizer.add(embeddings)
        encoder.add(encoded)
        pooled.append(features)
    features_of_all = np.concatenate(pooled)
    alpha = alpha_req(features_of_all)
    return {
        "rankme": rankme(features_of_all),
        **({} if alpha is None else {"alpha_req": alpha}),
        "tokenizer_variance": tokenizer.value(),
        "encoder_variance": encoder.value(),
    }


def collapse(current: Mapping[str, float], initial: Mapping[str, float]) -> str | None:
    """A warning that names what has collapsed since the untrained encoder's figures, or None."""
    for stage in ("tokenizer", "encoder"):
        before, after = initial[f"{stage}_variance"], current[f"{stage}_variance"]
        if after < COLLAPSED_SHARE * before:
            return (
                f"the {stage}'s output has collapsed: its variance over samples is {after:.2g}, before training it was "
                f"{before:.2g}; lower train.lr, or look at the objective's options"
            )
    if current["rankme"] < min(COLLAPSED_RANK, initial["rankme"] / 2):
        return (
            f"the features have collapsed to an effective rank of {current['rankme']:.2g} (before training "
            f"{initial['rankme']:.3g}); lower train.lr, or look at the objective's options"
        )
    return None
