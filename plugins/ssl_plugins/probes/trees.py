"""Probe of boosted trees, for tables of hand-made features."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Predictor, Probe, Task, hookimpl


class TreesProbe(Probe):
    """Histogram-based gradient boosting (scikit-learn): a classical baseline, with `evaluate.classical`."""

    name = "trees"
    evaluate_options = ("seed",)

    class Options(Probe.Options):
        """Options of boosted trees: `--set 'evaluate.probe_options.trees.iterations=300'`."""

        iterations: int = Field(100, ge=1, description="trees, for each class if there are more than two")
        lr: float = Field(0.1, gt=0, description="learning rate")
        seed: int = Field(0, description="seed of the model; a run passes evaluate.seed")

    def fit(self, features: np.ndarray, labels: np.ndarray, task: Task) -> Predictor:
        """Fit to rows of features."""
        from ssl_core.evaluation import fit_trees  # scikit-learn takes a second to import

        return fit_trees(task, features, labels, self.options.iterations, self.options.lr, self.options.seed)


@hookimpl
def register_probes() -> list[type[Probe]]:
    return [TreesProbe]
