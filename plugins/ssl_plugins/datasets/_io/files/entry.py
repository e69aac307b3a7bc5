"""The files of a data set with what is known of each, and where each sample lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class FileEntry:
    """One file. `name`: its path relative to the root folder or as its table has it. The rest is known metadata."""

    path: Path
    name: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


class FileList(list[FileEntry]):
    """The files to read, and what was found beside them.

    ignored: number of files that are not read, by ending or by reason.
    facts, warnings, doubts: lines for the summary and the header of a run.
    """

    def __init__(self, entries: Iterable[FileEntry] = ()) -> None:
        super().__init__(entries)
        self.ignored: Counter[str] = Counter()
        self.facts: dict[str, str] = {}
        self.warnings: list[str] = []
        self.doubts: list[str] = []

    @property
    def endings(self) -> Counter[str]:
        """Number of files to read by ending."""
        return Counter(ending_of(entry.path.name) for entry in self)

    def with_entries(self, entries: Iterable[FileEntry]) -> FileList:
        """The same findings for other entries."""
        files = FileList(entries)
        files.ignored, files.facts, files.warnings, files.doubts = self.ignored, self.facts, self.warnings, self.doubts
        return files

    def absorb(self, other: FileList) -> None:
        """Append the files and findings of another list."""
        self += other
        self.ignored += other.ignored
        self.facts |= other.facts
        self.warnings += other.warnings
        self.doubts += other.doubts


@dataclass(frozen=True)
class SampleLocations:
    """Maps sample indices to files; called with an index, it returns the sample's name for messages.

    starts: (files + 1,) index of the first sample of each file.
    line_numbers: (n,) line of each sample from 1, if some lines hold no sample.
    unit: what a sample of each file, or of all, is called in messages; empty if the file is one sample.
    names: of each file, the names of its samples in it; empty if they have none. Without it, no sample has one.
    """

    paths: Sequence[Path]
    starts: np.ndarray
    line_numbers: np.ndarray | None = None
    unit: str | Sequence[str] = "row"
    names: Sequence[Sequence[str]] = ()

    def locate(self, row: int) -> tuple[int, int]:
        """The index of the file, and of the sample within it."""
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return file, int(row - self.starts[file])

    def __call__(self, row: int) -> str:
        file, index = self.locate(row)
        if self.names and self.names[file]:
            return str(self.paths[file] / self.names[file][index])
        unit = self.unit if isinstance(self.unit, str) else self.unit[file]
        if not unit:
            return str(self.paths[file])
        return f"{self.paths[file]} {unit} {index + 1 if self.line_numbers is None else self.line_numbers[row]}"


def ending_of(name: str) -> str:
    """The ending of a file's name in its own case, with that of a compression: ".csv.gz"; in words if there is none."""
    stem, ending = os.path.splitext(name)
    if ending.lower() in (".gz", ".bz2", ".xz", ".zst"):
        inner = os.path.splitext(stem)[1]
        ending = inner + ending if 0 < len(inner) <= 8 else ending
    return ending or "without ending"


def is_excluded(name: str, options: Any) -> bool:
    """Whether a file, by its path below the root, or a folder above it matches `dataset.exclude`."""
    patterns = getattr(options, "exclude", ())
    if not patterns:
        return False
    parts = name.split("/")
    paths = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatch(each, pattern.rstrip("/")) for pattern in patterns for each in (*paths, *parts))
