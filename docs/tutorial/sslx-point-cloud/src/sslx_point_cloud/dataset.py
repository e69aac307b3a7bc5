"""Points on the surfaces of simple shapes, generated from a seed: the shape is the label."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from ssl_core import Continuous, Dataset, Preset, Sample, Split, Task, hookimpl

SSLX_API = ">=2.0,<3"
NAMES = ("sphere", "torus", "cube", "cylinder", "cone", "helix")


def surface(name: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random points (count, 3) of a shape about the origin, with z vertical and a size of about 1."""
    angle, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(-1, 1, count)
    if name == "sphere":
        radius = np.sqrt(1 - height**2)
    elif name == "torus":
        thickness, turn = rng.uniform(0.25, 0.45), rng.uniform(0, 2 * np.pi, count)
        radius, height = 1 + thickness * np.cos(turn), thickness * np.sin(turn)
    elif name == "cube":
        points = rng.uniform(-1, 1, (count, 3))
        points[np.arange(count), rng.integers(3, size=count)] = rng.choice((-1.0, 1.0), count)
        return points
    elif name == "cylinder":
        on_cap = rng.random(count) < 1 / 3  # two caps of area pi, a side of area 4 pi
        radius = np.where(on_cap, np.sqrt(rng.random(count)), 1.0)
        height = np.where(on_cap, np.sign(height), height)
    elif name == "cone":
        radius = np.sqrt(rng.random(count))
        on_base = rng.random(count) < 1 / (1 + np.sqrt(5))  # a base of area pi, a side of area sqrt(5) pi
        height = np.where(on_base, -1.0, 1 - 2 * radius)
    elif name == "helix":
        angle, radius = (height + 1) * np.pi * rng.uniform(1.5, 3), np.ones(count)
    else:
        raise ValueError(f"no shape '{name}'")
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


class SyntheticPointCloud(Dataset):
    """Points on six simple shapes, stretched, turned about the vertical axis and moved; generated, no download.

    Stretch, angle, size, place and jitter are drawn alike for all shapes. Sample i is a pure function of (seed, split,
    i).
    """

    name = "synthetic"
    modality = "point-cloud"
    is_default = True
    splits = ("train", "validation", "test")

    class Options(Dataset.Options):
        """Options of the data set: `--set dataset.n_train=100`."""

        n_train: int = Field(2000, ge=1, description="clouds for training")
        n_validation: int = Field(500, ge=1, description="clouds for validation")
        n_test: int = Field(500, ge=1, description="clouds for the test")
        points: int = Field(256, ge=8, description="points of a cloud")
        jitter: float = Field(0.05, ge=0, description="deviation of each coordinate's noise; a shape has radius 1")
        seed: int = Field(0, ge=0, description="seed of all samples")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"points": Continuous((3, options.points))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="shape")

    def __len__(self) -> int:
        return getattr(self.options, f"n_{self.split}")

    def __getitem__(self, index: int) -> Sample:
        """{"points": (3, points) float32} and the number of the shape."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, self.splits.index(self.split), index])
        points = surface(NAMES[label], options.points, rng) * rng.uniform(0.6, 1.4, 3)
        points += options.jitter * rng.normal(size=points.shape)
        turn = rng.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        points = rng.uniform(0.5, 2) * points @ rotation.T + rng.normal(size=3)
        return {"inputs": {"points": points.T.astype(np.float32)}, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticPointCloud]


@hookimpl
def register_presets() -> list[Preset]:
    values = {
        "encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4,
        "train.lr": 1e-3, "train.warmup_steps": 50, "train.steps": 300,
    }  # fmt: skip
    source = "a small encoder and a short run for the embedded data"
    return [Preset("demo-point-cloud", values, source, modality="point-cloud", dataset="synthetic", default=True)]
