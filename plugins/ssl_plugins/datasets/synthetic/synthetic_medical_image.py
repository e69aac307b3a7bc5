"""Synthetic chest scans with up to four findings."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._image_synthesis import coordinates, rotate, smooth_noise, soft_step, to_uint8

NAMES = ("nodule", "effusion", "crowded ribs", "reticulation")
SIDES = (-1.0, 1.0)


class SyntheticMedicalImage(SyntheticDataset):
    """Synthetic chest scans with any of four findings, a multi-label task; embedded, no download.

    A scan shows two lungs, a heart and ribs. Patients differ in position, size, tilt, heart and exposure. A nodule is a
    spot in a lung. An effusion fills the lower part of a lung. Crowded ribs have a smaller spacing. Reticulation is a
    regular net in the lungs; scans without it have an irregular texture there. Ribs and net have a random phase, so
    single pixels do not reveal them. Each finding is in half of the scans, independently of the others.
    """

    modality = "medical-image"
    noun = "scan"

    class Options(SyntheticDataset.Options):
        """Options of the synthetic scans."""

        height: int = Field(64, ge=16, description="height of a scan (pixels)")
        width: int = Field(64, ge=16, description="width of a scan (pixels)")
        strength: float = Field(1.0, gt=0, description="visibility of the findings; smaller is harder")
        noise: float = Field(0.03, ge=0, description="standard deviation of the pixel noise, 1 = black to white")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((1, options.height, options.width))}
        self.task = Task("labels", len(NAMES), "auroc", names=NAMES, title="finding")

    def label(self, index: int) -> np.ndarray:
        """(4,) 0 or 1: the findings of a scan. All combinations are equally frequent."""
        return (index % 2 ** len(NAMES) >> np.arange(len(NAMES))) & 1

    def label_name(self, index: int) -> str:
        """The findings, separated by commas."""
        return (
            ", ".join(name for name, present in zip(NAMES, self.label(index), strict=True) if present) or "no finding"
        )

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"image": (1, H, W) uint8} and the findings (4,)."""
        options, findings = self.options, self.label(index)
        scan = draw_chest(options.height, options.width, findings, options.strength, rng)
        exposure, gamma = rng.uniform(-0.08, 0.08), np.exp(rng.uniform(-0.35, 0.35))
        scan = np.clip(scan, 0, 1) ** gamma * rng.uniform(0.7, 1.0) + exposure
        scan += options.noise * rng.standard_normal(scan.shape)
        return {"inputs": {"image": to_uint8(scan)[np.newaxis]}, "label": findings}


def draw_chest(height: int, width: int, findings: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A scan (H, W) of about 0 to 1 with the findings (4,) whose entry is 1."""
    nodule, effusion, crowded, net = findings
    edge = 6 / min(height, width)
    x, y = rotate(*coordinates(height, width), rng.normal(0, 0.08))
    scale = rng.uniform(1.0, 1.2)
    x, y = (x - rng.uniform(-0.12, 0.12)) / scale, (y - rng.uniform(-0.12, 0.12)) / scale
    lung_x, lung_width, lung_height = rng.uniform(0.4, 0.48), rng.uniform(0.3, 0.37), rng.uniform(0.62, 0.75)
    body = soft_step((np.abs(x) ** 4 + np.abs(y) ** 4) - 0.9, 4 * edge)
    lung = soft_step(np.hypot((np.abs(x) - lung_x) / lung_width, (y + 0.05) / lung_height) - 1, 2 * edge)
    scan = 0.65 * body - 0.3 * lung + 0.04 * smooth_noise(height, width, 6, rng)[0]
    frequency, curve = rng.uniform(15.0, 19.0) if crowded else rng.uniform(10.0, 13.5), rng.uniform(0.1, 0.5)
    scan += 0.16 * strength * np.sin(frequency * (y + curve * x * x) + rng.uniform(0, 2 * np.pi)) * body  # ribs
    radius = rng.uniform(0.24, 0.36) * (lung_x + lung_width)
    middle = 0.1 * (lung_x + lung_width) + rng.normal(0, 0.03)
    heart = soft_step(np.hypot((x - middle) / radius, (y - 0.25) / (0.8 * radius)) - 1, 2 * edge)
    scan += 0.3 * heart * (0.4 + lung)
    if nodule:
        angle, offset = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.45))
        spot_x = rng.choice(SIDES) * lung_x + offset * lung_width * np.cos(angle)
        spot_y = offset * lung_height * np.sin(angle) - 0.05
        spot = np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * rng.uniform(0.09, 0.13) ** 2))
        scan += 0.6 * strength * spot
    if effusion:
        side = rng.choice(SIDES)
        level = rng.uniform(0.05, 0.35) - 0.3 * (np.abs(x) - lung_x) ** 2 / lung_width**2
        scan += 0.4 * strength * soft_step(level - y, edge) * (side * x > 0) * lung
    scan += 0.13 * strength * lung_texture(x * scale, y * scale, net, rng) * lung
    return scan + 0.08 * smooth_noise(height, width, 2, rng)[0]


def lung_texture(x: np.ndarray, y: np.ndarray, net: bool, rng: np.random.Generator) -> np.ndarray:
    """(H, W), standard deviation about 1: a regular net at a random angle, or irregular noise of similar fineness."""
    if net:
        u, v = rotate(x, y, rng.uniform(0, np.pi))
        frequency, phase = rng.uniform(14.0, 18.0), rng.uniform(0, 2 * np.pi, 2)
        return 2 * np.sin(frequency * u + phase[0]) * np.sin(frequency * v + phase[1])
    height, width = x.shape
    knots = max(2, min(height, width) // int(rng.integers(5, 8)))
    return smooth_noise(height, width, knots, rng)[0]


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMedicalImage]
