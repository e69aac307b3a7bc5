"""Linear probe: one linear layer on frozen features."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Predictor, Probe, Task, hookimpl


class LinearProbe(Probe):
    """Logistic or ridge regression, or one linear layer trained with Adam, AdamW or LARS (evaluate.linear)."""

    name = "linear"
    evaluate_options = (
        "linear", "c", "max_iter", "epochs", "batch_size", "token_batches", "lr", "weight_decay", "schedule",
        "warmup_epochs", "batch_norm", "seed",
    )  # fmt: skip

    class Options(Probe.Options):
        """Options of the linear probe; the section evaluate has them and their defaults."""

        linear: Literal["logistic", "adam", "adamw", "lars"] = Field(description="as evaluate.linear")
        c: float = Field(gt=0, description="as evaluate.c")
        max_iter: int = Field(ge=1, description="as evaluate.max_iter")
        epochs: int = Field(ge=1, description="as evaluate.epochs")
        batch_size: int = Field(ge=1, description="as evaluate.batch_size")
        token_batches: Literal["tokens", "samples"] = Field(description="as evaluate.token_batches")
        lr: float = Field(gt=0, description="as evaluate.lr")
        weight_decay: float = Field(ge=0, description="as evaluate.weight_decay")
        schedule: Literal["constant", "cosine"] = Field(description="as evaluate.schedule")
        warmup_epochs: int = Field(ge=0, description="as evaluate.warmup_epochs")
        batch_norm: bool = Field(description="as evaluate.batch_norm")
        seed: int = Field(description="as evaluate.seed")

    def fit(self, features: np.ndarray, labels: np.ndarray, task: Task) -> Predictor:
        """Fit to rows of which each is a sample."""
        return self.fit_groups(features, labels, task, np.arange(len(features)))

    def fit_groups(self, features: np.ndarray, labels: np.ndarray, task: Task, groups: np.ndarray) -> Predictor:
        """Fit to rows; a batch holds the rows of `batch_size` samples: all of theirs, or on average."""
        from ssl_core.evaluation import fit_layer, fit_logistic  # scikit-learn takes a second to import

        options = self.options
        if options.linear == "logistic":
            return fit_logistic(task, features, labels, options.c, options.max_iter)
        samples = len(np.unique(groups))
        whole = options.token_batches == "samples" and samples < len(features)
        return fit_layer(
            task, features, labels, optimizer=options.linear, epochs=options.epochs,
            batch_size=options.batch_size if whole else max(1, round(options.batch_size * len(features) / samples)),
            lr=options.lr, weight_decay=options.weight_decay, seed=options.seed, groups=groups if whole else None,
            batch_norm=options.batch_norm, schedule=options.schedule, warmup_epochs=options.warmup_epochs,
        )  # fmt: skip


@hookimpl
def register_probes() -> list[type[Probe]]:
    return [LinearProbe]
