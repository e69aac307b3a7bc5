"""What an objective reconstructs, as arrays for the pictures of a report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rebuilt:
    """One segment. "continuous": (n, C, *space) arrays, NaN where `masked` is hidden. "discrete": (n, Ls) integers.

    hidden: (n, Ls) bool. `reconstruction` shows the original where it was visible.
    """

    name: str
    target: str
    grid: tuple[int, ...]
    original: np.ndarray
    masked: np.ndarray
    reconstruction: np.ndarray
    hidden: np.ndarray
