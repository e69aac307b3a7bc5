"""Files of many texts: where each line or record is, found in one pass; read when it is asked for."""

from __future__ import annotations

import gzip
import json
import math
import mmap
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from ssl_core import BadSample, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.file_listing import Item
from ssl_plugins.datasets._io.tables import ENDINGS, MarkColumns, Table, texts
from ssl_plugins.datasets._io.user_data import Places, RowOptions

WINDOW = 4 << 20  # bytes looked at together
JSON_ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz")
NEWLINE, ARROW = ord("\n"), ord(">")


class Part(Protocol):
    """The samples of one file."""

    @property
    def numbers(self) -> np.ndarray | None:
        """(n,) which lines they are, from 1; None if all."""

    @property
    def word(self) -> str:
        """What one of them is called in a message."""

    def __len__(self) -> int: ...

    def texts(self, place: int) -> list[str]:
        """The texts of one sample. Errors: BadSample."""


class Blob:
    """A file's bytes, memory-mapped when first used (unpacked into memory if gzipped), pickled by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: Any = None

    @property
    def data(self) -> Any:
        """bytes or mmap. Errors: DataError."""
        if self._data is None:
            try:
                if self.path.suffix.lower() == ".gz":
                    with gzip.open(self.path) as packed:
                        self._data = packed.read()
                else:
                    with self.path.open("rb") as file:
                        empty = self.path.stat().st_size == 0  # which cannot be mapped
                        self._data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split())}") from None
        return self._data

    @property
    def begin(self) -> int:
        """Where the text begins: behind the mark of UTF-8 that some editors put in front."""
        return len(BOM_UTF8) if self.data[: len(BOM_UTF8)] == BOM_UTF8 else 0

    @property
    def array(self) -> np.ndarray:
        """(size,) uint8."""
        return np.frombuffer(self.data, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_data": None}


class Lines:
    """The lines of a file that are not blank."""

    word = "line"

    def __init__(self, path: Path) -> None:
        self.blob = Blob(path)
        begin = self.blob.begin
        starts, stops, self.numbers = scan_lines(self.blob.array[begin:])
        self.starts, self.stops = starts + begin, stops + begin

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, place: int) -> str:
        """One line as text. Errors: BadSample."""
        try:
            return str(self.blob.data[self.starts[place] : self.stops[place]], "utf-8")
        except UnicodeDecodeError:
            raise BadSample("is not UTF-8 text") from None

    def texts(self, place: int) -> list[str]:
        """The line without blanks around it."""
        return [self.line(place).strip().removeprefix("\ufeff")]


class JsonLines(Lines):
    """A JSON object a line; the texts are the values of `keys`."""

    def __init__(self, path: Path, keys: Sequence[str], option: Callable[[str], str]) -> None:
        super().__init__(path)
        self.keys = list(keys)
        self.option_of = {key: option(key) for key in keys}

    def entry(self, place: int) -> dict[str, Any]:
        """One object. Errors: DataError with file and line."""
        where = f"{self.blob.path} line {self.numbers[place]}"
        try:
            found = json.loads(self.line(place))
        except (ValueError, BadSample) as error:
            raise DataError(f"{where} is no JSON ({' '.join(str(error).split())}); mend or remove it") from None
        if not isinstance(found, dict):
            raise DataError(f"{where} is no JSON object but a {type(found).__name__}; each line is one object")
        for key in self.keys:
            if key not in found:
                known = nearest(key, found, "key")
                raise DataError(f"{where} has no key '{key}'; set dataset.{self.option_of[key]} to its name: {known}")
        return found

    def marks(self, marks: MarkColumns, options: RowOptions, item: Item) -> None:
        """Collect label, group and split of all lines. Errors: DataError with file and line."""
        if not len(self):
            return
        named = {"label": options.label, "group": options.group, "split": options.split}
        said: dict[str, list[str | None]] = {key or what: [] for what, key in named.items()}
        for place in range(len(self)):
            entry = self.entry(place)
            for key, values in said.items():
                value = entry.get(key)
                gone = value is None or (isinstance(value, float) and math.isnan(value))
                values.append(None if gone else str(value))
        columns = {what: key or what for what, key in named.items()}
        columns = {what: key for what, key in columns.items() if any(value is not None for value in said[key])}
        for what, asked in named.items():
            if asked is not None and what not in columns:
                raise DataError(f"{self.blob.path} has no key '{asked}' in any line; set dataset.{what} to its name")
        block = {key: pa.array(values, pa.string()) for key, values in said.items()}
        marks.add(block, columns, item, lambda row: f"{self.blob.path} line {self.numbers[row]}")

    def texts(self, place: int) -> list[str]:
        """The values of the keys. Errors: BadSample for one that is no text."""
        entry = self.entry(place)
        for key in self.keys:
            if not isinstance(entry[key], str):
                raise BadSample(f"'{key}' is {json.dumps(entry[key]):.40}, no text")
        return [entry[key] for key in self.keys]


class Columns:
    """Columns of texts of a table, kept in memory as Arrow keeps them."""

    numbers, word = None, "row"

    def __init__(self, columns: list[Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def texts(self, place: int) -> list[str]:
        """The texts of one row; what is missing is empty."""
        return [column[place].as_py() or "" for column in self.columns]


class Whole:
    """A file as one text."""

    numbers, word = None, ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def texts(self, place: int) -> list[str]:
        """The file's text. Errors: BadSample."""
        try:
            with (
                gzip.open(self.path, "rt", encoding="utf-8-sig")
                if self.path.suffix.lower() == ".gz"
                else self.path.open(encoding="utf-8-sig") as file
            ):
                return [file.read()]
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise BadSample(f"cannot be read as UTF-8 text ({' '.join(str(error).split())})") from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file for reading, line ends as they are. Errors: DataError where what is read is not UTF-8."""
    with path.open(encoding="utf-8", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no UTF-8 text ({error}); save it as UTF-8, or fetch it again") from None


def table_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line of a small table that is not blank. Errors: DataError with the line."""
    lines = Lines(path)
    for place, number in enumerate(lines.numbers.tolist()):
        try:
            yield number, lines.texts(place)[0]
        except BadSample as error:
            raise DataError(f"{path} line {number} {error}; save the file as UTF-8, or fetch it again") from None


