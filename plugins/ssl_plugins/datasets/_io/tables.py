"""CSV and Parquet files in blocks of columns: numbers, names and texts as arrays, never a row as an object."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa, pc, pq, pv
from ssl_plugins.datasets._io.file_listing import TABLES, Item
from ssl_plugins.datasets._io.splitting import Coder, Said, Where

ENDINGS = TABLES
BLOCK = 8 << 20  # bytes of a CSV file
ROWS = 1 << 16  # of a Parquet file
MISSING = ("", "?", "NA", "N/A", "nan", "NaN", "null", "NULL", "None")
MARKS = ("label", "group", "split")
DELIMITERS = ";\t|,"
NO_NUMBER = "name a column or an array of numbers label, set dataset.label, or leave dataset.task=number out"

Block = dict[str, Any]


class Table:
    """One file of columns. Errors: DataError that names the file, and the row where there is one."""

    def __init__(self, path: Path, columns: Sequence[str] = (), delimiter: str | None = None) -> None:
        self.path = path
        self.parquet = path.suffix.lower() == ".parquet"
        self.given = list(columns)
        tabulated = path.name.lower().removesuffix(".gz").endswith(".tsv")
        self.delimiter = delimiter or ("\t" if tabulated else ",")
        self.types: dict[str, Any] = {}
        try:
            if self.parquet:
                schema = pq.read_schema(path)
                self.types = {name: schema.field(name).type for name in schema.names}
                self.columns = list(schema.names)
            else:
                with self._csv(None) as reader:
                    self.columns = list(reader.schema.names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from None
        twice = {name for name in self.columns if self.columns.count(name) > 1}
        if twice:
            raise DataError(f"{path} has two columns '{min(twice)}'; rename one")
        if not (self.parquet or self.given or delimiter):
            self._check_header()

    def _check_header(self) -> None:
        """Errors: DataError for a header of one name in which another delimiter stands."""
        others = [mark for mark in DELIMITERS if mark != self.delimiter and mark in self.columns[0]]
        if len(self.columns) == 1 and others:
            other, own = (f"'dataset.delimiter={json.dumps(mark)}'" for mark in (others[0], self.delimiter))
            raise DataError(
                f"{self.path} has a single column {self.columns[0]!r:.60}; set {other}, or {own} if that is its name"
            )

    def _csv(self, wanted: Sequence[str] | None) -> Any:
        names = wanted if wanted is not None else self.given
        convert = pv.ConvertOptions(include_columns=wanted, column_types={name: pa.string() for name in names})
        return pv.open_csv(
            str(self.path),
            read_options=pv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=self.given or None),
            parse_options=pv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=convert,
        )

    def _unreadable(self, error: Exception) -> DataError:
        said = " ".join(str(error).split())
        found = re.search(r"Row #(\d+): (Expected \d+ columns, got \d+)", said)
        if found:
            row = int(found[1]) - (0 if self.given else 1)
            return DataError(f"{self.path} row {row}: {found[2].lower()}; mend the row, or set dataset.delimiter")
        return DataError(f"{self.path} cannot be read: {said:.200}; it must be a UTF-8 CSV or a Parquet file")

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """The wanted columns in blocks of rows: texts from CSV, the file's own types from Parquet."""
        try:
            if self.parquet:
                file = pq.ParquetFile(self.path)
                batches = file.iter_batches(batch_size=ROWS, columns=list(wanted))
                for batch in batches:
                    yield {name: _plain(batch.column(name)) for name in wanted}
            else:
                with self._csv(list(wanted)) as reader:
                    for batch in reader:
                        if batch.num_rows:
                            yield {name: batch.column(name) for name in wanted}
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from None

    def require(self, column: str, option: str, cure: str = "") -> str:
        """The column itself. Errors: DataError if the file has none of this name."""
        if column not in self.columns:
            known = nearest(column, self.columns, "column")
            raise DataError(f"{self.path} has no column '{column}'; set dataset.{option} to its name: {known}{cure}")
        return column

    def marks(self, label: str | None, group: str | None, split: str | None) -> dict[str, str]:
        """Which of label, group and split have a column: those named, or else those called so."""
        found = {}
        for what, named in zip(MARKS, (label, group, split), strict=True):
            if named is not None:
                found[what] = self.require(named, what)
            elif what in self.columns:
                found[what] = what
        return found


def _plain(column: Any) -> Any:
    return pc.dictionary_decode(column) if pa.types.is_dictionary(column.type) else column


def texts(column: Any) -> Any:
    """A column as texts, null where it is missing or NaN."""
    if pa.types.is_string(column.type):
        return column
    found = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        gone = np.isnan(column.to_numpy(zero_copy_only=False))
        found = pc.if_else(pa.array(gone), pa.scalar(None, pa.string()), found)
    return found


