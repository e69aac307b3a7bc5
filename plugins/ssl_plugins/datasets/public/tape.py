"""TAPE's transfer tasks (Rao et al., 2019): fold, secondary structure, stability and fluorescence.

The test split is TAPE's validation file. TAPE's test files are not used, as in the published codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ssl_core import DataError, Dataset, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import atomic_dir
from ssl_plugins.datasets.public._tape import ProteinDataset, SequenceArrays, tape_source, write_arrays

STEMS = ("train", "valid")
STATES = 3
PADDING = 3  # label of positions beyond the sequence in the published codes


class TapeTask(ProteinDataset):
    """One of TAPE's archives. A subclass sets its name and the key of the label."""

    archive: ClassVar[str]
    column: ClassVar[str]
    dtype: ClassVar[type[np.generic]] = np.float32
    per_residue: ClassVar[bool] = False
    classes: ClassVar[int] = 0

    def __init__(self, options: ProteinDataset.Options, split: Split) -> None:
        super().__init__(options, split)
        stem = "train" if split == "train" else "valid"
        self.file = f"{self.archive}/{self.archive}_{stem}.json"
        self.sequences = SequenceArrays(self.folder / arrays_path(self.archive, stem))
        self.task = Task("number", 1, "spearman", title=self.column.replace("_", " "))

    def label(self, row: int) -> Any:
        """The label, a real number."""
        return float(self.sequences.labels.array[row])

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert both JSON files to arrays.

        Raises:
            DataError: for a damaged record, with file and record.
        """
        for stem in STEMS:
            file = folder / cls.archive / f"{cls.archive}_{stem}.json"
            target = folder / arrays_path(cls.archive, stem)
            if file.exists() and not target.exists():
                with atomic_dir(target) as work:
                    write_arrays(file, work, cls.column, cls.dtype, cls.per_residue)
                    if cls.classes:
                        check_classes(file, work, cls.column, cls.classes)


def arrays_path(archive: str, stem: str) -> str:
    """The folder of a file's arrays, below that of the proteins."""
    return f"arrays/{archive}_{stem}"


def check_classes(file: Path, work: Path, column: str, classes: int) -> None:
    """Check that all labels are in 0..classes-1.

    Raises:
        DataError: for the first label that is not, with its record.
    """
    labels = np.load(work / "labels.npy", mmap_mode="r")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        offsets = np.load(work / "offsets.npy")
        position = int(wrong[0])
        per_residue = len(labels) != len(offsets) - 1
        row = int(np.searchsorted(offsets, position, side="right")) - 1 if per_residue else position
        raise DataError(f"{file} record {row + 1}: '{column}' holds {labels[position]}, outside 0..{classes - 1}")


def _source(archive: str, counts: dict[str, int]) -> Source:
    return tape_source(archive, [arrays_path(archive, stem) for stem in STEMS], counts)


class Scop(TapeTask):
    """TAPE remote homology (SCOP): 1,195 folds of proteins."""

    name = "scop"
    archive = "remote_homology"
    column = "fold_label"
    dtype = np.int32
    classes = 1195
    source = _source(archive, {"train": 12_312, "test": 736})

    def __init__(self, options: ProteinDataset.Options, split: Split) -> None:
        super().__init__(options, split)
        self.task = Task("classes", self.classes, "accuracy", title="fold")

    def label(self, row: int) -> int:
        """The fold."""
        return int(self.sequences.labels.array[row])


class SecondaryStructure(TapeTask):
    """TAPE secondary structure: the state of each of the first 128 residues, one of three.

    Positions beyond the sequence are scored neither in training nor in the metric. With protocol=published they are a
    fourth class in both, as in MetaMAE's code; set tokenizer.mask_padding=false as well.
    """

    name = "secondary_struct"
    aliases = ("secondary-structure",)
    archive = "secondary_structure"
    column = "ss3"
    dtype = np.int8
    per_residue = True
    classes = STATES
    source = _source(archive, {"train": 8_678, "test": 2_170})

    class Options(ProteinDataset.Options):
        """Options of secondary structure."""

        length: int = Field(128, ge=1, description="number of labelled residues; set tokenizer.length to it")
        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: positions beyond the sequence are a fourth class, also in the metric"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        published = options.protocol == "published"
        self.task = Task(
            "classes", STATES + published, "accuracy", per_token=True, ignore=None if published else PADDING,
            title="secondary structure",
        )  # fmt: skip

    def label(self, row: int) -> np.ndarray:
        """(length,) int64, padded with 3."""
        states = self.sequences.residues(row)[: self.options.length]
        return np.pad(states.astype(np.int64), (0, self.options.length - len(states)), constant_values=PADDING)


class Stability(TapeTask):
    """TAPE stability: the stability of a small designed protein, a number."""

    name = "stability"
    archive = "stability"
    column = "stability_score"
    source = _source(archive, {"test": 2_512})


class Fluorescence(TapeTask):
    """TAPE fluorescence: log brightness of mutants of a fluorescent protein, a number."""

    name = "fluorescence"
    archive = "fluorescence"
    column = "log_fluorescence"
    source = _source(archive, {"train": 21_446, "test": 5_362})


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Scop, SecondaryStructure, Stability, Fluorescence]
