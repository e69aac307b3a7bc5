"""Hide tokens uniformly at random."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from ssl_core import Layout, Mask, Masking, hookimpl


class RandomMasking(Masking):
    """Hide a fixed share of the tokens, chosen uniformly in each row (MAE)."""

    name = "random"

    class Options(Masking.Options):
        """Options of the random masking."""

        ratio: float = Field(0.75, gt=0, lt=1, description="share of tokens hidden (paper: mask ratio r_m, Table 8)")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        hidden = math.ceil(layout.length * options.ratio - 1e-9)  # safe against 0.9 * 10 = 9.000000000000002 (D15)
        self.kept = max(layout.length - hidden, 1)

    def __call__(self, batch: int, generator: torch.Generator) -> Mask:
        """Keep the places of the smallest of L uniform numbers."""
        noise = torch.rand(batch, self.layout.length, generator=generator)
        visible = noise.argsort(dim=1)[:, : self.kept].sort(dim=1).values
        hidden = torch.ones(batch, self.layout.length, dtype=torch.bool).scatter(1, visible, False)
        return Mask(visible, hidden)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [RandomMasking]
