"""The optimiser and the learning rate schedule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssl_core.training.options import TrainOptions


def make_optimizer(learner: nn.Module, options: TrainOptions, graphed: bool = False) -> torch.optim.Optimizer:
    """AdamW, one group, all parameters (protocol section 5). `graphed`: a CUDA graph can hold its step."""
    parameters = list(learner.parameters())
    lr = torch.tensor(options.lr, device=parameters[0].device) if graphed else options.lr
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=options.weight_decay, fused=True, capturable=graphed)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step, in its place where a graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rate_at(options: TrainOptions, step: int) -> float:
    """The learning rate of a step, the first being 0."""
    if step < options.warmup_steps:
        return options.lr * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * progress))
