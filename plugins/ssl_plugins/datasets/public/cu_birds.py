"""Caltech-UCSD Birds 200-2011 (Wah et al., 2011): which species of bird (protocol section 2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import Listed, Pictures, classes, two_columns

TOP = "CUB_200_2011"
IMAGES, LABELS, SPLITS = f"{TOP}/images.txt", f"{TOP}/image_class_labels.txt", f"{TOP}/train_test_split.txt"


class CuBirds(Pictures):
    """CUB-200-2011: which of 200 species of bird; the official split."""

    name = "cu_birds"
    aliases: ClassVar[tuple[str, ...]] = ("cub",)
    source = Source(
        homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        terms="non-commercial research and education only",
        folder="natural_images/cu_birds",
        archives=(
            Archive(
                url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                file="CUB_200_2011.tgz", kind="tar", produces=TOP, digest="md5:97eceeb196236b17998738112f37df78",
            ),
        ),
        needs=(IMAGES, LABELS, SPLITS, f"{TOP}/images"),
        counts={"train": 5_994, "test": 5_794},
    )  # fmt: skip

    def listed(self) -> Listed:
        """images.txt in order; numbers of classes on disk start at 1."""
        paths = dict(two_columns(self.folder / IMAGES))
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
        self.task = classes([species[label] for label in sorted(species)], "species")
        mine = [image for image in paths if (training[image] == 1) == (self.split == "train")]
        return Listed(
            [f"{TOP}/images/{paths[image]}" for image in mine],
            np.array([labels[image] - 1 for image in mine], dtype=np.int64),
        )


class CuBirdsSmall(CuBirds):
    """CUB-200-2011 by DABS's name for 32 x 32: the same pictures, and 32 x 32 is the tokenizer's default."""

    name = "cu_birds_small"
    aliases = ()


def _numbers(table: Path, images: dict[str, str]) -> dict[str, int]:
    """Image to whole number, one for each image. Errors: DataError."""
    found = {}
    for row, (image, number) in enumerate(two_columns(table), start=1):
        if not number.isdigit():
            raise DataError(f"{table} row {row}: '{number:.60}' is no whole number")
        found[image] = int(number)
    lacking = next((image for image in images if image not in found), None)
    if lacking is not None:
        raise DataError(f"{table} has no row for image {lacking} of {IMAGES}")
    return found


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CuBirds, CuBirdsSmall]
