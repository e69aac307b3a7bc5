"""A table that was read for one split and is kept for the others, so that a run reads its files once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_core import Split, scratch_array
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.files.state import file_state
from ssl_plugins.datasets._io.splitting import SPLITS
from ssl_plugins.datasets._io.tables.reader import TableReader

_last: dict[str, SharedTable] = {}
"""At most one table: the last that was read, while a split of it was not taken."""


class SharedTable:
    """A table whose rows are divided among its splits.

    reader: it has read all files; `divide` takes its blocks of numbers. numbers: (rows, columns) float32 of each split
    that was not taken yet. has_missing: whether any number is missing.
    """

    def __init__(self, reader: TableReader) -> None:
        self.reader = reader
        self.numbers: dict[Split, np.ndarray] = {}
        self.has_missing = False
        self._is_divided = self._has_copies = False
        self._copies: np.ndarray | None = None

    def copies(self) -> np.ndarray | None:
        """As of the reader, which is asked once."""
        if not self._has_copies:
            self._copies, self._has_copies = self.reader.copies(), True
        return self._copies

    def divide(self, codes: np.ndarray, splits: Sequence[Split]) -> None:
        """Divide the numbers among the splits, and free the blocks of the reader one after the other.

        Args:
            codes: (n,) index in SPLITS of each row; other rows belong to no split.
            splits: those that the data have.
        """
        if self._is_divided:
            return
        self._is_divided = True
        blocks, width = self.reader.number_blocks, len(self.reader.numbers)
        for name in splits:
            self.numbers[name] = scratch_array((int((codes == SPLITS.index(name)).sum()), width), np.float32)
        done, start = dict.fromkeys(splits, 0), 0
        for number, block in enumerate(blocks):
            self.has_missing = self.has_missing or bool(np.isnan(block).any())
            of_block = codes[start : start + len(block)]
            start += len(block)
            for name in splits:
                part = block[of_block == SPLITS.index(name)]
                self.numbers[name][done[name] : done[name] + len(part)] = part
                done[name] += len(part)
            blocks[number] = np.empty((0, width), np.float32)


def take_shared(options: Any, entries: Sequence[FileEntry], split: Split) -> SharedTable | None:
    """The table of these files and options if it was read before for another split, and this one was not taken."""
    shared = _last.pop(_key(options, entries), None)
    return shared if shared is not None and split in shared.numbers else None


def put_shared(options: Any, entries: Sequence[FileEntry], shared: SharedTable) -> None:
    """Keep a table for the splits that were not taken."""
    _last.clear()
    if shared.numbers:
        _last[_key(options, entries)] = shared


def _key(options: Any, entries: Sequence[FileEntry]) -> str:
    files = [(str(entry.path), file_state(entry.path)) for entry in entries]
    return f"{type(options).__qualname__} {options.model_dump_json()} {files} {[entry.split for entry in entries]}"
