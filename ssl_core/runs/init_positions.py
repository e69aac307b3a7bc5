"""Position vectors of a trained encoder for another layout of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.errors import ConfigError
from ssl_core.nn.positions import Positions
from ssl_core.tokens import Layout, Segment

INTERPOLATION = {1: "linear", 3: "trilinear"}


@torch.no_grad()
def load_positions(new: Positions, old: Positions, layout: Layout, trained: Layout, how: str = "auto") -> list[str]:
    """Put the position vectors of a trained encoder into a fresh one.

    Segments are matched by name or, where none has the same name, by number. Fixed positions are computed from the
    layout and need nothing. Learned ones of another grid are interpolated or extended.

    Args:
        new: the positions to fill.
        old: the trained ones.
        layout: that of `new`.
        trained: that of `old`.
        how: "interpolate", "extend" or "auto", as the option `init.positions`.

    Returns:
        A line for each change.

    Raises:
        ConfigError: another width.
    """
    if new.dim != old.dim:
        raise ConfigError(f"position vectors have a width of {old.dim}, here {new.dim}; set encoder.dim={old.dim}")
    pairs = _pairs(layout.segments, trained.segments)
    lines = []
    if new.types is not None and old.types is not None:
        for i, j in pairs:
            new.types[i] = old.types[j].to(new.types.device)
    if new.kind == "sincos":
        lines += [
            f"positions of '{layout.segments[i].name}' {_grid(trained.segments[j])} -> {_grid(layout.segments[i])} "
            f"computed anew"
            for i, j in pairs
            if layout.segments[i].grid != trained.segments[j].grid
        ]
        return lines
    if old.kind == "sincos":
        new.table.copy_(Positions(layout, new.dim, "sincos").table)
        return ["learned positions start as the fixed ones of the source"]
    starts, origins = _starts(layout), _starts(trained)
    new.table[0] = old.table[0].to(new.table.device)
    for i, j in pairs:
        segment, before = layout.segments[i], trained.segments[j]
        rows = old.table[origins[j] : origins[j] + before.length].detach()
        target = new.table[starts[i] : starts[i] + segment.length]
        if segment.grid == before.grid:
            target.copy_(rows)
            continue
        if len(segment.grid) != len(before.grid):
            lines.append(
                f"positions of '{segment.name}' start anew: {_grid(before)} has other axes than {_grid(segment)}"
            )
            continue
        if how == "interpolate" or (how == "auto" and len(segment.grid) > 1):
            target.copy_(resample(rows, before.grid, segment.grid))
            lines.append(f"positions of '{segment.name}' {_grid(before)} -> {_grid(segment)} interpolated")
        else:
            kept = _extend(target, rows, before.grid, segment.grid)
            lines.append(
                f"positions of '{segment.name}' {_grid(before)} -> {_grid(segment)}: {kept:,} kept, "
                f"{segment.length - kept:,} new"
            )
    return lines


def resample(rows: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """(L, D) vectors of a grid to those of another grid of as many axes.

    With two axes by timm's `resample_abs_pos_embed` (bicubic, antialiased); with one or three linearly.

    Raises:
        ConfigError: more than three axes.
    """
    if len(new) == 2:
        from timm.layers.pos_embed import resample_abs_pos_embed

        out: Tensor = resample_abs_pos_embed(rows[None], list(new), list(old), num_prefix_tokens=0)[0]
        return out
    if len(new) not in INTERPOLATION:
        raise ConfigError(f"positions on {len(new)} axes cannot be interpolated; set init.positions=extend")
    x = rows.T.reshape(1, -1, *old)
    return F.interpolate(x, tuple(new), mode=INTERPOLATION[len(new)], align_corners=False).flatten(2)[0].T


def _extend(target: Tensor, rows: Tensor, old: Sequence[int], new: Sequence[int]) -> int:
    """Copy the vectors of the places that both grids have; return their number."""
    common = tuple(slice(0, min(one, other)) for one, other in zip(old, new, strict=True))
    target.view(*new, -1)[common] = rows.view(*old, -1)[common].to(target.device)
    return math.prod(part.stop for part in common)


def _pairs(now: Sequence[Segment], before: Sequence[Segment]) -> list[tuple[int, int]]:
    """Numbers of segments that belong together: of the same name, else of the same number."""
    known = {segment.name: number for number, segment in enumerate(before)}
    pairs = [(number, known[segment.name]) for number, segment in enumerate(now) if segment.name in known]
    return pairs or [(number, number) for number in range(min(len(now), len(before)))]


def _starts(layout: Layout) -> list[int]:
    """The row of the position table at which each segment begins; row 0 is the cls token's."""
    return [1 + span.start for _, span in layout.spans]


def _grid(segment: Segment) -> str:
    return " x ".join(map(str, segment.grid))
