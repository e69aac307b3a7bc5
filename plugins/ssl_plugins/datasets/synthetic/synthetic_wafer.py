"""Embedded wafer maps: round maps of dies with nine patterns of bad ones; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl

SPLITS: tuple[Split, ...] = ("train", "test")
NAMES = ("none", "random", "donut", "scratch", "center", "loc", "edge-loc", "edge-ring", "near-full")  # as WM-811K
NO_DIE, GOOD, BAD = 0, 1, 2


class SyntheticWafer(Dataset):
    """Wafer maps of different sizes with the nine patterns of WM-811K, at any angle; embedded, no download.

    Strength, extent, place and angle of the patterns differ from map to map, dies fail at random everywhere, and maps
    have between `least` and `most` dies along each side. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "wafer"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic wafer maps."""

        n_train: int = Field(2000, ge=1, description="maps for training")
        n_test: int = Field(500, ge=1, description="maps for the test")
        least: int = Field(26, ge=8, description="fewest dies along a side")
        most: int = Field(44, ge=8, description="most dies along a side")
        noise: float = Field(0.2, ge=0, lt=1, description="most dies that fail at random; the least is a tenth of it")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"map": Continuous((1, None, None))}
        self.task = Task("classes", len(NAMES), "weighted_f1", names=NAMES, title="pattern")

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"map": (1, H, W) bytes of 0 (no die), 1 (good), 2 (bad)} and the number of its pattern."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, SPLITS.index(self.split), index])
        low, high = sorted((options.least, options.most))
        height, width = rng.integers(low, high + 1, 2)
        y = (np.arange(height)[:, None] + 0.5) * 2 / height - 1
        x = (np.arange(width)[None, :] + 0.5) * 2 / width - 1
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        noise = options.noise * rng.uniform(0.1, 1)
        failing = 1 - (1 - noise) * (1 - pattern(label, x, y, radius, angle, rng))
        bad = rng.random(failing.shape) < failing
        dies = np.where(radius > 1, NO_DIE, np.where(bad, BAD, GOOD)).astype(np.uint8)
        return {"inputs": {"map": dies[np.newaxis]}, "label": label}

    def describe(self, index: int) -> str:
        """Its pattern."""
        return f"synthetic map {index} of the {self.split} split ({NAMES[index % len(NAMES)]})"


def pattern(
    label: int, x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Probability (H, W) that a die fails because of the pattern."""
    name, turn, strength = NAMES[label], rng.uniform(-np.pi, np.pi), rng.uniform(0.4, 0.8)
    away = np.abs((angle - turn + np.pi) % (2 * np.pi) - np.pi)  # angle to the pattern's direction
    if name == "none":
        return np.zeros(radius.shape)
    if name == "random":
        return np.full(radius.shape, rng.uniform(0.3, 0.5))
    if name == "near-full":
        return np.full(radius.shape, rng.uniform(0.75, 0.97))
    if name in ("center", "donut", "loc"):
        far = rng.uniform(0.4, 0.65) if name == "loc" else rng.uniform(0, 0.25)
        stretch = rng.uniform(0.75, 1.3)
        away_x, away_y = x - far * np.cos(turn), y - far * np.sin(turn)
        near = np.hypot(away_x * stretch, away_y / stretch)
        if name == "donut":
            return strength * (np.abs(near - rng.uniform(0.4, 0.55)) < rng.uniform(0.1, 0.16))
        return strength * (near < rng.uniform(0.2, 0.34))
    if name == "scratch":
        along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        bend, start = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.1)
        line = np.abs(across - rng.uniform(-0.4, 0.4) - bend * along**2) < rng.uniform(0.04, 0.07)
        return max(strength, 0.6) * (line & (along > start) & (along < start + rng.uniform(0.6, 1.0)))
    rim = radius > rng.uniform(0.78, 0.88)
    reach = rng.uniform(0.35, 0.9) if name == "edge-loc" else rng.uniform(2.2, np.pi)
    return strength * (rim & (away < reach))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticWafer]
