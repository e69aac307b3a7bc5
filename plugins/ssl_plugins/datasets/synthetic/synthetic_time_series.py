"""Embedded time series: a network of coupled rhythms seen through several sensors; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl

SPLITS: tuple[Split, ...] = ("train", "test")
SENSORS, SERIES = 0, 1  # what a random generator is for
RATIOS = (1.5, 2.0, 3.0)
NAMES = tuple(f"{how} at {ratio:g}:1" for ratio in RATIOS for how in ("sum", "modulation"))


class SyntheticTimeSeries(Dataset):
    """Two rhythms seen by several sensors; the class is their frequency ratio and coupling; embedded, no download.

    The fast rhythm has 1.5, 2 or 3 times the frequency of the slow one, and is added to it or modulated by it: six
    classes. Frequency, phases, amplitudes, drift, offsets, gain and noise differ from sample to sample, so that no
    moment of a series and no single frequency tells the class. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "time-series"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic time series."""

        n_train: int = Field(2000, ge=1, description="series for training")
        n_test: int = Field(500, ge=1, description="series for the test")
        channels: int = Field(4, ge=1, description="sensors")
        steps: int = Field(320, ge=16, description="length of a series")
        noise: float = Field(0.2, ge=0, description="noise of the sensors, as a share of the signal's deviation")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"series": Continuous((options.channels, options.steps), rate=100.0)}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="rhythm")
        angles = np.random.default_rng([options.seed, SENSORS]).uniform(0, np.pi, options.channels)
        self.mixing = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"series": (channels, steps) float32} and the number of its ratio and coupling."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, SERIES, SPLITS.index(self.split), index])
        ratio, modulated = RATIOS[label // 2], label % 2 == 1
        times = np.arange(options.steps) / options.steps
        drift, start, other = rng.uniform(-0.2, 0.2), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        slow = 2 * np.pi * np.exp(rng.uniform(np.log(8), np.log(16))) * (times + drift * times * (1 - times)) + start
        fast = ratio * slow + other
        low, high = np.sin(slow), np.sin(fast)
        if modulated:
            high = high * (1 + np.sin(slow + rng.uniform(0, 2 * np.pi)))
        rhythms = np.stack([low, high]) * np.exp(rng.uniform(-0.3, 0.3, (2, 1)))
        series = self.mixing @ rhythms
        series += options.noise * series.std() * rng.standard_normal(series.shape)
        series = series * np.exp(rng.uniform(-0.5, 0.5)) + rng.normal(0, 0.5, (options.channels, 1))
        return {"inputs": {"series": series.astype(np.float32)}, "label": label}

    def describe(self, index: int) -> str:
        """Its rhythm."""
        return f"synthetic series {index} of the {self.split} split ({NAMES[index % len(NAMES)]})"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticTimeSeries]
