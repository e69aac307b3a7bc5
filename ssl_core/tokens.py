"""The interface between tokenizers and objectives: what both sides know of a token sequence, and nothing more.

Shapes: B samples, L tokens of a row, Ls tokens of one segment, D encoder width, K neighbours of a token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

TargetKind = Literal["continuous", "discrete"]
ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Segment:
    """One part of a row: tokens on one grid, all with one kind of target.

    Args:
        name: For people to read. An objective must not look at it.
        grid: Shape in tokens, e.g. (64,), (14, 14) or (4, 8, 8). Tokens are in row-major order.
        target: "continuous" (patches of real numbers) or "discrete" (vocabulary ids).
        size: Width of a patch if continuous, size of the vocabulary if discrete.
        score: The segment's own error, (prediction, target) -> (B, n), in place of the mean squared error or the
            cross-entropy. prediction: (B, n, size); target: patches (B, n, size) or ids (B, n). Use a module-level
            function, which can be pickled. It gets at least fp32, also the tokens of padding, whose errors must be
            finite, and needs a second derivative for an objective such as MetaMAE.

    Raises:
        ValueError: If a size is not positive or the kind of target is unknown.
    """

    name: str
    grid: tuple[int, ...]
    target: TargetKind
    size: int
    score: ScoreFunction | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.grid or min(self.grid) < 1 or self.size < 1:
            raise ValueError(f"segment '{self.name}': grid {self.grid} and size {self.size} must be positive")
        if self.target not in get_args(TargetKind):
            raise ValueError(
                f"segment '{self.name}': unknown target kind {self.target!r}; use 'continuous' or 'discrete', and "
                f"score= for an error of your own"
            )

    @property
    def length(self) -> int:
        """Number of tokens."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Layout:
    """The fixed shape of a row: its segments, in order. Known when the model is built; constant during a run."""

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
        """Each segment with its slice of the row."""
        start = 0
        for segment in self.segments:
            yield segment, slice(start, start + segment.length)
            start += segment.length

    @cached_property
    def segment_of(self) -> Tensor:
        """(L,) long: index of the segment that each token belongs to."""
        return torch.cat([torch.full((s.length,), i, dtype=torch.long) for i, s in enumerate(self.segments)])

    @cached_property
    def neighbours(self) -> Tensor:
        """(L, K) long: for each token the tokens one step away along each axis of its own segment's grid.

        K is twice the largest number of axes. A neighbour that does not exist is the token itself, so no token
        neighbours one across a border or in another segment.
        """
        axes = max(len(segment.grid) for segment in self.segments)
        table = torch.arange(self.length).repeat(2 * axes, 1).T.clone()
        for segment, span in self.spans:
            position_ids = torch.arange(span.start, span.stop).view(segment.grid)
            for axis, size in enumerate(segment.grid):
                previous = position_ids.index_select(axis, torch.arange(size).sub(1).clamp(min=0))
                following = position_ids.index_select(axis, torch.arange(size).add(1).clamp(max=size - 1))
                table[span, 2 * axis] = previous.flatten()
                table[span, 2 * axis + 1] = following.flatten()
        return table

    @cached_property
    def coordinates(self) -> Tensor:
        """(L, k) float: grid coordinates of each token within its segment, zero-padded to the most axes k."""
        axes = max(len(segment.grid) for segment in self.segments)
        table = torch.zeros(self.length, axes)
        for segment, span in self.spans:
            table[span, : len(segment.grid)] = grid_coordinates(segment.grid).float()
        return table

    def dilate(self, mask: Tensor) -> Tensor:
        """Add the grid neighbours of the marked tokens.

        mask: (B, L) bool, returns (B, L) bool. In 1-D left and right, in 2-D a cross of four, in 3-D six; never across
        segments.
        """
        if mask.shape[-1] != self.length:
            raise ValueError(f"expected (..., {self.length}), got {tuple(mask.shape)}")
        return mask | mask[..., self.neighbours.to(mask.device)].any(dim=-1)