def names_of(column: Any, missing: Sequence[str] = ("",)) -> Any:
    """A column as texts without blanks around them, null where missing."""
    trimmed = pc.utf8_trim_whitespace(texts(column))
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(list(missing), pa.string())), pa.scalar(None), trimmed)


def numbers(column: Any, missing: Sequence[str] = MISSING) -> tuple[np.ndarray, int | None]:
    """(n,) float64, NaN where missing, and the first row that is no number (from 0), or None."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), None
    found = names_of(column, missing)
    try:
        return found.cast(pa.float64()).to_numpy(zero_copy_only=False), None
    except pa.ArrowInvalid:
        import pandas as pd  # slow to import

        values = pd.to_numeric(found.to_pandas(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.flatnonzero(np.isnan(values) & found.is_valid().to_numpy(zero_copy_only=False))
        return values, int(wrong[0]) if len(wrong) else None


def share_of_numbers(column: Any, missing: Sequence[str] = MISSING) -> float:
    """Of the values that are not missing, how many are numbers; 1 if all are missing."""
    if pa.types.is_boolean(column.type):
        return 0.0
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return 1.0
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return float("nan")
    found = names_of(column, missing)
    known = len(found) - found.null_count
    values, wrong = numbers(column, missing)
    return 1.0 if wrong is None or not known else int((~np.isnan(values)).sum()) / known


def number_error(table: Path, row: int, name: str, value: Any, cure: str) -> DataError:
    """The line for a text among numbers. row: counted from 1."""
    return DataError(f"{table} row {row}: column '{name}' holds '{value!s:.40}', which is no number; {cure}")


class MarkColumns:
    """Label, group and split of all rows of some files: from the columns, or else from what is said of the file.

    Labels with decimals are numbers, collected in `target`, unless `task` says that they are classes.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.coders = {what: Coder() for what in MARKS}
        self.target: list[np.ndarray] | None = None
        self.targeted: list[int] = []  # the first row of each block of `target`
        self.begun = False

    def add(self, block: Block, columns: dict[str, str], item: Item, where: Where) -> None:
        """One block of rows of one file. where: what to call row i of the block. Errors: DataError."""
        count = len(next(iter(block.values())))
        columns = dict(columns)
        label = columns.get("label")
        if not self.begun:
            self.begun = True
            if self.task == "number" or (self.task == "auto" and label is not None and has_decimals(block[label])):
                self.target = []
        if self.target is not None:
            if label is None:
                raise ConfigError(f"{where(0)} has no label that is a number; {NO_NUMBER}")
            self.targeted.append(sum(map(len, self.coders["label"].parts)))
            self.target.append(self._numbers(block[columns.pop("label")], where))
        for what, coder in self.coders.items():
            told = getattr(item, what)
            if what in columns and not (what == "split" and told is not None):
                coder.add(names_of(block[columns[what]]))
            else:
                coder.say(None if what == "label" and self.target is not None else told, count)

    def _numbers(self, column: Any, where: Where) -> np.ndarray:
        found, wrong = numbers(column)
        if wrong is not None:
            raise DataError(
                f"{where(wrong)}: the label '{column[wrong].as_py():.40}' is no number as the others are; "
                f"mend it, or set dataset.task=classes"
            )
        gone = np.flatnonzero(~np.isfinite(found))
        if len(gone):
            raise DataError(f"{where(int(gone[0]))} has no label; fill it in everywhere or leave it out")
        return found

    def said(self, where: Where) -> Said:
        """All of it, of all rows. Errors: DataError for a mark that only some rows have, ConfigError for no numbers."""
        count = len(self.coders["label"].codes)
        if count and self.task == "number" and self.target is None:
            raise ConfigError(f"{where(0)} has no label that is a number; {NO_NUMBER}")
        if self.target is not None and sum(map(len, self.target)) != count:
            ends = np.cumsum([0, *map(len, self.target)])
            gap = next((end for start, end in zip(self.targeted, ends[:-1], strict=True) if start != end), ends[-1])
            raise DataError(
                f"{where(int(gap))} has no label, others have a number; fill it in everywhere or leave it out"
            )
        marks = {what: coder.marks(what, where) for what, coder in self.coders.items()}
        return Said(count, where, **marks)

    def numbers(self) -> np.ndarray | None:
        """(n,) the labels that are numbers."""
        return None if self.target is None else np.concatenate(self.target)


def has_decimals(column: Any) -> bool:
    """Whether a column holds numbers, not all of them whole."""
    if not share_of_numbers(column) > 0.5:
        return False
    values = numbers(column)[0]
    known = values[np.isfinite(values)]
    return bool((known != np.rint(known)).any())


def check_endings(items: Sequence[Item], endings: Sequence[str], what: str) -> None:
    """Errors: DataError for a file that is none of what can be read."""
    for item in items:
        if not item.path.name.lower().endswith(tuple(endings)):
            raise DataError(f"dataset.root {item.path} is no {what}; these end in {', '.join(endings)}")
