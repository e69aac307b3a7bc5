"""LARS, the optimiser of MAE's linear probe."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

MOMENTUM, TRUST = 0.9, 0.001


class Lars(torch.optim.Optimizer):
    """Stochastic gradient descent whose steps are scaled by the norm of each matrix (You et al., 2017).

    For a matrix w with gradient g and weight decay d: u = g + d w, scaled by 0.001 |w| / |u| where neither norm is 0;
    vectors (biases) take u = g. Then m = 0.9 m + u and w = w - lr m. As in MAE's and MoCo v3's published codes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step with the gradients of the parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad
                if parameter.dim() > 1:
                    update = update + group["weight_decay"] * parameter
                    size, length = parameter.norm(), update.norm()
                    update = update * torch.where((size > 0) & (length > 0), TRUST * size / length, 1.0)
                state = self.state[parameter]
                state["momentum"] = MOMENTUM * state["momentum"] + update if state else update.clone()
                parameter.sub_(group["lr"] * state["momentum"])
