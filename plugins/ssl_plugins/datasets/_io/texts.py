"""Reads files of many texts. One pass finds the position of each line or record; a text is read when it is used."""

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
from ssl_plugins.datasets._io.file_listing import FileEntry, SampleLocations
from ssl_plugins.datasets._io.tables import MetadataCollector, Table, as_text
from ssl_plugins.datasets._io.user_data import RowOptions

SCAN_BYTES = 4 << 20
JSON_EXTENSIONS = (".jsonl", ".ndjson", ".jsonl.gz")
NEWLINE, HEADER_START = ord("\n"), ord(">")


class TextSource(Protocol):
    """The samples of one file."""

    @property
    def line_numbers(self) -> np.ndarray | None:
        """(n,) line of each sample from 1; None if every line or row is a sample."""

    @property
    def unit(self) -> str:
        """What a sample is called in messages; empty if the file is one sample."""

    def __len__(self) -> int: ...

    def texts(self, index: int) -> list[str]:
        """The texts of one sample.

        Raises:
            BadSample: the sample is not text.
        """


class FileBytes:
    """The bytes of a file: memory-mapped on first use, or decompressed into memory; pickled by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: Any = None

    @property
    def data(self) -> Any:
        """bytes or mmap.

        Raises:
            DataError: the file cannot be read.
        """
        if self._data is None:
            try:
                if self.path.suffix.lower() == ".gz":
                    with gzip.open(self.path) as compressed:
                        self._data = compressed.read()
                else:
                    with self.path.open("rb") as file:
                        is_empty = self.path.stat().st_size == 0  # an empty file cannot be mapped
                        self._data = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split())}") from None
        return self._data

    @property
    def text_start(self) -> int:
        """Position of the first byte after the UTF-8 byte order mark that some editors write."""
        return len(BOM_UTF8) if self.data[: len(BOM_UTF8)] == BOM_UTF8 else 0

    @property
    def array(self) -> np.ndarray:
        """(size,) uint8."""
        return np.frombuffer(self.data, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_data": None}


class TextLines:
    """A text on each line that is not blank."""

    unit = "line"

    def __init__(self, path: Path) -> None:
        self.file = FileBytes(path)
        begin = self.file.text_start
        starts, stops, self.line_numbers = scan_lines(self.file.array[begin:])
        self.starts, self.stops = starts + begin, stops + begin

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, index: int) -> str:
        """One line as text.

        Raises:
            BadSample: the line is not UTF-8.
        """
        try:
            return str(self.file.data[self.starts[index] : self.stops[index]], "utf-8")
        except UnicodeDecodeError:
            raise BadSample("is not UTF-8 text") from None

    def texts(self, index: int) -> list[str]:
        """The stripped line."""
        return [self.line(index).strip().removeprefix("\ufeff")]


class JsonLines(TextLines):
    """A JSON object on each line; the texts are the values of `keys`. option_of: maps a key to its option's name."""

    def __init__(self, path: Path, keys: Sequence[str], option_of: Callable[[str], str]) -> None:
        super().__init__(path)
        self.keys = list(keys)
        self.option_of = {key: option_of(key) for key in keys}

    def entry(self, index: int) -> dict[str, Any]:
        """One object.

        Raises:
            DataError: the line is not a JSON object, or lacks a key.
        """
        location = f"{self.file.path} line {self.line_numbers[index]}"
        try:
            entry = json.loads(self.line(index))
        except (ValueError, BadSample) as error:
            raise DataError(f"{location} is no JSON ({' '.join(str(error).split())}); fix or remove it") from None
        if not isinstance(entry, dict):
            raise DataError(f"{location} is no JSON object but a {type(entry).__name__}; each line is one object")
        for key in self.keys:
            if key not in entry:
                known = nearest(key, entry, "key")
                raise DataError(
                    f"{location} has no key '{key}'; set dataset.{self.option_of[key]} to its name: {known}"
                )
        return entry

    def collect_metadata(self, metadata: MetadataCollector, options: RowOptions, entry: FileEntry) -> None:
        """Append label, group and split of all lines.

        Raises:
            DataError: a line is invalid, or no line has a key that an option names.
        """
        if not len(self):
            return
        option_keys = {"label": options.label, "group": options.group, "split": options.split}
        columns: dict[str, list[str | None]] = {key or kind: [] for kind, key in option_keys.items()}
        for index in range(len(self)):
            line = self.entry(index)
            for key, values in columns.items():
                value = line.get(key)
                is_missing = value is None or (isinstance(value, float) and math.isnan(value))
                values.append(None if is_missing else str(value))
        key_of = {kind: key or kind for kind, key in option_keys.items()}
        key_of = {kind: key for kind, key in key_of.items() if any(value is not None for value in columns[key])}
        for kind, option_key in option_keys.items():
            if option_key is not None and kind not in key_of:
                raise DataError(
                    f"{self.file.path} has no key '{option_key}' in any line; set dataset.{kind} to its name"
                )
        block = {key: pa.array(values, pa.string()) for key, values in columns.items()}
        metadata.append(block, key_of, entry, lambda row: f"{self.file.path} line {self.line_numbers[row]}")

    def texts(self, index: int) -> list[str]:
        """The values of the keys.

        Raises:
            BadSample: a value is not text.
        """
        entry = self.entry(index)
        for key in self.keys:
            if not isinstance(entry[key], str):
                raise BadSample(f"'{key}' is {json.dumps(entry[key]):.40}, not text")
        return [entry[key] for key in self.keys]


