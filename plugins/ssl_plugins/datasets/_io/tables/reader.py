"""Reads all rows of tables of numbers and categories, block by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError, report_reading, scratch_array
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.copies import LOOK_ROWS, copies_of_rows
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.splitting import LabelEncoder
from ssl_plugins.datasets._io.tables.columns import (
    as_names,
    as_numbers,
    as_numbers_together,
    distinct_values,
    holds_dates,
    near_number_error,
    number_error,
    numeric_share,
    shown,
)
from ssl_plugins.datasets._io.tables.row_metadata import Block, MetadataCollector, Table

IN_MEMORY = 256 << 20  # bytes of numbers of a table that are kept in memory
HUGE, TINY = 1e30, 1e-30  # numbers outside are scaled before they become float32
FLAT = 1e-4  # numbers that differ by less, relative to their size, are shifted before they become float32
LARGEST_ID = 1e19  # all numbers above are whole
FEWEST_NAMES = 20  # rows from which texts that all differ are said to be names
FEWEST_IDS = 10  # rows from which whole numbers that all differ are said to be ids
ID_NAMES = ("id", "ids", "index", "idx", "row", "key", "uuid", "number", "nr", "no")


@dataclass
class NumberColumn:
    """A column of numbers while it is read; it becomes (x - shift) / scale as float32.

    exact: float64 blocks, by index, where float32 would lose what differs between rows, or the numbers themselves.
    unique: float64 blocks while the column may be an id: whole numbers that all differ. Else None.
    """

    name: str
    exact: dict[int, np.ndarray] = field(default_factory=dict)
    unique: list[np.ndarray] | None = field(default_factory=list)
    has_values: bool = False
    shift: float = 0.0
    scale: float = 1.0

    def append(self, values: np.ndarray, block: int, low: float, high: float) -> None:
        """Note what must be known of a block of values, (n,) float64, with the smallest and the largest of them."""
        if np.isinf(low) or np.isinf(high):
            finite = values[np.isfinite(values)]
            low, high = (finite.min(), finite.max()) if len(finite) else (np.nan, np.nan)
        if not np.isnan(low):
            self.has_values = True
            size = max(abs(low), abs(high))
            if size > HUGE or 0 < size < TINY or (high > low and high / 2 - low / 2 < FLAT * size / 2):
                self.exact[block] = values.copy()
        if self.unique is not None:
            whole = bool((np.rint(values) == values).all()) and abs(low) < LARGEST_ID  # false for NaN
            first = not self.unique and (not whole or len(np.unique(values)) < len(values))
            if not whole or first:
                self.unique = None
            else:
                self.unique.append(values.copy())

    def choose_units(self, blocks: Sequence[np.ndarray], column: int) -> None:
        """Set shift and scale, from all blocks (rows, columns) float32, and put them into these units in place."""
        if not self.exact:
            return
        parts = [self.exact.get(i, block[:, column].astype(np.float64)) for i, block in enumerate(blocks)]
        finite = np.concatenate([part[np.isfinite(part)] for part in parts])
        low, high = finite.min(), finite.max()
        size, half = max(abs(low), abs(high)), high / 2 - low / 2
        if 0 < half < FLAT * size / 2:
            self.shift = float(np.rint(low + half)) if half >= 1 else float(low + half)
        size = max(abs(low - self.shift), abs(high - self.shift)) if self.shift else size
        if size > HUGE or 0 < size < TINY:
            self.scale = float(10.0 ** np.floor(np.log10(size)))
        for part, block in zip(parts, blocks, strict=True):
            block[:, column] = (part - self.shift) / self.scale

    def id_doubt(self, path: Path) -> str | None:
        """The doubt that the column counts or names the rows."""
        if not self.unique or sum(map(len, self.unique)) < FEWEST_IDS:
            return None
        values = np.concatenate(self.unique)
        steps = np.diff(values)
        counts = bool((steps == steps[0]).all())
        words = self.name.lower().replace("-", "_").split("_")
        is_large = values.min() > 1e7 and np.log10(values.min()) // 1 == np.log10(values.max()) // 1  # of one length
        if not (counts or is_large or words[-1] in ID_NAMES or len(values) >= 1000):
            return None
        if len(np.unique(values)) < len(values):
            return None
        return (
            f"{path}: column '{self.name}' holds a different whole number in each row, as an id does; set "
            f"dataset.id={self.name}, name it in dataset.drop_columns, or in dataset.numeric to use it"
        )


def open_tables(entries: Sequence[FileEntry], options: Any) -> tuple[Table, list[Table]]:
    """All tables, and the one whose columns hold for all: those of most training files, then with a label, then of
    the largest.

    Raises:
        DataError: a table cannot be read.
    """
    tables = [Table.open(entry.path, options) for entry in entries]
    weights: dict[frozenset[str], list[int]] = defaultdict(lambda: [0, 0, 0])
    of_training = [table for table, entry in zip(tables, entries, strict=True) if entry.split in (None, "train")]
    for table in of_training or tables:
        weight = weights[frozenset(table.columns)]
        weight[0] += 1
        weight[2] += table.path.stat().st_size
    for columns, weight in weights.items():
        others = [other for other in weights if other < columns]
        weight[1] = len(others) if (options.label or "label") in columns else -1
    usual = max(weights, key=lambda columns: weights[columns])
    reference = next(table for table in of_training or tables if frozenset(table.columns) == usual)
    return reference, tables


def check_columns(
    tables: Sequence[Table], reference: Table, columns: Sequence[str], label: str | None, test_root: str | None
) -> None:
    """Check that all tables have the columns of one; columns that only others have are left out and said.

    Args:
        tables: all tables.
        reference: the one.
        columns: its columns that are used.
        label: its label column.
        test_root: the option; a file of it cannot be excluded.

    Raises:
        DataError: some lack a column; the message names how to leave them out.
    """
    lacking = [(table, _without(columns, table.columns)) for table in tables]
    odd = [(table, missing) for table, missing in lacking if missing]
    if odd:
        table, missing = odd[0]
        names = ",".join(dict.fromkeys(table.path.name for table, _ in odd))
        which = "the file" if len(odd) == 1 else "all such files"
        cure = f"set 'dataset.exclude={names}' to leave {which} out"
        if test_root is not None and Path(test_root) in (table.path, *table.path.parents):
            cure = "leave dataset.test_root out"
        if len(missing) == len(columns):
            own = ", ".join(table.columns[:4]) + (", ..." if len(table.columns) > 4 else "")
            raise DataError(f"{table.path} holds other columns ({own}) than {reference.path}; {cure}")
        what = f"label column '{label}'" if missing == [label] else f"column '{missing[0]}'"
        raise DataError(f"{table.path} has no {what}, which {reference.path} has; add it, or {cure}")
    for table in tables:
        extra = _without(table.columns, reference.columns)
        if extra:
            table.facts["columns left out"] = ", ".join(extra[:10])


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that are not among others. There may be 100,000 of each."""
    known = set(others)
    return [name for name in names if name not in known]


