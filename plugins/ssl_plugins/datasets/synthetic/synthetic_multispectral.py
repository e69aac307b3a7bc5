"""Embedded multispectral images: fields of materials under changing light; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic import _image_synthesis

SPLITS: tuple[Split, ...] = ("train", "test")
WORLD, IMAGES = 0, 1  # what a random generator is for
NAMES = ("fields", "blocks", "ponds", "river", "grove")


class SyntheticMultispectral(Dataset):
    """Materials with their own spectra, laid out as fields, blocks, ponds, a river or a grove; no download.

    The class is the layout. Which two materials it is made of, their shares, light, haze and each band's gain differ
    from image to image and alike in all classes. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "multispectral"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic multispectral images."""

        n_train: int = Field(2000, ge=1, description="images for training")
        n_test: int = Field(500, ge=1, description="images for the test")
        bands: int = Field(13, ge=1, description="spectral bands")
        height: int = Field(32, ge=8, description="pixels from top to bottom")
        width: int = Field(32, ge=8, description="pixels from left to right")
        materials: int = Field(6, ge=2, description="different materials")
        light: float = Field(0.4, ge=0, description="deviation of the logarithm of the light from image to image")
        noise: float = Field(0.03, ge=0, description="deviation of each pixel's noise, as a share of the band's level")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((options.bands, options.height, options.width))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="layout")
        rng = np.random.default_rng([options.seed, WORLD])
        knots = max(3, options.bands // 3)
        curves = _image_synthesis.smooth(options.bands, 2, knots, rng, options.materials)[:, :, 0]
        self.spectra = np.exp(0.5 * curves)  # (materials, bands)
        self.levels = np.exp(rng.uniform(np.log(20), np.log(2500), options.bands))  # sensor units of each band

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"image": (bands, H, W) float32} in sensor units and the number of its layout."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, IMAGES, SPLITS.index(self.split), index])
        height, width = options.height, options.width
        x, y = _image_synthesis.coordinates(height, width)
        u, v = _image_synthesis.turned(x, y, rng.uniform(0, 2 * np.pi))
        share = arrangement(label, u, v, rng)
        one, other = rng.permutation(options.materials)[:2]
        cover = _image_synthesis.smooth(height, width, 5, rng)[0]
        share = np.clip(share + 0.12 * cover, 0, 1)
        spectra = self.spectra[[one, other]] * np.exp(0.1 * rng.standard_normal((2, options.bands)))
        light = np.exp(options.light * rng.standard_normal() + 0.15 * _image_synthesis.smooth(height, width, 2, rng)[0])
        gain = np.exp(0.1 * rng.standard_normal(options.bands))
        haze = rng.uniform(0, 0.4) * np.exp(-np.arange(options.bands) / 3)
        image = spectra[0][:, None, None] * share + spectra[1][:, None, None] * (1 - share)
        image = (image * light * gain[:, None, None] + haze[:, None, None]) * self.levels[:, None, None]
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        image = image * (1 + options.noise * grain)
        return {"inputs": {"image": image.astype(np.float32)}, "label": label}

    def describe(self, index: int) -> str:
        """Its layout."""
        return f"synthetic image {index} of the {self.split} split ({NAMES[index % len(NAMES)]})"


def arrangement(label: int, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Share of the first material at each pixel, (H, W) in 0..1; about half of the area, or the other half."""
    name, start = NAMES[label], rng.uniform(0, 2 * np.pi, 2)
    pace = rng.uniform(5.0, 8.0)
    if name == "fields":
        pattern = np.sin(pace * u + start[0])
    elif name == "blocks":
        pattern = np.sin(pace * u + start[0]) * np.sin(pace * v + start[1])
    elif name == "ponds":
        centres, sizes = rng.uniform(-1, 1, (3, 2)), rng.uniform(0.3, 0.5, 3)
        gaps = [np.hypot(u - a, v - b) - size for (a, b), size in zip(centres, sizes, strict=True)]
        pattern = -4 * np.minimum(np.minimum(gaps[0], gaps[1]), gaps[2])
    elif name == "river":
        bed = rng.uniform(-0.4, 0.4) + 0.35 * np.sin(rng.uniform(2, 4) * u + start[0])
        pattern = 6 * (rng.uniform(0.18, 0.35) - np.abs(v - bed))
    else:
        knots = int(rng.integers(10, 15))
        pattern = 1.5 * _image_synthesis.smooth(u.shape[0], u.shape[1], knots, rng)[0]
    share = 1 / (1 + np.exp(-4 * np.clip(pattern, -5, 5)))
    return share if rng.random() < 0.5 else 1 - share


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMultispectral]
