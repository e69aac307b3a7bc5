"""Embedded images: cloth of two colours, woven in a pattern; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic import _image_synthesis

SPLITS: tuple[Split, ...] = ("train", "test")
NAMES = ("stripes", "checks", "lattice", "honeycomb", "bricks", "zigzag")


class SyntheticImage(Dataset):
    """Cloth woven of two colours at a random angle, scale, place and light; the class is the pattern; no download.

    Each colour has about half of the cloth, and colours, angle, scale, place, light and noise are drawn alike for all
    classes: no pixel and no histogram tells the class. Patterns repeat, so that what is seen tells much of what is
    hidden. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "image"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic images."""

        n_train: int = Field(2000, ge=1, description="images for training")
        n_test: int = Field(500, ge=1, description="images for the test")
        height: int = Field(32, ge=8, description="pixels from top to bottom")
        width: int = Field(32, ge=8, description="pixels from left to right")
        period: tuple[float, float] = Field(
            (0.28, 0.45), description="least and most length of a pattern, as a share of the shorter side"
        )
        contrast: float = Field(0.45, gt=0, le=1, description="least distance between the two colours")
        noise: float = Field(0.02, ge=0, description="deviation of each pixel's noise")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((3, options.height, options.width))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="pattern")

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, H, W) bytes} and the number of its pattern."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, SPLITS.index(self.split), index])
        height, width = options.height, options.width
        x, y = _image_synthesis.coordinates(height, width)
        period = 2 * rng.uniform(*options.period)
        u, v = _image_synthesis.turned(x, y, rng.uniform(0, 2 * np.pi))
        raised = weave(label, u / period + rng.random(), v / period + rng.random())
        share = _image_synthesis.soft(
            raised - np.median(raised), 0.35
        )  # of the first colour; each has half of the cloth
        first, second = self._colours(rng)
        light = 0.1 * _image_synthesis.smooth(height, width, 2, rng)
        picture = first[:, None, None] * share + second[:, None, None] * (1 - share)
        picture = picture + light + options.noise * rng.standard_normal(picture.shape)
        return {"inputs": {"image": _image_synthesis.to_bytes(picture)}, "label": label}

    def _colours(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two colours (3,), at least `contrast` apart."""
        middle = rng.uniform(0.35, 0.65, 3)
        apart = rng.standard_normal(3) * 0.5 + rng.choice((-1.0, 1.0))
        apart *= rng.uniform(self.options.contrast, self.options.contrast + 0.3) / np.linalg.norm(apart)
        return middle - apart / 2, middle + apart / 2

    def describe(self, index: int) -> str:
        """Its pattern."""
        return f"synthetic image {index} of the {self.split} split ({NAMES[index % len(NAMES)]})"


def weave(pattern: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The height of a pattern of period 1 at (u, v), about -1 to 1; cut at its median it is the cloth."""
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
    """A wave of period 1 with its crest at 0."""
    return np.cos(2 * np.pi * x)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticImage]
