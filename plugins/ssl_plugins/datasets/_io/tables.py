"""Reads CSV and Parquet files in blocks of columns, as arrays of numbers, names or texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa, pc, pq, pv
from ssl_plugins.datasets._io.file_listing import METADATA_COLUMNS, FileEntry
from ssl_plugins.datasets._io.splitting import VALIDATION_NAMES, DescribeRow, LabelEncoder, SampleMetadata

CSV_BLOCK_BYTES = 8 << 20
PARQUET_BLOCK_ROWS = 1 << 16
MISSING = ("", "?", "NA", "N/A", "nan", "NaN", "null", "NULL", "None")
DELIMITERS = ";\t|,"
NUMERIC_LABEL_CURE = "name a column or an array of numbers label, set dataset.label, or leave dataset.task=number out"

Block = dict[str, Any]
"""Consecutive rows of a table: column name to pyarrow array."""


class Table:
    """A CSV or Parquet file.

    Args:
        path: the file.
        columns: names of the columns of a CSV file without a header line.
        delimiter: column separator; by default a tab in files ending in .tsv, else a comma.

    Raises:
        DataError: the file cannot be read, has two columns of one name, or has another delimiter.
    """

    def __init__(self, path: Path, columns: Sequence[str] = (), delimiter: str | None = None) -> None:
        self.path = path
        self.parquet = path.suffix.lower() == ".parquet"
        self.column_names = list(columns)
        is_tsv = path.name.lower().removesuffix(".gz").endswith(".tsv")
        self.delimiter = delimiter or ("\t" if is_tsv else ",")
        self.types: dict[str, Any] = {}
        try:
            if self.parquet:
                schema = pq.read_schema(path)
                self.types = {name: schema.field(name).type for name in schema.names}
                self.columns = list(schema.names)
            else:
                with self._open_csv(None) as reader:
                    self.columns = list(reader.schema.names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._read_error(error) from None
        duplicates = {name for name in self.columns if self.columns.count(name) > 1}
        if duplicates:
            raise DataError(f"{path} has two columns '{min(duplicates)}'; rename one")
        if not (self.parquet or self.column_names or delimiter):
            self._check_delimiter()

    @classmethod
    def open(cls, path: Path, options: Any) -> Table:
        """A table as the options of a data set say; see `TableOptions`."""
        return cls(path, options.columns, options.delimiter)

    def _check_delimiter(self) -> None:
        """Reject a header with a single name that contains another delimiter."""
        others = [delimiter for delimiter in DELIMITERS if delimiter != self.delimiter and delimiter in self.columns[0]]
        if len(self.columns) == 1 and others:
            other, own = (f"'dataset.delimiter={json.dumps(delimiter)}'" for delimiter in (others[0], self.delimiter))
            raise DataError(
                f"{self.path} has a single column {self.columns[0]!r:.60}; set {other}, or {own} if that is its name"
            )

    def _open_csv(self, columns: Sequence[str] | None) -> Any:
        names = columns if columns is not None else self.column_names
        convert = pv.ConvertOptions(include_columns=columns, column_types={name: pa.string() for name in names})
        return pv.open_csv(
            str(self.path),
            read_options=pv.ReadOptions(
                use_threads=False, block_size=CSV_BLOCK_BYTES, column_names=self.column_names or None
            ),
            parse_options=pv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def _read_error(self, error: Exception) -> DataError:
        message = " ".join(str(error).split())
        match = re.search(r"Row #(\d+): (Expected \d+ columns, got \d+)", message)
        if match:
            row = int(match[1]) - (0 if self.column_names else 1)
            return DataError(f"{self.path} row {row}: {match[2].lower()}; fix the row, or set dataset.delimiter")
        return DataError(f"{self.path} cannot be read: {message:.200}; it must be a UTF-8 CSV or a Parquet file")

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns in blocks of rows: strings from CSV, the file's own types from Parquet."""
        try:
            if self.parquet:
                file = pq.ParquetFile(self.path)
                for batch in file.iter_batches(batch_size=PARQUET_BLOCK_ROWS, columns=list(columns)):
                    yield {name: _decode_dictionary(batch.column(name)) for name in columns}
            else:
                with self._open_csv(list(columns)) as reader:
                    for batch in reader:
                        if batch.num_rows:
                            yield {name: batch.column(name) for name in columns}
        except (pa.ArrowException, OSError) as error:
            raise self._read_error(error) from None

    def require(self, column: str, option: str, cure: str = "") -> str:
        """Return `column`.

        Raises:
            DataError: the table has no such column.
        """
        if column not in self.columns:
            known = nearest(column, self.columns, "column")
            raise DataError(f"{self.path} has no column '{column}'; set dataset.{option} to its name: {known}{cure}")
        return column

    def metadata_columns(self, label: str | None, group: str | None, split: str | None) -> dict[str, str]:
        """Map "label", "group" and "split" to the columns that the options name, else to those of the same name."""
        columns = {}
        for kind, name in zip(METADATA_COLUMNS, (label, group, split), strict=True):
            if name is not None:
                columns[kind] = self.require(name, kind)
            elif kind in self.columns:
                columns[kind] = kind
        return columns


