"""Position vectors: fixed sine and cosine on any grid or of any coordinates, or learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_core.errors import ConfigError
from ssl_core.nn.indexing import embedding_lookup
from ssl_core.tokens import Layout, grid_coordinates

BASE = 10_000.0


def sincos_1d(coordinates: Tensor, dim: int) -> Tensor:
    """(n,) coordinates to (n, dim): [sin(p w), cos(p w)] with w_i = 10000^(-i / (dim/2)), in float64."""
    omega = BASE ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = coordinates.to(torch.float64)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos(grid: tuple[int, ...], dim: int) -> Tensor:
    """(L, dim) float32 for a grid of any number of axes, row-major.

    The width is shared equally among the axes, the last axis (the column of an image) first, each with the 1-D
    formula. What does not divide by twice the number of axes stays zero.

    Raises:
        ConfigError: If the width is too small for the number of axes.
    """
    axes = len(grid)
    share = _share(dim, axes)
    coordinates = grid_coordinates(grid)
    parts = [sincos_1d(coordinates[:, axis], share) for axis in reversed(range(axes))]
    table = torch.zeros(len(coordinates), dim, dtype=torch.float64)
    table[:, : share * axes] = torch.cat(parts, dim=1)
    return table.to(torch.float32)


def sincos_of(coords: Tensor, dim: int) -> Tensor:
    """(..., k) real coordinates in units of tokens to (..., dim): the same formula as `sincos`, in float32."""
    axes = coords.shape[-1]
    share = _share(dim, axes)
    omega = BASE ** (-torch.arange(share // 2, dtype=torch.float32, device=coords.device) / (share // 2))
    angles = coords.float().flip(-1).unsqueeze(-1) * omega  # (..., k, share / 2), the last axis first
    vectors = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return nn.functional.pad(vectors, (0, dim - share * axes))


def _share(dim: int, axes: int) -> int:
    """The width that each axis gets: even, at least 2."""
    share = dim // (2 * axes) * 2
    if share < 2:
        raise ConfigError(f"width {dim} is too small for positions on {axes} axes; use at least {2 * axes}")
    return share


class Positions(nn.Module):
    """Position vectors of the cls token (index 0) and the L tokens of a layout.

    "sincos": fixed; the cls token's is zero; each segment counts from its own origin. "learned": N(0, 1), cls token
    included (DABS). With several segments a learned vector per segment, N(0, 0.02), tells them apart (as in M3AE).
    """

    table: Tensor
    segment_of: Tensor

    def __init__(self, layout: Layout, dim: int, kind: str = "sincos") -> None:
        super().__init__()
        self.dim, self.kind = dim, kind
        if kind == "learned":
            self.table = nn.Parameter(torch.randn(1 + layout.length, dim))
        elif kind == "sincos":
            rows = [torch.zeros(1, dim), *(sincos(segment.grid, dim) for segment in layout.segments)]
            self.register_buffer("table", torch.cat(rows), persistent=False)
        else:
            raise ValueError(f"positions '{kind}': use 'sincos' or 'learned'")
        several = kind == "sincos" and len(layout.segments) > 1
        self.types = nn.Parameter(0.02 * torch.randn(len(layout.segments), dim)) if several else None
        self.register_buffer("segment_of", layout.segment_of, persistent=False)

    def forward(self) -> Tensor:
        """(1 + L, D): the cls token's vector, then the tokens'."""
        if self.types is None:
            return self.table
        typed = embedding_lookup(self.types, self.segment_of)
        return self.table + torch.cat([torch.zeros_like(typed[:1]), typed])

    def from_coords(self, coords: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """(B, n, D): vectors of tokens that lie at `coords` (B, n, k).

        position_ids: (B, n) long, which tokens of the layout they are, for the segments' vectors; by default all.

        Raises:
            ConfigError: If positions are learned, since a table has no vectors between its entries.
        """
        if self.kind == "learned":
            raise ConfigError("learned positions have no vectors for coordinates; set encoder.positions=sincos")
        vectors = sincos_of(coords, self.dim)
        if self.types is None:
            return vectors
        segments = self.segment_of if position_ids is None else self.segment_of[position_ids]
        return vectors + embedding_lookup(self.types, segments)
