"""What the final evaluation keeps of features and predictions, so that the report's figures compute nothing twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ssl_core.evaluation.protocols import FeatureSpec, Rows, random_subset

MAP_SAMPLES = 2_000
"""Most samples of a map."""
MAP_NUMBERS = 50_000_000
"""Most numbers of the features of a map: wide raw inputs have fewer samples."""
SEARCHED = 20_000
"""Most training samples that are searched for neighbours."""


@dataclass(frozen=True)
class KeptFeatures:
    """Features (n, D) of some samples of a split, and the rows of the samples in the split."""

    x: np.ndarray
    rows: np.ndarray

    @classmethod
    def some(cls, x: np.ndarray, rows: np.ndarray, most: int, seed: int) -> KeptFeatures:
        """At most `most` of the samples, drawn at random, as a copy."""
        index = random_subset(len(x), max(2, min(most, MAP_NUMBERS // max(x.shape[1], 1))), seed)
        return cls(x.copy(), rows) if index is None else cls(x[index], rows[index])


@dataclass
class Kept:
    """Pooled features and predictions of an evaluation.

    Attributes:
        seed: seed of the draws of samples.
        scored: features of samples of the scored split, by kind.
        train: trained features of training samples.
        predictions: scores and labels of the scored rows by probe, from trained features.
    """

    seed: int
    scored: dict[str, KeptFeatures] = field(default_factory=dict)
    train: KeptFeatures | None = None
    predictions: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def keep_features(
        self, kind: str, spec: FeatureSpec, train: tuple[np.ndarray, np.ndarray], scored: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Keep some features (n, D), given with the rows of their samples, if they are pooled ones."""
        if spec.per_token or spec.layers is not None:
            return
        self.scored[kind] = KeptFeatures.some(*scored, MAP_SAMPLES, self.seed)
        if kind == "trained":
            self.train = KeptFeatures.some(*train, SEARCHED, self.seed)

    def keep_predictions(self, probe: str, scores: np.ndarray, rows: Rows) -> None:
        """Keep the predictions of a probe."""
        self.predictions[probe] = scores, rows.y
