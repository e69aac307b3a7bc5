"""Own time series: long tables cut into windows, a file for each series, or arrays (n, channels, steps)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from ssl_core import Continuous, DataError, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets._io.file_listing import Item, sources
from ssl_plugins.datasets._io.npz import PACKED, Maps, Stack, unpack
from ssl_plugins.datasets._io.series_table import Moments, WindowPlaces, majority, means, spread
from ssl_plugins.datasets._io.splitting import LEFT_OUT, TEST, TRAIN, Marks, Said, check_classes
from ssl_plugins.datasets._io.tables import ENDINGS, MarkColumns, check_endings
from ssl_plugins.datasets._io.user_data import Places, RowOptions, UserData

NAMES = ("series", "data", "x", "X")


class SeriesFiles(UserData):
    """Your own time series: CSV or Parquet in long format, cut into windows, or .npy and .npz (n, channels, steps)."""

    modality = "time-series"

    class Options(RowOptions):
        """Options of own time series. In a table each row is one moment; without `id` each file is one series.

        Series of one id in several files are never on both sides of the split.
        """

        id: str | None = Field(None, description="column that names the series; by default the one called id")
        time: str | None = Field(
            None, description="column of numbers or sortable texts to order a series by; by default as the rows come"
        )
        channels: tuple[str, ...] = Field((), description="columns of the channels; by default all other numbers")
        drop_columns: tuple[str, ...] = Field((), description="columns not to use")
        window: int = Field(320, ge=2, description="rows of a window")
        stride: int | None = Field(None, ge=1, description="rows from one window to the next; by default `window`")
        label_share: float = Field(
            0.5, gt=0, le=1, description="share of a window's rows that must have one label; others are left out"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        items = sources(options.root, options.test_root, (*ENDINGS, *PACKED), options.label_pattern)
        check_endings(items, (*ENDINGS, *PACKED), "table or array of time series")
        self.parts: list[Stack | Maps] = []
        if all(item.path.suffix.lower() in PACKED for item in items):
            self._arrays(items)
        else:
            check_endings(items, ENDINGS, "table, as the other files are")
            self._windows(Moments(options, items))
        self.stamp([item.path for item in items])

    def _arrays(self, items: list[Item]) -> None:
        marks = MarkColumns(self.options.task)
        for item in items:
            self.parts += unpack(item.path, NAMES, item, marks)
        kinds: dict[tuple[int, ...], Path] = {}
        for part in self.parts:
            if isinstance(part, Maps):
                raise DataError(
                    f"{part.path} holds pixels, offset, height and width, which are maps of a wafer, no time series; "
                    f"name an array (n, channels, steps) {NAMES[0]}, or use --modality wafer"
                )
            if part.array.ndim not in (2, 3) or part.array.dtype.kind not in "uifb":
                raise DataError(
                    f"{part.path} holds {part.array.dtype} of shape {part.array.shape}; time series are arrays of "
                    f"numbers (n, channels, steps) or (n, steps)"
                )
            kinds.setdefault(part.array.shape[1:-1], part.path)
        if len(kinds) > 1:
            (one, path), (other, there) = list(kinds.items())[:2]
            raise DataError(
                f"{there}: samples are {_channels(other)}, those of {path} {_channels(one)}; mend or remove one"
            )
        shapes = {part.array.shape[1:] for part in self.parts if isinstance(part, Stack)}
        shape = min(shapes)
        self.places = Places([part.path for part in self.parts], np.cumsum([0, *map(len, self.parts)]), word="sample")
        self.settle(marks.said(self.places), target=marks.numbers())
        self.fields = {
            "series": Continuous((shape[0] if len(shape) == 2 else 1, shape[-1] if len(shapes) == 1 else None))
        }

    def _windows(self, moments: Moments) -> None:
        """Cut each series; hold out whole series where there are several, else the end of the one.

        Series of one id in several files are held out together.
        """
        options, window = self.options, self.options.window
        stride = options.stride or window
        counts = np.maximum(0, (moments.lengths - window) // stride + 1)
        if not counts.any():
            raise DataError(
                f"dataset.root {options.root}: no series has {window} rows, the longest has {moments.lengths.max()}; "
                f"lower dataset.window"
            )
        series = np.repeat(np.arange(len(counts)), counts)
        inside = (np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
        begin = moments.starts[series] + inside
        label, pure = None, np.ones(len(series), bool)
        if moments.label is not None:
            codes, share = majority(moments.label.codes, begin, window)
            label, pure = Marks(codes, moments.label.names), share >= options.label_share
        where = WindowPlaces(moments, begin, window)
        if not pure.any():
            raise DataError(
                f"{where(0)}: here and in all other windows less than {options.label_share:.0%} of the rows have one "
                f"label; lower dataset.label_share or window, or set dataset.task=number if labels are numbers"
            )
        said = Said(len(series), where, label)
        held = self._held(moments, series, inside, label)
        held[~pure] = LEFT_OUT
        check_classes(said, held)
        target = None if moments.target is None else means(moments.target, begin, window)
        self.settle(said, held=held, target=target, title=options.label or "label")
        if (~pure).any():
            self.warnings += (f"{int((~pure).sum())} of {len(pure)} windows of mixed labels are left out",)
        if short := int((counts == 0).sum()):
            self.warnings += (f"{short} of {len(counts)} series have less than {window} rows and are left out",)
        self.begin, self.values = begin[self.rows], moments.values
        self.fields = {"series": Continuous((moments.values.shape[1], window))}

    def _held(self, moments: Moments, series: np.ndarray, inside: np.ndarray, label: Marks | None) -> np.ndarray:
        """(n,) the division of the windows."""
        options, window = self.options, self.options.window
        firsts = moments.starts
        group, split = (
            None if mark is None else _whole(moments, mark, what)
            for what, mark in (("group", moments.group), ("split", moments.split))
        )
        usable = np.bincount(series, minlength=len(firsts)) > 0
        if group is None and split is None and moments.shared is not None:
            group = moments.shared.taken(firsts)  # one person in two files is one person
        said = Said(len(firsts), lambda i: moments.where(int(firsts[i])), None, group, split)
        if split is not None or group is not None or options.test_groups or options.train_groups:
            return spread(said, options, usable)[series]
        if usable.sum() > 1:
            if label is not None:
                low, high = np.full(len(firsts), 1 << 30), np.full(len(firsts), -1)
                np.minimum.at(low, series, label.codes)
                np.maximum.at(high, series, label.codes)
                if (low[usable] == high[usable]).all():  # then each class can keep its share
                    said = Said(said.count, said.where, Marks(np.where(usable, low, 0).astype(np.int32), label.names))
            return spread(said, options, usable)[series]
        length = moments.lengths[series]
        cut = np.floor(length * (1 - options.test_fraction)).astype(np.int64)
        return np.where(inside >= cut, TEST, np.where(inside + window <= cut, TRAIN, LEFT_OUT)).astype(np.int8)

    def __getitem__(self, index: int) -> Sample:
        """{"series": (channels, window) float32}; NaN where a value is missing."""
        if self.parts:
            number, place = self.places.part(int(self.rows[index]))
            x = np.atleast_2d(self.parts[number][place]).astype(np.float32)
        else:
            start = int(self.begin[index])
            x = np.ascontiguousarray(self.values[start : start + self.options.window].T)
        return {"inputs": {"series": x}, "label": self.label_of(index)}


def _channels(shape: tuple[int, ...]) -> str:
    """What to call the shape of a sample without its steps."""
    return f"of {shape[0]} channels" if shape else "without channels"


def _whole(moments: Moments, mark: Marks, what: str) -> Marks:
    """What is said of each series. Errors: DataError if it changes within one."""
    whole = mark.taken(moments.starts)
    changed = np.flatnonzero(mark.codes != np.repeat(whole.codes, moments.lengths))
    if len(changed):
        where = moments.where(int(changed[0]))
        raise DataError(f"{where}: the {what} changes within a series; name the series' column in dataset.id")
    return whole


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SeriesFiles]
