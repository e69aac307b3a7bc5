"""Windows of time series: their labels, their means and their names in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ssl_plugins.datasets._io.series.rows import SeriesRows

MAX_BLOCK_ROWS = 1 << 21  # rows of windows to process at once


def majority_labels(codes: np.ndarray, begin: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent class of each window, and its share of the rows.

    Ties go to the smallest code. The cost depends on the runs of equal labels in a window, not on its rows.

    Args:
        codes: (rows,) class of each row, -1 without one.
        begin: (n,) first row of each window.
        window: rows of a window.

    Returns:
        (n,) int32 classes and (n,) float64 shares.
    """
    edges = np.append(np.flatnonzero(np.diff(codes, prepend=-2)), len(codes))  # run i is rows edges[i]:edges[i + 1]
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

    def __init__(self, table: SeriesRows, begin: np.ndarray, window: int) -> None:
        self.locations = table.locations
        self.first, self.last = table.order[begin], table.order[begin + window - 1]

    def __call__(self, row: int) -> str:
        last = self.locations(int(self.last[row])).rsplit(" ", 1)[1]
        return f"{self.locations(int(self.first[row]))} to {last}"
