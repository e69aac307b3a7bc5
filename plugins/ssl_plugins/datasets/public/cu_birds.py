"""Caltech-UCSD Birds 200-2011 (Wah et al., 2011): species of birds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import ImageDataset, ImageList, classification, read_pairs

TOP = "CUB_200_2011"
IMAGES, LABELS, SPLITS = f"{TOP}/images.txt", f"{TOP}/image_class_labels.txt", f"{TOP}/train_test_split.txt"


class CuBirds(ImageDataset):
    """CUB-200-2011: 200 species of birds, in the official split."""

    name = "cu_birds"
    aliases: ClassVar[tuple[str, ...]] = ("cub",)
    source = Source(
        homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        terms="non-commercial research and education only",
        folder="natural_images/cu_birds",
        archives=(
            Archive(
                url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                file="CUB_200_2011.tgz", kind="tar", produces=TOP, checksum="md5:97eceeb196236b17998738112f37df78",
            ),
        ),
        required_paths=(IMAGES, LABELS, SPLITS, f"{TOP}/images"),
        sample_counts={"train": 5_994, "test": 5_794},
    )  # fmt: skip

    def list_images(self) -> ImageList:
        """The rows of images.txt, in order. Class numbers on disk start at 1."""
        paths = dict(read_pairs(self.folder / IMAGES))
        labels = _numbers(self.folder / LABELS, paths)
        training = _numbers(self.folder / SPLITS, paths)
        species = {labels[image]: path.partition("/")[0] for image, path in paths.items() if training[image] == 1}
        if sorted(species) != list(range(1, len(species) + 1)):
            raise DataError(f"{self.folder / LABELS}: training pictures have classes other than 1, 2, 3, ...")
        for image in paths:
            if labels[image] not in species:
                raise DataError(
                    f"{self.folder / LABELS}: image {image} has class {labels[image]}, which no training picture has"
                )
        self.task = classification([species[label] for label in sorted(species)], "species")
        images = [image for image in paths if (training[image] == 1) == (self.split == "train")]
        return ImageList(
            [f"{TOP}/images/{paths[image]}" for image in images],
            np.array([labels[image] - 1 for image in images], dtype=np.int64),
        )


class CuBirdsSmall(CuBirds):
    """CUB-200-2011 under DABS's name for 32 x 32 pixels: the same images, which the tokenizer resizes by default."""

    name = "cu_birds_small"
    aliases = ()


def _numbers(table: Path, images: dict[str, str]) -> dict[str, int]:
    """The whole number of each image.

    Raises:
        DataError: for an invalid row, or an image without a row.
    """
    numbers = {}
    for row, (image, number) in enumerate(read_pairs(table), start=1):
        if not number.isdigit():
            raise DataError(f"{table} row {row}: '{number:.60}' is no whole number")
        numbers[image] = int(number)
    missing = next((image for image in images if image not in numbers), None)
    if missing is not None:
        raise DataError(f"{table} has no row for image {missing} of {IMAGES}")
    return numbers


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CuBirds, CuBirdsSmall]
