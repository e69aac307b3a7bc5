"""Dropout with a fast generator on the CPU.

PyTorch draws one random number for each element, on one thread. On the short rows of tabular and sensor data that is a
large share of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEVELS = 1 << 16  # values of 16 random bits; one draw of 64 bits serves four elements
INT64_MIN = -(1 << 63)
BF16_ONE = 0x3F80  # the bits of 1 in bf16


class Dropout(nn.Dropout):
    """nn.Dropout, except that on the CPU p is rounded to a multiple of 1 / 65,536 and the random stream differs."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape: in training each element is 0 with probability p, otherwise x / (1 - p)."""
        levels = round(self.p * LEVELS)
        if not self.training or x.device.type != "cpu" or not 0 < levels < LEVELS:
            return super().forward(x)
        return x * (dropout_mask(x.shape, levels, x.device).to(x.dtype) * (LEVELS / (LEVELS - levels)))


# A custom operator, since the compiler does not vectorise comparisons of 16-bit integers, and neither a GELU that it
# fuses with one. The mask is not bool for the same reason: compiled code converts bools one by one, also in a LayerNorm
# that follows. The tag keeps the compiler from sharing one draw between two layers and from drawing again in the
# backward pass.
@torch.library.custom_op("sslx::dropout_mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def dropout_mask(shape: Sequence[int], levels: int, device: torch.device) -> Tensor:
    """A bf16 mask of a shape: each element is 0 with probability levels / 65,536, otherwise 1."""
    count = math.prod(shape)
    # the full range of 64 bits: a narrower range needs a modulo for each number
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=device).random_(INT64_MIN, None)
    bits = bits.view(torch.int16)[:count]
    return bits.ge_(levels - LEVELS // 2).mul_(BF16_ONE).view(torch.bfloat16).view(shape)


@dropout_mask.register_fake
def _(shape: Sequence[int], levels: int, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device=device)
