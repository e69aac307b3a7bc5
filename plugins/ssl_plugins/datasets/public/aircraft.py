"""FGVC-Aircraft 2013b (Maji et al., 2013): variants of aeroplanes."""

from __future__ import annotations

from pathlib import Path

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import Box, ImageDataset, ImageList, classification, encode_labels, read_pairs

DATA = "fgvc-aircraft-2013b/data"
TABLES = {"train": "images_variant_trainval.txt", "test": "images_variant_test.txt"}
BOXES = "images_box.txt"


class Aircraft(ImageDataset):
    """FGVC-Aircraft: 100 variants of aeroplanes, images cropped to the aeroplane; trained on train and validation.

    A class is the rank of the variant's name. The published code declares 102 classes, but there are 100.
    """

    name = "aircraft"
    source = Source(
        homepage="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        terms="non-commercial research only",
        folder="natural_images/aircraft",
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                file="fgvc-aircraft-2013b.tar.gz", kind="tar", produces=DATA,
            ),
        ),
        required_paths=tuple(f"{DATA}/{name}" for name in (*TABLES.values(), BOXES, "images")),
        sample_counts={"train": 6_667, "test": 3_333},
    )  # fmt: skip

    def list_images(self) -> ImageList:
        """The rows of the split's table, in order."""
        data = self.folder / DATA
        variants = sorted({variant for _, variant in read_pairs(data / TABLES["train"])})
        self.task = classification(variants, "variant")
        table = data / TABLES[self.split]
        rows = read_pairs(table)
        boxes = _boxes(data / BOXES)
        for row, (image, _) in enumerate(rows, start=1):
            if image not in boxes:
                raise DataError(f"{table} row {row}: {data / BOXES} has no box for '{image}'")
        labels = encode_labels([variant for _, variant in rows], variants, table)
        return ImageList(
            [f"{DATA}/images/{image}.jpg" for image, _ in rows], labels, [boxes[image] for image, _ in rows]
        )


class AircraftSmall(Aircraft):
    """FGVC-Aircraft under DABS's name for 32 x 32 pixels: the same images, which the tokenizer resizes by default."""

    name = "aircraft_small"


def _boxes(table: Path) -> dict[str, Box]:
    """(left, top, right, bottom) of each image, without converting the file's 1-based coordinates, as published."""
    boxes = {}
    for row, (image, numbers) in enumerate(read_pairs(table), start=1):
        try:
            left, top, right, bottom = (int(number) for number in numbers.split())
        except ValueError:
            raise DataError(f"{table} row {row}: expected four whole numbers, not '{numbers:.60}'") from None
        boxes[image] = (left, top, right, bottom)
    return boxes


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Aircraft, AircraftSmall]
