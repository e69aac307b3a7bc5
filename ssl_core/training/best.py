"""The weights with the best score of a probe on the validation split during training (`train.keep_best`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssl_core.errors import CheckpointError
from ssl_core.training import checkpoint
from ssl_core.training.metrics_log import MetricAverager

BEST, LAST = "best", "last"
CHOICES = (LAST, BEST)
"""The checkpoints of a run by name. The best one lies in a folder of this name in the run's folder."""


class BestCheckpoint:
    """Saves the weights in the run's folder whenever a score is better than all before; of equal ones the first stays.

    The score to beat is read from the folder, so that a resumed run keeps what was saved before it.

    Args:
        run: The run's folder.
        name: Name of the score among the figures of the probe, such as "probe/linear_accuracy".
        higher_is_better: Whether a larger score is the better one.
        state: Entries of state.json.

    Raises:
        CheckpointError: The best checkpoint so far is damaged.
    """

    def __init__(self, run: Path, name: str, higher_is_better: bool, state: Mapping[str, Any]) -> None:
        self.folder, self.name, self.higher_is_better, self.state = run / BEST, name, higher_is_better, dict(state)
        try:
            saved = checkpoint.latest(self.folder)
        except CheckpointError as error:
            raise CheckpointError(f"{str(error).partition(';')[0]}; delete {self.folder} to go on without it") from None
        self.step: int | None = None if saved is None else saved.step
        self.value: float | None = None if saved is None else float(saved.state[BEST]["value"])

    def offer(self, step: int, learner: nn.Module, figures: Mapping[str, float]) -> bool:
        """Save the learner's weights if their score is the best so far.

        Args:
            step: Optimiser steps done.
            learner: The model.
            figures: What the probe measured, and "train/seconds"; without the score nothing is saved.

        Returns:
            Whether they were saved.

        Raises:
            CheckpointError: They cannot be written.
        """
        value = figures.get(self.name)
        if value is None or not math.isfinite(value) or not self._is_better(value):
            return False
        entries = {
            BEST: {"name": self.name, "value": value}, "window": MetricAverager().state(),
            "seconds": figures.get("train/seconds", 0.0),
        }  # fmt: skip
        without_state = torch.optim.SGD(learner.parameters(), lr=0.0)  # nothing is trained further from here
        checkpoint.save(self.folder, step, learner, without_state, {**self.state, **entries}, keep=1)
        self.step, self.value = step, value
        return True

    def _is_better(self, value: float) -> bool:
        if self.value is None:
            return True
        return value > self.value if self.higher_is_better else value < self.value
