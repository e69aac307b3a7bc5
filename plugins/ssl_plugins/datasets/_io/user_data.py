"""What all data of one's own have in common: where they are, what is held out, and the task that the labels make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ssl_core import Dataset, Task
from ssl_plugins.datasets._io.file_state import stamp
from ssl_plugins.datasets._io.splitting import TEST, TRAIN, Said, Where, divide_rows


class UserDataOptions(Dataset.Options):
    """Options common to all data of one's own."""

    root: str = Field(description="a file, or a folder of files")
    label_pattern: str | None = Field(
        None,
        description="regular expression over each file's path below root, with the named groups label, group, split; "
        "without it, sub-folders are the labels if every file is in one",
    )
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out: of the groups, else of the samples")
    test_groups: tuple[str, ...] = Field((), description="groups to hold out, by name")
    train_groups: tuple[str, ...] = Field((), description="groups to train on, by name; by default all others")

    @field_validator("root", mode="after")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """So that a saved configuration can be used from another folder."""
        return str(Path(value).expanduser().absolute())


class RowOptions(UserDataOptions):
    """Options common to files that hold many samples each."""

    test_root: str | None = Field(
        None, description="file or folder of the test split; root is then all for training, and no share is held out"
    )
    label: str | None = Field(None, description="column of the label; by default the one called label")
    group: str | None = Field(None, description="column of the group; by default the one called group")
    split: str | None = Field(None, description="column of train or test; by default the one called split")
    columns: tuple[str, ...] = Field((), description="names of the columns of a CSV file without a header line")
    task: Literal["auto", "classes", "number"] = Field(
        "auto", description="what the label is; auto = a number if it has decimals, else a class"
    )
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="between the columns of a CSV file; by default a comma, or the "
        "tabulator in files ending in .tsv",
    )  # fmt: skip

    @field_validator("test_root", mode="after")
    @classmethod
    def _absolute_test(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).expanduser().absolute())


class UserData(Dataset):
    """Samples of one's own. A subclass says what is said of them (`settle`), and reads sample `self.rows[index]`."""

    name = "files"
    where: Where
    rows: np.ndarray
    """(len,) the samples of this split, among all."""
    stamped: str = ""
    settled: str = ""

    def settle(
        self,
        said: Said,
        held: np.ndarray | None = None,
        title: str = "label",
        target: np.ndarray | None = None,
    ) -> None:
        """Divide, and take as the task the numbers `target` (n,), or the classes if there are two or more.

        held: (n,) the division, if it is known. Errors: ConfigError, DataError.
        """
        options = self.options
        if held is None:
            held = divide_rows(said, options.test_fraction, options.test_groups, options.train_groups)
        self.where = said.where
        self.settled = _digest(said, held, target)
        self.rows = np.flatnonzero(held == (TRAIN if self.split == "train" else TEST))
        self.labels: np.ndarray | None = None
        if target is not None:
            self.task, self.labels = Task("number", 1, "spearman", title=title), target[self.rows]
        if target is not None or said.label is None:
            return
        used = np.bincount(said.label.codes[held >= 0], minlength=len(said.label.names)) > 0
        names = tuple(name for name, kept in zip(said.label.names, used, strict=True) if kept)
        if len(names) > 1:
            self.task = Task("classes", len(names), "accuracy", names=names, title=title)
            self.labels = (np.cumsum(used) - 1)[said.label.codes[self.rows]]

    def label_of(self, index: int) -> Any:
        """The label of a sample of this split, or None."""
        return None if self.labels is None else self.labels[index].item()

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self, index: int) -> str:
        """File and row."""
        return self.where(int(self.rows[index]))

    def stamp(self, paths: Iterable[Path]) -> None:
        """Keep names, sizes and times of change of the files, or that there is none, for the fingerprint."""
        self.stamped = stamp(Path(), map(str, paths))

    def fingerprint(self) -> str:
        """Changes with the options, any file's name, size or time of change, the division and the labels."""
        return f"{super().fingerprint()}:{self.stamped}:{self.settled}"


def _digest(said: Said, held: np.ndarray, target: np.ndarray | None) -> str:
    """Of what was settled, wherever it was said: in a path, in the file of the samples, or in a table beside them."""
    made = hashlib.sha256(held.tobytes())
    if target is not None:
        made.update(target.tobytes())
    elif said.label is not None:
        made.update(said.label.codes.tobytes())
        made.update(repr(said.label.names).encode("utf-8", "surrogatepass"))
    return made.hexdigest()


@dataclass(frozen=True)
class Places:
    """What to call sample `row`: its file, and which line, row or record of it.

    starts: (files + 1,) the first sample of each file. numbers: (n,) counted from 1, if some were left out.
    word: what a sample of each file is called, or of all; empty if the file is one sample.
    """

    paths: Sequence[Path]
    starts: np.ndarray
    numbers: np.ndarray | None = None
    word: str | Sequence[str] = "row"

    def part(self, row: int) -> tuple[int, int]:
        """The file, and the place among its samples."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return number, int(row - self.starts[number])

    def __call__(self, row: int) -> str:
        number, place = self.part(row)
        word = self.word if isinstance(self.word, str) else self.word[number]
        if not word:
            return str(self.paths[number])
        return f"{self.paths[number]} {word} {place + 1 if self.numbers is None else self.numbers[row]}"
