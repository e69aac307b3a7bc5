"""Finds series whose variation is smaller than the steps of float32, in which samples are held."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LOOK_SERIES = 20
STEPS_LOST = 4  # a channel whose standard deviation is smaller than so many steps of float32 is not held


def doubt_of_float32(path: Path, channels: np.ndarray) -> str:
    """A line if float32 loses the variation of a channel; else empty.

    Args:
        path: the file.
        channels: (channels, steps) numbers in the type of the file.
    """
    if channels.dtype == np.float32 or not channels.size:
        return ""
    values = np.asarray(channels, np.float64)
    known = np.isfinite(values)
    counts = np.maximum(known.sum(axis=-1), 1)
    means = np.where(known, values, 0).sum(axis=-1) / counts
    deviations = np.sqrt((np.where(known, values - means[..., np.newaxis], 0) ** 2).sum(axis=-1) / counts)
    with np.errstate(over="ignore"):
        steps = np.spacing(np.abs(means).astype(np.float32)).astype(np.float64)
    for channel in np.flatnonzero((deviations > 0) & (deviations < STEPS_LOST * steps)):
        if np.abs(means[channel]) > 1e-30:  # not of values that are nearly zero
            return (
                f"{path}: a series varies by {deviations[channel]:.3g} around {means[channel]:.6g}, where float32 has "
                f"steps of {steps[channel]:.3g}, so that its variation is lost; subtract the mean of each channel, "
                f"and save the series as float32"
            )
    return ""
