"""FGVC-Aircraft 2013b (Maji et al., 2013): which variant of aeroplane (protocol section 2.1)."""

from __future__ import annotations

from pathlib import Path

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._images import Box, Listed, Pictures, classes, numbered, two_columns

DATA = "fgvc-aircraft-2013b/data"
TABLES = {"train": "images_variant_trainval.txt", "test": "images_variant_test.txt"}
BOXES = "images_box.txt"


class Aircraft(Pictures):
    """FGVC-Aircraft: which of 100 variants, pictures cropped to the aeroplane; train and validation for training.

    A class is the rank of the variant's name. The published protocol declares 102 classes; there are 100 (D57).
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
        needs=tuple(f"{DATA}/{name}" for name in (*TABLES.values(), BOXES, "images")),
        counts={"train": 6_667, "test": 3_333},
    )  # fmt: skip

    def listed(self) -> Listed:
        """The rows of the split's table in order."""
        place = self.folder / DATA
        known = sorted({variant for _, variant in two_columns(place / TABLES["train"])})
        self.task = classes(known, "variant")
        table = place / TABLES[self.split]
        rows = two_columns(table)
        boxes = _boxes(place / BOXES)
        for row, (image, _) in enumerate(rows, start=1):
            if image not in boxes:
                raise DataError(f"{table} row {row}: {place / BOXES} has no box for '{image}'")
        labels = numbered([variant for _, variant in rows], known, table)
        return Listed([f"{DATA}/images/{image}.jpg" for image, _ in rows], labels, [boxes[image] for image, _ in rows])


class AircraftSmall(Aircraft):
    """FGVC-Aircraft by DABS's name for 32 x 32: the same pictures, and 32 x 32 is the tokenizer's default."""

    name = "aircraft_small"


def _boxes(table: Path) -> dict[str, Box]:
    """Image to (left, top, right, bottom), the file's own numbers, as published."""
    boxes = {}
    for row, (image, numbers) in enumerate(two_columns(table), start=1):
        try:
            left, top, right, bottom = (int(number) for number in numbers.split())
        except ValueError:
            raise DataError(f"{table} row {row}: expected four whole numbers, not '{numbers:.60}'") from None
        boxes[image] = (left, top, right, bottom)
    return boxes


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Aircraft, AircraftSmall]
