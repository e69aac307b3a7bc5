"""Synthetic wafer maps: round maps of dies with nine failure patterns."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset

NAMES = ("none", "random", "donut", "scratch", "center", "loc", "edge-loc", "edge-ring", "near-full")  # as WM-811K
NO_DIE, GOOD, BAD = 0, 1, 2


class SyntheticWafer(SyntheticDataset):
    """Wafer maps of different sizes with the nine patterns of WM-811K, at any angle; embedded, no download.

    Strength, extent, position and angle of the patterns vary between maps, and some dies fail at random. A map has
    between `min_dies` and `max_dies` dies along each side.
    """

    modality = "wafer"
    noun = "map"

    class Options(SyntheticDataset.Options):
        """Options of the synthetic wafer maps."""

        min_dies: int = Field(26, ge=8, description="fewest dies along a side")
        max_dies: int = Field(44, ge=8, description="most dies along a side")
        noise: float = Field(
            0.2, ge=0, lt=1, description="largest share of dies that fail at random; the smallest is a tenth of it"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"map": Continuous((1, None, None))}
        self.task = Task("classes", len(NAMES), "weighted_f1", names=NAMES, title="pattern")

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"map": (1, H, W) uint8 of 0 (no die), 1 (good), 2 (bad)} and the pattern."""
        options, label = self.options, self.label(index)
        low, high = sorted((options.min_dies, options.max_dies))
        height, width = rng.integers(low, high + 1, 2)
        y = (np.arange(height)[:, None] + 0.5) * 2 / height - 1
        x = (np.arange(width)[None, :] + 0.5) * 2 / width - 1
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        noise = options.noise * rng.uniform(0.1, 1)
        probability = 1 - (1 - noise) * (1 - pattern_probability(label, x, y, radius, angle, rng))
        bad = rng.random(probability.shape) < probability
        dies = np.where(radius > 1, NO_DIE, np.where(bad, BAD, GOOD)).astype(np.uint8)
        return {"inputs": {"map": dies[np.newaxis]}, "label": label}


def pattern_probability(
    label: int, x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(H, W) probability that a die fails because of the pattern.

    Args:
        label: index in NAMES.
        x: (1, W) coordinate of the columns; the wafer's edge is at radius 1.
        y: (H, 1) coordinate of the rows.
        radius: (H, W) distance from the middle.
        angle: (H, W) angle in radians, -pi to pi.
        rng: source of the pattern's parameters.
    """
    name, direction, strength = NAMES[label], rng.uniform(-np.pi, np.pi), rng.uniform(0.4, 0.8)
    angle_from_direction = np.abs((angle - direction + np.pi) % (2 * np.pi) - np.pi)
    if name == "none":
        return np.zeros(radius.shape)
    if name == "random":
        return np.full(radius.shape, rng.uniform(0.3, 0.5))
    if name == "near-full":
        return np.full(radius.shape, rng.uniform(0.75, 0.97))
    if name in ("center", "donut", "loc"):
        offset = rng.uniform(0.4, 0.65) if name == "loc" else rng.uniform(0, 0.25)
        stretch = rng.uniform(0.75, 1.3)
        local_x, local_y = x - offset * np.cos(direction), y - offset * np.sin(direction)
        distance = np.hypot(local_x * stretch, local_y / stretch)
        if name == "donut":
            return strength * (np.abs(distance - rng.uniform(0.4, 0.55)) < rng.uniform(0.1, 0.16))
        return strength * (distance < rng.uniform(0.2, 0.34))
    if name == "scratch":
        along, across = (
            np.cos(direction) * x + np.sin(direction) * y, np.cos(direction) * y - np.sin(direction) * x
        )  # fmt: skip
        bend, start = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.1)
        line = np.abs(across - rng.uniform(-0.4, 0.4) - bend * along**2) < rng.uniform(0.04, 0.07)
        return max(strength, 0.6) * (line & (along > start) & (along < start + rng.uniform(0.6, 1.0)))
    rim = radius > rng.uniform(0.78, 0.88)
    reach = rng.uniform(0.35, 0.9) if name == "edge-loc" else rng.uniform(2.2, np.pi)
    return strength * (rim & (angle_from_direction < reach))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticWafer]
