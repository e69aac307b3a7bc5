"""Reads long tables of time series, one row for each time point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_core import Column, DataError
from ssl_plugins.datasets._io.arrow import pa, pc
from ssl_plugins.datasets._io.files.listing import FileEntry, SampleLocations
from ssl_plugins.datasets._io.series.rows import Reading, Rows, SeriesRows, pivot
from ssl_plugins.datasets._io.series.time import TIME_NAMES, plain_name, sortable_times, time_unit
from ssl_plugins.datasets._io.splitting import Codes, DescribeRow, LabelEncoder
from ssl_plugins.datasets._io.tables.reader import NumberColumn, check_columns
from ssl_plugins.datasets._io.tables.row_metadata import (
    Block,
    MetadataCollector,
    Table,
    as_names,
    as_numbers,
    number_error,
    numeric_share,
)

MIN_ALTERNATION = 0.5  # share of rows whose text differs from that of the row before, as with readings of sensors


def read_series_table(options: Any, entries: Sequence[FileEntry]) -> SeriesRows:
    """All rows of some tables, sorted by series and then by time.

    Raises:
        ConfigError, DataError: an option does not fit the tables, or a value is no number.
    """
    reader = _Reader(options)
    tables = [Table.open(entry.path, options) for entry in entries]
    roles = [reader.roles(table) for table in tables]
    fullest, reference = max(zip(roles, tables, strict=True), key=lambda pair: len(pair[0]))
    check_columns(tables, reference, list(fullest.values()), fullest.get("label"), options.test_root)
    counts = [reader.read_file(entry, table) for entry, table in zip(entries, tables, strict=True)]
    if not sum(counts):
        raise DataError(f"{entries[0].path} has no rows")
    locations: DescribeRow = SampleLocations([entry.path for entry in entries], np.cumsum([0, *counts]))
    rows, reading = reader.rows(counts, locations), reader.reading()
    channels = reader.channels
    if reader.sensors is not None:
        sensor = reader.sensors.sorted_codes(f"value in '{options.pivot}'", locations)
        if sensor is None or rows.time is None:
            raise DataError(
                f"dataset.pivot={options.pivot} needs a column of times, whose rows are put side by side; name it in "
                f"dataset.time"
            )
        rows, channels, first = pivot(rows, sensor, channels, options.pivot)
        locations = _MomentLocations(locations, first)
        reading.columns += [Column(name, why=f"rows where '{options.pivot}' is {name}") for name in channels]
    units = reader.units * (len(channels) // len(reader.units))  # the columns of each sensor follow one another
    reading.units = {name: unit for name, unit in zip(channels, units, strict=True) if unit != (0.0, 1.0)}
    reading.warnings += [
        f"column '{name}' is read as (x - {shift:.16g}) / {scale:g}, to be exact in float32"
        for name, (shift, scale) in reading.units.items()
    ]
    table = SeriesRows(channels, rows, locations, reading, options.max_gap or "off", reader.time_unit, options.window)
    table.drop_empty_channels(options.dropping)
    return table


class _MomentLocations:
    """Names of moments that were put together from several rows: that of the first."""

    def __init__(self, locations: DescribeRow, first: np.ndarray) -> None:
        self.locations, self.first = locations, first

    def __call__(self, row: int) -> str:
        return self.locations(int(self.first[row]))


class _Reader:
    """Reads all files, block by block. The first block decides which columns are used, and as what."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.channels: list[str] = []
        self.blocks: list[np.ndarray] = []
        self.times: list[np.ndarray] = []
        self.metadata, self.ids = MetadataCollector(options.task), LabelEncoder()
        self.sensors = LabelEncoder() if options.pivot else None
        self.numbers: dict[str, NumberColumn] = {}
        self.units: list[tuple[float, float]] = []  # shift and scale of each channel
        self.columns: list[Column] = []
        self.tables: list[Table] = []
        self.doubts: list[str] = []
        self.time_columns: list[str] = []
        self.time_unit = ""

    def roles(self, table: Table) -> dict[str, str]:
        """The columns of label, group, split, id and pivot.

        Raises:
            DataError: the table lacks one that an option names.
        """
        options = self.options
        roles: dict[str, str] = table.metadata_columns(options.label, options.group, options.split)
        if options.id is not None:
            roles["id"] = table.require(options.id, "id")
        elif "id" in table.columns:
            roles["id"] = "id"
        if options.pivot is not None:
            roles["pivot"] = table.require(options.pivot, "pivot")
        return roles

    def read_file(self, entry: FileEntry, table: Table) -> int:
        """Read one file. Returns the number of its rows."""
        options, roles = self.options, self.roles(table)
        self.tables.append(table)
        first = not self.channels
        if first:
            self.time_columns = self._find_time(table, roles)
        for name in self.time_columns:
            table.require(name, "time")
        named = {*roles.values(), *self.time_columns, *options.drop_columns}
        channels = [name for name in table.columns if name not in named]
        if options.channels or self.channels:
            channels = [table.require(name, "channels") for name in options.channels or self.channels]
        count = 0
        for block in table.blocks(list(dict.fromkeys([*channels, *roles.values(), *self.time_columns]))):
            if not self.channels:
                channels = self._choose_channels(table, block, channels, roles)
            self._read_block(block, table, roles, count)
            start = count
            self.metadata.append(
                block,
                {kind: name for kind, name in roles.items() if kind in ("label", "group", "split")},
                entry,
                lambda row, start=start: f"{table.path} row {start + row + 1}",  # type: ignore[misc]
            )
            count += len(next(iter(block.values())))
        table.release()
        return count

    def _find_time(self, table: Table, roles: dict[str, str]) -> list[str]:
        """The column of times, or two columns of dates and times of day: the option, or those with such a name."""
        options = self.options
        if options.time == "rows" and "rows" not in table.columns:
            return []
        if options.time is not None:
            return [table.require(options.time, "time")]
        free = [
            name for name in table.columns if name not in (*roles.values(), *options.channels, *options.drop_columns)
        ]
        names = [name for name in free if plain_name(name) in TIME_NAMES]
        names += [name for name in free if name not in names and _is_date_type(table.types.get(name))]
        by_name = {plain_name(name): name for name in names}
        if "date" in by_name and "time" in by_name:
            return [by_name["date"], by_name["time"]]
        return names[:1]

    def _choose_channels(self, table: Table, block: Block, names: list[str], roles: dict[str, str]) -> list[str]:
        """Settle the role of each column by the first block of rows."""
        options, unread = self.options, list[str]()
        if self.time_columns and options.time is None:
            columns = [block[name] for name in self.time_columns]
            row = sortable_times(columns, options.time_format).first_invalid
            if row is not None:
                held = " ".join(str(column[row].as_py()) for column in columns)
                self.doubts.append(
                    f"{table.path} row {row + 1}: column '{' and '.join(self.time_columns)}' holds '{held:.40}', "
                    f"which is no number and no date such as 2024-01-31T12:00:00, so the rows keep their order; set "
                    f"dataset.time_format, e.g. to '%d/%m/%Y %H:%M:%S', or dataset.time=rows if the order is right"
                )
                unread, self.time_columns = self.time_columns, []
        used: list[str] = []
        role_of: dict[str, Any] = {name: kind for kind, name in roles.items()}
        if options.pivot is not None:
            role_of[options.pivot] = "left out"
        for name in table.columns:
            kind, why, role = "number", "", role_of.get(name)
            if name == options.pivot:
                kind, why = "category", "names the channel of each row"
            elif role is None and name in self.time_columns:
                role, kind = "time", "time"
                why = "" if options.time else "its name; name it in dataset.channels to use it as a channel"
            elif name in unread:
                role, kind, why = "left out", "text", "its times cannot be read"
            elif role is None and name not in names:
                role, why = "left out", "not in dataset.channels" if options.channels else "dataset.drop_columns"
            elif role is None and (options.channels or numeric_share(block[name]) > 0.5):
                role = "input"
                used.append(name)
            elif role is None:
                role, kind, why = "left out", "text", "not a number"
                self._doubt_text(table, name, block[name], roles)
            elif role != "time":
                kind = "category"
            self.columns.append(Column(name, role or "left out", kind, why=why))
        self.columns += [Column(name, "left out", why=why) for name, why in table.left_out.items()]
        if not used:
            raise DataError(f"{table.path} has no column of numbers; name the channels in dataset.channels")
        self.channels = list(options.channels) or used
        return self.channels

    def _doubt_text(self, table: Table, name: str, column: Any, roles: dict[str, str]) -> None:
        """Point out a column of a few texts, which may name channels, series or labels."""
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return
        texts = as_names(column)
        count, rows = pc.count_distinct(texts).as_py(), len(texts)
        if not 2 <= count <= rows / 2:
            return
        codes = texts.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        if np.mean(np.diff(codes) != 0) > MIN_ALTERNATION and not self.options.pivot:
            meaning, cure = "its rows are read as one channel", f"dataset.pivot={name} to give each its own channel"
        else:
            meaning = "it is not used"
            cure = f"dataset.id={name} if each names a series" if "id" not in roles else f"dataset.group={name}"
            cure += f", dataset.label={name} if they are labels" if "label" not in roles else ""
        self.doubts.append(
            f"{table.path}: column '{name}' holds {count} different texts, and {meaning}; set {cure}, or "
            f"{self.options.dropping(name)} to leave it out"
        )

    def _read_block(self, block: Block, table: Table, roles: dict[str, str], start: int) -> None:
        count = len(next(iter(block.values())))
        values = np.empty((count, len(self.channels)), np.float32)
        for channel, name in enumerate(self.channels):
            numbers, invalid = as_numbers(block[name])
            if invalid is not None:
                cure = "fix it, or name the column in dataset.drop_columns"
                raise number_error(table.path, start + invalid + 1, name, block[name][invalid].as_py(), cure)
            extent = np.fmin.reduce(numbers, initial=np.nan), np.fmax.reduce(numbers, initial=np.nan)
            self.numbers.setdefault(name, NumberColumn(name, unique=None)).append(numbers, len(self.blocks), *extent)
            with np.errstate(over="ignore"):  # the exact numbers are kept until their unit is chosen
                values[:, channel] = numbers
        self.blocks.append(values)
        for kind, encoder in (("id", self.ids), ("pivot", self.sensors)):
            if encoder is not None:
                if kind in roles:
                    encoder.append(as_names(block[roles[kind]]))
                else:
                    encoder.append_constant("file", count)
        if self.time_columns:
            columns = [block[name] for name in self.time_columns]
            times = sortable_times(columns, self.options.time_format)
            name = " and ".join(self.time_columns)
            if times.values is None:
                raise DataError(
                    f"{table.path}: column '{name}' is of type {columns[0].type}, not a number, date, time or text; "
                    f"set dataset.time=rows to keep the order of the rows"
                )
            if times.first_invalid is not None:
                row = times.first_invalid
                raise DataError(
                    f"{table.path} row {start + row + 1}: column '{name}' holds "
                    f"'{' '.join(str(column[row].as_py()) for column in columns):.60}', not a number and not a date "
                    f"such as 2024-01-31T12:00:00; fix it, set dataset.time_format, or set dataset.time=rows to keep "
                    f"the order of the rows"
                )
            self.time_unit = time_unit(times)
            self.times.append(times.values)

    def rows(self, counts: Sequence[int], locations: DescribeRow) -> Rows:
        """Everything that was read."""
        ids = self.ids.codes
        if (ids < 0).any():
            row = int(np.flatnonzero(ids < 0)[0])
            raise DataError(f"{locations(row)} has no {self.options.id or 'id'}; fill it in")
        file = np.repeat(np.arange(len(counts)), counts)
        keys, series = np.unique(file * (1 + int(ids.max())) + ids, return_inverse=True)
        names = self.ids.sorted_codes("id", locations)
        assert names is not None
        first = np.full(len(keys), len(series), np.int64)
        np.minimum.at(first, series, np.arange(len(series)))
        for channel, name in enumerate(self.channels):
            self.numbers[name].choose_units(self.blocks, channel)
        self.units = [(self.numbers[name].shift, self.numbers[name].scale) for name in self.channels]
        self.numbers.clear()
        values = np.concatenate(self.blocks)
        self.blocks.clear()
        return Rows(
            values,
            series,
            Codes(names.codes[first], names.names),
            self.metadata.metadata(locations),
            self.metadata.target(),
            np.concatenate(self.times) if self.times else None,
        )

    def reading(self) -> Reading:
        """What is said of the columns."""
        columns = self.columns
        if self.sensors is not None:
            columns = [
                Column(c.name, "left out", c.kind, why="read as the channels below") if c.role == "input" else c
                for c in columns
            ]
        facts = {"time": "column " + " and ".join(self.time_columns)} if self.time_columns else {}
        return Reading(columns, facts, [], self.doubts, self.tables)


def _is_date_type(kind: Any) -> bool:
    return kind is not None and (pa.types.is_timestamp(kind) or pa.types.is_date(kind))
