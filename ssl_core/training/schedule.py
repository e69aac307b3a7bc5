"""The learning rate schedule: linear warm-up, then constant or cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_core.training.options import TrainOptions


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, each group's times its "lr_scale"; in place where a graph reads it."""
    for group in optimizer.param_groups:
        value = rate * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def rate_at(options: TrainOptions, step: int) -> float:
    """The learning rate of a step, the first being 0."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * progress))
