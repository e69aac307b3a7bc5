"""Masks with disjoint visible sets within groups of rows (DMJD: Ma et al., arXiv 2212.15230, 2022)."""

from __future__ import annotations

import torch
from pydantic import Field

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class DisjointMasking(Masking):
    """Give the rows of a group disjoint sets of visible tokens, which together cover the positions (DMJD).

    A group is `views` consecutive rows of the batch. A random permutation of the L tokens is divided among them, with
    L // views visible tokens for each row, so the share of hidden tokens is about 1 - 1/views. The visible sets are
    disjoint. They cover all positions if `views` divides L, otherwise all but fewer than `views` random ones. Each
    single row is masked uniformly at random. The last group of a batch may be incomplete.

    In the paper a group contains views of one sample. A masking does not know which rows belong to one sample: here the
    rows are different samples, which balances how often each position is visible. For the paper's views a data set must
    return each sample `views` times in succession. The paper's joint distillation is a loss and not part of the
    masking.
    """

    name = "disjoint"

    class Options(Masking.Options):
        """Options of the disjoint masking."""

        views: int = Field(4, ge=2, description="rows of a group, at most L; the share of hidden tokens is 1 - 1/views")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.views = min(options.views, layout.length)
        self.visible = layout.length // self.views

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Divide one permutation of the tokens among the rows of each group."""
        groups = -(-batch // self.views)
        order = torch.rand(groups, self.layout.length, generator=generator).argsort(dim=1)
        parts = order[:, : self.views * self.visible].reshape(groups * self.views, self.visible)
        visible = parts[:batch]
        hidden = torch.ones(batch, self.layout.length, dtype=torch.bool).scatter(1, visible, False)
        mask = Mask(visible.sort(dim=1).values, hidden)
        if geometry is None or geometry.valid is None:
            return mask
        order = torch.where(hidden, 0.0, 1.0) + torch.rand(batch, self.layout.length, generator=generator)
        return Mask.from_order(order.argsort(dim=1), self.layout.length - self.visible, geometry)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [DisjointMasking]
