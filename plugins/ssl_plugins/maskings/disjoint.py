"""Masks that complement each other within groups of rows (DMJD: Ma et al., arXiv 2212.15230, 2022)."""

from __future__ import annotations

import torch
from pydantic import Field

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class DisjointMasking(Masking):
    """Show disjoint parts of the row to the rows of a group, so that together they see all of it (DMJD).

    A group is `views` consecutive rows of the batch. A random permutation of the L tokens is dealt out to its rows,
    L // views tokens visible in each: the visible sets of a group never meet, and cover the row where `views` divides
    L (else all but fewer than `views` tokens, other ones in each group). The share hidden follows: 1 - 1/views. Each
    row taken alone is masked uniformly at random; the last group of a batch may be incomplete.

    The paper shows several views of one sample in a step. A masking knows no samples: here the rows of a group are
    different samples, which evens out how often each place is seen. For the paper's views, a data set has to offer
    each sample `views` times in a row. The paper's joint distillation is a loss, and no part of this.
    """

    name = "disjoint"

    class Options(Masking.Options):
        """Options of the disjoint masking."""

        views: int = Field(
            4, ge=2, description="rows of a group; 1 - 1/views of the tokens are hidden. At most L, else L is taken"
        )

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.views = min(options.views, layout.length)
        self.kept = layout.length // self.views

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Deal out the places of one permutation for each group of rows."""
        groups = -(-batch // self.views)
        order = torch.rand(groups, self.layout.length, generator=generator).argsort(dim=1)
        dealt = order[:, : self.views * self.kept].reshape(groups * self.views, self.kept)
        visible = dealt[:batch]
        hidden = torch.ones(batch, self.layout.length, dtype=torch.bool).scatter(1, visible, False)
        mask = Mask(visible.sort(dim=1).values, hidden)
        if geometry is None or geometry.valid is None:
            return mask
        order = torch.where(hidden, 0.0, 1.0) + torch.rand(batch, self.layout.length, generator=generator)
        return Mask.from_order(order.argsort(dim=1), self.layout.length - self.kept, geometry)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [DisjointMasking]
