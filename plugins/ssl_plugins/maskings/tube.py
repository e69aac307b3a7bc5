"""Hide the same positions in all frames of a video (VideoMAE: Tong et al., NeurIPS 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl


@dataclass(frozen=True)
class _Pool:
    """Units of equally many tokens, such as tubes, of which a share is hidden.

    position_ids: (units, tokens of a unit) long. visible: number of visible units.
    """

    position_ids: Tensor
    visible: int


class TubeMasking(Masking):
    """Hide a fixed share of the spatial positions of a video, each in all frames (VideoMAE's tube masking).

    In a segment with three axes, the first of which is time, the units of masking are tubes: one spatial position in
    all frames. In each such segment the same share of tubes is hidden, rounded up, and at least one is visible. All
    other segments, and those of one frame or one spatial position, form one pool whose tokens are hidden individually.
    """

    name = "tube"

    class Options(Masking.Options):
        """Options of the tube masking."""

        ratio: float = Field(0.9, gt=0, lt=1, description="share of tubes hidden (VideoMAE, section 3.3: 0.9)")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        tubes, single = [], []
        for segment, span in layout.spans:
            position_ids = torch.arange(span.start, span.stop)
            times = segment.grid[0] if len(segment.grid) == 3 else 1
            if 1 < times < segment.length:
                tubes.append(position_ids.view(times, -1).T)
            else:
                single.append(position_ids.view(-1, 1))
        units = [*tubes, torch.cat(single)] if single else tubes
        self.pools = [_Pool(unit, self._visible_units(len(unit))) for unit in units]

    def _visible_units(self, units: int) -> int:
        """Number of visible units. The unit of a pool of one is always hidden."""
        return max(units - math.ceil(units * self.options.ratio - 1e-9), min(units - 1, 1))

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Hide the units of the largest of uniform numbers in each pool. A unit is valid if one of its tokens is."""
        valid = None if geometry is None else geometry.valid
        visible = []
        for pool in self.pools:
            order = torch.rand(batch, len(pool.position_ids), generator=generator).argsort(dim=1).flip(1)
            own = None if valid is None else Geometry(valid=valid[:, pool.position_ids].any(dim=2))
            mask = Mask.from_order(order, len(pool.position_ids) - pool.visible, own, self.options.ratio)
            visible.append(pool.position_ids[mask.visible].flatten(1))
        chosen = torch.cat(visible, dim=1).sort(dim=1).values
        hidden = torch.ones(batch, self.layout.length, dtype=torch.bool).scatter(1, chosen, False)
        return Mask(chosen, hidden)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [TubeMasking]
