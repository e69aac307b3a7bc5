"""Reads tables of JSON and Excel, whose cells have types of their own, in blocks of columns of text."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.kind import open_decompressed
from ssl_plugins.datasets._io.tables.dialect import Dialect, name_columns, preamble_error
from ssl_plugins.datasets._io.tables.encoding import encoding_error
from ssl_plugins.datasets._io.tables.formats import Block, enumerate_chunks
from ssl_plugins.datasets._io.tables.options import TableOptions

KEY_LINES = 10_000  # lines whose keys are the columns of JSON lines


class JsonLinesFormat:
    """A JSON object on each line. Columns are the keys of the first lines; a key of later lines alone is a doubt."""

    def __init__(self, path: Path, compression: str | None, encoding: str) -> None:
        self.path, self.compression, self.encoding = path, compression, encoding
        self.types: dict[str, Any] = {}
        self.share_read = 0.0
        self.warnings: dict[str, str] = {}
        keys: dict[str, None] = {}
        for index, (_, record) in enumerate(self._records()):
            keys |= dict.fromkeys(record)
            if index == KEY_LINES:
                break
        self.names = list(keys)

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns; each value as text, but for lists and objects."""
        known = set(self.names)
        for _, chunk in enumerate_chunks(self._records()):
            for line, record in chunk:
                if not record.keys() <= known:
                    key = next(key for key in record if key not in known)
                    self.warnings["keys"] = (
                        f"{self.path} line {line}: key '{key}', which none of the first lines has, is left out"
                    )
            yield {name: cells_of([record.get(name) for _, record in chunk]) for name in columns}

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number (from 1) and object of each line that is not blank."""
        try:
            with text_of(self.path, self.compression, self.encoding) as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, self._record(number, line)
        except UnicodeError:
            raise encoding_error(self.path, self.encoding) from None
        except (OSError, EOFError) as error:
            raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split()):.200}") from None

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.path} line {number} is no JSON ({' '.join(str(error).split()):.100}); fix or remove it"
            ) from None
        if not isinstance(record, dict):
            raise DataError(f"{self.path} line {number} is no JSON object but a {type(record).__name__}")
        return record


class RecordsFormat:
    """A table that is held in memory: columns of values of any type."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.columns = columns
        self.names = list(columns)
        self.types: dict[str, Any] = {}
        self.share_read = 0.0

    def release(self) -> None:
        """Free the values, once they are read."""
        self.columns = {}

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns in one block."""
        if self.columns and len(next(iter(self.columns.values()))):
            yield {name: cells_of(self.columns[name]) for name in columns}


def read_json(path: Path, compression: str | None, encoding: str, names: Sequence[str] = ()) -> RecordsFormat:
    """A JSON file that is an array of objects, or an object of columns, as pandas writes it in each of its forms.

    Args:
        path: the file.
        compression: its compression.
        encoding: its encoding.
        names: names of the columns of an array of arrays; by default column1, column2, ...

    Raises:
        DataError: the file is not such a table.
    """
    try:
        with text_of(path, compression, encoding) as file:
            value = json.load(file)
    except UnicodeError:
        raise encoding_error(path, encoding) from None
    except (ValueError, RecursionError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as JSON: {' '.join(str(error).split()):.200}") from None
    columns = _columns_of_rows(path, value, names) or _columns_of(value)
    if columns is None:
        raise DataError(
            f"{path} is JSON, but no table; write an array of objects, one for each row, as "
            f"df.to_json('table.json', orient='records') does"
        )
    return RecordsFormat(columns)


def _columns_of_rows(path: Path, value: Any, names: Sequence[str]) -> dict[str, list[Any]] | None:
    """The columns of an array of arrays of one length, each a row of single values; None if it is something else."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        return None
    widths = {len(row) for row in value}
    if len(widths) > 1 or any(isinstance(cell, list | dict) for row in value for cell in row):
        return None
    width = widths.pop()
    if names and len(names) != width:
        raise DataError(f"{path} has {width} columns, and dataset.columns names {len(names)}; name {width}")
    return {name: [row[i] for row in value] for i, name in enumerate(names or numbered_names(width))}


def numbered_names(count: int) -> list[str]:
    """Names of columns that have none: column1, column2, ..."""
    return [f"column{index + 1}" for index in range(count)]


