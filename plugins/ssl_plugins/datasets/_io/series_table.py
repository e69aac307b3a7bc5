"""Long tables of time series, a row a moment: channels, series, order, and what is said of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.file_listing import Item
from ssl_plugins.datasets._io.splitting import LEFT_OUT, Coder, Marks, Said, Where, divide_rows
from ssl_plugins.datasets._io.tables import (
    Block,
    MarkColumns,
    Table,
    names_of,
    number_error,
    numbers,
    share_of_numbers,
)
from ssl_plugins.datasets._io.user_data import Places, UserDataOptions

MET = 1 << 21  # rows of windows looked at together


class Moments:
    """All rows of some tables, series behind series, each in the order of time.

    values: (rows, channels) float32. starts, lengths: (series,) the rows of each. order: (rows,) where each row stood.
    target: (rows,) float64, the labels if they are numbers. shared: (rows,) whose a row is, if several files hold
    series of one id: a person on two days.
    """

    def __init__(self, options: Any, items: Sequence[Item]) -> None:
        self.options = options
        self.channels: list[str] = []
        self.blocks: list[np.ndarray] = []
        self.times: list[np.ndarray] = []
        self.marks, self.ids = MarkColumns(options.task), Coder()
        files: list[np.ndarray] = []
        for number, item in enumerate(items):
            files.append(np.full(self._file(item), number, np.int64))
        counts = [len(file) for file in files]
        if not sum(counts):
            raise DataError(f"{items[0].path} has no rows")
        self.row_places = Places([item.path for item in items], np.cumsum([0, *counts]))
        ids = self.ids.codes
        if (ids < 0).any():
            raise DataError(
                f"{self.row_places(int(np.flatnonzero(ids < 0)[0]))} has no {options.id or 'id'}; fill it in"
            )
        key = np.concatenate(files) * (1 + int(ids.max())) + ids
        time = np.concatenate(self.times) if self.times else np.arange(len(key))
        self.order = np.lexsort((time, key))
        self.starts = np.flatnonzero(np.diff(key[self.order], prepend=-1))
        self.lengths = np.diff(np.append(self.starts, len(key)))
        self.values = np.concatenate(self.blocks)[self.order]
        self.blocks.clear()
        said = self.marks.said(self.row_places)
        marks = [None if mark is None else mark.taken(self.order) for mark in (said.label, said.group, said.split)]
        self.label, self.group, self.split = marks
        target = self.marks.numbers()
        self.target = None if target is None else target[self.order]
        owners = ids[self.order]
        several = len(self.ids.known) > 1 and len(np.unique(owners[self.starts])) < len(self.starts)
        shared = self.ids.marks("id", self.row_places) if several else None
        self.shared = None if shared is None else shared.taken(self.order)

    def where(self, row: int) -> str:
        """File and row of one of the ordered rows."""
        return self.row_places(int(self.order[row]))

    def _file(self, item: Item) -> int:
        options = self.options
        table = Table(item.path, options.columns, options.delimiter)
        columns = table.marks(options.label, options.group, options.split)
        named = {what: table.require(name, what) for what in ("id", "time") if (name := getattr(options, what))}
        if "id" not in named and "id" in table.columns:
            named["id"] = "id"
        apart = {*columns.values(), *named.values(), *options.drop_columns}
        wanted = [name for name in table.columns if name not in apart]
        if options.channels or self.channels:
            wanted = [table.require(name, "channels") for name in options.channels or self.channels]
        before = 0
        for block in table.blocks(list(dict.fromkeys([*wanted, *columns.values(), *named.values()]))):
            count = len(next(iter(block.values())))
            if not self.channels:
                self.channels = [n for n in wanted if options.channels or share_of_numbers(block[n]) > 0.5]
                if not self.channels:
                    raise DataError(f"{item.path} has no column of numbers; name the channels in dataset.channels")
                wanted = self.channels
            self._block(block, table, item, columns, named, before)
            before += count
        return before

    def _block(
        self, block: Block, table: Table, item: Item, columns: dict[str, str], named: dict[str, str], before: int
    ) -> None:
        count = len(next(iter(block.values())))
        values = np.empty((count, len(self.channels)), np.float32)
        for place, name in enumerate(self.channels):
            values[:, place], wrong = numbers(block[name])
            if wrong is not None:
                cure = "mend it, or name the column in dataset.drop_columns"
                raise number_error(table.path, before + wrong + 1, name, block[name][wrong].as_py(), cure)
        self.blocks.append(values)
        if "id" in named:
            self.ids.add(names_of(block[named["id"]]))
        else:
            self.ids.say("file", count)
        if "time" in named:
            self.times.append(_time(block[named["time"]], named["time"], table, before))
        self.marks.add(block, columns, item, lambda row: f"{table.path} row {before + row + 1}")


def _time(column: Any, name: str, table: Table, before: int) -> np.ndarray:
    """(n,) float64 that sort as the moments do: numbers, dates, times or durations. Errors: DataError with the row."""
    if pa.types.is_temporal(column.type):  # Arrow keeps each as a number, which not all casts turn into a float
        wide = column.type.bit_width == 64
        values = column.cast(pa.int64() if wide else pa.int32()).cast(pa.float64(), safe=False)
        values = values.to_numpy(zero_copy_only=False)
    elif np.isnan(share_of_numbers(column)):
        raise DataError(
            f"{table.path}: column '{name}' is of type {column.type}, no number, date, time or text; leave "
            f"dataset.time out to take the rows as they come"
        )
    else:
        values, wrong = numbers(column)
        if wrong is not None and share_of_numbers(column) <= 0.5:
            import pandas as pd  # slow to import

            dates = pd.to_datetime(column.to_pandas(), errors="coerce", format="ISO8601", utc=True)
            known = dates.notna().to_numpy()
            values = np.where(known, dates.dt.tz_localize(None).to_numpy("datetime64[ns]").astype(np.float64), np.nan)
    gone = np.flatnonzero(~np.isfinite(values))
    if len(gone):
        row = int(gone[0])
        raise DataError(
            f"{table.path} row {before + row + 1}: column '{name}' holds '{column[row].as_py()}', no number and no "
            f"date as 2024-01-31T12:00:00; mend it, or leave dataset.time out to take the rows as they come"
        )
    return values


def majority(codes: np.ndarray, begin: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each window the most frequent class (n,) int32, of equally frequent ones the first, and its share (n,).

    A window is looked at as the runs of equal rows that it meets: few where labels last, at most `window`.
    """
    edges = np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))  # run i is rows edges[i]:edges[i + 1]
    best, most = np.zeros(len(begin), np.int32), np.zeros(len(begin), np.int64)
    step = max(1, MET // window)
    for some in range(0, len(begin), step):
        start = begin[some : some + step]
        first = np.searchsorted(edges, start, side="right") - 1
        met = np.searchsorted(edges, start + window, side="left") - first
        place = np.repeat(np.arange(len(start)), met)
        run = np.arange(len(place)) + np.repeat(first - np.cumsum(met) + met, met)
        rows = np.minimum(edges[run + 1], start[place] + window) - np.maximum(edges[run], start[place])
        code = codes[edges[run]]
        order = np.lexsort((code, place))
        place, code, rows = place[order], code[order], rows[order]
        new = np.flatnonzero((np.diff(place, prepend=-1) != 0) | (np.diff(code, prepend=-1) != 0))
        place, code, rows = place[new], code[new], np.add.reduceat(rows, new)
        order = np.lexsort((code, -rows, place))
        order = order[np.diff(place[order], prepend=-1) != 0]  # the first of each window
        best[some : some + step], most[some : some + step] = code[order], rows[order]
    return best, most / window


def means(target: np.ndarray, begin: np.ndarray, window: int) -> np.ndarray:
    """(n,) of each window the mean of its rows' numbers."""
    found = np.empty(len(begin))
    rows = np.lib.stride_tricks.sliding_window_view(target, window)
    step = max(1, MET // window)
    for some in range(0, len(begin), step):
        found[some : some + step] = rows[begin[some : some + step]].mean(axis=1)
    return found


def spread(said: Said, options: UserDataOptions, usable: np.ndarray) -> np.ndarray:
    """The division of the usable series; the others are left out."""
    some = np.flatnonzero(usable)

    def taken(mark: Marks | None) -> Marks | None:
        return None if mark is None else mark.taken(some)

    def where(row: int) -> str:
        return said.where(int(some[row]))

    group = taken(said.group)
    if group is not None and not (options.test_groups or options.train_groups):
        group = group.used()  # or those held out might be some without a window
    part = Said(len(some), where, taken(said.label), group, taken(said.split))
    held = np.full(said.count, LEFT_OUT, np.int8)
    held[some] = divide_rows(part, options.test_fraction, options.test_groups, options.train_groups)
    return held


class WindowPlaces:
    """What to call a window: the file, and its first row and last."""

    def __init__(self, moments: Moments, begin: np.ndarray, window: int) -> None:
        self.places: Where = moments.row_places
        self.first, self.last = moments.order[begin], moments.order[begin + window - 1]

    def __call__(self, row: int) -> str:
        last = self.places(int(self.last[row])).rsplit(" ", 1)[1]
        return f"{self.places(int(self.first[row]))} to {last}"