def _decode_dictionary(column: Any) -> Any:
    return pc.dictionary_decode(column) if pa.types.is_dictionary(column.type) else column


def as_text(column: Any) -> Any:
    """Convert a column to strings; missing values and NaN become null."""
    if pa.types.is_string(column.type):
        return column
    text = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        is_nan = np.isnan(column.to_numpy(zero_copy_only=False))
        text = pc.if_else(pa.array(is_nan), pa.scalar(None, pa.string()), text)
    return text


def as_names(column: Any, missing: Sequence[str] = ("",)) -> Any:
    """Convert a column to stripped strings; values in `missing` become null."""
    names = pc.utf8_trim_whitespace(as_text(column))
    return pc.if_else(pc.is_in(names, value_set=pa.array(list(missing), pa.string())), pa.scalar(None), names)


def as_numbers(column: Any, missing: Sequence[str] = MISSING) -> tuple[np.ndarray, int | None]:
    """Convert a column to (n,) float64 with NaN where missing.

    Returns:
        The numbers, and the index of the first value that is not a number, or None.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), None
    names = as_names(column, missing)
    try:
        return names.cast(pa.float64()).to_numpy(zero_copy_only=False), None
    except pa.ArrowInvalid:
        import pandas as pd  # slow to import

        values = pd.to_numeric(names.to_pandas(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        invalid = np.flatnonzero(np.isnan(values) & names.is_valid().to_numpy(zero_copy_only=False))
        return values, int(invalid[0]) if len(invalid) else None


def numeric_share(column: Any, missing: Sequence[str] = MISSING) -> float:
    """Share of numbers among the values that are not missing.

    1 if all values are missing, NaN if the column's type is neither numeric nor text.
    """
    if pa.types.is_boolean(column.type):
        return 0.0
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return 1.0
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return float("nan")
    names = as_names(column, missing)
    count = len(names) - names.null_count
    values, invalid = as_numbers(column, missing)
    return 1.0 if invalid is None or not count else int((~np.isnan(values)).sum()) / count


def number_error(table: Path, row: int, name: str, value: Any, cure: str) -> DataError:
    """The error for a value that is not a number. row: counted from 1."""
    return DataError(f"{table} row {row}: column '{name}' holds '{value!s:.40}', which is not a number; {cure}")


class MetadataCollector:
    """Collects label, group and split of all rows of several files, from columns or else from each file's entry.

    Labels with decimals are regression targets, unless `task` is "classes".
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.encoders = {kind: LabelEncoder() for kind in METADATA_COLUMNS}
        self.target_chunks: list[np.ndarray] | None = None
        self.target_starts: list[int] = []  # index of the first row of each chunk
        self.is_first_block = True

    def append(self, block: Block, columns: dict[str, str], entry: FileEntry, describe: DescribeRow) -> None:
        """Append a block of rows of one file.

        Args:
            block: the rows.
            columns: maps "label", "group" and "split" to columns of the block.
            entry: the file, whose metadata holds for rows without such a column. Its split overrides the column, but
            for rows of the validation split in a file of the training split.
            describe: names a row of the block in messages.

        Raises:
            ConfigError: labels must be numbers and there are none.
            DataError: a label is not a number where others are.
        """
        count = len(next(iter(block.values())))
        columns = dict(columns)
        label = columns.get("label")
        if self.is_first_block:
            self.is_first_block = False
            if self.task == "number" or (self.task == "auto" and label is not None and has_decimals(block[label])):
                self.target_chunks = []
        if self.target_chunks is not None:
            if label is None:
                raise ConfigError(f"{describe(0)} has no label that is a number; {NUMERIC_LABEL_CURE}")
            self.target_starts.append(sum(map(len, self.encoders["label"].chunks)))
            self.target_chunks.append(self._targets_of(block[columns.pop("label")], describe))
        for kind, encoder in self.encoders.items():
            name = getattr(entry, kind)
            if kind in columns and (kind != "split" or name is None):
                encoder.append(as_names(block[columns[kind]]))
            elif kind in columns and name == "train":
                encoder.append(_train_or_validation(block[columns[kind]]))
            else:
                encoder.append_constant(None if kind == "label" and self.target_chunks is not None else name, count)

    def append_file(self, entry: FileEntry, count: int) -> None:
        """Append `count` samples of a file that has no columns."""
        for kind, encoder in self.encoders.items():
            encoder.append_constant(getattr(entry, kind), count)

    def append_entries(self, entries: Sequence[FileEntry]) -> None:
        """Append one sample for each entry."""
        for kind, encoder in self.encoders.items():
            encoder.append_names(getattr(entry, kind) for entry in entries)

    def _targets_of(self, column: Any, describe: DescribeRow) -> np.ndarray:
        values, invalid = as_numbers(column)
        if invalid is not None:
            raise DataError(
                f"{describe(invalid)}: the label '{column[invalid].as_py():.40}' is not a number as the others are; "
                f"fix it, or set dataset.task=classes"
            )
        missing = np.flatnonzero(~np.isfinite(values))
        if len(missing):
            raise DataError(f"{describe(int(missing[0]))} has no label; fill it in everywhere or leave it out")
        return values

    def metadata(self, describe: DescribeRow) -> SampleMetadata:
        """The metadata of all rows.

        Raises:
            ConfigError: labels must be numbers and there are none.
            DataError: some rows have a label, group or split and others have none.
        """
        count = len(self.encoders["label"].codes)
        if count and self.task == "number" and self.target_chunks is None:
            raise ConfigError(f"{describe(0)} has no label that is a number; {NUMERIC_LABEL_CURE}")
        if self.target_chunks is not None and sum(map(len, self.target_chunks)) != count:
            ends = np.cumsum([0, *map(len, self.target_chunks)])
            gaps = (end for start, end in zip(self.target_starts, ends[:-1], strict=True) if start != end)
            raise DataError(
                f"{describe(int(next(gaps, ends[-1])))} has no label, others have a number; fill it in everywhere or "
                f"leave it out"
            )
        columns = {kind: encoder.sorted_codes(kind, describe) for kind, encoder in self.encoders.items()}
        return SampleMetadata(count, describe, **columns)

    def target(self) -> np.ndarray | None:
        """(n,) float64, the labels if they are numbers."""
        return None if self.target_chunks is None else np.concatenate(self.target_chunks)


def _train_or_validation(column: Any) -> Any:
    """The split of the rows of a training file: "validation" where the column says so, else "train"."""
    names = pc.utf8_lower(as_names(column))
    return pc.if_else(pc.is_in(names, value_set=pa.array(VALIDATION_NAMES, pa.string())), "validation", "train")


def has_decimals(column: Any) -> bool:
    """Whether most values of a column are numbers, and not all of them whole."""
    if not numeric_share(column) > 0.5:
        return False
    values = as_numbers(column)[0]
    finite = values[np.isfinite(values)]
    return bool((finite != np.rint(finite)).any())


def check_extensions(entries: Sequence[FileEntry], extensions: Sequence[str], kind: str) -> None:
    """Check the file names. kind: what the files must be, for the message.

    Raises:
        DataError: a file ends in none of the extensions.
    """
    for entry in entries:
        if not entry.path.name.lower().endswith(tuple(extensions)):
            raise DataError(f"dataset.root {entry.path} is no {kind}; these end in {', '.join(extensions)}")
