"""Synthetic images with captions: a row of coloured shapes, and a caption that does or does not match it."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset

CELL = 8
COLOURS = {
    "red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.1), "blue": (0.1, 0.2, 0.9), "yellow": (0.9, 0.8, 0.1),
    "purple": (0.8, 0.2, 0.8), "cyan": (0.1, 0.8, 0.8),
}  # fmt: skip


class SyntheticImageText(SyntheticDataset):
    """Synthetic rows of coloured shapes with a caption that matches or not; embedded, no download.

    An image is a row of cells. Each cell holds a disc, square or cross of random colour, position and size, on noise.
    The caption lists the colours from left to right; in half of the samples every colour of it is wrong. Images alone
    and captions alone have the same distribution in both classes: only the two together tell whether they match.
    """

    modality = "image-text"
    noun = "image"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic images with captions."""

        cells: int = Field(4, ge=1, description="shapes in a row, each in a cell of 8 x 8 pixels")
        colours: int = Field(4, ge=2, le=len(COLOURS), description="number of colours")
        noise: float = Field(0.1, ge=0, description="standard deviation of the pixel noise, 1 = black to white")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((3, CELL, CELL * options.cells)), "caption": Text()}
        self.task = Task("classes", 2, "accuracy", names=("mismatched", "matching"), title="caption")
        self.names = np.array(list(COLOURS)[: options.colours])
        self.colours = np.array(list(COLOURS.values()))[: options.colours]

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"image": (3, 8, 8 cells) uint8, "caption": colours} and 1 if they match, 0 if not."""
        options, matching = self.options, self.label(index)
        colours = rng.integers(0, options.colours, options.cells)
        wrong = (colours + rng.integers(1, options.colours, options.cells)) % options.colours
        caption = " ".join(self.names[colours if matching else wrong])
        image = np.concatenate([_cell(self.colours[colour], rng) for colour in colours], axis=2)
        image = (image + rng.normal(0, options.noise, image.shape)).clip(0, 1)
        pixels = np.rint(255 * image).astype(np.uint8)
        return {"inputs": {"image": pixels, "caption": np.array(caption)}, "label": matching}


def _cell(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, 8, 8): a shape on grey."""
    radius = rng.uniform(2.0, 3.0)
    y, x = (np.arange(CELL) - rng.uniform(radius, CELL - 1 - radius) for _ in range(2))
    down, right = np.abs(y)[:, np.newaxis], np.abs(x)[np.newaxis]
    shapes = (down**2 + right**2 <= radius**2, np.maximum(down, right) <= radius - 0.3, np.minimum(down, right) <= 0.8)
    shape = shapes[rng.integers(len(shapes))] & (np.maximum(down, right) <= radius)
    return np.where(shape, colour[:, np.newaxis, np.newaxis], 0.5)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticImageText]
