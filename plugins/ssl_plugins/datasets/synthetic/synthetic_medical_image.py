"""Embedded medical images: made-up chest scans with up to four findings; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic import _image_synthesis

SPLITS: tuple[Split, ...] = ("train", "test")
NAMES = ("nodule", "effusion", "crowded ribs", "reticulation")
SIDES = (-1.0, 1.0)


class SyntheticMedicalImage(Dataset):
    """Made-up chest scans with any of four findings, as several labels; embedded, no download.

    Two lungs, a heart, ribs; patients differ in place, size, tilt, heart and exposure. A nodule is a spot in a lung, an
    effusion fills the lower part of one, crowded ribs lie closer together, reticulation is a regular net in the lungs
    where others have an irregular grain. Ribs and net start anywhere, so that no pixel tells them. Each finding is in
    half of the scans, independent of the others. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "medical-image"
    is_default = True

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
        return {"inputs": {"image": _image_synthesis.to_bytes(scan)[np.newaxis]}, "label": label}

    def describe(self, index: int) -> str:
        """Its findings."""
        found = [name for name, present in zip(NAMES, self.labels(index), strict=True) if present]
        return f"synthetic scan {index} of the {self.split} split ({', '.join(found) or 'no finding'})"


def chest(height: int, width: int, label: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A scan (H, W), about 0..1, with the findings asked for."""
    nodule, effusion, crowded, net = label
    edge = 6 / min(height, width)
    x, y = _image_synthesis.turned(*_image_synthesis.coordinates(height, width), rng.normal(0, 0.08))
    scale = rng.uniform(1.0, 1.2)
    x, y = (x - rng.uniform(-0.12, 0.12)) / scale, (y - rng.uniform(-0.12, 0.12)) / scale
    apart, wide, high = rng.uniform(0.4, 0.48), rng.uniform(0.3, 0.37), rng.uniform(0.62, 0.75)
    body = _image_synthesis.soft((np.abs(x) ** 4 + np.abs(y) ** 4) - 0.9, 4 * edge)
    lung = _image_synthesis.soft(np.hypot((np.abs(x) - apart) / wide, (y + 0.05) / high) - 1, 2 * edge)
    scan = 0.65 * body - 0.3 * lung + 0.04 * _image_synthesis.smooth(height, width, 6, rng)[0]
    pace, curve = rng.uniform(15.0, 19.0) if crowded else rng.uniform(10.0, 13.5), rng.uniform(0.1, 0.5)
    scan += 0.16 * strength * np.sin(pace * (y + curve * x * x) + rng.uniform(0, 2 * np.pi)) * body  # ribs
    radius = rng.uniform(0.24, 0.36) * (apart + wide)
    middle = 0.1 * (apart + wide) + rng.normal(0, 0.03)
    heart = _image_synthesis.soft(np.hypot((x - middle) / radius, (y - 0.25) / (0.8 * radius)) - 1, 2 * edge)
    scan += 0.3 * heart * (0.4 + lung)
    if nodule:
        angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.45))
        a = rng.choice(SIDES) * apart + far * wide * np.cos(angle)
        b = far * high * np.sin(angle) - 0.05
        spot = np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * rng.uniform(0.09, 0.13) ** 2))
        scan += 0.6 * strength * spot
    if effusion:
        side = rng.choice(SIDES)
        level = rng.uniform(0.05, 0.35) - 0.3 * (np.abs(x) - apart) ** 2 / wide**2
        scan += 0.4 * strength * _image_synthesis.soft(level - y, edge) * (side * x > 0) * lung
    scan += 0.13 * strength * grain(x * scale, y * scale, net, rng) * lung
    return scan + 0.08 * _image_synthesis.smooth(height, width, 2, rng)[0]


def grain(x: np.ndarray, y: np.ndarray, net: bool, rng: np.random.Generator) -> np.ndarray:
    """(H, W), deviation about 1: a regular net at any angle, or an irregular grain about as fine."""
    if net:
        u, v = _image_synthesis.turned(x, y, rng.uniform(0, np.pi))
        pace, start = rng.uniform(14.0, 18.0), rng.uniform(0, 2 * np.pi, 2)
        return 2 * np.sin(pace * u + start[0]) * np.sin(pace * v + start[1])
    height, width = x.shape
    knots = max(2, min(height, width) // int(rng.integers(5, 8)))
    return _image_synthesis.smooth(height, width, knots, rng)[0]


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMedicalImage]
