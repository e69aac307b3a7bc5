"""The wall between tokenizers and objectives: what both sides may know of a row of tokens, and nothing more.

Shapes: B samples, L tokens of a row, Ls tokens of one segment, D encoder width, K neighbours of a token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

TargetKind = Literal["continuous", "discrete"]


@dataclass(frozen=True)
class Segment:
    """One part of a row: tokens on one grid, all with one kind of target.

    `grid` is its shape in tokens, e.g. (64,) or (14, 14) or (4, 8, 8), tokens in row-major order.
    `size` is the width of a patch for "continuous" and the size of the vocabulary for "discrete".
    `name` is for people to read; an objective must not look at it.
    """

    name: str
    grid: tuple[int, ...]
    target: TargetKind
    size: int

    def __post_init__(self) -> None:
        if not self.grid or min(self.grid) < 1 or self.size < 1:
            raise ValueError(f"segment '{self.name}': grid {self.grid} and size {self.size} must be positive")

    @property
    def length(self) -> int:
        """Number of tokens."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Layout:
    """The fixed shape of a row: its segments, in order. Known when the model is built; never changes in a run."""

    segments: tuple[Segment, ...]

    def __init__(self, segments: Sequence[Segment]) -> None:
        if not segments:
            raise ValueError("a layout needs at least one segment")
        object.__setattr__(self, "segments", tuple(segments))

    @property
    def length(self) -> int:
        """Number of tokens L of a whole row."""
        return sum(segment.length for segment in self.segments)

    @property
    def spans(self) -> Iterator[tuple[Segment, slice]]:
        """Each segment with its place in the row."""
        start = 0
        for segment in self.segments:
            yield segment, slice(start, start + segment.length)
            start += segment.length

    @cached_property
    def segment_of(self) -> Tensor:
        """(L,) long: the number of the segment that each token belongs to."""
        return torch.cat([torch.full((s.length,), i, dtype=torch.long) for i, s in enumerate(self.segments)])

    @cached_property
    def neighbours(self) -> Tensor:
        """(L, K) long: for each token the tokens one step away along each axis of its own segment.

        K is 2 per axis of the segment with the most axes. A neighbour that does not exist is the token itself, so
        nothing is ever near across a border or a segment.
        """
        axes = max(len(segment.grid) for segment in self.segments)
        table = torch.arange(self.length).repeat(2 * axes, 1).T.clone()
        for segment, span in self.spans:
            places = torch.arange(span.start, span.stop).view(segment.grid)
            for axis, size in enumerate(segment.grid):
                back = places.index_select(axis, torch.arange(size).sub(1).clamp(min=0))
                ahead = places.index_select(axis, torch.arange(size).add(1).clamp(max=size - 1))
                table[span, 2 * axis] = back.flatten()
                table[span, 2 * axis + 1] = ahead.flatten()
        return table

    def dilate(self, chosen: Tensor) -> Tensor:
        """(B, L) bool: the chosen tokens and their neighbours.

        In 1-D left and right, in 2-D the cross of four, in 3-D six; never across segments.
        """
        if chosen.shape[-1] != self.length:
            raise ValueError(f"expected (..., {self.length}), got {tuple(chosen.shape)}")
        return chosen | chosen[..., self.neighbours.to(chosen.device)].any(dim=-1)


@dataclass(frozen=True)
class ContinuousTarget:
    """A target of real numbers, scored by the mean square. patches: (B, Ls, size)."""

    patches: Tensor


@dataclass(frozen=True)
class DiscreteTarget:
    """A target of vocabulary entries, scored by cross-entropy against the live embedding table.

    ids: (B, Ls) long. table: (size, D), the tokenizer's own parameter, so that weight tying needs no access to it.
    """

    ids: Tensor
    table: Tensor


Target: TypeAlias = ContinuousTarget | DiscreteTarget


@dataclass(frozen=True)
class Tokens:
    """A batch of rows: content (B, L, D) without positions, and one target for each segment of the layout.

    present: (B, L) bool, false for padding and for a segment that a sample lacks; None where every token holds data.
    What is absent is no key of any attention, and counts in no loss and no pooled feature.
    """

    embeddings: Tensor
    targets: tuple[Target, ...]
    layout: Layout
    valid: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """What an objective makes of a batch: a scalar loss to minimise, and named scalars to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def grid_coordinates(grid: Sequence[int]) -> Tensor:
    """(L, axes) long: the coordinates of each token of a grid, row-major."""
    return torch.tensor(list(itertools.product(*(range(size) for size in grid))), dtype=torch.long)
