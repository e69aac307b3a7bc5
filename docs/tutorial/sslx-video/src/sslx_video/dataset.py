"""Moving shapes, generated on demand. The shapes are random, the direction of their motion is the label."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from ssl_core import Continuous, Dataset, Preset, Sample, Split, Task, hookimpl

SSLX_API = ">=2.0,<3"
NAMES = ("left", "right", "up", "down")
STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # rows and columns per frame


class MovingShapes(Dataset):
    """Clips of shapes that all move left, right, up or down over a still ground; made on the fly, no download.

    Number, form, size, brightness, position and speed have the same distribution for all directions, and a shape that
    leaves at one side enters at the other. So no single frame determines the direction, and the mean of each pixel is
    the same for all. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "video"
    is_default = True

    class Options(Dataset.Options):
        """Options of the data set: `--set dataset.n_train=100`."""

        n_train: int = Field(2000, ge=1, description="number of training clips")
        n_test: int = Field(500, ge=1, description="number of test clips")
        frames: int = Field(8, ge=2, description="frames of a clip")
        size: int = Field(16, ge=12, description="height and width in pixels")
        noise: float = Field(0.5, ge=0, description="standard deviation of the noise; a shape differs by about 1")
        seed: int = Field(0, ge=0, description="seed of all samples")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"clip": Continuous((1, options.frames, options.size, options.size))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="direction")

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"clip": (1, frames, size, size) float32} and the number of the direction."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, self.split == "test", index])
        ground, speed, start = self._ground(rng), rng.integers(1, 3), rng.integers(options.frames)
        shapes = [self._shape(rng) for _ in range(rng.integers(3, 6))]
        clip = options.noise * rng.normal(size=(options.frames, options.size, options.size))
        for frame in range(options.frames):
            shift = [int(step * speed * (frame - start)) for step in STEPS[label]]
            image = ground
            for inside, brightness in shapes:
                image = np.where(np.roll(inside, shift, axis=(0, 1)), brightness, image)
            clip[frame] += image
        return {"inputs": {"clip": clip[np.newaxis].astype(np.float32)}, "label": label}

    def _ground(self, rng: np.random.Generator) -> np.ndarray:
        """A smooth background, (size, size), that does not move."""
        row, column = np.indices((self.options.size, self.options.size)) / self.options.size
        turns = rng.integers(-1, 2) * row + rng.integers(-1, 2) * column + rng.uniform()
        return 0.3 * np.sin(2 * np.pi * turns)

    def _shape(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """A disc, a box or a cross at a random position: its pixels, (size, size) bool, and its brightness."""
        size = self.options.size
        row, column = abs(np.indices((size, size)) - size // 2)
        half = int(rng.integers(1, 4))
        forms = (
            np.hypot(row, column) <= half,
            np.maximum(row, column) < half,
            (np.minimum(row, column) < 1) & (np.maximum(row, column) <= half),
        )
        inside = np.roll(forms[rng.integers(3)], rng.integers(size, size=2), axis=(0, 1))
        return inside, float(rng.choice((-1, 1)) * rng.uniform(0.7, 1.5))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [MovingShapes]


@hookimpl
def register_presets() -> list[Preset]:
    values = {
        "encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4,
        "train.lr": 1e-3, "train.warmup_steps": 50, "train.steps": 300,
    }  # fmt: skip
    source = "a small encoder and a short run for the embedded data"
    return [Preset("demo-video", values, source, modality="video", dataset="synthetic", default=True)]
