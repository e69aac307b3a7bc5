"""Probe of the nearest training samples."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Predictor, Probe, Task, hookimpl


class KNNProbe(Probe):
    """Vote of the most similar training samples by cosine, without training (Wu et al., 2018)."""

    name = "knn"
    evaluate_options = ("k", "knn_tokens", "knn_train", "knn_test", "seed")

    class Options(Probe.Options):
        """Options of the kNN probe; the section evaluate has them and their defaults."""

        k: int = Field(ge=1, description="as evaluate.k")
        knn_tokens: int = Field(ge=1, description="as evaluate.knn_tokens")
        knn_train: int | None = Field(ge=1, description="as evaluate.knn_train")
        knn_test: int | None = Field(ge=1, description="as evaluate.knn_test")
        seed: int = Field(description="as evaluate.seed")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.max_test_rows = options.knn_test

    def fit(self, features: np.ndarray, labels: np.ndarray, task: Task) -> Predictor:
        """Keep at most `knn_train` rows, and of a per-token task at most `knn_tokens`, drawn at random."""
        from ssl_core.evaluation import fit_knn, random_subset  # scikit-learn takes a second to import

        for most in (self.options.knn_tokens if task.per_token else None, self.options.knn_train):
            index = random_subset(len(features), most, self.options.seed)
            if index is not None:
                features, labels = features[index], labels[index]
        return fit_knn(task, features, labels, self.options.k)


@hookimpl
def register_probes() -> list[type[Probe]]:
    return [KNNProbe]