def _columns_of(value: Any) -> dict[str, list[Any]] | None:
    """The columns of a table in one of the forms that pandas writes; None if it is none."""
    if isinstance(value, list):
        if value and all(isinstance(row, dict) for row in value):
            return {key: [row.get(key) for row in value] for key in dict.fromkeys(key for row in value for key in row)}
        return None
    if not isinstance(value, dict) or not value:
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # orient="split"
        names, rows = [str(name) for name in value["columns"]], value["data"]
        if all(isinstance(row, list) and len(row) == len(names) for row in rows):
            return {name: [row[index] for row in rows] for index, name in enumerate(names)}
        return None
    parts = list(value.values())
    if all(isinstance(part, dict) for part in parts):
        rows = list(parts[0])
        if rows and all(list(part) == rows for part in parts):  # orient="columns"
            return {name: list(part.values()) for name, part in value.items()}
        return None
    has_rows = any(isinstance(part, list) and part and isinstance(part[0], dict) for part in parts)
    if not has_rows and all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1:
        return {str(name): list(part) for name, part in value.items()}  # orient="list"
    tables = [part for part in parts if isinstance(part, list) and part and all(isinstance(row, dict) for row in part)]
    return _columns_of(tables[0]) if len(tables) == 1 else None


def read_excel(path: Path, options: TableOptions, found: Dialect) -> RecordsFormat:
    """One sheet of an Excel file, without empty rows.

    Args:
        path: the file.
        options: the sheet and the header.
        found: receives the names of the columns, facts and doubts.

    Raises:
        DataError: openpyxl is not installed, the file cannot be read, or has no such sheet.
    """
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError:
        raise DataError(f"{path} is an Excel file, which needs pip install 'sslx[excel]'; or save it as CSV") from None
    try:
        with path.open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            names = [sheet.title for sheet in book.worksheets]
            sheets = {name: _rows_of(book[name], options.skip_rows) for name in names if options.sheet in (None, name)}
    except Exception as error:  # openpyxl raises what a damaged archive or XML makes it raise
        raise DataError(f"{path} cannot be read as Excel: {' '.join(str(error).split()):.200}") from None
    if options.sheet is not None and options.sheet not in names:
        raise DataError(f"{path} has no sheet '{options.sheet}', only {', '.join(names)}; set dataset.sheet to one")
    filled = {name: rows for name, rows in sheets.items() if rows}
    if not filled:
        raise DataError(f"{path} is empty; fill it or leave it out")
    sheet, numbered = next(iter(filled.items()))
    if len(filled) > 1:
        found.doubts["sheet"] = (
            f"{path}: of the sheets {', '.join(filled)} the first is read; set 'dataset.sheet={sheet}' to confirm it, "
            f"or to another"
        )
    if len(names) > 1:
        found.facts["sheet"] = sheet
    rows = list(numbered.values())
    width = max(map(len, rows))
    if options.header == "auto" and not options.columns and (count := _rows_above(rows, width)):
        above = list(numbered)[count]
        raise preamble_error(path, above - options.skip_rows, width, above)
    texts = [[cell_text(cell) or "" for cell in row] + [""] * (width - len(row)) for row in rows]
    name_columns(path, texts, options, found)
    body = rows[int(found.has_header) :]
    return RecordsFormat(
        {name: [row[index] if index < len(row) else None for row in body] for index, name in enumerate(found.names)}
    )


def _rows_of(sheet: Any, skip_rows: int) -> dict[int, list[Any]]:
    """The rows of a sheet by their index in it, without the first ones, empty rows, and empty cells at the end."""
    rows = {}
    for index, values in enumerate(sheet.iter_rows(values_only=True)):
        row = list(values)
        while row and row[-1] is None:
            row.pop()
        if row and index >= skip_rows:
            rows[index] = row
    return rows


def _rows_above(rows: Sequence[Sequence[Any]], width: int) -> int:
    """How many rows are above the table: each is shorter than all below, or than the names below it.

    A header that lacks the name of the last column is none.
    """
    widths = list(map(len, rows))
    least = list(accumulate(reversed(widths), min))[::-1]
    for count in range(1, min(30, len(rows) // 4 + 1)):
        longest = max(widths[:count])
        if longest == width or 1 < longest == width - 1:
            return 0
        are_names = widths[count] == width and all(isinstance(cell, str) for cell in rows[count])
        if are_names or longest < least[count]:
            return count
    return 0


def text_of(path: Path, compression: str | None, encoding: str) -> io.TextIOWrapper:
    """A file opened as text."""
    raw = open_decompressed(path, compression)
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    return io.TextIOWrapper(raw, codec, newline=None)


def cells_of(values: Iterable[Any]) -> Any:
    """A column as a pyarrow array of texts; of lists or structs if it holds some."""
    values = list(values)
    if any(isinstance(value, list | dict) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowException, TypeError, OverflowError):
            values = [json.dumps(value) if isinstance(value, list | dict) else value for value in values]
    return pa.array([cell_text(value) for value in values], pa.string())


def cell_text(value: Any) -> str | None:
    """The text of one cell, as a CSV file would hold it; None if it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str | int | float):
        return str(value)  # of True and False, too, as pandas writes them to CSV
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