@dataclass(frozen=True)
class Geometry:
    """What differs between the rows of a batch besides embeddings and targets. Grids need none of it.

    It depends on preprocessed inputs alone, not on parameters.

    Args:
        valid: (B, L) bool, False for padding and for a segment that a sample lacks; None if every token holds data.
            An invalid token is no key of any attention and counts in no loss and no pooled feature.
        coords: (B, L, k) float, where each token lies, in units of tokens: neighbouring tokens are about 1 apart, as
            on a grid. The position vectors of encoder and decoder come from them instead of from the grid.
        neighbours: (B, L, K) long, the neighbours of each token; replaces the grid's. A missing one is the token
            itself.
        bias: (B, L, L) float, added to the attention logits of the encoder, not of a decoder; -inf forbids a pair. The
            cls token is not part of it: it attends to every valid token, and every token to it.
    """

    valid: Tensor | None = None
    coords: Tensor | None = None
    neighbours: Tensor | None = None
    bias: Tensor | None = None

    def gather(self, position_ids: Tensor) -> Geometry:
        """The geometry of the tokens at position_ids (B, n), in that order. Neighbours are dropped."""
        valid = None if self.valid is None else self.valid.gather(1, position_ids)
        coords, bias = self.coords, self.bias
        if coords is not None:
            coords = coords.gather(1, position_ids.unsqueeze(-1).expand(-1, -1, coords.shape[-1]))
        if bias is not None:
            rows = bias.gather(1, position_ids.unsqueeze(-1).expand(-1, -1, bias.shape[-1]))
            bias = rows.gather(2, position_ids.unsqueeze(1).expand(-1, rows.shape[1], -1))
        return Geometry(valid, coords, None, bias)

    def dilate(self, mask: Tensor, layout: Layout) -> Tensor:
        """Add the neighbours of the marked tokens: those of each row if it has its own, else the grid's.

        mask: (B, L) bool, returns (B, L) bool.
        """
        if self.neighbours is None:
            return layout.dilate(mask)
        flat = mask.gather(1, self.neighbours.flatten(1))
        return mask | flat.view(self.neighbours.shape).any(dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are set, by name."""
        fields = {"valid": self.valid, "coords": self.coords, "neighbours": self.neighbours, "bias": self.bias}
        return {name: value for name, value in fields.items() if value is not None}

    def to(self, device: torch.device) -> Geometry:
        """The same geometry on another device."""
        return Geometry(**{name: value.to(device) for name, value in self.tensors().items()})

    def repeat(self, times: int) -> Geometry:
        """The batch repeated: rows B..2B-1 are rows 0..B-1 again, and so on."""
        return Geometry(**{name: torch.cat([value] * times) for name, value in self.tensors().items()})


@dataclass(frozen=True)
class ContinuousTarget:
    """Patches of real numbers, scored by the mean squared error unless the segment has a score of its own.

    patches: (B, Ls, size).
    """

    patches: Tensor


@dataclass(frozen=True)
class DiscreteTarget:
    """Vocabulary ids, scored by cross-entropy against the live embedding table.

    ids: (B, Ls) long. table: (size, D), the tokenizer's own parameter, so that weight tying needs no access to it.
    """

    ids: Tensor
    table: Tensor


Target: TypeAlias = ContinuousTarget | DiscreteTarget


@dataclass(frozen=True)
class Tokens:
    """A batch of rows.

    Args:
        embeddings: (B, L, D), without positions.
        targets: One for each segment of the layout.
        layout: The layout of the rows.
        geometry: What differs from row to row; by default nothing.
    """

    embeddings: Tensor
    targets: tuple[Target, ...]
    layout: Layout
    geometry: Geometry = Geometry()

    @property
    def valid(self) -> Tensor | None:
        """(B, L) bool: the tokens that hold data; None if all do. Short for `geometry.valid`."""
        return self.geometry.valid


@dataclass(frozen=True)
class Outcome:
    """What an objective computes from a batch: a scalar loss to minimise, and named scalars to log."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def grid_coordinates(grid: Sequence[int]) -> Tensor:
    """(L, axes) long: the coordinates of each token of a grid, row-major."""
    return torch.tensor(list(itertools.product(*(range(size) for size in grid))), dtype=torch.long)
