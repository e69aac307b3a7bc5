"""Hide tokens in connected blocks."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from ssl_core import Layout, Mask, Masking, hookimpl


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
        self.same_block = self._blocks()

    def _blocks(self) -> torch.Tensor:
        """(L, L) bool: whether place j lies in the block that starts at place i; never across segments."""
        table = torch.zeros(self.layout.length, self.layout.length, dtype=torch.bool)
        for segment, span in self.layout.spans:
            axes = [torch.arange(size) for size in segment.grid]
            places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
            step = places[None, :, :] - places[:, None, :]
            table[span, span] = ((step >= 0) & (step < self.options.size)).all(dim=-1)
        return table

    def __call__(self, batch: int, generator: torch.Generator) -> Mask:
        """Lay blocks in random order until enough is hidden; the block that overflows is cut at random places."""
        length = self.layout.length
        order = torch.rand(batch, length, generator=generator).argsort(dim=1)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(length).expand(batch, length))
        # the earliest block that covers each place; ties inside a block are broken at random
        covered = torch.where(self.same_block, rank.unsqueeze(-1), length).amin(dim=1)
        score = covered + torch.rand(batch, length, generator=generator)
        chosen = score.argsort(dim=1)
        hidden = torch.zeros(batch, length, dtype=torch.bool).scatter(1, chosen[:, : self.hidden], True)
        return Mask(chosen[:, self.hidden :].sort(dim=1).values, hidden)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [BlockMasking]
