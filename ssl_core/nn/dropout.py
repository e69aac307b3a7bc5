"""Dropout whose random numbers are cheap on the CPU, where torch draws them one by one and on one thread.

The paper's tabular and sensor runs have dropout after every layer of short rows, where it weighs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 1 << 16  # numbers that 16 random bits tell apart; four such lots come out of one draw
LEAST = -(1 << 63)


class Dropout(nn.Dropout):
    """nn.Dropout, but that on the CPU p is rounded to a multiple of 1 / 65,536, and other elements are dropped."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape: in training each element is 0 with probability p, and x / (1 - p) else."""
        dropped = round(self.p * LEVELS)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < LEVELS:
            return super().forward(x)
        count = x.numel()
        lots = torch.randint(LEAST, -LEAST - 1, ((count + 3) // 4,), device=x.device)  # random_ breaks a compiled graph
        kept = lots.view(torch.int16)[:count].view(x.shape) >= dropped - LEVELS // 2
        return x * (kept.to(x.dtype) * (LEVELS / (LEVELS - dropped)))
