"""Reconstructions of an objective as arrays, for the pictures of a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reconstruction:
    """A segment of n samples: original, masked input and reconstruction.

    For the target "continuous" the arrays are (n, C, *space), with NaN in `masked` where a token is hidden; for
    "discrete" they are (n, Ls) integers or tokens as text. `hidden` is (n, Ls) bool. `reconstruction` equals
    `original` where a token is visible.
    """

    name: str
    target: str
    grid: tuple[int, ...]
    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    hidden: np.ndarray
