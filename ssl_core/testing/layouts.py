"""Five small layouts: for each a tokenizer and a reproducible batch of structured data, and the size of the encoder.

Segments have the names of real modalities, so that the kit detects an objective that depends on a name.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssl_core.contracts import Tokenizer
from ssl_core.nn.encoder import EncoderOptions
from ssl_core.tokenizers import GridTokenizer, IdTokenizer, JointTokenizer
from ssl_core.tokens import Layout, grid_coordinates

DIM = 32
"""Width of the encoder."""
DEPTH = 2
HEADS = 4
ROWS = 8
"""Batch size."""
ENCODER = EncoderOptions(dim=DIM, depth=DEPTH, heads=HEADS)


class _Grid(GridTokenizer):
    """Patches of a small grid."""

    name = "kit_grid"

    def __init__(self, field: str, channels: int, shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
        options = self.Options(normalise="none")
        super().__init__(options, {}, DIM, field=field, channels=channels, shape=shape, patch=patch)

    def sample(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Plane waves with a random direction, wavelength and phase in each row and channel, plus noise."""
        coordinates = grid_coordinates(self.shape).T.double()  # (axes, n)
        waves = torch.rand(rows, self.channels, len(self.shape), generator=generator, dtype=torch.float64)
        phase = torch.rand(rows, self.channels, 1, generator=generator, dtype=torch.float64)
        x = torch.sin(2 * math.pi * (0.2 * waves @ coordinates + phase))
        x = x + 0.05 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return {self.field: x.reshape(rows, self.channels, *self.shape).float()}


class _Ids(IdTokenizer):
    """Ids of a small vocabulary."""

    name = "kit_ids"

    def __init__(self, field: str, length: int, vocab: int) -> None:
        super().__init__(self.Options(), {}, DIM, field=field, length=length, vocab=vocab)

    def sample(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Ids that count up, with a random start and step in each row."""
        vocab, length = self.layout.segments[0].size, self.layout.length
        start, step = torch.randint(vocab, (2, rows, 1), generator=generator)
        return {self.field: (start + (1 + step % 3) * torch.arange(length)) % vocab}


class _Joint(JointTokenizer):
    """An image with text."""

    name = "kit_joint"

    def __init__(self, *parts: _Grid | _Ids) -> None:
        super().__init__(self.Options(), {}, DIM, parts=parts)

    def sample(self, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The inputs of all parts."""
        return {key: value for part in self.parts for key, value in part.sample(rows, generator).items()}  # type: ignore[operator]


CASES = ("continuous_1d", "continuous_2d", "continuous_3d", "discrete", "continuous_and_discrete")


def make_tokenizer(case: str) -> Any:
    """The small tokenizer of one of CASES. Its `sample(rows, generator)` is a batch of preprocessed inputs."""
    if case == "continuous_1d":
        return _Grid("speech", 1, (96,), (4,))
    if case == "continuous_2d":
        return _Grid("image", 3, (8, 12), (2, 2))
    if case == "continuous_3d":
        return _Grid("volume", 1, (4, 6, 4), (2, 2, 1))
    if case == "discrete":
        return _Ids("text", 24, 17)
    if case == "continuous_and_discrete":
        return _Joint(_Grid("image", 1, (8, 6), (2, 2)), _Ids("text", 10, 13))
    raise ValueError(f"no case '{case}'")


def sample(tokenizer: Tokenizer, rows: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch of preprocessed inputs for a tokenizer of `make_tokenizer`, a function of the seed."""
    return tokenizer.sample(rows, torch.Generator().manual_seed(seed))  # type: ignore[operator]


def renamed(layout: Layout) -> Layout:
    """The same layout with neutral names of segments."""
    return Layout([replace(segment, name=f"part {i}") for i, segment in enumerate(layout.segments)])
