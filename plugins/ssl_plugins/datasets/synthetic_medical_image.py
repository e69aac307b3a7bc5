"""Embedded medical images: made-up chest scans with up to four findings; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets import _scenes

SPLITS: tuple[Split, ...] = ("train", "test")
NAMES = ("nodule", "effusion", "large heart", "reticulation")
SIDES = (-1.0, 1.0)


class SyntheticMedicalImage(Dataset):
    """Made-up chest scans with any of four findings, as several labels; embedded, no download.

    Two lungs, a heart, ribs; patients differ in place, size, tilt and exposure. A nodule is a spot in a lung, an
    effusion fills the lower part of one, a large heart is large beside its own chest, reticulation is a fine net in
    the lungs. Each finding is in half of the scans, independent of the others. Sample i is a pure function of (seed,
    split, i).
    """

    name = "synthetic"
    modality = "medical-image"
    pretrain_default = True

    class Options(Dataset.Options):
        """Options of the synthetic scans."""

        n_train: int = Field(2000, ge=1, description="scans for training")
        n_test: int = Field(500, ge=1, description="scans for the test")
        height: int = Field(64, ge=16, description="pixels from top to bottom")
        width: int = Field(64, ge=16, description="pixels from left to right")
        strength: float = Field(1.0, gt=0, description="how visible the findings are; smaller is harder")
        noise: float = Field(0.03, ge=0, description="deviation of each pixel's noise, 1 = black to white")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((1, options.height, options.width))}
        self.task = Task("labels", len(NAMES), "auroc", names=NAMES, title="finding")

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def labels(self, index: int) -> np.ndarray:
        """(4,) 0 or 1: the findings of a scan, every combination equally often."""
        return (index % 2 ** len(NAMES) >> np.arange(len(NAMES))) & 1

    def __getitem__(self, index: int) -> Sample:
        """{"image": (1, H, W) bytes} and its findings (4,)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, self.labels(index)
        rng = np.random.default_rng([options.seed, SPLITS.index(self.split), index])
        scan = chest(options.height, options.width, label, options.strength, rng)
        exposure, gamma = rng.uniform(-0.08, 0.08), np.exp(rng.uniform(-0.35, 0.35))
        scan = np.clip(scan, 0, 1) ** gamma * rng.uniform(0.7, 1.0) + exposure
        scan += options.noise * rng.standard_normal(scan.shape)
        return {"inputs": {"image": _scenes.to_bytes(scan)[np.newaxis]}, "label": label}

    def describe(self, index: int) -> str:
        """Its findings."""
        found = [name for name, present in zip(NAMES, self.labels(index), strict=True) if present]
        return f"synthetic scan {index} of the {self.split} split ({', '.join(found) or 'no finding'})"


def chest(height: int, width: int, label: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A scan (H, W), about 0..1, with the findings asked for."""
    nodule, effusion, large, net = label
    edge = 6 / min(height, width)
    x, y = _scenes.turned(*_scenes.coordinates(height, width), rng.normal(0, 0.08))
    scale = rng.uniform(0.75, 1.05)
    x, y = (x - rng.uniform(-0.2, 0.2)) / scale, (y - rng.uniform(-0.25, 0.25)) / scale
    apart, wide, high = rng.uniform(0.4, 0.48), rng.uniform(0.3, 0.37), rng.uniform(0.62, 0.75)
    body = _scenes.soft((np.abs(x) ** 4 + np.abs(y) ** 4) - 0.9, 4 * edge)
    lung = _scenes.soft(np.hypot((np.abs(x) - apart) / wide, (y + 0.05) / high) - 1, 2 * edge)
    scan = 0.75 * body - 0.5 * lung + 0.06 * _scenes.smooth(height, width, 6, rng)[0]
    scan += 0.07 * np.sin(rng.uniform(16, 20) * (y + 0.25 * x * x) + rng.uniform(0, 2 * np.pi)) * body  # ribs
    radius = (rng.uniform(0.36, 0.42) if large else rng.uniform(0.24, 0.3)) * (apart + wide)
    middle = 0.1 * (apart + wide) + rng.normal(0, 0.03)
    heart = _scenes.soft(np.hypot((x - middle) / radius, (y - 0.25) / (0.8 * radius)) - 1, 2 * edge)
    scan += 0.35 * heart * lung
    if nodule:
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.45))
        a = rng.choice(SIDES) * apart + far * wide * np.cos(angle)
        b = far * high * np.sin(angle) - 0.05
        spot = np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * rng.uniform(0.05, 0.07) ** 2))
        scan += 0.45 * strength * spot
    if effusion:
        side = rng.choice(SIDES)
        level = rng.uniform(0.2, 0.45) - 0.3 * (np.abs(x) - apart) ** 2 / wide**2
        scan += 0.4 * strength * _scenes.soft(level - y, edge) * (side * x > 0) * lung
    knots = min(height, width) // 3 if net else min(height, width) // int(rng.integers(6, 10))
    grain = 0.09 * strength if net else 0.09 * rng.uniform(0.7, 1.0)  # other lungs have a coarser grain, as strong
    scan += grain * _scenes.smooth(height, width, knots, rng)[0] * lung
    return scan + 0.08 * _scenes.smooth(height, width, 2, rng)[0]


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMedicalImage]
