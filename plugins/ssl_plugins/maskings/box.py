"""Hide one box of tokens, like the blocks of I-JEPA (Assran et al., CVPR 2023)."""

from __future__ import annotations

import math

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


class BoxMasking(Masking):
    """Hide a fixed share of the tokens as one box with random position and aspect ratio, on any grid (I-JEPA).

    Tokens are hidden in order of their distance from a random token: the maximum over the axes of the distance along
    the axis, divided by the box's relative edge. So all rows have the same number of hidden tokens; at the border of
    the grid the box extends further inwards. Rows with coordinates use these instead of the grid. Of several segments
    one is drawn in proportion to its length; if it is too short, random tokens of the others are hidden as well.
    """

    name = "box"

    class Options(Masking.Options):
        """Options of the box masking."""

        ratio: float = Field(0.175, gt=0, lt=1, description="share of tokens hidden (I-JEPA: 0.15 to 0.2 of an image)")
        aspect: tuple[float, float] = Field(
            (0.75, 1.5), description="range of the ratio of two edges (I-JEPA: 0.75 to 1.5)"
        )

        @field_validator("aspect")
        @classmethod
        def _check_range(cls, value: tuple[float, float]) -> tuple[float, float]:
            if not 0 < value[0] <= value[1]:
                raise ValueError("the range must be positive, the smaller number first")
            return value

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.hidden = min(math.ceil(layout.length * options.ratio - 1e-9), layout.length - 1)
        self.coords = layout.coordinates
        self.segment_of = layout.segment_of

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Order the tokens by their distance from a random valid token."""
        length, geometry = self.layout.length, geometry or Geometry()
        coords = self.coords.expand(batch, -1, -1) if geometry.coords is None else geometry.coords.float()
        weights = torch.rand(batch, length, generator=generator)
        if geometry.valid is not None:
            weights = torch.where(geometry.valid, 1 + weights, weights)
        centre = weights.argmax(dim=1)
        edges = self._edges(batch, coords.shape[-1], generator)
        origin = coords.gather(1, centre.view(-1, 1, 1).expand(-1, -1, coords.shape[-1]))
        distance = ((coords - origin) / edges.unsqueeze(1)).abs().amax(dim=2)
        other = self.segment_of != self.segment_of[centre].unsqueeze(1)
        # ties are broken at random; tokens of other segments come last
        noise = 1e-3 * torch.rand(batch, length, generator=generator)
        order = torch.where(other, torch.inf, distance).add(noise).nan_to_num(posinf=1e9).add(other * noise * 1e3)
        return Mask.from_order(order.argsort(dim=1), self.hidden, geometry, self.options.ratio)

    def _edges(self, batch: int, axes: int, generator: torch.Generator) -> Tensor:
        """(B, axes): relative edges, drawn log-uniformly from the square roots of the range of `aspect`."""
        low, high = (math.log(value) for value in self.options.aspect)
        logs = low + (high - low) * torch.rand(batch, axes, generator=generator)
        return (logs / 2).exp()


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [BoxMasking]
