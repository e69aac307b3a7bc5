"""Reads CSV, Parquet and Arrow files in blocks of columns."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa, pq, pv
from ssl_plugins.datasets._io.files.kind import BOMB_BYTES, open_decompressed
from ssl_plugins.datasets._io.tables.columns import decode_dictionary
from ssl_plugins.datasets._io.tables.dialect import Dialect, holds_rows, read_rows
from ssl_plugins.datasets._io.tables.encoding import encoding_error

CSV_BLOCK_BYTES, MOST_BLOCK_BYTES = 8 << 20, 1 << 30
PARQUET_RATIO = 1000
"""A Parquet file of more than `BOMB_BYTES`, at 8 bytes a value, and so many times its own size is refused."""
BLOCK_ROWS, FEWEST_BLOCK_ROWS = 1 << 16, 64
BLOCK_CELLS = 1 << 22  # of all columns together, which bounds the memory of a block of a wide table

Block = dict[str, Any]
"""Consecutive rows of a table: column name to pyarrow array."""


class Format(Protocol):
    """A table of one format. types: the pyarrow type of each column, empty if all are texts."""

    @property
    def share_read(self) -> float:
        """How much of the file the blocks so far hold, in [0, 1]; 0 if that is not known."""

    @property
    def names(self) -> list[str]:
        """The names of all columns, in order."""

    @property
    def types(self) -> dict[str, Any]:
        """The pyarrow type of each column; empty if all are texts."""

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns in blocks of rows."""


class CsvFormat:
    """A CSV file with columns of text. dialect: how it is written; quoted: whether a quoted text may hold rows."""

    def __init__(self, path: Path, compression: str | None, dialect: Dialect, check_quotes: bool) -> None:
        self.path, self.compression, self.dialect, self.check_quotes = path, compression, dialect, check_quotes
        self.names, self.types = dialect.names, {}  # type: ignore[var-annotated]
        self.share_read = 0.0
        self.block_bytes = min(MOST_BLOCK_BYTES, max(CSV_BLOCK_BYTES, 2 * dialect.row_bytes))  # each holds a whole row

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns as texts."""
        self.share_read = 0.0
        if self.dialect.delimiter == " ":
            yield from self._blocks_of_blanks(columns)
            return
        count = 0
        try:
            with open_decompressed(self.path, self.compression) as file, self._open(file, columns) as reader:
                for batch in reader:
                    if batch.num_rows:
                        block = {name: batch.column(name) for name in columns}
                        self._check_quotes(block, count)
                        count += batch.num_rows
                        if self.compression is None:
                            share = self.block_bytes / max(1, self.path.stat().st_size)
                            self.share_read = min(1.0, self.share_read + share)
                        yield block
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise self._error(error) from None

    def _open(self, file: Any, columns: Sequence[str]) -> Any:
        dialect, names = self.dialect, self.dialect.names
        read = pv.ReadOptions(
            use_threads=False,
            block_size=self.block_bytes,
            column_names=names,
            skip_rows=dialect.skip_rows,
            skip_rows_after_names=int(dialect.has_header),
            encoding="utf8" if dialect.encoding == "utf-8" else dialect.encoding,
        )
        parse = pv.ParseOptions(
            delimiter=dialect.delimiter, quote_char=dialect.quote or False, newlines_in_values=dialect.quote is not None
        )
        convert = pv.ConvertOptions(include_columns=list(columns), column_types=dict.fromkeys(columns, pa.string()))
        return pv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert)

    def _blocks_of_blanks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns of a file whose separator is any run of blanks."""
        dialect, positions = self.dialect, {name: i for i, name in enumerate(self.names)}
        encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
        try:
            with open_decompressed(self.path, self.compression) as raw:
                text = io.TextIOWrapper(raw, encoding, newline="")
                for _ in range(dialect.skip_rows):
                    text.readline()
                rows = read_rows(text, " ", dialect.quote)
                if dialect.has_header:
                    next(rows, None)
                for start, chunk in enumerate_chunks(rows):
                    for index, row in enumerate(chunk):
                        if len(row) != len(self.names):
                            raise self._row_error(
                                start + index + 1, f"expected {len(self.names)} columns, got {len(row)}"
                            )
                    yield {name: pa.array([row[positions[name]] for row in chunk], pa.string()) for name in columns}
        except (csv.Error, OSError, UnicodeError) as error:
            raise self._error(error) from None

    def _check_quotes(self, block: Block, start: int) -> None:
        """Refuse a quoted text that holds whole rows."""
        if not self.check_quotes or self.dialect.quote is None:
            return
        width = len(self.names)
        for name, column in block.items():
            data = column.buffers()[2]
            if width < 2 or data is None or b"\n" not in data.to_pybytes():
                continue
            index = self.names.index(name)
            for row, text in enumerate(column.to_pylist()):
                if text and "\n" in text and holds_rows(text, self.dialect.delimiter, width, index):
                    raise DataError(
                        f"{self.path} row {start + row + 1}: a double quote opens a text of column '{name}' that "
                        f"goes on over {text.count(chr(10)) + 1} lines; set dataset.quoting=none to read quotes as "
                        f"letters, or dataset.quoting=double if that is right"
                    )

    def _holds_quote(self) -> bool:
        """Whether the quotation mark of the dialect is in the file."""
        if self.dialect.quote is None:
            return False
        sign = self.dialect.quote.encode()
        with open_decompressed(self.path, self.compression) as file:
            return any(sign in chunk for chunk in iter(lambda: file.read(CSV_BLOCK_BYTES), b""))

    def _row_error(self, row: int, problem: str) -> DataError:
        return DataError(
            f"{self.path} row {row}: {problem}; fix the row, or set dataset.delimiter or dataset.quoting=none"
        )

    def _error(self, error: Exception) -> DataError:
        message = " ".join(str(error).split())
        match = re.search(r"Row #(\d+): (Expected \d+ columns, got \d+)", message)
        if match:
            return self._row_error(int(match[1]) - self.dialect.has_header - self.dialect.skip_rows, match[2].lower())
        if isinstance(error, UnicodeError) or "invalid UTF8" in message:
            return encoding_error(self.path, self.dialect.encoding)
        if "straddling object" in message:
            size = f"{self.block_bytes / 2**20:.3g} MB"
            if self._holds_quote():
                sign = "double" if self.dialect.quote == '"' else "single"
                return DataError(
                    f"{self.path}: a {sign} quote opens a text that does not end, or not within {size}; set "
                    f"dataset.quoting=none to read quotes as letters"
                )
            return DataError(
                f"{self.path}: a row is longer than {size}, and far longer than the first one; fix the row, or write "
                f"the table as Parquet"
            )
        return DataError(f"{self.path} cannot be read as CSV: {message:.200}; fix or fetch it again")