class TableReader:
    """Reads all files. The first block decides which columns are numbers, unless the options do.

    reference: the table whose columns hold for all. numbers, categories: the input columns by kind. number_blocks:
    (rows, numbers) float32 each. doubts: lines on columns.
    """

    def __init__(self, options: Any, entries: Sequence[FileEntry]) -> None:
        self.options = options
        self.reference, self.tables = open_tables(entries, options)
        first = self.reference
        self.metadata_columns = first.metadata_columns(options.label, options.group, options.split, options.id)
        for option in ("drop_columns", "numeric", "categorical"):
            for name in getattr(options, option):
                first.require(name, option)
        in_both = set(options.numeric) & set(options.categorical)
        if in_both:
            raise ConfigError(f"column '{min(in_both)}' is in both dataset.numeric and dataset.categorical")
        not_inputs = (*options.drop_columns, *self.metadata_columns.values())
        self.inputs = [name for name in first.columns if name not in not_inputs]
        if not self.inputs:
            raise DataError(f"{first.path} has no column left to learn from; shorten dataset.drop_columns")
        self.columns = list(dict.fromkeys([*self.inputs, *self.metadata_columns.values()]))
        check_columns(self.tables, first, self.columns, self.metadata_columns.get("label"), options.test_root)
        self.numbers: list[NumberColumn] = []
        self.categories: dict[str, LabelEncoder] = {}
        self.number_blocks: list[np.ndarray] = []
        self.number_bytes = 0
        self.metadata = MetadataCollector(options.task)
        self.doubts: list[str] = []
        self.empty: list[str] = []
        self.file_lengths: list[int] = []
        for table, entry in zip(self.tables, entries, strict=True):
            self._read_file(table, entry)
        if not self.row_count:
            raise DataError(f"{first.path} has no rows")
        self._finish()

    @property
    def row_count(self) -> int:
        """Number of rows that were read."""
        return sum(self.file_lengths)

    def copies(self) -> np.ndarray | None:
        """(rows,) numbers that rows of equal inputs share; see `copies_of_rows`."""

        categories = [encoder.codes for encoder in self.categories.values()]
        edges = np.cumsum([0, *(map(len, self.number_blocks) if self.numbers else [self.row_count])])

        def blocks() -> Iterator[Iterable[np.ndarray]]:
            for number, (start, end) in enumerate(pairwise(edges)):
                block = np.ascontiguousarray(self.number_blocks[number].T) if self.numbers else ()
                yield [*block, *(codes[start:end] for codes in categories)]

        def heads() -> Iterator[np.ndarray]:
            last = int(np.searchsorted(edges, LOOK_ROWS))  # blocks that hold the first rows
            for index in range(len(self.numbers)):
                yield np.concatenate([block[:, index] for block in self.number_blocks[:last]])[:LOOK_ROWS]
            yield from (codes[:LOOK_ROWS] for codes in categories)

        return copies_of_rows(blocks(), heads(), self.row_count)

    def _read_file(self, table: Table, entry: FileEntry) -> None:
        self.file_lengths.append(0)
        before, name = self.number_bytes, str(table.path)
        report_reading(name, 0)
        for block in table.blocks(self.columns):
            if not self.row_count:
                self._choose_types(block, table)
            self._read_block(block, table, entry)
            report_reading(name, table.format.share_read, self.number_bytes - before)
        table.release()

    def _choose_types(self, block: Block, table: Table) -> None:
        options = self.options
        for name in self.inputs:
            share = numeric_share(block[name], options.missing)
            if np.isnan(share):
                raise self._type_error(name, block[name], table)
            if name in options.numeric or (name not in options.categorical and share > 0.5):
                self.numbers.append(NumberColumn(name))
                continue
            self.categories[name] = LabelEncoder()
            if name not in options.categorical:
                self._check_category(name, block[name], share, table)

    def _type_error(self, name: str, column: Any, table: Table) -> DataError:
        what = "dates" if pa.types.is_temporal(column.type) else f"values of type {column.type}"
        return DataError(
            f"{table.path}: column '{name}' holds {what}, neither numbers nor texts; name it in dataset.drop_columns, "
            f"or write it as numbers"
        )

    def _check_category(self, name: str, column: Any, share: float, table: Table) -> None:
        """Refuse numbers in another style, and doubt dates and columns that are numbers in part."""
        error = near_number_error(table.path, name, column, self.options.missing)
        if error is not None:
            raise error
        if holds_dates(column, self.options.missing):
            example = distinct_values(column, self.options.missing)[0]
            self.doubts.append(
                f"{table.path}: column '{name}' holds dates such as {shown(example)} and is read as categories; "
                f"name it in dataset.drop_columns, or in dataset.categorical to use it so"
            )
        elif share > 0.3:
            values = as_numbers(column, self.options.missing)[0]
            texts = column.filter(pa.array(np.isnan(values)))
            example = next(iter(distinct_values(texts, self.options.missing)), "")
            self.doubts.append(
                f"{table.path}: {share:.0%} of column '{name}' are numbers, and it is read as categories: "
                f"name its other values, such as {shown(example)}, in dataset.missing, or it in dataset.categorical"
            )

    def _read_block(self, block: Block, table: Table, entry: FileEntry) -> None:
        count = len(next(iter(block.values())))
        start = self.file_lengths[-1]
        if self.numbers:
            exact = self._exact_numbers(block, count, table, start)
            low, high = np.fmin.reduce(exact, 1, initial=np.nan), np.fmax.reduce(exact, 1, initial=np.nan)
            for column, values, least, most in zip(self.numbers, exact, low.tolist(), high.tolist(), strict=True):
                column.append(values, len(self.number_blocks), least, most)
            with np.errstate(over="ignore"):
                self.number_blocks.append(self._kept(exact))
        for name, encoder in self.categories.items():
            encoder.append(as_names(block[name], self.options.missing))
        self.metadata.append(block, self.metadata_columns, entry, lambda row: f"{table.path} row {start + row + 1}")
        self.file_lengths[-1] += count

    def _exact_numbers(self, block: Block, count: int, table: Table, start: int) -> np.ndarray:
        """The columns of numbers of a block, (columns, count) float64. Columns of text are converted together."""
        columns = [block[column.name] for column in self.numbers]
        together = as_numbers_together(columns, self.options.missing) if len(columns) > 1 else None
        if together is not None:
            return together
        exact = np.empty((len(columns), count))
        for index, column in enumerate(columns):
            exact[index] = self._numbers_of(column, self.numbers[index].name, table, start)
        return exact

    def _kept(self, exact: np.ndarray) -> np.ndarray:
        """The numbers as (rows, columns) float32, in memory while the table is small."""
        self.number_bytes += 4 * exact.size
        kept = scratch_array(exact.T.shape, np.float32, IN_MEMORY if self.number_bytes <= IN_MEMORY else 0)
        kept[:] = exact.T
        return kept

    def _numbers_of(self, column: Any, name: str, table: Table, start: int) -> np.ndarray:
        values, invalid = as_numbers(column, self.options.missing)
        if invalid is not None:
            cure = "fix it, name it in dataset.missing, or the column in dataset.categorical or dataset.drop_columns"
            raise number_error(table.path, start + invalid + 1, name, column[invalid].as_py(), cure)
        return values

    def _finish(self) -> None:
        """Leave columns without values out, set the units of others, and doubt ids."""
        kept = [index for index, column in enumerate(self.numbers) if column.has_values]
        self.empty = [column.name for column in self.numbers if not column.has_values]
        if len(kept) < len(self.numbers):
            self.number_blocks = [np.ascontiguousarray(block[:, kept]) for block in self.number_blocks]
            self.numbers = [self.numbers[index] for index in kept]
        for name in [name for name, encoder in self.categories.items() if not encoder.index]:
            self.empty.append(name)
            del self.categories[name]
        if not self.numbers and not self.categories:
            raise DataError(f"{self.reference.path} holds no value in any column to learn from; check dataset.missing")
        for index, column in enumerate(self.numbers):
            column.choose_units(self.number_blocks, index)
            if column.name not in self.options.numeric and (doubt := column.id_doubt(self.reference.path)):
                self.doubts.append(doubt)
            column.unique, column.exact = None, {}
        for name, encoder in self.categories.items():
            rows = int((encoder.codes >= 0).sum())
            is_said = name in self.options.categorical or any(f"column '{name}'" in line for line in self.doubts)
            if not is_said and FEWEST_NAMES <= len(encoder.index) == rows:
                self.doubts.append(
                    f"{self.reference.path}: column '{name}' holds a different text in each row, as a name does; "
                    f"set dataset.id={name}, name it in dataset.drop_columns, or in dataset.categorical to use it"
                )
