"""Embedded images: textured shapes on a textured ground; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets import _scenes

SPLITS: tuple[Split, ...] = ("train", "test")
NAMES = ("disc", "ring", "square", "triangle", "cross", "bar")


class SyntheticImage(Dataset):
    """Shapes at a random place, size, angle and colour on a random ground; the class is the shape; no download.

    Colour, brightness and texture of shape and ground are drawn alike for all classes, either may be the lighter one,
    and shapes have about the same area: no pixel and no histogram tells the class. Sample i is a pure function of
    (seed, split, i).
    """

    name = "synthetic"
    modality = "image"
    pretrain_default = True

    class Options(Dataset.Options):
        """Options of the synthetic images."""

        n_train: int = Field(2000, ge=1, description="images for training")
        n_test: int = Field(500, ge=1, description="images for the test")
        height: int = Field(32, ge=8, description="pixels from top to bottom")
        width: int = Field(32, ge=8, description="pixels from left to right")
        contrast: float = Field(0.45, gt=0, le=1, description="least distance between the colours of shape and ground")
        texture: float = Field(0.08, ge=0, description="strength of the texture, 1 = black to white")
        noise: float = Field(0.02, ge=0, description="deviation of each pixel's noise")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((3, options.height, options.width))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="shape")

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3, H, W) bytes} and the number of its shape."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, SPLITS.index(self.split), index])
        height, width = options.height, options.width
        x, y = _scenes.coordinates(height, width)
        size = rng.uniform(0.42, 0.6)
        room = np.maximum(np.array([x.max(), y.max()]) - 1.1 * size, 0)
        place = rng.uniform(-room, room)
        u, v = _scenes.turned(x - place[0], y - place[1], rng.uniform(0, 2 * np.pi))
        inside = _scenes.soft(distance(label, u / size, v / size) * size, 3 / min(height, width))
        grain = options.texture * _scenes.smooth(height, width, max(4, height // 4), rng, 2)
        light = 0.1 * _scenes.smooth(height, width, 2, rng)
        ground, shape = self._colours(rng)
        picture = (ground[:, None, None] + grain[0]) * (1 - inside) + (shape[:, None, None] + grain[1]) * inside
        picture = picture + light + options.noise * rng.standard_normal(picture.shape)
        return {"inputs": {"image": _scenes.to_bytes(picture)}, "label": label}

    def _colours(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two colours (3,), at least `contrast` apart; which is the ground's is chance."""
        middle = rng.uniform(0.35, 0.65, 3)
        apart = rng.standard_normal(3) * 0.5 + rng.choice((-1.0, 1.0))
        apart *= rng.uniform(self.options.contrast, self.options.contrast + 0.3) / np.linalg.norm(apart)
        return middle - apart / 2, middle + apart / 2

    def describe(self, index: int) -> str:
        """Its shape."""
        return f"synthetic image {index} of the {self.split} split ({NAMES[index % len(NAMES)]})"


def distance(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """About how far points lie outside a shape of the size 1; negative inside."""
    name = NAMES[shape]
    across, along = np.abs(u), np.abs(v)
    if name == "disc":
        return np.hypot(u, v) - 0.8
    if name == "ring":
        return np.abs(np.hypot(u, v) - 0.78) - 0.24
    if name == "square":
        return np.maximum(across, along) - 0.72
    if name == "triangle":
        return np.maximum(0.866 * across + 0.5 * v, -v) - 0.55
    if name == "cross":
        return np.minimum(np.maximum(across - 1.0, along - 0.3), np.maximum(along - 1.0, across - 0.3))
    return np.maximum(across - 1.15, along - 0.38)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticImage]
