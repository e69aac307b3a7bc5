"""Describable Textures Dataset, release 1.0.1 (Cimpoi et al., 2014): textures."""

from __future__ import annotations

from pathlib import Path

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets._io.texts.texts import table_lines
from ssl_plugins.datasets.public._images import ImageDataset, ImageList, classification, encode_labels

TABLES = {"train": ("train1.txt", "val1.txt"), "test": ("test1.txt",)}


class Dtd(ImageDataset):
    """DTD: 47 textures, in the first official split; trained on train and validation."""

    name = "dtd"
    source = Source(
        homepage="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        terms="research only",
        folder="natural_images/dtd",
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz", file="dtd-r1.0.1.tar.gz",
                kind="tar", produces="dtd/labels", checksum="md5:fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
        required_paths=(*(f"dtd/labels/{name}" for names in TABLES.values() for name in names), "dtd/images"),
        sample_counts={"train": 3_760, "test": 1_880},
    )  # fmt: skip

    def list_images(self) -> ImageList:
        """The rows <texture>/<file> of the split's tables, in order. A class is the rank of the texture's name."""
        tables = self.folder / "dtd" / "labels"
        textures = sorted({row.partition("/")[0] for name in TABLES["train"] for row in _rows(tables / name)})
        self.task = classification(textures, "texture")
        paths = [row for name in TABLES[self.split] for row in _rows(tables / name)]
        labels = encode_labels([path.partition("/")[0] for path in paths], textures, tables / TABLES[self.split][-1])
        return ImageList([f"dtd/images/{path}" for path in paths], labels)


class DtdSmall(Dtd):
    """DTD under DABS's name for 32 x 32 pixels: the same images, which the tokenizer resizes by default."""

    name = "dtd_small"


def _rows(table: Path) -> list[str]:
    rows = []
    for number, line in table_lines(table):
        if line.count("/") != 1:
            raise DataError(f"{table} line {number}: expected <texture>/<file>, not '{line:.60}'")
        rows.append(line)
    return rows


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Dtd, DtdSmall]
