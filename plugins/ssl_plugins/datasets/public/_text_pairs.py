"""Base classes of the public text sets: memory-mapped files of lines, and tables of labelled sentences."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ssl_core import BadSample, DataError, PublicDataset, Sample, Source, Split, Task, Text
from ssl_plugins.datasets.public._hub import hub_rows, write_rows

SCAN_BYTES = 1 << 26  # bytes to search for line ends at once
NEWLINE = 10
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SourceWithLayouts(Source):
    """A source that can be read in several layouts, such as the upstream's own files.

    Attributes:
        layouts: groups of paths below the folder; one complete group is enough. `sslx data prepare` writes the first.
    """

    layouts: tuple[tuple[str, ...], ...] = ()

    def missing_paths(self, folder: Path) -> list[str]:
        """The paths that the most complete layout lacks."""
        missing = [[path for path in group if not (folder / path).is_file()] for group in self.layouts]
        return [*super().missing_paths(folder), *min(missing, key=len, default=[])]


class LineFile:
    """The lines of a UTF-8 file, read on access. Memory holds only their offsets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        chunks = range(0, len(data), SCAN_BYTES)
        ends = [np.flatnonzero(data[start : start + SCAN_BYTES] == NEWLINE) + start + 1 for start in chunks]
        first = [0 if bytes(data[:3]) != BOM else len(BOM)]
        last = [len(data)] if len(data) and data[-1] != NEWLINE else []
        self.starts = np.concatenate([np.array(part, dtype=np.int64) for part in (first, *ends, last)])
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def raw(self, index: int) -> bytes:
        """The bytes of a line, without the line end."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map[self.starts[index] : self.starts[index + 1]].rstrip(b"\r\n")

    def __getitem__(self, index: int) -> str:
        """A line, without the line end.

        Raises:
            BadSample: if it is not UTF-8.
        """
        try:
            return self.raw(index).decode("utf-8")
        except UnicodeDecodeError:
            raise BadSample("is not UTF-8 text") from None

    def text(self, index: int) -> str:
        """The text of a line of JSON, {"text": ...}.

        Raises:
            BadSample: if the line is no JSON or has no text.
        """
        try:
            row = json.loads(self[index])
        except ValueError:
            raise BadSample("is no line of JSON") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise BadSample('has no "text"')
        return row["text"]

    def where(self, index: int) -> str:
        """File and line, for messages."""
        return f"{self.path} line {index + 1}"

    def state(self) -> str:
        """Name, size and time of modification of the file. The content of a large corpus would take long to hash."""
        status = self.path.stat()
        return f"{self.path.name}:{status.st_size}:{status.st_mtime_ns}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # a memory map cannot be pickled


# --- labelled sentences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableFile:
    """A table of labelled sentences: JSON lines (.jsonl), or tab-separated values without quoting (.tsv).

    Attributes:
        file: path below the data set's folder.
        texts: names of the columns with text, or their numbers in a table without a header.
        label: name or number of the column with the label.
    """

    file: str
    texts: tuple[str | int, ...]
    label: str | int = "label"


@dataclass(frozen=True)
class HubDataset:
    """A data set on the Hugging Face hub.

    Attributes:
        path: repository.
        config: configuration.
        splits: the hub's name of each split.
    """

    path: str
    config: str
    splits: Mapping[Split, str]


class SentenceDataset(PublicDataset):
    """Labelled sentences or pairs of sentences. A subclass sets tables, classes and metric.

    Rows with an empty text are dropped.
    """

    texts: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    """Names of the columns with text."""
    classes: ClassVar[tuple[str, ...]] = ()
    """Names of the classes in the order of their numbers; empty if the label is a real number."""
    metric: ClassVar[Literal["accuracy", "pearson", "spearman"]] = "accuracy"
    title: ClassVar[str] = "label"
    short_rows: ClassVar[bool] = False
    """Whether the upstream's table has truncated rows, which are dropped."""
    keep_empty: bool = False
    """Whether to keep rows with an empty text."""
    hub: ClassVar[HubDataset]

    @classmethod
    def tables(cls, split: Split) -> tuple[TableFile, ...]:
        """The files that a split may be in. `convert` writes the first."""
        raise NotImplementedError

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.task = (
            Task("classes", len(self.classes), self.metric, names=self.classes, title=self.title)
            if self.classes
            else Task("number", 1, self.metric, title=self.title)
        )
        table = next(table for table in self.tables(split) if (self.folder / table.file).is_file())
        self.lines = LineFile(self.folder / table.file)
        self._read(table)

    def _read(self, table: TableFile) -> None:
        """Check every row; set `rows` to the lines of the valid ones and `labels` to their labels.

        Raises:
            DataError: for an invalid row, with its line.
        """
        self.parse = _json_parser(table) if table.file.endswith(".jsonl") else _tab_parser(table, self.lines)
        labels = {name: number for number, name in enumerate(self.classes)}
        labels |= {str(number): number for number in range(len(self.classes))}
        rows, row_labels, short, empty = [], [], 0, 0
        first = 1 if isinstance(self.parse, _TabParser) and self.parse.header else 0
        for index in range(first, len(self.lines)):
            try:
                line = self.lines[index]
                if not line.strip():
                    continue
                texts, label = self.parse(line)
                if not self.keep_empty and not all(text.strip() for text in texts):
                    empty += 1
                    continue
                row_labels.append(labels[label] if self.classes else _number(label))
                rows.append(index)
            except _ShortRow as error:
                if not self.short_rows:
                    raise DataError(f"{self.lines.where(index)} {error}") from None
                short += 1
            except KeyError as error:
                accepted = ", ".join(map(str, labels))
                raise DataError(f"{self.lines.where(index)}: label {error} is none of {accepted}") from None
            except BadSample as error:
                raise DataError(f"{self.lines.where(index)} {error}") from None
        if not rows:
            raise DataError(f"{self.lines.path} holds no rows")
        self.rows, self.labels = np.array(rows, dtype=np.int64), np.array(row_labels)
        dropped = ((short, "truncated"), (empty, "empty"))
        self.warnings = tuple(f"{count} {kind} rows of {table.file} are left out" for count, kind in dropped if count)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"text": a sentence, or (2,) for a pair} and the class or number."""
        texts, _ = self.parse(self.lines[self.rows[index]])
        label = int(self.labels[index]) if self.classes else float(self.labels[index])
        return {"inputs": {"text": np.array(texts[0] if len(texts) == 1 else texts)}, "label": label}

    def describe(self, index: int) -> str:
        """File and line."""
        return self.lines.where(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Changes with the options and the file."""
        return f"{super().fingerprint()}:{self.lines.state()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Fetch all splits from the Hugging Face hub, unless one layout is complete.

        Raises:
            DataError: if the hub fails.
        """
        if not cls.source.missing_paths(folder):
            return
        for split, hub_split in cls.hub.splits.items():
            path = folder / cls.tables(split)[0].file
            if not path.is_file():
                rows = hub_rows(cls.hub.path, cls.hub.config, hub_split, (*cls.texts, "label"), cls.classes)
                write_rows(path, rows)


class _ShortRow(BadSample):
    """A row that lacks columns."""


def _number(label: str) -> float:
    try:
        number = float(label)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise BadSample(f"has the label '{label}', no number")
    return number


@dataclass(frozen=True)
class _JsonParser:
    """Parses texts and label of a line of JSON."""

    table: TableFile

    def __call__(self, line: str) -> tuple[list[str], str]:
        try:
            row = json.loads(line)
            texts = [row[name] for name in self.table.texts]
            label = row[self.table.label]
        except (ValueError, TypeError, KeyError):
            raise BadSample(f"is no line of JSON with {', '.join(map(str, self.table.texts))}, label") from None
        return ["" if text is None else str(text) for text in texts], str(label)


@dataclass(frozen=True)
class _TabParser:
    """Parses texts and label of a line of tab-separated values."""

    texts: tuple[int, ...]
    label: int
    header: bool

    def __call__(self, line: str) -> tuple[list[str], str]:
        values = line.split("\t")
        if len(values) <= max(self.label, *self.texts):
            raise _ShortRow(f"has {len(values)} columns, {1 + max(self.label, *self.texts)} are needed")
        return [values[column] for column in self.texts], values[self.label].strip()


def _json_parser(table: TableFile) -> _JsonParser:
    return _JsonParser(table)


def _tab_parser(table: TableFile, lines: LineFile) -> _TabParser:
    """A parser with the positions of the columns.

    Raises:
        DataError: if the header lacks a column.
    """
    columns = (*table.texts, table.label)
    if all(isinstance(column, int) for column in columns):
        return _TabParser(tuple(map(int, table.texts)), int(table.label), False)
    names = [name.strip() for name in lines[0].split("\t")] if len(lines) else []
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"{lines.path} has no column '{missing[0]}', only {', '.join(names) or 'no line at all'}")
    positions = [names.index(str(column)) for column in columns]
    return _TabParser(tuple(positions[:-1]), positions[-1], True)
