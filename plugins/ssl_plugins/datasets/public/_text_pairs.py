"""What public text has in common: lines of files read through a memory map, and tables of labelled sentences."""

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

SCANNED = 1 << 26  # bytes looked at in one piece for the ends of lines
NEWLINE = 10
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Upstream(Source):
    """A source whose data may also lie there as the upstream ships them: one of several groups of paths is enough.

    either: groups of paths below the folder. The first is what `sslx data prepare` writes.
    """

    either: tuple[tuple[str, ...], ...] = ()

    def missing(self, folder: Path) -> list[str]:
        """What the group that is nearest to complete lacks."""
        lacking = [[path for path in group if not (folder / path).is_file()] for group in self.either]
        return [*super().missing(folder), *min(lacking, key=len, default=[])]


class Lines:
    """The lines of a UTF-8 file, each read when it is asked for; memory holds where they begin, not what they say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        found = [np.flatnonzero(data[at : at + SCANNED] == NEWLINE) + at + 1 for at in range(0, len(data), SCANNED)]
        begin = [0 if bytes(data[:3]) != BOM else len(BOM)]
        end = [len(data)] if len(data) and data[-1] != NEWLINE else []
        self.starts = np.concatenate([np.array(part, dtype=np.int64) for part in (begin, *found, end)])
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def raw(self, index: int) -> bytes:
        """A line without its end."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map[self.starts[index] : self.starts[index + 1]].rstrip(b"\r\n")

    def __getitem__(self, index: int) -> str:
        """A line without its end. Errors: BadSample if it is not UTF-8."""
        try:
            return self.raw(index).decode("utf-8")
        except UnicodeDecodeError:
            raise BadSample("is not UTF-8 text") from None

    def text(self, index: int) -> str:
        """The text of a line of JSON, {"text": ...}. Errors: BadSample."""
        try:
            row = json.loads(self[index])
        except ValueError:
            raise BadSample("is no line of JSON") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise BadSample('has no "text"')
        return row["text"]

    def where(self, index: int) -> str:
        """What to call a line in a message."""
        return f"{self.path} line {index + 1}"

    def state(self) -> str:
        """Changes whenever the file does. Not its content: a corpus of many gigabytes is not read for this."""
        found = self.path.stat()
        return f"{self.path.name}:{found.st_size}:{found.st_mtime_ns}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # a map cannot be pickled


