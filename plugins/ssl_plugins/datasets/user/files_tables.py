"""The user's tables: CSV or Parquet files of numbers, categories and missing values, a sample a row."""

from __future__ import annotations

import re
from collections.abc import Container

import numpy as np
from pydantic import Field

from ssl_core import ConfigError, Continuous, DataError, Dataset, Discrete, Sample, Split, hookimpl
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.file_listing import TABLE_EXTENSIONS, FileEntry, SampleLocations, list_sources
from ssl_plugins.datasets._io.splitting import LabelEncoder, natural_order
from ssl_plugins.datasets._io.tables import (
    MISSING,
    Block,
    MetadataCollector,
    Table,
    as_names,
    as_numbers,
    number_error,
    numeric_share,
)
from ssl_plugins.datasets._io.user_data import RowOptions, UserData


class TableFiles(UserData):
    """Your own tables (CSV, Parquet): numeric and categorical columns, missing values, a label, groups."""

    modality = "tabular"

    class Options(RowOptions):
        """Options of the user's tables."""

        drop_columns: tuple[str, ...] = Field((), description="columns not to use, such as a row number")
        numeric: tuple[str, ...] = Field(
            (), description="columns of numbers; by default those in which most values are numbers"
        )
        categorical: tuple[str, ...] = Field((), description="columns of categories; by default all other columns")
        missing: tuple[str, ...] = Field(MISSING, description="texts that stand for a missing value")
        most_categories: int = Field(
            1000, ge=2, description="different values that a column may have without being named in `categorical`"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        entries = list_sources(options.root, options.test_root, TABLE_EXTENSIONS, options.label_pattern)
        reader = _TableReader(options, Table(entries[0].path, options.columns, options.delimiter))
        for entry in entries:
            reader.read_file(entry)
        if not reader.row_count:
            raise DataError(f"{entries[0].path} has no rows")
        locations = SampleLocations([entry.path for entry in entries], np.cumsum([0, *reader.file_lengths]))
        title = reader.metadata_columns.get("label", "label")
        self.assign_split(reader.metadata.metadata(locations), title=title, target=reader.metadata.target())
        self._select_rows(reader)
        self.record_files(locations.paths)

    def _select_rows(self, reader: _TableReader) -> None:
        """Store the rows of this split.

        numbers: (n, numeric columns) float32 with NaN where missing. ids: (n,) category ids for each field.
        """
        self.fields = {}
        self.numbers: np.ndarray | None = None
        self.has_missing_numbers = reader.has_missing_numbers
        if reader.numeric:
            self.numbers = np.empty((len(self.rows), len(reader.numeric)), np.float32)
            edges = np.cumsum([0, *map(len, reader.number_blocks)])
            bounds = np.searchsorted(self.rows, edges)
            for i, start in enumerate(bounds[:-1]):
                block_rows = self.rows[start : bounds[i + 1]] - edges[i]
                self.numbers[start : bounds[i + 1]] = reader.number_blocks[i][block_rows]
                reader.number_blocks[i] = np.empty((0, len(reader.numeric)), np.float32)  # frees the block
            self.fields["numeric"] = Continuous((len(reader.numeric),))
            if reader.has_missing_numbers:
                self.fields["missing"] = Discrete(len(reader.numeric), 2)
        self.ids: dict[str, np.ndarray] = {}
        for column, encoder in reader.categories.items():
            codes, names = encoder.codes, natural_order(encoder.index)
            has_missing = bool((codes < 0).any())
            if len(names) > self.options.most_categories and column not in self.options.categorical:
                raise DataError(
                    f"{reader.first.path}: column '{column}' holds {len(names)} different texts; name it in "
                    f"dataset.drop_columns, or in dataset.categorical to use it anyway"
                )
            rank = np.empty(len(names) + 1, np.int32)  # code to id; the last entry is for code -1
            rank[[*(encoder.index[name] for name in names), -1]] = [*(np.arange(len(names)) + has_missing), 0]
            field = _field_name(column, self.fields)
            self.fields[field] = Discrete(1, max(1, len(names) + has_missing))
            self.ids[field] = rank[codes[self.rows]]

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (columns,) float32, "missing": (columns,) 0 or 1, and a field (1,) for each category}.

        A missing number is 0 in "numeric". A missing category has id 0 in a column with missing categories.
        """
        inputs: dict[str, np.ndarray] = {}
        if self.numbers is not None:
            row = self.numbers[index]
            is_missing = np.isnan(row)
            inputs["numeric"] = np.where(is_missing, np.float32(0), row)
            if self.has_missing_numbers:
                inputs["missing"] = is_missing.astype(np.int64)
        for field, ids in self.ids.items():
            inputs[field] = ids[index : index + 1].astype(np.int64)
        return {"inputs": inputs, "label": self.label_of(index)}


class _TableReader:
    """Reads all files, block by block. The first block decides which columns are numeric."""

    def __init__(self, options: TableFiles.Options, first: Table) -> None:
        self.options, self.first = options, first
        self.metadata_columns = first.metadata_columns(options.label, options.group, options.split)
        for option in ("drop_columns", "numeric", "categorical"):
            for name in getattr(options, option):
                first.require(name, option)
        not_inputs = (*options.drop_columns, *self.metadata_columns.values())
        self.inputs = [name for name in first.columns if name not in not_inputs]
        if not self.inputs:
            raise DataError(f"{first.path} has no column left to learn from; shorten dataset.drop_columns")
        self.numeric: list[str] = []
        self.categories: dict[str, LabelEncoder] = {}
        self.number_blocks: list[np.ndarray] = []
        self.metadata, self.has_missing_numbers = MetadataCollector(options.task), False
        self.file_lengths: list[int] = []

    @property
    def row_count(self) -> int:
        return sum(self.file_lengths)

    def read_file(self, entry: FileEntry) -> None:
        """Read all rows of one file.

        Raises:
            DataError: the file lacks a column, or holds a text where a number must be.
        """
        table = self.first
        if self.file_lengths:
            table = Table(entry.path, self.options.columns, self.options.delimiter)
        columns = [*self.inputs, *self.metadata_columns.values()]
        for name in columns:
            table.require(name, "drop_columns", f" (as {self.first.path} has)")
        self.file_lengths.append(0)
        for block in table.blocks(columns):
            if not self.row_count:
                self._choose_types(block)
            self._read_block(block, table, entry)

    def _choose_types(self, block: Block) -> None:
        options = self.options
        in_both = set(options.numeric) & set(options.categorical)
        if in_both:
            raise ConfigError(f"column '{min(in_both)}' is in both dataset.numeric and dataset.categorical")
        for name in self.inputs:
            share = numeric_share(block[name], options.missing)
            if np.isnan(share):
                raise DataError(
                    f"{self.first.path}: column '{name}' of type {block[name].type} is neither numbers nor texts; "
                    f"name it in dataset.drop_columns"
                )
            if name in options.numeric or (name not in options.categorical and share > 0.5):
                self.numeric.append(name)
            else:
                self.categories[name] = LabelEncoder()

    def _read_block(self, block: Block, table: Table, entry: FileEntry) -> None:
        count = len(next(iter(block.values())))
        start = self.file_lengths[-1]
        if self.numeric:
            values = np.empty((count, len(self.numeric)), np.float32)
            for column, name in enumerate(self.numeric):
                values[:, column] = self._numbers_of(block[name], name, table, start)
            self.has_missing_numbers = self.has_missing_numbers or bool(np.isnan(values).any())
            self.number_blocks.append(values)
        for name, encoder in self.categories.items():
            encoder.append(as_names(block[name], self.options.missing))
        self.metadata.append(block, self.metadata_columns, entry, lambda row: f"{table.path} row {start + row + 1}")
        self.file_lengths[-1] += count

    def _numbers_of(self, column: pa.Array, name: str, table: Table, start: int) -> np.ndarray:
        values, invalid = as_numbers(column, self.options.missing)
        if invalid is not None:
            cure = "fix it, name it in dataset.missing, or the column in dataset.categorical or dataset.drop_columns"
            raise number_error(table.path, start + invalid + 1, name, column[invalid].as_py(), cure)
        return values


def _field_name(column: str, existing: Container[str]) -> str:
    """A field name for a categorical column: valid as a file name, and different from all existing fields."""
    name = re.sub(r"[^\w .()-]", "_", column).strip(" .") or "column"
    while name in ("numeric", "missing") or name in existing:
        name += " (column)"
    return name


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TableFiles]