def enumerate_chunks(rows: Iterator[Any], size: int = BLOCK_ROWS) -> Iterator[tuple[int, list[Any]]]:
    """Lists of at most `size` consecutive rows, each with the number of rows before it."""
    chunk: list[Any] = []
    start = 0
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield start, chunk
            start, chunk = start + size, []
    if chunk:
        yield start, chunk


class ParquetFormat:
    """A Parquet file, with columns of its own types."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pq.ParquetFile(_open(path)) as file:
                schema, size = file.schema_arrow, 8 * file.metadata.num_rows * file.metadata.num_columns
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(path, "Parquet", error) from None
        if size > max(BOMB_BYTES, PARQUET_RATIO * path.stat().st_size):
            raise DataError(
                f"{path} holds {size / 8:,.0f} values, {size / 2**30:.1f} GB and over {PARQUET_RATIO:,} times the size "
                f"of the file; if it is what you want to read, write it as CSV"
            )
        self.names = list(schema.names)
        self.types, self.metadata = _types(schema), schema.metadata
        self.share_read = 0.0

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns in the file's own types."""
        self.share_read = 0.0
        try:
            with pq.ParquetFile(_open(self.path), pre_buffer=False) as file:  # else it keeps all that was read
                total = max(1, file.metadata.num_rows)
                for batch in file.iter_batches(batch_size=block_rows(len(columns)), columns=list(columns)):
                    self.share_read += batch.num_rows / total
                    yield {name: plain_type(batch.column(name)) for name in columns}
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, "Parquet", error) from None


class ArrowFormat:
    """An Arrow or Feather file, with columns of its own types. is_stream: whether it is written as a stream."""

    def __init__(self, path: Path, is_stream: bool) -> None:
        self.path, self.is_stream = path, is_stream
        try:
            with _open(path) as file:
                schema = pa.ipc.open_stream(file).schema if is_stream else pa.ipc.open_file(file).schema
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(path, "Feather", error) from None
        self.names = list(schema.names)
        self.types, self.metadata = _types(schema), schema.metadata
        self.share_read = 0.0

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns in the file's own types."""
        positions = {name: self.names.index(name) for name in columns}
        try:
            with _open(self.path) as file:
                for batch in self._batches(file):
                    size = block_rows(len(columns))
                    for start in range(0, batch.num_rows, size):
                        part = batch.slice(start, size)
                        yield {name: plain_type(part.column(index)) for name, index in positions.items()}
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, "Feather", error) from None

    def _batches(self, file: Any) -> Iterator[Any]:
        if self.is_stream:
            yield from pa.ipc.open_stream(file)
            return
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def block_rows(columns: int) -> int:
    """Rows of a block with so many columns."""
    return max(FEWEST_BLOCK_ROWS, min(BLOCK_ROWS, BLOCK_CELLS // max(1, columns)))


def plain_type(column: Any) -> Any:
    """A column of categories or of a new type of text as plain values.

    Raises:
        pa.ArrowInvalid: a text is not UTF-8.
    """
    column = decode_dictionary(column)
    is_view = hasattr(pa.types, "is_string_view") and pa.types.is_string_view(column.type)
    column = column.cast(pa.string()) if is_view else column
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column.validate(full=True)
    return column


def _types(schema: Any) -> dict[str, Any]:
    """The type of each column; that of the first where two have one name, which is refused elsewhere."""
    types: dict[str, Any] = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        types.setdefault(name, kind.value_type if pa.types.is_dictionary(kind) else kind)
    return types


def _open(path: Path) -> Any:
    """A file of pyarrow, whatever the encoding of its path."""
    return pa.OSFile(os.fsencode(path) if os.name == "posix" else str(path))


def _damaged(path: Path, kind: str, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as {kind}: {' '.join(str(error).split()):.200}; fetch or write it again")
