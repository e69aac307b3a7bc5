"""Reads long tables of time series, one row for each time point, and labels their windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.file_listing import FileEntry, SampleLocations
from ssl_plugins.datasets._io.splitting import LabelEncoder
from ssl_plugins.datasets._io.tables import (
    Block,
    MetadataCollector,
    Table,
    as_names,
    as_numbers,
    number_error,
    numeric_share,
)

MAX_BLOCK_ROWS = 1 << 21  # rows of windows to process at once


class SeriesTable:
    """All rows of some tables, sorted by series and then by time.

    values: (rows, channels) float32.
    starts, lengths: (series,) first row and number of rows of each series.
    order: (rows,) index of each row before sorting.
    label, group, split: metadata of each row, or None.
    target: (rows,) float64 numeric labels, or None.
    series_id: id of each series. Several files may hold series of one id, such as a person on two days.
    """

    def __init__(self, options: Any, entries: Sequence[FileEntry]) -> None:
        self.options = options
        self.channels: list[str] = []
        self.blocks: list[np.ndarray] = []
        self.times: list[np.ndarray] = []
        self.metadata, self.ids = MetadataCollector(options.task), LabelEncoder()
        counts = [self._read_file(entry) for entry in entries]
        if not sum(counts):
            raise DataError(f"{entries[0].path} has no rows")
        self.locations = SampleLocations([entry.path for entry in entries], np.cumsum([0, *counts]))
        ids = self.ids.codes
        if (ids < 0).any():
            raise DataError(
                f"{self.locations(int(np.flatnonzero(ids < 0)[0]))} has no {options.id or 'id'}; fill it in"
            )
        series_key = np.repeat(np.arange(len(counts)), counts) * (1 + int(ids.max())) + ids
        time = np.concatenate(self.times) if self.times else np.arange(len(series_key))
        self.order = np.lexsort((time, series_key))
        self.starts = np.flatnonzero(np.diff(series_key[self.order], prepend=-1))
        self.lengths = np.diff(np.append(self.starts, len(series_key)))
        self.values = np.concatenate(self.blocks)[self.order]
        self.blocks.clear()
        metadata = self.metadata.metadata(self.locations).take(self.order)
        self.label, self.group, self.split = metadata.label, metadata.group, metadata.split
        target = self.metadata.target()
        self.target = None if target is None else target[self.order]
        series_id = self.ids.sorted_codes("id", self.locations)
        assert series_id is not None
        self.series_id = series_id.take(self.order[self.starts])

    def describe(self, row: int) -> str:
        """File and row of one of the sorted rows."""
        return self.locations(int(self.order[row]))

    def _read_file(self, entry: FileEntry) -> int:
        """Read one file. Returns the number of its rows."""
        options = self.options
        table = Table.open(entry.path, options)
        metadata_columns = table.metadata_columns(options.label, options.group, options.split)
        index_columns = {kind: table.require(name, kind) for kind in ("id", "time") if (name := getattr(options, kind))}
        if "id" not in index_columns and "id" in table.columns:
            index_columns["id"] = "id"
        not_channels = {*metadata_columns.values(), *index_columns.values(), *options.drop_columns}
        channels = [name for name in table.columns if name not in not_channels]
        if options.channels or self.channels:
            channels = [table.require(name, "channels") for name in options.channels or self.channels]
        count = 0
        for block in table.blocks(
            list(dict.fromkeys([*channels, *metadata_columns.values(), *index_columns.values()]))
        ):
            if not self.channels:
                self.channels = [name for name in channels if options.channels or numeric_share(block[name]) > 0.5]
                if not self.channels:
                    raise DataError(f"{entry.path} has no column of numbers; name the channels in dataset.channels")
                channels = self.channels
            self._read_block(block, table, index_columns, count)
            start = count
            self.metadata.append(
                block,
                metadata_columns,
                entry,
                lambda row, start=start: f"{table.path} row {start + row + 1}",  # type: ignore[misc]
            )
            count += len(next(iter(block.values())))
        return count

    def _read_block(self, block: Block, table: Table, index_columns: dict[str, str], start: int) -> None:
        count = len(next(iter(block.values())))
        values = np.empty((count, len(self.channels)), np.float32)
        for channel, name in enumerate(self.channels):
            values[:, channel], invalid = as_numbers(block[name])
            if invalid is not None:
                cure = "fix it, or name the column in dataset.drop_columns"
                raise number_error(table.path, start + invalid + 1, name, block[name][invalid].as_py(), cure)
        self.blocks.append(values)
        if "id" in index_columns:
            self.ids.append(as_names(block[index_columns["id"]]))
        else:
            self.ids.append_constant("file", count)
        if "time" in index_columns:
            self.times.append(_sortable_times(block[index_columns["time"]], index_columns["time"], table, start))


def _sortable_times(column: Any, name: str, table: Table, start: int) -> np.ndarray:
    """(n,) float64 in the order of the times: numbers, dates, times of day or durations."""
    if pa.types.is_temporal(column.type):  # not every temporal type casts to a float, but all cast to an integer
        is_64_bit = column.type.bit_width == 64
        values = column.cast(pa.int64() if is_64_bit else pa.int32()).cast(pa.float64(), safe=False)
        values = values.to_numpy(zero_copy_only=False)
    elif np.isnan(numeric_share(column)):
        raise DataError(
            f"{table.path}: column '{name}' is of type {column.type}, not a number, date, time or text; leave "
            f"dataset.time out to keep the order of the rows"
        )
    else:
        values, invalid = as_numbers(column)
        if invalid is not None and numeric_share(column) <= 0.5:
            import pandas as pd  # slow to import

            dates = pd.to_datetime(column.to_pandas(), errors="coerce", format="ISO8601", utc=True)
            valid = dates.notna().to_numpy()
            values = np.where(valid, dates.dt.tz_localize(None).to_numpy("datetime64[ns]").astype(np.float64), np.nan)
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        row = int(missing[0])
        raise DataError(
            f"{table.path} row {start + row + 1}: column '{name}' holds '{column[row].as_py()}', not a number and not "
            f"a date such as 2024-01-31T12:00:00; fix it, or leave dataset.time out to keep the order of the rows"
        )
    return values


def majority_labels(codes: np.ndarray, begin: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent class of each window, and its share of the rows.

    Ties go to the smallest code. The cost depends on the runs of equal labels in a window, not on its rows.

    Args:
        codes: (rows,) class of each row.
        begin: (n,) first row of each window.
        window: rows of a window.

    Returns:
        (n,) int32 classes and (n,) float64 shares.
    """
    edges = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))  # run i is rows edges[i]:edges[i + 1]
    labels, counts = np.zeros(len(begin), np.int32), np.zeros(len(begin), np.int64)
    step = max(1, MAX_BLOCK_ROWS // window)
    for offset in range(0, len(begin), step):
        start = begin[offset : offset + step]
        first_run = np.searchsorted(edges, start, side="right") - 1
        run_count = np.searchsorted(edges, start + window, side="left") - first_run
        # one entry for each pair of a window and a run that overlap
        index = np.repeat(np.arange(len(start)), run_count)
        run = np.arange(len(index)) + np.repeat(first_run - np.cumsum(run_count) + run_count, run_count)
        overlap = np.minimum(edges[run + 1], start[index] + window) - np.maximum(edges[run], start[index])
        code = codes[edges[run]]
        # sum the overlaps of each class in each window
        order = np.lexsort((code, index))
        index, code, overlap = index[order], code[order], overlap[order]
        first = np.flatnonzero((np.diff(index, prepend=-1) != 0) | (np.diff(code, prepend=-1) != 0))
        index, code, overlap = index[first], code[first], np.add.reduceat(overlap, first)
        # the largest sum comes first within its window
        order = np.lexsort((code, -overlap, index))
        order = order[np.diff(index[order], prepend=-1) != 0]
        labels[offset : offset + step], counts[offset : offset + step] = code[order], overlap[order]
    return labels, counts / window


def window_means(target: np.ndarray, begin: np.ndarray, window: int) -> np.ndarray:
    """(n,) mean of `target` (rows,) over the rows of each window."""
    means = np.empty(len(begin))
    windows = np.lib.stride_tricks.sliding_window_view(target, window)
    step = max(1, MAX_BLOCK_ROWS // window)
    for offset in range(0, len(begin), step):
        means[offset : offset + step] = windows[begin[offset : offset + step]].mean(axis=1)
    return means


class WindowLocations:
    """Called with a window's index, returns its file, first row and last row."""

    def __init__(self, table: SeriesTable, begin: np.ndarray, window: int) -> None:
        self.locations = table.locations
        self.first, self.last = table.order[begin], table.order[begin + window - 1]

    def __call__(self, row: int) -> str:
        last = self.locations(int(self.last[row])).rsplit(" ", 1)[1]
        return f"{self.locations(int(self.first[row]))} to {last}"
