"""Time series as rows of channels: sorted by series and time, with gaps, repeated moments and sensors pivoted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ssl_core import Column, DataError
from ssl_plugins.datasets._io.splitting import Codes, DescribeRow, SampleMetadata
from ssl_plugins.datasets._io.summaries import ReadTable

BLOCK_ROWS = 1 << 18
GAP_STEPS = 10  # a step this many times longer than the usual one is a gap
GAP_SHARE = 0.25  # and at least this share of a window
REGULAR_QUANTILE = 0.95  # of regular data, this share of the steps is no longer than twice the usual one
REPEATED_ROWS = 20  # rows for each time that the time starts again, in data that are not shuffled
ALIKE_SHARE = 0.9  # share of moments with equally many rows from which on the rows are of several series


@dataclass
class Rows:
    """Rows as they were read. time: (rows,) float64 or None. series: (rows,) number of the series of each row.

    series_id: the id of each series number, in order.
    """

    values: np.ndarray
    series: np.ndarray
    series_id: Codes
    metadata: SampleMetadata
    target: np.ndarray | None = None
    time: np.ndarray | None = None


@dataclass
class Reading:
    """What is said of the data.

    columns: in the order of the file. facts, warnings and doubts: lines for the header. tables: the tables read.
    units: shift and scale of the channels whose values are (x - shift) / scale.
    """

    columns: list[Column] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    tables: Sequence[ReadTable] = ()
    units: dict[str, tuple[float, float]] = field(default_factory=dict)


class SeriesRows:
    """All rows of some files, sorted by series and then by time.

    channels: their names.
    values: (rows, channels) float32.
    starts, lengths: (series,) first row and number of rows of each series.
    piece_starts, piece_lengths, piece_series: (pieces,) the same of the parts without a gap, and the series of each.
    order: (rows,) index of each row before sorting.
    label, group, split: metadata of each row, or None.
    target: (rows,) float64 numeric labels, or None.
    series_id: id of each series. Several files may hold series of one id, such as a person on two days.
    rate: samples per second, if the format gives it.
    step: median of the steps of time within a series and its unit, if there is a time.
    """

    step: tuple[float, str] | None = None

    def __init__(
        self,
        channels: list[str],
        rows: Rows,
        locations: DescribeRow,
        reading: Reading,
        max_gap: float | Literal["auto", "off"] = "auto",
        time_unit: str = "",
        window: int = 0,
        rate: float | None = None,
    ) -> None:
        self.channels, self.locations, self.reading, self.rate = channels, locations, reading, rate
        time = np.arange(len(rows.series), dtype=np.float64) if rows.time is None else rows.time
        self.order = np.lexsort((time, rows.series))
        series = rows.series[self.order]
        self.starts = np.flatnonzero(np.diff(series, prepend=-1))
        self.lengths = np.diff(np.append(self.starts, len(series)))
        is_sorted = bool((np.diff(self.order) > 0).all())
        self.values = rows.values if is_sorted else rows.values[self.order]
        metadata = rows.metadata.take(self.order)
        self.label, self.group, self.split = metadata.label, metadata.group, metadata.split
        self.target = None if rows.target is None else rows.target[self.order]
        self.series_id = rows.series_id.take(series[self.starts])
        self.piece_starts, self.piece_lengths = self.starts, self.lengths
        self.piece_series = np.arange(len(self.starts))
        if rows.time is not None:
            if not is_sorted:
                reading.facts["order"] = "rows are sorted by time"
            self._look_for_several_series(rows.time, rows.series)
            self._look_at_time(time[self.order], max_gap, time_unit, window)

    def describe(self, row: int) -> str:
        """File and row of one of the sorted rows."""
        return self.locations(int(self.order[row]))

    def _look_at_time(self, time: np.ndarray, max_gap: float | str, unit: str, window: int) -> None:
        """Report repeated moments and gaps, and cut the series at gaps."""
        if len(time) < 2:
            return
        steps = np.diff(time)
        within = np.ones(len(steps), bool)  # steps between rows of one series
        within[self.starts[1:] - 1] = False
        inner = steps[within]
        if not len(inner):
            return
        repeated = int((inner == 0).sum())
        rows_at = np.diff(np.append(np.flatnonzero(~within_moment(steps, within)), len(time)))  # of each moment
        count = int(np.bincount(rows_at).argmax())
        if count > 1 and (rows_at == count).mean() > ALIKE_SHARE:
            row = int(np.flatnonzero(within & (steps == 0))[0]) + 1
            self.reading.doubts.append(
                f"each time is that of {count} rows, e.g. {self.describe(row)}, so several series seem to be mixed; "
                f"name their column in dataset.id, or the column of the channel in dataset.pivot, or set "
                f"dataset.time=rows to keep the order of the rows"
            )
        elif repeated:
            self.reading.warnings.append(f"{repeated} rows have the time of another row of their series")
        usual = float(np.median(inner[inner > 0])) if (inner > 0).any() else 0.0
        if not usual:
            return
        self.step = (usual, unit)
        self.reading.facts["step"] = f"{usual:.6g}{unit} in the median, {inner.max():.6g}{unit} at most"
        if not isinstance(max_gap, str):
            self._cut(np.flatnonzero(within & (steps > max_gap)), max_gap, unit)
            return
        long = max(GAP_STEPS, window * GAP_SHARE) * usual
        gaps = np.flatnonzero(within & (steps > long))
        regular = np.quantile(inner, REGULAR_QUANTILE) <= 2 * usual
        if len(gaps) and regular and max_gap == "auto":
            self.reading.doubts.append(
                f"time has {len(gaps)} gap{'s' * (len(gaps) > 1)} of up to {steps[gaps].max():.6g}{unit}, where the "
                f"usual step is {usual:.6g}{unit}, e.g. after {self.describe(int(gaps[0]))}; set "
                f"dataset.max_gap={long:.6g} to let no window cross them, or dataset.max_gap=off"
            )

    def _look_for_several_series(self, time: np.ndarray, series: np.ndarray) -> None:
        """Point out times that start again, as where series follow each other without an id. In the file's order."""
        starts_again = (np.diff(time) < 0) & (np.diff(series) == 0)
        runs = int(starts_again.sum()) + 1
        if runs < 2 or runs > len(time) / REPEATED_ROWS:
            return  # in order, or shuffled
        run = np.concatenate([[0], np.cumsum(starts_again)])[self.order]
        if (np.diff(run) != 0).sum() > 2 * len(self.starts) * runs:  # the runs are at the same times
            row = int(np.flatnonzero(starts_again)[0]) + 1
            self.reading.doubts.append(
                f"time starts again {runs - 1} times, e.g. at {self.locations(row)}, so several series seem to follow "
                f"each other; name their column in dataset.id, or set dataset.time=rows to keep the order of the rows"
            )

    def _cut(self, last_rows: np.ndarray, max_gap: float, unit: str) -> None:
        """Start a new piece after each of these rows."""
        starts = np.union1d(self.starts, last_rows + 1)
        self.piece_starts = starts
        self.piece_lengths = np.diff(np.append(starts, len(self.values)))
        self.piece_series = np.searchsorted(self.starts, starts, side="right") - 1
        self.reading.facts["gaps"] = f"{len(last_rows)} longer than {max_gap:g}{unit}; no window crosses one"

    def drop_empty_channels(self, dropping: Callable[..., str]) -> None:
        """Leave out the channels without any value. dropping: as of `TableOptions`.

        Raises:
            DataError: no channel has a value.
        """
        empty = np.isnan(self.values).all(axis=0)
        if not empty.any():
            return
        names = [name for name, is_empty in zip(self.channels, empty, strict=True) if is_empty]
        if empty.all():
            raise DataError(f"{self.describe(0)}: no channel holds a number in any row ({', '.join(names):.200})")
        self.reading.doubts.append(
            f"column{'s' * (len(names) > 1)} {', '.join(repr(name) for name in names):.200} hold no number in any row, "
            f"and are left out; set {dropping(*names)} if that is right"
        )
        self.reading.columns = [
            replace(column, role="left out", why="no value in any row") if column.name in names else column
            for column in self.reading.columns
        ]
        self.channels = [name for name in self.channels if name not in names]
        self.values = np.ascontiguousarray(self.values[:, ~empty])

    def constant_channels(self) -> list[str]:
        """Names of the channels whose values are all the same."""
        low, high = np.fmin.reduce(self.values, axis=0), np.fmax.reduce(self.values, axis=0)
        return [name for name, is_same in zip(self.channels, low == high, strict=True) if is_same]

    def means(self, begin: np.ndarray, window: int) -> list[float]:
        """Mean of each channel over all rows of the windows that begin at these rows; 0 without a value."""
        edges = np.zeros(len(self.values) + 1, np.int64)
        np.add.at(edges, begin, 1)
        np.add.at(edges, begin + window, -1)
        used = np.cumsum(edges[:-1]) > 0
        sums, counts = np.zeros(self.values.shape[1]), np.zeros(self.values.shape[1])
        for start in range(0, len(self.values), BLOCK_ROWS):
            block = self.values[start : start + BLOCK_ROWS][used[start : start + BLOCK_ROWS]]
            sums += np.nansum(block, axis=0, dtype=np.float64)
            counts += (~np.isnan(block)).sum(axis=0)
        return [float(x) for x in sums / np.maximum(counts, 1)]


