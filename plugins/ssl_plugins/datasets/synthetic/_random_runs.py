"""Rows of runs: each run has a random length and another state than the run before it."""

from __future__ import annotations

import numpy as np

SHAPE = 2.0  # of the gamma distribution of lengths: between a fixed length and an exponential one


def draw_runs(length: int, states: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """(length,) the state at each position. Runs have at least one position and `mean` on average.

    The row is a random window of a longer one, so that all positions have the same distribution.
    """
    count = int(8 * length / mean) + 60
    ends = np.cumsum(1 + rng.gamma(SHAPE, (mean - 1) / SHAPE, count))
    state_of_run = np.cumsum(rng.integers(1, states, count)) % states
    start = rng.uniform(0, max(4 * mean, length))
    return (state_of_run[np.searchsorted(ends, start + np.arange(length))] + rng.integers(states)) % states
