"""Assigns the windows of time series to splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.copies import copies_of_arrays
from ssl_plugins.datasets._io.series.rows import SeriesRows
from ssl_plugins.datasets._io.splitting import (
    EXCLUDED,
    TRAIN,
    Codes,
    SampleMetadata,
    needs_test_split,
    split_by_name,
)
from ssl_plugins.datasets._io.user_data import UserData


class SeriesSplit(UserData):
    """Splits whole series, or the end of a single one."""

    def split_series_windows(
        self, table: SeriesRows, series: np.ndarray, offset: np.ndarray, label: Codes | None
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
        parts = [
            table.values[start : start + length] for start, length in zip(table.starts, table.lengths, strict=True)
        ]
        metadata = SampleMetadata(count, describe, None, group, named_split)
        if count > 1 and metadata.draws_test:
            metadata = replace(metadata, copies=copies_of_arrays(parts))
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


def _codes_of_series(table: SeriesRows, rows: Codes, kind: str) -> Codes:
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
