"""Own tables: CSV or Parquet files of numbers, categories and missing values, a sample a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ssl_core import ConfigError, Continuous, DataError, Dataset, Discrete, Sample, Split, hookimpl
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.file_listing import Item, sources
from ssl_plugins.datasets._io.splitting import Coder, in_order
from ssl_plugins.datasets._io.tables import (
    ENDINGS,
    MISSING,
    Block,
    MarkColumns,
    Table,
    names_of,
    number_error,
    numbers,
    share_of_numbers,
)
from ssl_plugins.datasets._io.user_data import Places, RowOptions, UserData


class TableFiles(UserData):
    """Your own tables (CSV, Parquet): numeric and categorical columns, missing values, a label, groups."""

    modality = "tabular"

    class Options(RowOptions):
        """Options of own tables."""

        drop_columns: tuple[str, ...] = Field((), description="columns not to use, such as a number of the row")
        numeric: tuple[str, ...] = Field(
            (), description="columns of numbers; by default those in which most values are numbers"
        )
        categorical: tuple[str, ...] = Field((), description="columns of categories; by default all other columns")
        missing: tuple[str, ...] = Field(MISSING, description="what a missing value is written as")
        most_categories: int = Field(
            1000, ge=2, description="different values that a column may have without being named in `categorical`"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        items = sources(options.root, options.test_root, ENDINGS, options.label_pattern)
        reading = _Reading(options, Table(items[0].path, options.columns, options.delimiter))
        for number, item in enumerate(items):
            reading.file(number, item)
        if not reading.count:
            raise DataError(f"{items[0].path} has no rows")
        places = Places([item.path for item in items], np.cumsum([0, *reading.lengths]))
        said = reading.marks.said(places)
        self.settle(said, title=reading.columns.get("label", "label"), target=reading.marks.numbers())
        self._take(reading)
        self.stamp(places.paths)

    def _take(self, reading: _Reading) -> None:
        """The columns of this split: numbers (n, numeric), where they are missing, and ids (n,) of each category."""
        self.fields = {}
        self.numbers: np.ndarray | None = None
        self.has_gaps = reading.gaps
        if reading.numeric:
            self.numbers = np.empty((len(self.rows), len(reading.numeric)), np.float32)
            edges = np.cumsum([0, *map(len, reading.values)])
            places = np.searchsorted(self.rows, edges)
            for i, start in enumerate(places[:-1]):
                mine = self.rows[start : places[i + 1]] - edges[i]
                self.numbers[start : places[i + 1]] = reading.values[i][mine]
                reading.values[i] = reading.values[i][:0].copy()  # a view would keep all of the block
            self.fields["numeric"] = Continuous((len(reading.numeric),))
            if reading.gaps:
                self.fields["missing"] = Discrete(len(reading.numeric), 2)
        self.ids: dict[str, np.ndarray] = {}
        for column, coder in reading.categories.items():
            codes, names = coder.codes, in_order(coder.known)
            gap = bool((codes < 0).any())
            if len(names) > self.options.most_categories and column not in self.options.categorical:
                raise DataError(
                    f"{reading.first.path}: column '{column}' holds {len(names)} different texts; name it in "
                    f"dataset.drop_columns, or in dataset.categorical to use it all the same"
                )
            rank = np.empty(len(names) + 1, np.int32)
            rank[[*(coder.known[name] for name in names), -1]] = [*(np.arange(len(names)) + gap), 0]
            field = _field(column, self.fields)
            self.fields[field] = Discrete(1, max(1, len(names) + gap))
            self.ids[field] = rank[codes[self.rows]]

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (columns,) float32, "missing": (columns,) 0 or 1, a field (1,) for each category}; 0 if missing.

        A missing number is 0 in "numeric"; a missing category is entry 0 of a column that misses any.
        """
        inputs: dict[str, np.ndarray] = {}
        if self.numbers is not None:
            row = self.numbers[index]
            gone = np.isnan(row)
            inputs["numeric"] = np.where(gone, np.float32(0), row)
            if self.has_gaps:
                inputs["missing"] = gone.astype(np.int64)
        for field, ids in self.ids.items():
            inputs[field] = ids[index : index + 1].astype(np.int64)
        return {"inputs": inputs, "label": self.label_of(index)}


class _Reading:
    """What is read of all files, block by block. The first block decides which columns hold numbers."""

    def __init__(self, options: TableFiles.Options, first: Table) -> None:
        self.options, self.first = options, first
        self.columns = first.marks(options.label, options.group, options.split)
        for option in ("drop_columns", "numeric", "categorical"):
            for name in getattr(options, option):
                first.require(name, option)
        self.inputs = [name for name in first.columns if name not in (*options.drop_columns, *self.columns.values())]
        if not self.inputs:
            raise DataError(f"{first.path} has no column left to learn from; shorten dataset.drop_columns")
        self.numeric: list[str] = []
        self.categories: dict[str, Coder] = {}
        self.values: list[np.ndarray] = []
        self.marks, self.gaps = MarkColumns(options.task), False
        self.lengths: list[int] = []

    @property
    def count(self) -> int:
        return sum(self.lengths)

    def file(self, number: int, item: Item) -> None:
        """All rows of one file. Errors: DataError with file and row."""
        table = self.first if number == 0 else Table(item.path, self.options.columns, self.options.delimiter)
        wanted = [*self.inputs, *self.columns.values()]
        for name in wanted:
            table.require(name, "drop_columns", f" (as {self.first.path} has)")
        self.lengths.append(0)
        for block in table.blocks(wanted):
            if not self.count:
                self._decide(block)
            self._block(block, table, item)

    def _decide(self, block: Block) -> None:
        options = self.options
        both = set(options.numeric) & set(options.categorical)
        if both:
            raise ConfigError(f"column '{min(both)}' is in both dataset.numeric and dataset.categorical")
        for name in self.inputs:
            share = share_of_numbers(block[name], options.missing)
            if np.isnan(share):
                raise DataError(
                    f"{self.first.path}: column '{name}' of type {block[name].type} is neither numbers nor texts; "
                    f"name it in dataset.drop_columns"
                )
            if name in options.numeric or (name not in options.categorical and share > 0.5):
                self.numeric.append(name)
            else:
                self.categories[name] = Coder()

    def _block(self, block: Block, table: Table, item: Item) -> None:
        count = len(next(iter(block.values())))
        before = self.lengths[-1]
        if self.numeric:
            values = np.empty((count, len(self.numeric)), np.float32)
            cure = "mend it, name it in dataset.missing, or the column in dataset.categorical or dataset.drop_columns"
            for place, name in enumerate(self.numeric):
                values[:, place] = self._numbers(block[name], name, table, before, cure)
            self.gaps = self.gaps or bool(np.isnan(values).any())
            self.values.append(values)
        for name, coder in self.categories.items():
            coder.add(names_of(block[name], self.options.missing))
        self.marks.add(block, self.columns, item, lambda row: f"{table.path} row {before + row + 1}")
        self.lengths[-1] += count

    def _numbers(self, column: pa.Array, name: str, table: Table, before: int, cure: str) -> np.ndarray:
        found, wrong = numbers(column, self.options.missing)
        if wrong is not None:
            raise number_error(table.path, before + wrong + 1, name, column[wrong].as_py(), cure)
        return found


def _field(column: str, taken: Sequence[str] | dict[str, Any]) -> str:
    """A name for a categorical column that a file can have, too; no other field's."""
    name = re.sub(r"[^\w .()-]", "_", column).strip(" .") or "column"
    while name in ("numeric", "missing") or name in taken:
        name += " (column)"
    return name


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TableFiles]
