"""Hide tokens in connected blocks."""

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
        """Lay blocks in random order until enough is hidden; the block that overflows is cut at random places."""
        length = self.layout.length
        order = torch.rand(batch, length, generator=generator).argsort(dim=1)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(length).expand(batch, length))
        # the earliest block that covers each place; ties inside a block are broken at random
        covered = torch.cat([self._earliest(rank[:, span], part.grid) for part, span in self.layout.spans], dim=1)
        score = covered + torch.rand(batch, length, generator=generator)
        return Mask.from_order(score.argsort(dim=1), self.hidden, geometry, self.options.ratio)

    def _earliest(self, rank: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """(B, Ls): for each place the least rank of the blocks that reach it, from ranks of where blocks start.

        A block is a box, so the least over it is the least along one axis after another: memory of the order of the
        ranks themselves, time in proportion to axes x size.
        """
        found = rank.view(-1, *grid)
        for axis, length in enumerate(grid, start=1):
            before = found
            for step in range(1, min(self.options.size, length)):
                behind = torch.minimum(found.narrow(axis, step, length - step), before.narrow(axis, 0, length - step))
                found = torch.cat([found.narrow(axis, 0, step), behind], dim=axis)
        return found.flatten(1)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [BlockMasking]
