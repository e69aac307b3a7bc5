"""The user's time series: long tables cut into windows, a file for each series, or arrays (n, channels, steps)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from ssl_core import Continuous, DataError, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets._io.file_listing import TABLE_EXTENSIONS, FileEntry, SampleLocations, list_sources
from ssl_plugins.datasets._io.npz import ARRAY_EXTENSIONS, RaggedMaps, SampleArray, read_arrays
from ssl_plugins.datasets._io.series_table import SeriesTable, WindowLocations, majority_labels, window_means
from ssl_plugins.datasets._io.splitting import (
    EXCLUDED,
    TRAIN,
    Codes,
    SampleMetadata,
    check_split,
    needs_test_split,
    split_by_name,
    wants_validation,
)
from ssl_plugins.datasets._io.tables import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

EXTENSIONS = (*TABLE_EXTENSIONS, *ARRAY_EXTENSIONS)
ARRAY_KEYS = ("series", "data", "x", "X")


class SeriesFiles(UserData):
    """Your own time series: CSV or Parquet in long format, cut into windows, or .npy and .npz (n, channels, steps)."""

    modality = "time-series"

    class Options(RowOptions):
        """Options of the user's time series. Each row of a table is one time point; without `id` a file is one series.

        Series of one id in several files are always in the same split.
        """

        id: str | None = Field(None, description="column that names the series; by default the one called id")
        time: str | None = Field(
            None, description="column of numbers or dates to sort a series by; by default the order of the rows"
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
        entries = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, options)
        check_extensions(entries, EXTENSIONS, "table or array of time series")
        self.arrays: list[SampleArray | RaggedMaps] = []
        if all(entry.path.suffix.lower() in ARRAY_EXTENSIONS for entry in entries):
            self._read_arrays(entries)
        else:
            check_extensions(entries, TABLE_EXTENSIONS, "table, as the other files are")
            self._cut_windows(SeriesTable(options, entries))
        self.record_files(entry.path for entry in entries)
        self.record_summary(entries)

    def _read_arrays(self, entries: list[FileEntry]) -> None:
        metadata = MetadataCollector(self.options.task)
        for entry in entries:
            self.arrays += read_arrays(entry.path, ARRAY_KEYS, entry, metadata)
        path_of: dict[tuple[int, ...], Path] = {}  # by the shape without samples and steps
        for array in self.arrays:
            if isinstance(array, RaggedMaps):
                raise DataError(
                    f"{array.path} holds pixels, offset, height and width, which are wafer maps, not time series; name "
                    f"an array (n, channels, steps) {ARRAY_KEYS[0]}, or use --modality wafer"
                )
            if array.array.ndim not in (2, 3) or array.array.dtype.kind not in "uifb":
                raise DataError(
                    f"{array.path} holds {array.array.dtype} of shape {array.array.shape}; time series are arrays of "
                    f"numbers (n, channels, steps) or (n, steps)"
                )
            path_of.setdefault(array.array.shape[1:-1], array.path)
        if len(path_of) > 1:
            (first, first_path), (second, second_path) = list(path_of.items())[:2]
            raise DataError(
                f"{second_path}: samples are {_channels(second)}, those of {first_path} {_channels(first)}; fix or "
                f"remove one"
            )
        shapes = {shape for array in self.arrays for shape in array.shapes}
        shape = min(shapes)
        self.locations = SampleLocations(
            [array.path for array in self.arrays], np.cumsum([0, *map(len, self.arrays)]), unit="sample"
        )
        self.assign_split(metadata.metadata(self.locations), target=metadata.target())
        steps = shape[-1] if len(shapes) == 1 else None
        self.fields = {"series": Continuous((shape[0] if len(shape) == 2 else 1, steps))}

    def _cut_windows(self, table: SeriesTable) -> None:
        """Cut all series into windows, label them and assign the split."""
        options, window = self.options, self.options.window
        stride = options.stride or window
        counts = np.maximum(0, (table.lengths - window) // stride + 1)
        if not counts.any():
            raise DataError(
                f"dataset.root {options.root}: no series has {window} rows, the longest has {table.lengths.max()}; "
                f"lower dataset.window"
            )
        series = np.repeat(np.arange(len(counts)), counts)
        offset = (np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
        begin = table.starts[series] + offset
        label, is_labelled = None, np.ones(len(series), bool)
        if table.label is not None:
            codes, share = majority_labels(table.label.codes, begin, window)
            label, is_labelled = Codes(codes, table.label.names), share >= options.label_share
        locations = WindowLocations(table, begin, window)
        if not is_labelled.any():
            raise DataError(
                f"{locations(0)}: here and in all other windows less than {options.label_share:.0%} of the rows have "
                f"one label; lower dataset.label_share or window, or set dataset.task=number if labels are numbers"
            )
        metadata = SampleMetadata(len(series), locations, label)
        split = self._split_windows(table, series, offset, label)
        split[~is_labelled] = EXCLUDED
        check_split(metadata, split, wants_validation(options))
        target = None if table.target is None else window_means(table.target, begin, window)
        self.assign_split(metadata, split, title=options.label or "label", target=target)
        if (~is_labelled).any():
            self.warnings += (f"{int((~is_labelled).sum())} of {len(series)} windows of mixed labels are left out",)
        if short := int((counts == 0).sum()):
            self.warnings += (f"{short} of {len(counts)} series have less than {window} rows and are left out",)
        self.begin, self.values = begin[self.rows], table.values
        self.fields = {"series": Continuous((table.values.shape[1], window))}

    def _split_windows(
        self, table: SeriesTable, series: np.ndarray, offset: np.ndarray, label: Codes | None
    ) -> np.ndarray:
        """(n,) int8 split codes of the windows.

        Whole series are split if there are several with a window, else the single series is. Series of one id in
        several files form a group, unless the data name groups or the test split.

        Args:
            table: the series.
            series: (n,) series of each window.
            offset: (n,) first row of each window within its series.
            label: label of each window.
        """
        options, window, count = self.options, self.options.window, len(table.starts)

        def describe(index: int) -> str:
            return table.describe(int(table.starts[index]))

        group = None if table.group is None else _codes_of_series(table, table.group, "group")
        named_split = None if table.split is None else _codes_of_series(table, table.split, "split")
        metadata = SampleMetadata(count, describe, None, group, named_split)
        has_window = np.bincount(series, minlength=count) > 0
        is_cut = np.ones(count, bool)  # series from which the test split is cut
        if named_split is not None:
            if not needs_test_split(named_split):
                return self._split_series(metadata, has_window)[series]
            is_cut = split_by_name(metadata) == TRAIN
        if group is None and len(table.series_id.names) > 1:
            ids = table.series_id.codes[is_cut]
            if len(np.unique(ids)) < len(ids):
                metadata = replace(metadata, group=table.series_id)
        group_options = (*options.test_groups, *options.train_groups, *options.validation_groups)
        if metadata.group is None and not group_options:
            usable = is_cut & has_window
            if usable.sum() == 1:
                return self.split_windows(metadata, series, offset, window, table.lengths[series])
            if label is not None and usable.any():
                lowest, highest = np.full(count, 1 << 30), np.full(count, -1)
                np.minimum.at(lowest, series, label.codes)
                np.maximum.at(highest, series, label.codes)
                if (lowest[usable] == highest[usable]).all():  # one label a series: stratify by it
                    codes = np.where(usable, lowest, lowest[usable][0]).astype(np.int32)
                    metadata = replace(metadata, label=Codes(codes, label.names))
        return self._split_series(metadata, has_window)[series]

    def _split_series(self, metadata: SampleMetadata, has_window: np.ndarray) -> np.ndarray:
        """(series,) int8 split codes; EXCLUDED for series without a window."""
        rows = np.flatnonzero(has_window)
        used = metadata.take(rows)
        if not (self.options.test_groups or self.options.train_groups):
            used = used.remove_unused_groups()
        split = np.full(metadata.count, EXCLUDED, np.int8)
        split[rows] = self.split_samples(used)
        return split

    def __getitem__(self, index: int) -> Sample:
        """{"series": (channels, window) float32}; NaN where a value is missing."""
        if self.arrays:
            array, index_in_array = self.locations.locate(int(self.rows[index]))
            x = np.atleast_2d(self.arrays[array][index_in_array]).astype(np.float32)
        else:
            start = int(self.begin[index])
            x = np.ascontiguousarray(self.values[start : start + self.options.window].T)
        return {"inputs": {"series": x}, "label": self.label_of(index)}


def _channels(shape: tuple[int, ...]) -> str:
    """Describes the shape of a sample without its steps."""
    return f"of {shape[0]} channels" if shape else "without channels"


def _codes_of_series(table: SeriesTable, rows: Codes, kind: str) -> Codes:
    """The group or split of each series.

    Raises:
        DataError: the value changes within a series.
    """
    first_rows = rows.take(table.starts)
    changes = np.flatnonzero(rows.codes != np.repeat(first_rows.codes, table.lengths))
    if len(changes):
        location = table.describe(int(changes[0]))
        raise DataError(f"{location}: the {kind} changes within a series; name the series' column in dataset.id")
    return first_rows


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SeriesFiles]
