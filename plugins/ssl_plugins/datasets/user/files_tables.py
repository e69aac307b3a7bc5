"""The user's tables of numbers, categories and missing values, a sample a row."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, Column, Continuous, DataError, Dataset, Discrete, Excerpt, Sample, Split, hookimpl
from ssl_plugins.datasets._io.class_names import conform_classes
from ssl_plugins.datasets._io.files.listing import TABLE_EXTENSIONS, SampleLocations, list_sources
from ssl_plugins.datasets._io.label_checks import label_findings, without_dots
from ssl_plugins.datasets._io.splitting import draws_split, natural_order
from ssl_plugins.datasets._io.tables.columns import MISSING
from ssl_plugins.datasets._io.tables.excerpt import excerpt_tables
from ssl_plugins.datasets._io.tables.other_tables import holds_table
from ssl_plugins.datasets._io.tables.reader import TableReader
from ssl_plugins.datasets._io.tables.schema import Rows, column_stats, conform_rows, schema_of
from ssl_plugins.datasets._io.tables.shared import SharedTable, put_shared, take_shared
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

GROUP_WORDS = frozenset(
    ("patient", "subject", "participant", "person", "speaker", "user", "customer", "animal", "donor")
)
"""Names of columns, without "id", whose equal values belong together."""


class TableFiles(UserData):
    """Your own tables (CSV, JSON, Parquet, Feather, Excel): numbers, categories, missing values, a label, groups."""

    modality = "tabular"

    class Options(RowOptions):
        """Options of the user's tables."""

        numeric: tuple[str, ...] = Field(
            (), description="columns of numbers; by default those in which most values are numbers"
        )
        categorical: tuple[str, ...] = Field((), description="columns of categories; by default all other columns")
        missing: tuple[str, ...] = Field(
            MISSING,
            description="texts that stand for a missing value, beside the usual ones; with an empty text, only these",
        )
        most_categories: int = Field(
            1000, ge=2, description="different values that a column may have without being named in `categorical`"
        )

        @field_validator("missing", mode="after")
        @classmethod
        def _with_usual(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            return value if "" in value else (*MISSING, *(text for text in value if text not in MISSING))

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        root, pattern, by_content = options.root, options.label_pattern, partial(holds_table, options=options)
        entries = list_sources(root, options.test_root, TABLE_EXTENSIONS, pattern, options, by_content)
        shared = take_shared(options, entries, split) or SharedTable(TableReader(options, entries))
        reader = shared.reader
        locations = SampleLocations([entry.path for entry in entries], np.cumsum([0, *reader.file_lengths]))
        title = reader.metadata_columns.get("label", "label")
        metadata, target = reader.metadata.metadata(locations), reader.metadata.target()
        metadata, dot_warnings = without_dots(metadata)
        self.warnings += dot_warnings
        if draws_split(metadata.split, options):
            metadata = replace(metadata, copies=shared.copies())
        self.assign_split(metadata, title=title, target=target)
        self.where = str(reader.reference.path)
        self.order, self.empty = list(reader.inputs), list(reader.empty)
        self.conformed = ""
        shared.divide(self.split_codes, self.splits)
        self.data = self._select_rows(shared)
        put_shared(options, entries, shared)
        self._set_fields()
        self.record_files(locations.paths)
        self.record_summary(entries, _columns_of(reader, self.data), reader.tables)
        label_doubts, label_warnings = (
            label_findings(metadata.label, title, options.task) if target is None else ((), ())
        )
        self.doubts += (*reader.doubts, *label_doubts)
        if metadata.group is None and len(self.splits) > 1 and draws_split(metadata.split, options):
            self.doubts += self._look_for_groups()
        self.warnings += label_warnings
        if self.empty:
            self.warnings += (f"columns without a value in any row are left out: {', '.join(self.empty[:10])}",)
        for name, (shift, scale) in self.data.units.items():
            if (shift, scale) != (0.0, 1.0):
                self.warnings += (f"column '{name}' is read as (x - {shift:.16g}) / {scale:g}, to be exact in float32",)

    @classmethod
    def excerpt(cls, options: Options, folder: Path) -> Excerpt | None:
        """Rows drawn at random from large tables, which are read once, block by block.

        Raises:
            DataError: a table cannot be read.
        """
        entries = list_sources(options.root, options.test_root, TABLE_EXTENSIONS, options.label_pattern, options)
        return excerpt_tables(entries, options, folder)

    def _look_for_groups(self) -> tuple[str, ...]:
        """A doubt on the first input whose name is that of a group, such as patient, and whose values repeat."""
        named = {*self.options.numeric, *self.options.categorical}
        for name in self.order:
            word = re.sub(r"[^a-z]+", "", name.lower())
            if (word not in GROUP_WORDS and word.removesuffix("id") not in GROUP_WORDS) or name in named:
                continue
            values = self.data.ids[name] if name in self.data.ids else self.data.numbers[name]
            count = len(np.unique(values))
            if 1 < count <= len(values) / 2:
                return (
                    f"{self.where} has no column 'group', but '{name}' with {count} values in {len(values)} rows; set "
                    f"dataset.group={name} to keep the rows of each in one split, or name it in dataset.categorical, "
                    f"dataset.numeric or dataset.drop_columns",
                )
        return ()

    def _select_rows(self, shared: SharedTable) -> Rows:
        """The rows of this split.

        Raises:
            DataError: a column has too many categories.
        """
        reader, rows = shared.reader, Rows(has_missing=shared.has_missing)
        numbers = shared.numbers.pop(self.split)
        for index, column in enumerate(reader.numbers):
            rows.numbers[column.name] = numbers[:, index]
            rows.units[column.name] = (column.shift, column.scale)
        for name, encoder in reader.categories.items():
            codes, names = encoder.codes, natural_order(encoder.index)
            if len(names) > self.options.most_categories and name not in self.options.categorical:
                raise DataError(
                    f"{self.where}: column '{name}' holds {len(names)} different texts; name it in "
                    f"dataset.drop_columns, or in dataset.categorical to use it anyway"
                )
            rank = np.zeros(len(names) + 1, np.int32)  # code to id; the last entry is for code -1
            rank[[encoder.index[each] for each in names]] = np.arange(1, len(names) + 1)
            rows.ids[name], rows.categories[name] = rank[codes[self.rows]], names
        return rows

    def _set_fields(self) -> None:
        """Set `fields`, and the arrays that samples are taken from.

        matrix: (n, columns) float32 with NaN where missing. field_ids: (n,) category ids for each field.
        """
        rows = self.data
        self.fields = {}
        self.matrix: np.ndarray | None = None
        if rows.numbers:
            columns = list(rows.numbers.values())
            base = columns[0].base  # all are columns of one matrix unless the table was conformed
            shares = base is not None and all(column.base is base for column in columns)
            self.matrix = base if shares else np.stack(columns, axis=1)
            self.fields["numeric"] = Continuous((len(columns),), names=tuple(rows.numbers))
            if rows.has_missing:
                self.fields["missing"] = Discrete(len(columns), 2)
        self.field_ids: dict[str, np.ndarray] = {}
        for name, ids in rows.ids.items():
            field = _field_name(name, self.fields)
            self.fields[field] = Discrete(1, len(rows.categories[name]) + 1, ("", *rows.categories[name]))
            self.field_ids[field] = ids

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (columns,) float32, "missing": (columns,) 0 or 1, and a field (1,) for each category}.

        A missing number is 0 in "numeric". A missing or unknown category has id 0, the others follow in order.

        Raises:
            BadSample: a number is infinite.
        """
        inputs: dict[str, np.ndarray] = {}
        if self.matrix is not None:
            row = self.matrix[index]
            is_missing = np.isnan(row)
            if np.isinf(row).any():
                name = list(self.data.numbers)[int(np.flatnonzero(np.isinf(row))[0])]
                raise BadSample(f"column '{name}' holds infinity; fix it, or name the text of it in dataset.missing")
            inputs["numeric"] = np.where(is_missing, np.float32(0), row)
            if self.data.has_missing:
                inputs["missing"] = is_missing.astype(np.int64)
        for field, ids in self.field_ids.items():
            inputs[field] = ids[index : index + 1].astype(np.int64)
        return {"inputs": inputs, "label": self.label_of(index)}

    def schema(self) -> dict[str, Any]:
        """Names, kinds and categories of the columns, and the classes."""
        return schema_of(self.data, self.order, self.task.names if self.task else ())

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Match columns, categories and classes by name.

        Raises:
            DataError: a column seems to be renamed, or holds texts where numbers were.
        """
        if not schema.get("columns"):
            return
        self.data, notes = conform_rows(self.data, schema, self.where, self.empty, self.options)
        self.order = [column["name"] for column in schema["columns"]]
        self._set_fields()
        self.warnings += tuple(notes)
        conform_classes(self, schema)
        self.conformed = hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()
        self.summary = replace(self.summary, columns=_conformed(self.summary.columns, self.data))

    def fingerprint(self) -> str:
        """As of all the user's data, and of the schema that the rows conform to."""
        return f"{super().fingerprint()}:{self.conformed}" if self.conformed else super().fingerprint()


