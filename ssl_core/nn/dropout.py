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
        return x * (draw_kept(x, dropped).to(x.dtype) * (LEVELS / (LEVELS - dropped)))


# One operation to the compiler, which would otherwise merge the comparison of 16-bit numbers, which it does one by one,
# with the GELU before it, and do that one by one as well. The tag keeps it from drawing once for two layers, or anew in
# the backward pass.
@torch.library.custom_op("sslx::draw_kept", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def draw_kept(x: Tensor, dropped: int) -> Tensor:
    """A bool for each element of x, false with probability dropped / 65,536."""
    count = x.numel()
    lots = torch.randint(LEAST, -LEAST - 1, ((count + 3) // 4,), device=x.device)
    return lots.view(torch.int16)[:count].view(x.shape) >= dropped - LEVELS // 2


@draw_kept.register_fake
def _(x: Tensor, dropped: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.bool, memory_format=torch.contiguous_format)
