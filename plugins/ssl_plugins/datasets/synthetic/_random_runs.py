"""Rows of stretches of random lengths, each of another kind than the one before it."""

from __future__ import annotations

import numpy as np

SHAPE = 2.0  # of the gamma distribution of lengths: neither clockwork nor pure chance


def draw_stretches(length: int, kinds: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """(length,) which of `kinds` rules each place; stretches are `mean` places long on average, at least one.

    The row is cut out of a longer one at random, so that every place is like every other.
    """
    count = int(8 * length / mean) + 60
    ends = np.cumsum(1 + rng.gamma(SHAPE, (mean - 1) / SHAPE, count))
    ruling = np.cumsum(rng.integers(1, kinds, count)) % kinds
    start = rng.uniform(0, max(4 * mean, length))
    return (ruling[np.searchsorted(ends, start + np.arange(length))] + rng.integers(kinds)) % kinds
