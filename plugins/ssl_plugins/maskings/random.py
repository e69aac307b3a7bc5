"""Hide tokens uniformly at random."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class RandomMasking(Masking):
    """Hide a fixed share of the valid tokens, chosen uniformly in each row (MAE)."""

    name = "random"

    class Options(Masking.Options):
        """Options of the random masking."""

        ratio: float = Field(0.75, gt=0, lt=1, description="share of tokens hidden (MetaMAE, Table 8: mask ratio r_m)")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        hidden = math.ceil(layout.length * options.ratio - 1e-9)  # tolerance for rounding errors, e.g. 0.07 * 100
        self.hidden = min(hidden, layout.length - 1)

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Hide the positions of the largest of L uniform numbers."""
        order = torch.rand(batch, self.layout.length, generator=generator).argsort(dim=1).flip(1)
        return Mask.from_order(order, self.hidden, geometry, self.options.ratio)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [RandomMasking]