# --- labelled sentences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of labelled sentences: JSON lines (.jsonl), or tab-separated values without quoting (.tsv).

    file: below the data set's folder. texts, label: names of columns, or their numbers where no header names them.
    """

    file: str
    texts: tuple[str | int, ...]
    label: str | int = "label"


@dataclass(frozen=True)
class Hub:
    """Where the Hugging Face hub has a data set: repository, configuration, and the split behind each of ours."""

    path: str
    config: str
    splits: Mapping[Split, str]


class Sentences(PublicDataset):
    """Labelled sentences or pairs of sentences. A subclass names tables, classes and metric.

    classes: names in the order of their numbers; empty if the label is a number. Rows with an empty text are dropped.
    """

    texts: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    classes: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[Literal["accuracy", "pearson", "spearman"]] = "accuracy"
    title: ClassVar[str] = "label"
    short_rows: ClassVar[bool] = False
    """Whether the upstream's own table has broken rows, which are dropped."""
    keep_empty: bool = False
    hub: ClassVar[Hub]

    @classmethod
    def tables(cls, split: Split) -> tuple[Table, ...]:
        """The tables that may hold a split, the first being what `convert` writes."""
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
        self.lines = Lines(self.folder / table.file)
        self._read(table)

    def _read(self, table: Table) -> None:
        """Check every row once; keep where the usable ones are, and their labels. Errors: DataError with the line."""
        self.row = _json_row(table) if table.file.endswith(".jsonl") else _tab_row(table, self.lines)
        labels = {name: number for number, name in enumerate(self.classes)}
        labels |= {str(number): number for number in range(len(self.classes))}
        kept, found, short, empty = [], [], 0, 0
        first = 1 if isinstance(self.row, _Tabs) and self.row.header else 0
        for index in range(first, len(self.lines)):
            try:
                line = self.lines[index]
                if not line.strip():
                    continue
                texts, label = self.row(line)
                if not self.keep_empty and not all(text.strip() for text in texts):
                    empty += 1
                    continue
                found.append(labels[label] if self.classes else _number(label))
                kept.append(index)
            except _Short as error:
                if not self.short_rows:
                    raise DataError(f"{self.lines.where(index)} {error}") from None
                short += 1
            except KeyError as error:
                known = ", ".join(map(str, labels))
                raise DataError(f"{self.lines.where(index)}: label {error} is none of {known}") from None
            except BadSample as error:
                raise DataError(f"{self.lines.where(index)} {error}") from None
        if not kept:
            raise DataError(f"{self.lines.path} holds no rows")
        self.rows, self.labels = np.array(kept, dtype=np.int64), np.array(found)
        drops = ((short, "cut-off"), (empty, "empty"))
        self.warnings = tuple(f"{count} {what} rows of {table.file} left out" for count, what in drops if count)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"text": a sentence, or the (2,) of a pair} and the class, or the number."""
        texts, _ = self.row(self.lines[self.rows[index]])
        label = int(self.labels[index]) if self.classes else float(self.labels[index])
        return {"inputs": {"text": np.array(texts[0] if len(texts) == 1 else texts)}, "label": label}

    def describe(self, index: int) -> str:
        """File and line."""
        return self.lines.where(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Changes with the options and with the file."""
        return f"{super().fingerprint()}:{self.lines.state()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Fetch both splits from the Hugging Face hub, unless they are there in any form. Errors: DataError."""
        if not cls.source.missing(folder):
            return
        for split, theirs in cls.hub.splits.items():
            path = folder / cls.tables(split)[0].file
            if not path.is_file():
                rows = hub_rows(cls.hub.path, cls.hub.config, theirs, (*cls.texts, "label"), cls.classes)
                write_rows(path, rows)


class _Short(BadSample):
    """A row without all of its columns."""


def _number(label: str) -> float:
    try:
        number = float(label)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise BadSample(f"has the label '{label}', no number")
    return number


@dataclass(frozen=True)
class _Json:
    """Texts and label of a line of JSON."""

    table: Table

    def __call__(self, line: str) -> tuple[list[str], str]:
        try:
            row = json.loads(line)
            texts = [row[name] for name in self.table.texts]
            label = row[self.table.label]
        except (ValueError, TypeError, KeyError):
            raise BadSample(f"is no line of JSON with {', '.join(map(str, self.table.texts))}, label") from None
        return ["" if text is None else str(text) for text in texts], str(label)


@dataclass(frozen=True)
class _Tabs:
    """Texts and label of a line of tab-separated values."""

    texts: tuple[int, ...]
    label: int
    header: bool

    def __call__(self, line: str) -> tuple[list[str], str]:
        values = line.split("\t")
        if len(values) <= max(self.label, *self.texts):
            raise _Short(f"has {len(values)} columns, {1 + max(self.label, *self.texts)} are needed")
        return [values[at] for at in self.texts], values[self.label].strip()


def _json_row(table: Table) -> _Json:
    return _Json(table)


def _tab_row(table: Table, lines: Lines) -> _Tabs:
    """Where the columns are. Errors: DataError if the header lacks one."""
    wanted = (*table.texts, table.label)
    if all(isinstance(column, int) for column in wanted):
        return _Tabs(tuple(map(int, table.texts)), int(table.label), False)
    names = [name.strip() for name in lines[0].split("\t")] if len(lines) else []
    missing = [column for column in wanted if column not in names]
    if missing:
        raise DataError(f"{lines.path} has no column '{missing[0]}', only {', '.join(names) or 'no line at all'}")
    places = [names.index(str(column)) for column in wanted]
    return _Tabs(tuple(places[:-1]), places[-1], True)
