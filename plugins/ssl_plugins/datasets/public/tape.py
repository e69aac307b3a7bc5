"""TAPE's transfer tasks (Rao et al., 2019): fold, secondary structure, stability, fluorescence (protocol 2.9).

Training is the training file, the test is the validation file; TAPE's test files are not used, as published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ssl_core import DataError, Dataset, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import building
from ssl_plugins.datasets.public._tape import Proteins, Sequences, tape_source, to_arrays

STEMS = ("train", "valid")
STATES = 3
PADDING = 3  # the published code's label of what lies beyond the sequence


class TapeTask(Proteins):
    """One of TAPE's archives. A subclass names it, and which entry of the records is the label."""

    archive: ClassVar[str]
    column: ClassVar[str]
    dtype: ClassVar[type[np.generic]] = np.float32
    per_residue: ClassVar[bool] = False
    classes: ClassVar[int] = 0

    def __init__(self, options: Proteins.Options, split: Split) -> None:
        super().__init__(options, split)
        stem = "train" if split == "train" else "valid"
        self.file = f"{self.archive}/{self.archive}_{stem}.json"
        self.sequences = Sequences(self.folder / arrays(self.archive, stem))
        self.task = Task("number", 1, "spearman", title=self.column.replace("_", " "))

    def label(self, row: int) -> Any:
        """The number."""
        return float(self.sequences.labels.array[row])

    @classmethod
    def convert(cls, folder: Path) -> None:
        """The two JSON files to memory-mapped arrays. Errors: DataError with file and record."""
        for stem in STEMS:
            file = folder / cls.archive / f"{cls.archive}_{stem}.json"
            target = folder / arrays(cls.archive, stem)
            if file.exists() and not target.exists():
                with building(target) as work:
                    to_arrays(file, work, cls.column, cls.dtype, cls.per_residue)
                    if cls.classes:
                        check_classes(file, work, cls.column, cls.classes)


def arrays(archive: str, stem: str) -> str:
    """Where the arrays of a file lie below the folder of proteins."""
    return f"arrays/{archive}_{stem}"


def check_classes(file: Path, work: Path, column: str, classes: int) -> None:
    """Errors: DataError that names the record of a label outside 0..classes-1."""
    labels = np.load(work / "labels.npy", mmap_mode="r")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        offsets = np.load(work / "offsets.npy")
        at = int(wrong[0])
        row = at if len(labels) == len(offsets) - 1 else int(np.searchsorted(offsets, at, side="right")) - 1
        raise DataError(f"{file} record {row + 1}: '{column}' holds {labels[at]}, outside 0..{classes - 1}")


def _source(archive: str, counts: dict[str, int]) -> Source:
    return tape_source(archive, [arrays(archive, stem) for stem in STEMS], counts)


class Scop(TapeTask):
    """TAPE remote homology (SCOP): which of 1,195 folds a protein has."""

    name = "scop"
    archive = "remote_homology"
    column = "fold_label"
    dtype = np.int32
    classes = 1195
    source = _source(archive, {"train": 12_312, "test": 736})

    def __init__(self, options: Proteins.Options, split: Split) -> None:
        super().__init__(options, split)
        self.task = Task("classes", self.classes, "accuracy", title="fold")

    def label(self, row: int) -> int:
        """The number of the fold."""
        return int(self.sequences.labels.array[row])


class SecondaryStructure(TapeTask):
    """TAPE secondary structure: which of 3 states each residue is in, for the first 128 residues.

    What lies beyond the sequence counts neither in training nor in the metric. With protocol=published it is a fourth
    class in both, as in MetaMAE's code (D50); then set tokenizer.mask_padding=false, too.
    """

    name = "secondary_struct"
    aliases = ("secondary-structure",)
    archive = "secondary_structure"
    column = "ss3"
    dtype = np.int8
    per_residue = True
    classes = STATES
    source = _source(archive, {"train": 8_678, "test": 2_170})

    class Options(Proteins.Options):
        """Options of secondary structure."""

        length: int = Field(128, ge=1, description="residues that are labelled: the tokenizer's length")
        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: what lies beyond the sequence is a fourth class, also in the metric"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        published = options.protocol == "published"
        self.task = Task(
            "classes", STATES + published, "accuracy", per_token=True, ignore=None if published else PADDING,
            title="secondary structure",
        )  # fmt: skip

    def label(self, row: int) -> np.ndarray:
        """(length,) int64, filled up with 3."""
        states = self.sequences.residues(row)[: self.options.length]
        return np.pad(states.astype(np.int64), (0, self.options.length - len(states)), constant_values=PADDING)


class Stability(TapeTask):
    """TAPE stability: how stable a small designed protein is, a number."""

    name = "stability"
    archive = "stability"
    column = "stability_score"
    source = _source(archive, {"test": 2_512})


class Fluorescence(TapeTask):
    """TAPE fluorescence: logarithm of the brightness of mutants of one fluorescent protein, a number."""

    name = "fluorescence"
    archive = "fluorescence"
    column = "log_fluorescence"
    source = _source(archive, {"train": 21_446, "test": 5_362})


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Scop, SecondaryStructure, Stability, Fluorescence]
