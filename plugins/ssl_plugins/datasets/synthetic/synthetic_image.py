"""Synthetic images: two-coloured woven patterns."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._image_synthesis import coordinates, rotate, smooth_noise, soft_step, to_uint8

NAMES = ("stripes", "checks", "lattice", "honeycomb", "bricks", "zigzag")


class SyntheticImage(SyntheticDataset):
    """Woven patterns of two colours at a random angle, scale, offset and light; embedded, no download.

    The class is the pattern. Each colour covers about half of the image, and colours, angle, scale, offset, light and
    noise have the same distribution in all classes: neither single pixels nor the histogram predict the class.
    Patterns are periodic, so visible patches predict masked ones.
    """

    modality = "image"
    noun = "image"

    class Options(SyntheticDataset.Options):
        """Options of the synthetic images."""

        height: int = Field(32, ge=8, description="height of an image (pixels)")
        width: int = Field(32, ge=8, description="width of an image (pixels)")
        period: tuple[float, float] = Field(
            (0.28, 0.45), description="range of the pattern's period, as a share of the shorter side"
        )
        contrast: float = Field(0.45, gt=0, le=1, description="least distance between the two colours in RGB of 0 to 1")
        noise: float = Field(0.02, ge=0, description="standard deviation of the pixel noise, 1 = black to white")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((3, options.height, options.width))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="pattern")

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"image": (3, H, W) uint8} and the pattern."""
        options, label = self.options, self.label(index)
        height, width = options.height, options.width
        x, y = coordinates(height, width)
        period = 2 * rng.uniform(*options.period)
        u, v = rotate(x, y, rng.uniform(0, 2 * np.pi))
        relief = weave(label, u / period + rng.random(), v / period + rng.random())
        share = soft_step(relief - np.median(relief), 0.35)  # of the first colour; the median gives each colour half
        first, second = self._colours(rng)
        light = 0.1 * smooth_noise(height, width, 2, rng)
        image = first[:, None, None] * share + second[:, None, None] * (1 - share)
        image = image + light + options.noise * rng.standard_normal(image.shape)
        return {"inputs": {"image": to_uint8(image)}, "label": label}

    def _colours(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two colours (3,), at least `contrast` apart."""
        middle = rng.uniform(0.35, 0.65, 3)
        difference = rng.standard_normal(3) * 0.5 + rng.choice((-1.0, 1.0))
        difference *= rng.uniform(self.options.contrast, self.options.contrast + 0.3) / np.linalg.norm(difference)
        return middle - difference / 2, middle + difference / 2


def weave(pattern: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Relief of a pattern of period 1 at (u, v), about -1 to 1. A threshold at its median gives the two colours."""
    name = NAMES[pattern]
    if name == "stripes":
        return wave(u)
    if name == "checks":
        return wave(u) * wave(v)
    if name == "lattice":
        return np.maximum(wave(u), wave(v))
    if name == "honeycomb":
        return (wave(u) + wave(u / 2 + v * np.sqrt(3) / 2) + wave(u / 2 - v * np.sqrt(3) / 2)) / 2
    if name == "bricks":  # every other course is shifted by half a brick
        return np.maximum(wave(v), wave(u + 0.5 * (np.floor(v + 0.5) % 2)))
    return wave(u + 0.7 * np.abs((v + 0.5) % 1 - 0.5))


def wave(x: np.ndarray) -> np.ndarray:
    """A cosine of period 1."""
    return np.cos(2 * np.pi * x)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticImage]
