"""Synthetic time series: two coupled oscillations recorded by several sensors."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset

RATIOS = (1.5, 2.0, 3.0)
NAMES = tuple(f"{coupling} at {ratio:g}:1" for ratio in RATIOS for coupling in ("sum", "modulation"))


class SyntheticTimeSeries(SyntheticDataset):
    """Two oscillations in several sensors; the class is their frequency ratio and coupling; embedded, no download.

    The fast oscillation has 1.5, 2 or 3 times the frequency of the slow one, and is added to it or modulated by it: six
    classes. Frequency, phases, amplitudes, drift, offsets, gain and noise vary between samples, so neither a single
    time nor a single frequency predicts the class.
    """

    modality = "time-series"
    noun = "series"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic time series."""

        channels: int = Field(4, ge=1, description="number of sensors")
        steps: int = Field(320, ge=16, description="length of a series (time steps)")
        noise: float = Field(
            0.2, ge=0, description="standard deviation of the sensor noise, relative to that of the signal"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"series": Continuous((options.channels, options.steps), rate=100.0)}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="rhythm")
        angles = self.shared_rng().uniform(0, np.pi, options.channels)
        self.mixing = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"series": (channels, steps) float32} and the class."""
        options, label = self.options, self.label(index)
        ratio, modulated = RATIOS[label // 2], label % 2 == 1
        times = np.arange(options.steps) / options.steps
        drift, slow_phase, fast_phase = rng.uniform(-0.2, 0.2), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        cycles = np.exp(rng.uniform(np.log(8), np.log(16)))
        slow = 2 * np.pi * cycles * (times + drift * times * (1 - times)) + slow_phase
        fast = ratio * slow + fast_phase
        low, high = np.sin(slow), np.sin(fast)
        if modulated:
            high = high * (1 + np.sin(slow + rng.uniform(0, 2 * np.pi)))
        oscillations = np.stack([low, high]) * np.exp(rng.uniform(-0.3, 0.3, (2, 1)))
        series = self.mixing @ oscillations
        series += options.noise * series.std() * rng.standard_normal(series.shape)
        series = series * np.exp(rng.uniform(-0.5, 0.5)) + rng.normal(0, 0.5, (options.channels, 1))
        return {"inputs": {"series": series.astype(np.float32)}, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticTimeSeries]
