"""Reads files of many texts. One pass finds the position of each line or record; a text is read when it is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ssl_core import BadSample, Column, DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.entry import FileEntry, SampleLocations
from ssl_plugins.datasets._io.files.tar import TarSamples
from ssl_plugins.datasets._io.label_lists import LabelLists
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, Table, as_text
from ssl_plugins.datasets._io.texts.encodings import Encoding, decode, read_bytes
from ssl_plugins.datasets._io.texts.json_records import JSON_EXTENSIONS as JSON_EXTENSIONS
from ssl_plugins.datasets._io.texts.json_records import read_json
from ssl_plugins.datasets._io.texts.lines import Findings, TextLines, TextSource, columns_of
from ssl_plugins.datasets._io.user_data import RowOptions

LOOK_MEMBERS = 200  # of a tar file, of which the encoding is looked at
NUMBERS_OF_ROWS = ("id", "index", "idx", "row", "number", "")


class TextColumns:
    """Text columns of a table, held in memory as Arrow arrays. findings: what was found in the table."""

    line_numbers, unit, encoding = None, "row", None

    def __init__(self, texts: list[Any], columns: tuple[Column, ...], findings: Findings) -> None:
        self.arrays, self.columns, self.findings = texts, columns, findings

    def __len__(self) -> int:
        return len(self.arrays[0])

    def texts(self, index: int) -> list[str]:
        """The texts of one row; a missing text is empty."""
        return [array[index].as_py() or "" for array in self.arrays]


class TextDocument:
    """A file that is one text.

    Args:
        path: the file.
        encoding: its encoding; None = it is detected.
        fallback: the encoding of other files of the folder that are not UTF-8; a single one is too short for a guess.
    """

    line_numbers, unit = None, ""
    columns: tuple[Column, ...] = ()

    def __init__(self, path: Path, encoding: str | None = None, fallback: str | None = None) -> None:
        self.path, self.option, self.fallback = path, encoding, fallback
        self.encoding: Encoding | None = None

    def __len__(self) -> int:
        return 1

    def texts(self, index: int) -> list[str]:
        """The file's text; line ends are line feeds.

        Raises:
            BadSample: the file cannot be read, or is no text.
        """
        try:
            data = read_bytes(self.path)
        except DataError as error:
            raise BadSample(str(error).removeprefix(f"{self.path} ")) from None
        text, self.encoding = document_text(self.path, data, self.option, self.fallback)
        return [text]


def document_text(path: Path, data: bytes, encoding: str | None, fallback: str | None) -> tuple[str, Encoding]:
    """The text of a document, with line feeds as line ends, and its encoding; arguments as of `TextDocument`.

    Raises:
        BadSample: the data are no text.
    """
    try:
        text, found = decode(path, data, encoding)
    except DataError as error:
        raise BadSample(str(error).removeprefix(f"{path} ")) from None
    if fallback is not None and found.is_guess and found.name != fallback:
        text, found = data.decode(fallback, "replace"), Encoding(fallback, is_guess=True)
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"), found


class TextMembers:
    """The texts of a tar file, each a member.

    Args:
        tar: the samples of the file.
        encoding: their encoding; None = it is detected.
    """

    line_numbers, unit = None, "sample"
    columns: tuple[Column, ...] = ()

    def __init__(self, tar: TarSamples, encoding: str | None = None) -> None:
        self.tar, self.path, self.option = tar, tar.path, encoding
        self.names = tar.names
        self.encoding: Encoding | None = Encoding(encoding) if encoding else None
        if encoding is None:
            self.encoding = self._common_encoding()

    def _common_encoding(self) -> Encoding | None:
        """That of most of some members, a guess if one of them is; a single text is too short for a guess."""
        found: Counter[Encoding] = Counter()
        for row in np.unique(np.linspace(0, len(self) - 1, LOOK_MEMBERS).astype(int)).tolist():
            try:
                found[document_text(self.path, self.tar.content(row), None, None)[1]] += 1
            except BadSample:
                continue
        guesses = Counter({one: count for one, count in found.items() if one.is_guess})
        most = (guesses or found).most_common(1)
        return most[0][0] if most else None

    def __len__(self) -> int:
        return len(self.tar)

    def texts(self, index: int) -> list[str]:
        """The text of a member; line ends are line feeds.

        Raises:
            BadSample: it cannot be read, or is no text.
        """
        guess = self.encoding.name if self.encoding is not None and self.encoding.is_guess else None
        member = self.tar.members[index]
        return [document_text(member.path, member.read(), self.option, guess)[0]]


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
    lines = TextLines(path, "utf-8")
    for index, number in enumerate(lines.line_numbers.tolist()):
        try:
            yield number, lines.texts(index)[0]
        except BadSample as error:
            raise DataError(f"{path} line {number} {error}; save the file as UTF-8, or fetch it again") from None


def read_columns(
    entry: FileEntry,
    column_of: dict[str, str],
    options: RowOptions,
    metadata: MetadataCollector,
    lists: LabelLists | None = None,
) -> TextColumns:
    """Read text columns of a CSV or Parquet file, and append the metadata of its rows to `metadata`.

    Args:
        entry: the file.
        column_of: maps an option's name to its column.
        options: the options of the data set.
        metadata: receives the metadata.
        lists: receives the labels of a column of lists.

    Raises:
        DataError: the file cannot be read, lacks a column, or has no rows.
    """
    table = Table.open(entry.path, options)
    chosen: dict[str, str] = {}
    if (only := _only_column(table, column_of, options)) is not None:
        (option,) = column_of
        column_of = {option: only}
        chosen["column"] = f"column '{only}' is read as the {option}; dataset.{option} names another"
    for option, name in column_of.items():
        table.require(name, option)
    metadata_columns = table.metadata_columns(options.label, options.group, options.split, options.id)
    chunks: list[list[Any]] = [[] for _ in column_of]
    count = 0
    for block in table.blocks(list(dict.fromkeys([*column_of.values(), *metadata_columns.values()]))):
        for column_chunks, name in zip(chunks, column_of.values(), strict=True):
            column_chunks.append(as_text(block[name]))
        describe = partial(_describe_row, entry.path, count)
        names = dict(metadata_columns)
        if lists is not None and "label" in names and pa.types.is_nested(block[names["label"]].type):
            lists.append(block[names.pop("label")].to_pylist(), describe)
        metadata.append(block, names, entry, describe)
        count += len(chunks[0][-1])
    if not count:
        raise DataError(f"{entry.path} has no rows")
    columns = columns_of(table.columns, column_of.values(), metadata_columns)
    columns += tuple(Column(name, "left out", why=reason) for name, reason in table.left_out.items())
    findings = Findings(dict(table.facts), {**table.warnings, **chosen}, dict(table.doubts))
    return TextColumns([pa.chunked_array(column_chunks) for column_chunks in chunks], columns, findings)


def _only_column(table: Table, column_of: dict[str, str], options: RowOptions) -> str | None:
    """The column to read where the default one is absent and there is no choice: the only one beside the metadata.

    A column of row numbers does not count.
    """
    (option, name), *others = column_of.items()
    if others or name in table.columns or name != type(options).model_fields[option].default:
        return None
    known = [*(getattr(options, kind) or kind for kind in METADATA_COLUMNS), options.id]
    candidates = [name for name in table.columns if name not in known and name.lower() not in NUMBERS_OF_ROWS]
    return candidates[0] if len(candidates) == 1 else None


def _describe_row(path: Path, start: int, row: int) -> str:
    return f"{path} row {start + row + 1}"


def read_text_source(
    entry: FileEntry,
    column_of: dict[str, str],
    options: RowOptions,
    metadata: MetadataCollector,
    lists: LabelLists | None = None,
) -> TextSource:
    """Read a table or a file of JSON. See `read_columns`; a column may be a key, also of a nested object.

    Raises:
        DataError: the file cannot be read, lacks a column or key, or a line is invalid.
    """
    if not entry.path.name.lower().endswith(JSON_EXTENSIONS):
        return read_columns(entry, column_of, options, metadata, lists)
    option_of = {name: option for option, name in column_of.items()}
    encoding = getattr(options, "encoding", None)
    is_default = all(name == type(options).model_fields[option].default for option, name in column_of.items())
    choose = is_default and len(column_of) == 1
    source = read_json(entry.path, list(column_of.values()), option_of.__getitem__, encoding, choose)
    source.collect_metadata(metadata, options, entry, lists)
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
    units = tuple(source.unit for source in sources)
    names = tuple(source.names if isinstance(source, TextMembers) else () for source in sources)
    return SampleLocations(paths, starts, line_numbers, units, names if any(names) else ())
