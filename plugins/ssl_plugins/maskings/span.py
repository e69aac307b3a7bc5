"""Hide contiguous spans of tokens (SpanBERT: Joshi et al., TACL 2020)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class SpanMasking(Masking):
    """Hide a fixed share of the tokens in spans of geometric length (SpanBERT).

    Spans with lengths of a geometric distribution up to `longest` (renormalised: mean 3.8 by default, section 3.1 of
    the paper) are laid at uniform places, on any place once, until the share of the row is hidden; the last one is cut
    at its end to hide exactly that. A span ends with its segment. Spans may meet and overlap, which they often do at
    high ratios. Tokens of a grid of several axes are taken in row-major order. A token is the unit, not a word.
    """

    name = "span"

    class Options(Masking.Options):
        """Options of the span masking."""

        ratio: float = Field(0.15, gt=0, lt=1, description="share of tokens hidden (paper: 0.15)")
        p: float = Field(0.2, gt=0, lt=1, description="parameter of the geometric distribution (paper: 0.2)")
        longest: int = Field(10, ge=1, le=1000, description="most tokens of a span (paper: 10)")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.hidden = min(math.ceil(layout.length * options.ratio - 1e-9), layout.length - 1)
        ends = torch.cat([torch.full((span.stop - span.start,), span.stop) for _, span in layout.spans])
        self.room = ends - torch.arange(layout.length)

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Lay the spans of all L places in random order; hide the first tokens of that order."""
        length = self.layout.length
        order = torch.rand(batch, length, generator=generator).argsort(dim=1)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(length).expand(batch, length))
        lengths = torch.minimum(self.lengths(torch.rand(batch, length, generator=generator)), self.room)
        return Mask.from_order(self._turn(rank, lengths).argsort(dim=1), self.hidden, geometry, self.options.ratio)

    def lengths(self, uniform: Tensor) -> Tensor:
        """Span lengths 1 to `longest` from uniform numbers in [0, 1): the geometric distribution inverted."""
        stay = 1 - self.options.p
        within = 1 - uniform.double() * (1 - stay**self.options.longest)
        return (within.log() / math.log(stay)).floor().long().add(1).clamp(1, self.options.longest)

    def _turn(self, rank: Tensor, lengths: Tensor) -> Tensor:
        """(B, L): when each token is hidden: by the earliest span that covers it, and in it from its start on."""
        longest = self.options.longest
        turn = rank * longest
        for step in range(1, min(longest, self.layout.length)):
            start = rank[:, :-step]
            reached = torch.where(lengths[:, :-step] > step, start * longest + step, turn[:, step:])
            turn[:, step:] = torch.minimum(turn[:, step:], reached)
        return turn


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [SpanMasking]
