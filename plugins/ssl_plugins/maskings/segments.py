"""Hide a share of each segment of a row (M3AE: Geng et al., arXiv 2205.14204, 2022)."""

from __future__ import annotations

import math

import torch
from pydantic import Field, field_validator

from ssl_core import ConfigError, Geometry, Layout, Mask, Masking, hookimpl


class SegmentsMasking(Masking):
    """Hide a fixed share of the tokens of each segment, chosen uniformly in each segment (M3AE)."""

    name = "segments"

    class Options(Masking.Options):
        """Options of the masking by segments."""

        ratio: tuple[float, ...] = Field(
            (0.75,), min_length=1, description="share of tokens hidden: one number, or one for each segment"
        )
        shared: bool = Field(False, description="one draw for the whole batch, as in M3AE's published code")

        @field_validator("ratio")
        @classmethod
        def _check_ratios(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
            if not all(0 < ratio < 1 for ratio in ratios):
                raise ValueError("every share must be between 0 and 1")
            return ratios

    def __init__(self, options: Options, layout: Layout) -> None:
        """Raises:
        ConfigError: If there is neither one ratio nor one for each segment.
        """
        super().__init__(options, layout)
        count = len(layout.segments)
        ratios = options.ratio * count if len(options.ratio) == 1 else options.ratio
        if len(ratios) != count:
            raise ConfigError(
                f"masking.ratio has {len(ratios)} numbers for {count} segments; give one, or one for each"
            )
        # int(L (1 - r)) of the published code, with a tolerance for rounding: 100 * 0.07 = 7.000000000000001
        visible = [s.length - math.ceil(s.length * r - 1e-9) for s, r in zip(layout.segments, ratios, strict=True)]
        longest = max(range(count), key=lambda i: layout.segments[i].length)
        groups: dict[int, list[int]] = {}
        for i in range(count):
            groups.setdefault(i if visible[i] else longest, []).append(i)
        spans = [span for _, span in layout.spans]
        self.groups: list[tuple[torch.Tensor, int, float]] = []
        for members in groups.values():
            share = sum(layout.segments[i].length * ratios[i] for i in members)
            hidden = math.ceil(share - 1e-9)
            position_ids = torch.cat([torch.arange(spans[i].start, spans[i].stop) for i in members])
            self.groups.append((position_ids, hidden, share / len(position_ids)))

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Hide the positions of the largest of L uniform numbers within each segment.

        A segment too short for a visible token at its ratio shares a draw with the longest segment, since the encoder
        would otherwise never see it. Each row has at least one visible token. With `shared` all rows hide the same
        positions, padding or not, as in M3AE's published code, but for rows that would see padding alone.
        """
        noise = torch.rand(1 if self.options.shared else batch, self.layout.length, generator=generator)
        noise = noise.expand(batch, -1)
        valid = None if geometry is None else geometry.valid
        chosen = self._visible(noise, None if self.options.shared else valid)
        if self.options.shared and valid is not None:
            sees_padding = ~valid.gather(1, chosen).any(dim=1, keepdim=True)
            chosen = torch.where(sees_padding, self._visible(noise, valid), chosen)
        hidden = torch.ones(batch, self.layout.length, dtype=torch.bool).scatter(1, chosen, False)
        return Mask(chosen, hidden)

    def _visible(self, noise: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """(batch, V) ascending positions of the visible tokens."""
        visible = []
        for position_ids, hidden, ratio in self.groups:
            order = noise[:, position_ids].argsort(dim=1).flip(1)
            own = None if valid is None else Geometry(valid=valid[:, position_ids])
            visible.append(position_ids[Mask.from_order(order, hidden, own, ratio).visible])
        chosen = torch.cat(visible, dim=1).sort(dim=1).values
        return chosen if chosen.shape[1] else noise.argmin(dim=1, keepdim=True)


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [SegmentsMasking]
