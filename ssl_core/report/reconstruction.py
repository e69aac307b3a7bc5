"""Samples and reconstructions of an objective as arrays, for the pictures of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ssl_core.contracts import PictureStyle

Sound = tuple[np.ndarray, float]
"""A waveform (samples,) and its sampling rate in Hz."""


@dataclass(frozen=True)
class Reconstruction:
    """A segment of n samples: original, masked input and reconstruction.

    For the target "continuous" the arrays are (n, C, *space), with NaN in `masked` where a token is hidden; for
    "discrete" they are (n, Ls) integers or tokens as text. `hidden` is (n, Ls) bool. `reconstruction` equals
    `original` where a token is visible.

    Attributes:
        valid: (n, Ls) bool, the tokens that hold data; None if all do.
        style: how the segment is drawn.
        recordings: the raw recording of a sample, by its row.
        rebuilt: the sound of a reconstruction, by its row.
    """

    name: str
    target: str
    grid: tuple[int, ...]
    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    hidden: np.ndarray
    valid: np.ndarray | None = None
    style: PictureStyle = field(default_factory=PictureStyle)
    recordings: Mapping[int, Sound] = field(default_factory=dict)
    rebuilt: Mapping[int, Sound] = field(default_factory=dict)

    @property
    def is_valid(self) -> np.ndarray:
        """(n, Ls) bool, the tokens that hold data."""
        return np.ones(self.hidden.shape, dtype=bool) if self.valid is None else self.valid


@dataclass(frozen=True)
class SegmentValues:
    """A segment of n samples as they are.

    values: as in `Reconstruction`. valid: (n, Ls) bool, the tokens that hold data; None if all do. style: how it is
    drawn.
    """

    name: str
    target: str
    grid: tuple[int, ...]
    values: np.ndarray
    valid: np.ndarray | None = None
    style: PictureStyle = field(default_factory=PictureStyle)