def read_columns(item: Item, wanted: dict[str, str], options: RowOptions, marks: MarkColumns) -> Columns:
    """The text columns `wanted` (option to name) of a CSV or Parquet file, and what is said of its rows.

    Errors: DataError with file and row.
    """
    table = Table(item.path, options.columns, options.delimiter)
    for option, name in wanted.items():
        table.require(name, option)
    columns = table.marks(options.label, options.group, options.split)
    kept: list[list[Any]] = [[] for _ in wanted]
    before = 0
    for block in table.blocks(list(dict.fromkeys([*wanted.values(), *columns.values()]))):
        for chunks, name in zip(kept, wanted.values(), strict=True):
            chunks.append(texts(block[name]))
        start = before
        marks.add(block, columns, item, lambda row, start=start: f"{item.path} row {start + row + 1}")  # type: ignore[misc]
        before += len(kept[0][-1])
    if not before:
        raise DataError(f"{item.path} has no rows")
    return Columns([pa.chunked_array(chunks) for chunks in kept])


def read_part(item: Item, wanted: dict[str, str], options: RowOptions, marks: MarkColumns) -> Part:
    """A table or a file of JSON lines. wanted: option to column or key. Errors: DataError with file and row."""
    if item.path.name.lower().endswith(ENDINGS):
        return read_columns(item, wanted, options, marks)
    options_of = {name: option for option, name in wanted.items()}
    part = JsonLines(item.path, list(wanted.values()), options_of.__getitem__)
    part.marks(marks, options, item)
    return part


def places_of(parts: Sequence[Part], paths: Sequence[Path]) -> Places:
    """What to call the samples of some files."""
    starts = np.cumsum([0, *map(len, parts)])
    numbers = None
    if any(part.numbers is not None for part in parts):
        each = [np.arange(1, len(part) + 1) if part.numbers is None else part.numbers for part in parts]
        numbers = np.concatenate(each)
    return Places(paths, starts, numbers, tuple(part.word for part in parts))


def say_all(item: Item, count: int, marks: MarkColumns) -> None:
    """What is said of a file is said of all its samples."""
    for what, coder in marks.coders.items():
        coder.say(getattr(item, what), count)


def scan_lines(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and numbers (from 1) of the lines that hold more than blanks. data: (size,) uint8."""
    ends, inked, seen = [], [], 0
    for begin in range(0, len(data), WINDOW):
        window = data[begin : begin + WINDOW]
        ink = np.cumsum(window > ord(" "), dtype=np.int64) + seen
        found = np.flatnonzero(window == NEWLINE)
        ends.append(found + begin)
        inked.append(ink[found])
        seen = int(ink[-1])
    stops = np.concatenate([*ends, [len(data)]]).astype(np.int64)
    counts = np.concatenate([*inked, [seen]]).astype(np.int64)
    starts = np.concatenate([[0], stops[:-1] + 1])
    full = np.flatnonzero(np.diff(counts, prepend=0) > 0)
    return starts[full], stops[full], full + 1


class Fasta:
    """The records of a FASTA file: a header after '>', then a sequence on one or several lines."""

    numbers, word = None, "record"

    def __init__(self, path: Path) -> None:
        self.blob = Blob(path)
        data, array, first = self.blob.data, self.blob.array, self.blob.begin
        heads = []
        for begin in range(0, len(array), WINDOW):
            found = np.flatnonzero(array[begin : begin + WINDOW] == ARROW) + begin
            heads.append(found[(found == first) | (array[np.maximum(found - 1, 0)] == NEWLINE)])
        self.heads = np.concatenate(heads) if heads else np.zeros(0, np.int64)
        if not len(self.heads) or bytes(data[first : self.heads[0]]).strip():
            raise DataError(f"{path} line 1 is no FASTA header; each record begins with a line '>name'")
        ends = [data.find(b"\n", head) for head in self.heads.tolist()]
        self.starts = np.array([end if end >= 0 else len(array) for end in ends], np.int64)
        self.stops = np.append(self.heads[1:], len(array))

    def __len__(self) -> int:
        return len(self.heads)

    def header(self, place: int) -> str:
        """The header without its '>'."""
        return str(self.blob.data[self.heads[place] + 1 : self.starts[place]], "utf-8", "replace").strip()

    def texts(self, place: int) -> list[str]:
        """The sequence, its lines joined."""
        found: bytes = self.blob.data[self.starts[place] : self.stops[place]].translate(None, b" \t\r\n")
        return [found.decode("latin-1")]

    def letters(self, place: int) -> int:
        """How many letters the sequence has."""
        return int(np.count_nonzero(self.blob.array[self.starts[place] : self.stops[place]] > ord(" ")))