def within_moment(steps: np.ndarray, within: np.ndarray) -> np.ndarray:
    """(rows,) bool: whether a row has the series and the time of the row before."""
    return np.concatenate([[False], (steps == 0) & within])


def pivot(rows: Rows, sensor: Codes, names: list[str], column: str) -> tuple[Rows, list[str], np.ndarray]:
    """One row for each moment of a series, with the readings of each sensor as channels of their own.

    Args:
        rows: one reading a row; `time` is set.
        sensor: the sensor of each row.
        names: names of the columns of `rows.values`.
        column: name of the column of sensors.

    Returns:
        The rows, the names of their channels, and the first of the original rows of each.

    Raises:
        DataError: no two rows share a moment.
    """
    assert rows.time is not None
    order = np.lexsort((rows.time, rows.series))
    time, series = rows.time[order], rows.series[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(time) != 0) | (np.diff(series) != 0)
    moment = np.empty(len(order), np.int64)
    moment[order] = np.cumsum(is_new) - 1
    count, width = int(is_new.sum()), rows.values.shape[1]
    if count == len(order) and len(sensor.names) > 1:
        raise DataError(
            f"dataset.pivot={column}: no two rows have the same time, so the readings of different sensors cannot be "
            f"put side by side; resample them to common times, or leave dataset.pivot out"
        )
    sums = np.zeros((count, len(sensor.names), width), np.float64)
    counts = np.zeros_like(sums, dtype=np.int32)
    valid = ~np.isnan(rows.values)
    np.add.at(sums, (moment, sensor.codes), np.where(valid, rows.values, 0))
    np.add.at(counts, (moment, sensor.codes), valid)
    with np.errstate(invalid="ignore"):
        values = np.where(counts > 0, sums / counts, np.nan).reshape(count, -1).astype(np.float32)
    first = np.full(count, len(order), np.int64)
    np.minimum.at(first, moment, np.arange(len(order)))
    channels = [name if width == 1 else f"{name} {value}" for name in sensor.names for value in names]
    target = None if rows.target is None else rows.target[first]
    pivoted = Rows(values, rows.series[first], rows.series_id, rows.metadata.take(first), target, rows.time[first])
    return pivoted, channels, first
