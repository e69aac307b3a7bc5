"""Synthetic multispectral images: two materials in one of five layouts."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._image_synthesis import coordinates, rotate, smooth_noise

NAMES = ("fields", "blocks", "ponds", "river", "grove")


class SyntheticMultispectral(SyntheticDataset):
    """Materials with their own spectra, laid out as fields, blocks, ponds, a river or a grove; embedded, no download.

    The class is the layout. The two materials, their shares, light, haze and the gain of each band vary between images
    with the same distribution in all classes.
    """

    modality = "multispectral"
    noun = "image"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic multispectral images."""

        bands: int = Field(13, ge=1, description="number of spectral bands")
        height: int = Field(32, ge=8, description="height of an image (pixels)")
        width: int = Field(32, ge=8, description="width of an image (pixels)")
        materials: int = Field(6, ge=2, description="number of materials; an image shows two of them")
        light: float = Field(0.4, ge=0, description="standard deviation of the log of the light, between images")
        noise: float = Field(0.03, ge=0, description="standard deviation of the pixel noise, relative to the value")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((options.bands, options.height, options.width))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="layout")
        rng = self.shared_rng()
        knots = max(3, options.bands // 3)
        log_spectra = smooth_noise(options.bands, 2, knots, rng, options.materials)[:, :, 0]
        self.spectra = np.exp(0.5 * log_spectra)  # (materials, bands)
        self.levels = np.exp(rng.uniform(np.log(20), np.log(2500), options.bands))  # sensor units of each band

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"image": (bands, H, W) float32} in sensor units and the layout."""
        options, label = self.options, self.label(index)
        height, width = options.height, options.width
        x, y = coordinates(height, width)
        u, v = rotate(x, y, rng.uniform(0, 2 * np.pi))
        share = draw_layout(label, u, v, rng)
        materials = rng.permutation(options.materials)[:2]
        cover = smooth_noise(height, width, 5, rng)[0]
        share = np.clip(share + 0.12 * cover, 0, 1)
        spectra = self.spectra[materials] * np.exp(0.1 * rng.standard_normal((2, options.bands)))
        light = np.exp(options.light * rng.standard_normal() + 0.15 * smooth_noise(height, width, 2, rng)[0])
        gain = np.exp(0.1 * rng.standard_normal(options.bands))
        haze = rng.uniform(0, 0.4) * np.exp(-np.arange(options.bands) / 3)
        image = spectra[0][:, None, None] * share + spectra[1][:, None, None] * (1 - share)
        image = (image * light * gain[:, None, None] + haze[:, None, None]) * self.levels[:, None, None]
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        image = image * (1 + options.noise * grain)
        return {"inputs": {"image": image.astype(np.float32)}, "label": label}


def draw_layout(label: int, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) share of the first material at each pixel, 0 to 1. The two materials swap roles with probability 1/2."""
    name, phase = NAMES[label], rng.uniform(0, 2 * np.pi, 2)
    frequency = rng.uniform(5.0, 8.0)
    if name == "fields":
        pattern = np.sin(frequency * u + phase[0])
    elif name == "blocks":
        pattern = np.sin(frequency * u + phase[0]) * np.sin(frequency * v + phase[1])
    elif name == "ponds":
        centres, radii = rng.uniform(-1, 1, (3, 2)), rng.uniform(0.3, 0.5, 3)
        distances = [np.hypot(u - a, v - b) - radius for (a, b), radius in zip(centres, radii, strict=True)]
        pattern = -4 * np.minimum(np.minimum(distances[0], distances[1]), distances[2])
    elif name == "river":
        bed = rng.uniform(-0.4, 0.4) + 0.35 * np.sin(rng.uniform(2, 4) * u + phase[0])
        pattern = 6 * (rng.uniform(0.18, 0.35) - np.abs(v - bed))
    else:
        knots = int(rng.integers(10, 15))
        pattern = 1.5 * smooth_noise(u.shape[0], u.shape[1], knots, rng)[0]
    share = 1 / (1 + np.exp(-4 * np.clip(pattern, -5, 5)))
    return share if rng.random() < 0.5 else 1 - share


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMultispectral]
