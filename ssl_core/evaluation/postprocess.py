"""Post-processing of frozen features, fitted on the training split alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
from threadpoolctl import threadpool_limits

PostprocessName: TypeAlias = Literal["none", "standardise", "whiten"]
POSTPROCESSES: tuple[PostprocessName, ...] = get_args(PostprocessName)
Transform: TypeAlias = Callable[[np.ndarray], np.ndarray]
FIT_NUMBERS = 2**26
"""Most numbers that principal components are computed from; of more, rows are drawn at random."""
BLOCK = 4096  # rows that are transformed at a time
NEGLIGIBLE = 1e-10
"""Share of the largest variance below which a principal component is rounding: it is left out, not scaled up."""


def fit_postprocess(name: PostprocessName, train: np.ndarray, components: int = 64, seed: int = 0) -> Transform:
    """A function that transforms features (n, D), with constants of the training features alone.

    - none: the features as they are.
    - standardise: each feature minus its mean, divided by its standard deviation; a constant feature becomes zero.
    - whiten: the first `components` principal components, each of mean 0 and variance 1 over the training rows
      (PCA-whitening). There are fewer if the features span fewer dimensions.

    Both are scikit-learn's (`StandardScaler`, `PCA`).

    Args:
        name: Which.
        train: (n, D) training features.
        components: Most principal components of `whiten`.
        seed: Seed of the randomised solver that scikit-learn takes for wide features.
    """
    if name == "none":
        return lambda features: features
    with threadpool_limits(1, user_api="blas"):  # so that the digits do not depend on the number of cores
        return _standardise(train) if name == "standardise" else _whiten(train, components, seed)


def _standardise(train: np.ndarray) -> Transform:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    return lambda features: scaler.transform(features).astype(np.float32)


def _whiten(train: np.ndarray, components: int, seed: int) -> Transform:
    from sklearn.decomposition import PCA

    if not np.ptp(train, axis=0).any():  # all training rows are equal, or there is one: nothing to tell them apart by
        return lambda features: np.zeros((len(features), 1), dtype=np.float32)
    most = max(2, FIT_NUMBERS // train.shape[1])
    if len(train) > most:
        train = train[np.sort(np.random.default_rng(seed).choice(len(train), most, replace=False))]
    # in float32 the rounding of a covariance hides all variances below a ten-millionth of the largest
    pca = PCA(min(components, *train.shape), random_state=seed).fit(train.astype(np.float64))
    kept = pca.explained_variance_ > NEGLIGIBLE * max(pca.explained_variance_[0], np.finfo(np.float32).tiny)
    axes = (pca.components_[kept] / np.sqrt(pca.explained_variance_[kept])[:, None]).T

    def transform(features: np.ndarray) -> np.ndarray:
        out = np.empty((len(features), axes.shape[1]), dtype=np.float32)
        with threadpool_limits(1, user_api="blas"):
            for start in range(0, len(features), BLOCK):  # the differences are float64
                out[start : start + BLOCK] = (features[start : start + BLOCK] - pca.mean_) @ axes
        return out

    return transform
