"""CheXpert 1.0 (Irvin et al., 2019): findings in chest X-rays (protocol section 2.3)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ssl_core import DataError, Dataset, Task, hookimpl
from ssl_plugins.datasets._io.texts import open_text
from ssl_plugins.datasets.public._images import Listed, OneOf, Pictures

EDITIONS = ("CheXpert-v1.0", "CheXpert-v1.0-small")  # the full one wins if both are there
TABLES = {"train": "train.csv", "test": "valid.csv"}
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
MEANING = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": 0, "-1.0": 0}  # not mentioned and uncertain count as no


class CheXpert(Pictures):
    """CheXpert: which of five findings a chest X-ray shows; uncertain counts as no. The test split is valid.csv.

    Read from the folder; the upstream's zip must be unpacked, CheXpert-v1.0-small.zip as CheXpert-v1.0-small.
    """

    name = "chexpert"
    modality = "medical-image"
    mode = "L"
    source = OneOf(
        homepage="https://stanfordmlgroup.github.io/competitions/chexpert/",
        terms="registration; Stanford University research use agreement",
        folder="medical_images/chexpert",
        registration="register at https://stanfordmlgroup.github.io/competitions/chexpert/, download "
        "CheXpert-v1.0-small (as the published numbers) or CheXpert-v1.0 and unpack it, so that "
        "medical_images/chexpert/CheXpert-v1.0-small/train.csv (or CheXpert-v1.0/train.csv) exists",
        alternatives=tuple(tuple(f"{top}/{name}" for top in reversed(EDITIONS)) for name in TABLES.values()),
        counts={"train": 223_414, "test": 234},
    )

    def listed(self) -> Listed:
        """The table's rows in order; its paths start at the data set's folder."""
        self.task = Task("labels", len(FINDINGS), "auroc", names=FINDINGS, title="finding")
        table = next(path for top in EDITIONS if (path := self.folder / top / TABLES[self.split]).exists())
        return Listed(*_read(table))


def _read(table: Path) -> tuple[list[str], np.ndarray]:
    """Paths and labels (n, 5). Errors: DataError with the row."""
    paths: list[str] = []
    labels: list[list[int]] = []
    with open_text(table) as file:
        rows = csv.reader(file)
        header = next(rows, [])
        lacking = next((name for name in ("Path", *FINDINGS) if name not in header), None)
        if lacking is not None:
            raise DataError(f"{table} has no column '{lacking}'")
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
