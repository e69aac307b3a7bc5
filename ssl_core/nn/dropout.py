"""Dropout whose random numbers are cheap on the CPU, where torch draws them one by one and on one thread.

The paper's tabular and sensor runs have dropout after every layer of short rows, where it weighs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEVELS = 1 << 16  # numbers that 16 random bits tell apart; four such lots come out of one draw
LEAST = -(1 << 63)
ONE = 0x3F80  # the bits of 1 in bf16


class Dropout(nn.Dropout):
    """nn.Dropout, but that on the CPU p is rounded to a multiple of 1 / 65,536, and other elements are dropped."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape: in training each element is 0 with probability p, and x / (1 - p) else."""
        dropped = round(self.p * LEVELS)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < LEVELS:
            return super().forward(x)
        return x * (draw_kept(x.shape, dropped, x.device).to(x.dtype) * (LEVELS / (LEVELS - dropped)))


# One operation to the compiler, which would otherwise merge the comparison of 16-bit numbers, which it does one by one,
# with the GELU before it, and do that one by one as well. Not a bool for the same reason: compiled code unpacks bools
# one by one, also in a LayerNorm that follows. The tag keeps it from drawing once for two layers, or anew in the
# backward pass.
@torch.library.custom_op("sslx::draw_kept", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def draw_kept(shape: Sequence[int], dropped: int, device: torch.device) -> Tensor:
    """(*shape), each element 0 with probability dropped / 65,536, and 1 else, in bf16."""
    count = math.prod(shape)
    # over all 64 bits: any narrower range takes a remainder of each number
    lots = torch.empty((count + 3) // 4, dtype=torch.int64, device=device).random_(LEAST, None)
    lots = lots.view(torch.int16)[:count]
    return lots.ge_(dropped - LEVELS // 2).mul_(ONE).view(torch.bfloat16).view(shape)


@draw_kept.register_fake
def _(shape: Sequence[int], dropped: int, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=device)