class TextColumns:
    """Text columns of a table, held in memory as Arrow arrays."""

    line_numbers, unit = None, "row"

    def __init__(self, columns: list[Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def texts(self, index: int) -> list[str]:
        """The texts of one row; a missing text is empty."""
        return [column[index].as_py() or "" for column in self.columns]


class TextDocument:
    """A file that is one text."""

    line_numbers, unit = None, ""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def texts(self, index: int) -> list[str]:
        """The file's text.

        Raises:
            BadSample: the file cannot be read as UTF-8.
        """
        try:
            with (
                gzip.open(self.path, "rt", encoding="utf-8-sig")
                if self.path.suffix.lower() == ".gz"
                else self.path.open(encoding="utf-8-sig") as file
            ):
                return [file.read()]
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise BadSample(f"cannot be read as UTF-8 text ({' '.join(str(error).split())})") from None


class FastaRecords:
    """The records of a FASTA file: a header after '>', then a sequence on one or several lines."""

    line_numbers, unit = None, "record"

    def __init__(self, path: Path) -> None:
        self.file = FileBytes(path)
        data, array, first = self.file.data, self.file.array, self.file.text_start
        chunks = []
        for begin in range(0, len(array), SCAN_BYTES):
            candidates = np.flatnonzero(array[begin : begin + SCAN_BYTES] == HEADER_START) + begin
            starts_line = (candidates == first) | (array[np.maximum(candidates - 1, 0)] == NEWLINE)
            chunks.append(candidates[starts_line])
        self.headers = np.concatenate(chunks) if chunks else np.zeros(0, np.int64)
        if not len(self.headers) or bytes(data[first : self.headers[0]]).strip():
            raise DataError(f"{path} line 1 is no FASTA header; each record begins with a line '>name'")
        ends = [data.find(b"\n", header) for header in self.headers.tolist()]
        self.starts = np.array([end if end >= 0 else len(array) for end in ends], np.int64)
        self.stops = np.append(self.headers[1:], len(array))

    def __len__(self) -> int:
        return len(self.headers)

    def header(self, index: int) -> str:
        """The header without its '>'."""
        return str(self.file.data[self.headers[index] + 1 : self.starts[index]], "utf-8", "replace").strip()

    def texts(self, index: int) -> list[str]:
        """The sequence, its lines joined."""
        sequence: bytes = self.file.data[self.starts[index] : self.stops[index]].translate(None, b" \t\r\n")
        return [sequence.decode("latin-1")]

    def sequence_length(self, index: int) -> int:
        """Number of letters of the sequence."""
        return int(np.count_nonzero(self.file.array[self.starts[index] : self.stops[index]] > ord(" ")))


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a text file for reading, line ends unchanged.

    Raises:
        DataError: a line that is read in the `with` block is not UTF-8.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no UTF-8 text ({error}); save it as UTF-8, or fetch it again") from None


def table_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line of a small file that is not blank.

    Raises:
        DataError: a line is not UTF-8.
    """
    lines = TextLines(path)
    for index, number in enumerate(lines.line_numbers.tolist()):
        try:
            yield number, lines.texts(index)[0]
        except BadSample as error:
            raise DataError(f"{path} line {number} {error}; save the file as UTF-8, or fetch it again") from None


def read_columns(
    entry: FileEntry, column_of: dict[str, str], options: RowOptions, metadata: MetadataCollector
) -> TextColumns:
    """Read text columns of a CSV or Parquet file, and append the metadata of its rows to `metadata`.

    Args:
        entry: the file.
        column_of: maps an option's name to its column.
        options: the options of the data set.
        metadata: receives the metadata.

    Raises:
        DataError: the file cannot be read, lacks a column, or has no rows.
    """
    table = Table.open(entry.path, options)
    for option, name in column_of.items():
        table.require(name, option)
    metadata_columns = table.metadata_columns(options.label, options.group, options.split)
    chunks: list[list[Any]] = [[] for _ in column_of]
    count = 0
    for block in table.blocks(list(dict.fromkeys([*column_of.values(), *metadata_columns.values()]))):
        for column_chunks, name in zip(chunks, column_of.values(), strict=True):
            column_chunks.append(as_text(block[name]))
        start = count
        metadata.append(block, metadata_columns, entry, lambda row, start=start: f"{entry.path} row {start + row + 1}")  # type: ignore[misc]
        count += len(chunks[0][-1])
    if not count:
        raise DataError(f"{entry.path} has no rows")
    return TextColumns([pa.chunked_array(column_chunks) for column_chunks in chunks])


def read_text_source(
    entry: FileEntry, column_of: dict[str, str], options: RowOptions, metadata: MetadataCollector
) -> TextSource:
    """Read a table or a file of JSON lines. See `read_columns`; a column may be a key.

    Raises:
        DataError: the file cannot be read, lacks a column or key, or a line is invalid.
    """
    if not entry.path.name.lower().endswith(JSON_EXTENSIONS):
        return read_columns(entry, column_of, options, metadata)
    option_of = {name: option for option, name in column_of.items()}
    source = JsonLines(entry.path, list(column_of.values()), option_of.__getitem__)
    source.collect_metadata(metadata, options, entry)
    return source


def locations_of(sources: Sequence[TextSource], paths: Sequence[Path]) -> SampleLocations:
    """The locations of the samples of all files."""
    starts = np.cumsum([0, *map(len, sources)])
    line_numbers = None
    if any(source.line_numbers is not None for source in sources):
        line_numbers = np.concatenate(
            [
                np.arange(1, len(source) + 1) if source.line_numbers is None else source.line_numbers
                for source in sources
            ]
        )
    return SampleLocations(paths, starts, line_numbers, tuple(source.unit for source in sources))


def scan_lines(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and numbers (from 1) of the lines that are not blank. data: (size,) uint8."""
    ends, counts_at_ends, total = [], [], 0
    for begin in range(0, len(data), SCAN_BYTES):
        chunk = data[begin : begin + SCAN_BYTES]
        nonblank = np.cumsum(chunk > ord(" "), dtype=np.int64) + total
        newlines = np.flatnonzero(chunk == NEWLINE)
        ends.append(newlines + begin)
        counts_at_ends.append(nonblank[newlines])
        total = int(nonblank[-1])
    stops = np.concatenate([*ends, [len(data)]]).astype(np.int64)
    counts = np.concatenate([*counts_at_ends, [total]]).astype(np.int64)
    starts = np.concatenate([[0], stops[:-1] + 1])
    lines = np.flatnonzero(np.diff(counts, prepend=0) > 0)
    return starts[lines], stops[lines], lines + 1
