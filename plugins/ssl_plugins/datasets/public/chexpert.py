"""CheXpert 1.0 (Irvin et al., 2019): findings in chest X-rays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ssl_core import DataError, Dataset, Task, hookimpl
from ssl_plugins.datasets._io.texts.texts import open_text
from ssl_plugins.datasets.public._images import ImageDataset, ImageList, SourceWithAlternatives

EDITIONS = ("CheXpert-v1.0", "CheXpert-v1.0-small")  # the full one is read if both exist
TABLES = {"train": "train.csv", "test": "valid.csv"}
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
MEANING = {
    "": 0,
    "0": 0,
    "0.0": 0,
    "1": 1,
    "1.0": 1,
    "-1": 0,
    "-1.0": 0,
}  # not mentioned and uncertain (-1) count as negative


class CheXpert(ImageDataset):
    """CheXpert: five findings in chest X-rays; uncertain counts as negative. The test split is valid.csv.

    The upstream's zip must be unpacked by hand: CheXpert-v1.0-small.zip to CheXpert-v1.0-small.
    """

    name = "chexpert"
    modality = "medical-image"
    mode = "L"
    source = SourceWithAlternatives(
        homepage="https://stanfordmlgroup.github.io/competitions/chexpert/",
        terms="registration; Stanford University research use agreement",
        folder="medical_images/chexpert",
        registration="register at https://stanfordmlgroup.github.io/competitions/chexpert/, download "
        "CheXpert-v1.0-small (as the published numbers) or CheXpert-v1.0 and unpack it, so that "
        "medical_images/chexpert/CheXpert-v1.0-small/train.csv (or CheXpert-v1.0/train.csv) exists",
        alternatives=tuple(tuple(f"{top}/{name}" for top in reversed(EDITIONS)) for name in TABLES.values()),
        sample_counts={"train": 223_414, "test": 234},
    )

    def list_images(self) -> ImageList:
        """The rows of the table, in order. Its paths are relative to the data set's folder."""
        self.task = Task("labels", len(FINDINGS), "auroc", names=FINDINGS, title="finding")
        table = next(path for top in EDITIONS if (path := self.folder / top / TABLES[self.split]).exists())
        return ImageList(*_read(table))


def _read(table: Path) -> tuple[list[str], np.ndarray]:
    """Paths and labels (n, 5).

    Raises:
        DataError: for a missing column, or an invalid row with its number.
    """
    paths: list[str] = []
    labels: list[list[int]] = []
    with open_text(table) as file:
        rows = csv.reader(file)
        header = next(rows, [])
        missing = next((name for name in ("Path", *FINDINGS) if name not in header), None)
        if missing is not None:
            raise DataError(f"{table} has no column '{missing}'")
        path, *columns = (header.index(name) for name in ("Path", *FINDINGS))
        for number, row in enumerate(rows, start=2):
            try:
                labels.append([MEANING[row[column].strip()] for column in columns])
            except (KeyError, IndexError):
                raise DataError(f"{table} row {number}: findings must be 1.0, 0.0, -1.0 or empty") from None
            paths.append(row[path])
    return paths, np.array(labels, dtype=np.int8).reshape(-1, len(FINDINGS))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [CheXpert]
