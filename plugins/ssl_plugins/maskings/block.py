"""Hide tokens in blocks of neighbouring tokens."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class BlockMasking(Masking):
    """Hide a fixed share of the tokens in blocks of neighbouring tokens, on any grid (as in GMML and BEiT)."""

    name = "block"

    class Options(Masking.Options):
        """Options of the block masking."""

        ratio: float = Field(0.75, gt=0, lt=1, description="share of tokens hidden")
        size: int = Field(3, ge=1, description="edge of a block in tokens, along each axis")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.hidden = min(math.ceil(layout.length * options.ratio - 1e-9), layout.length - 1)

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Place blocks in random order until the share is hidden. Of the last block a random part is hidden."""
        length = self.layout.length
        order = torch.rand(batch, length, generator=generator).argsort(dim=1)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(length).expand(batch, length))
        # the first block that covers each token; ties within a block are broken at random
        covered = torch.cat([self._earliest(rank[:, span], part.grid) for part, span in self.layout.spans], dim=1)
        score = covered + torch.rand(batch, length, generator=generator)
        return Mask.from_order(score.argsort(dim=1), self.hidden, geometry, self.options.ratio)

    def _earliest(self, rank: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """(B, Ls): for each token the smallest rank of the blocks that cover it, given the rank of each block's corner.

        A minimum over a box is a minimum along one axis after the other. That needs memory as for the ranks and time in
        proportion to the number of axes times the size.
        """
        smallest = rank.view(-1, *grid)
        for axis, length in enumerate(grid, start=1):
            previous = smallest
            for step in range(1, min(self.options.size, length)):
                rest = torch.minimum(
                    smallest.narrow(axis, step, length - step), previous.narrow(axis, 0, length - step)
                )
                smallest = torch.cat([smallest.narrow(axis, 0, step), rest], dim=axis)
        return smallest.flatten(1)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [BlockMasking]