def _columns_of(reader: TableReader, rows: Rows) -> list[Column]:
    """What was read of each column of the file, in order."""
    role_of = {name: kind for kind, name in reader.metadata_columns.items()}
    columns, stats = [], column_stats(rows)
    for name in reader.reference.format.names:
        if role_of.get(name) == "id":
            columns.append(Column(name, "left out", "", why="names the rows"))
        elif name in role_of:
            columns.append(Column(name, role_of[name], "category" if reader.metadata.target() is None else "number"))  # type: ignore[arg-type]
        elif name in rows.numbers:
            shift, scale = rows.units[name]
            why = "" if (shift, scale) == (0, 1) else f"(x - {shift:.16g}) / {scale:g}"
            one = stats[name]
            extent = None if np.isnan(one.low) else (one.low * scale + shift, one.high * scale + shift)
            columns.append(Column(name, why=why, missing=one.missing, range=extent))
        elif name in rows.ids:
            missing = float((rows.ids[name] == 0).mean())
            columns.append(Column(name, "input", "category", rows.categories[name], missing=missing))
        else:
            why = reader.reference.left_out.get(name, "holds no value")
            why = "in dataset.drop_columns" if name in reader.options.drop_columns else why
            columns.append(Column(name, "left out", "", why=why))
    return columns


def _conformed(columns: tuple[Column, ...], rows: Rows) -> tuple[Column, ...]:
    """The columns of the file after the rows were conformed, then those that are absent."""
    out = []
    for column in columns:
        if column.role == "input" and column.name not in rows.numbers and column.name not in rows.ids:
            column = replace(column, role="left out", why="not used when the encoder was trained")
        elif column.role == "input" and column.name in rows.ids:
            column = replace(column, kind="category", categories=rows.categories[column.name])
        elif column.role == "input":
            column = replace(column, kind="number", categories=())
        out.append(column)
    known = {column.name for column in columns if column.role == "input"}
    out += [Column(name, why="absent, counts as missing") for name in rows.numbers if name not in known]
    out += [
        Column(name, "input", "category", rows.categories[name], "absent, counts as missing")
        for name in rows.ids
        if name not in known
    ]
    return tuple(out)


def _field_name(column: str, existing: Container[str]) -> str:
    """A field name for a categorical column: valid as a file name, and different from all existing fields."""
    name = re.sub(r"[^\w .()-]", "_", column).strip(" .") or "column"
    while name in ("numeric", "missing") or name in existing:
        name += " (column)"
    return name


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TableFiles]
