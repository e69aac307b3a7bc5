"""Hide contiguous spans of tokens (SpanBERT: Joshi et al., TACL 2020)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class SpanMasking(Masking):
    """Hide a fixed share of the tokens in spans of geometric length (SpanBERT).

    Span lengths follow a geometric distribution truncated at `longest` (SpanBERT, section 3.1: mean 3.8 with the
    defaults). Spans start at uniformly drawn tokens, without replacement, until the share of the row is hidden; the
    last span is shortened to hide exactly that share. A span does not cross the end of its segment. Spans may overlap,
    and often do at high ratios. Tokens of grids with several axes are in row-major order. Spans consist of tokens, not
    of words.
    """

    name = "span"

    class Options(Masking.Options):
        """Options of the span masking."""

        ratio: float = Field(0.15, gt=0, lt=1, description="share of tokens hidden (paper: 0.15)")
        p: float = Field(0.2, gt=0, lt=1, description="parameter of the geometric distribution (paper: 0.2)")
        longest: int = Field(10, ge=1, le=1000, description="longest span in tokens (paper: 10)")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.hidden = min(math.ceil(layout.length * options.ratio - 1e-9), layout.length - 1)
        ends = torch.cat([torch.full((span.stop - span.start,), span.stop) for _, span in layout.spans])
        self.room = ends - torch.arange(layout.length)

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Place a span at each of the L tokens in random order and hide the tokens that are covered first."""
        length = self.layout.length
        order = torch.rand(batch, length, generator=generator).argsort(dim=1)
        rank = torch.empty_like(order).scatter(1, order, torch.arange(length).expand(batch, length))
        lengths = torch.minimum(self.lengths(torch.rand(batch, length, generator=generator)), self.room)
        return Mask.from_order(self._ranks(rank, lengths).argsort(dim=1), self.hidden, geometry, self.options.ratio)

    def lengths(self, uniform: Tensor) -> Tensor:
        """Span lengths from 1 to `longest` by the inverse of the distribution function at uniform numbers in [0, 1)."""
        stay = 1 - self.options.p
        survival = 1 - uniform.double() * (1 - stay**self.options.longest)
        return (survival.log() / math.log(stay)).floor().long().add(1).clamp(1, self.options.longest)

    def _ranks(self, rank: Tensor, lengths: Tensor) -> Tensor:
        """(B, L): rank at which each token is hidden, by the first span that covers it and its offset in the span."""
        longest = self.options.longest
        hidden_rank = rank * longest
        for step in range(1, min(longest, self.layout.length)):
            start = rank[:, :-step]
            candidate = torch.where(lengths[:, :-step] > step, start * longest + step, hidden_rank[:, step:])
            hidden_rank[:, step:] = torch.minimum(hidden_rank[:, step:], candidate)
        return hidden_rank


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [SpanMasking]
