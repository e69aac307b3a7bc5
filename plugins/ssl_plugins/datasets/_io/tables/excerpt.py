"""An excerpt of tables that are too large to be held in memory, with counts and ranges of all rows."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError, Excerpt
from ssl_plugins.datasets._io.arrow import pa, pc, pq
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.tables.columns import MISSING, as_names, is_text, numeric_share, without_missing
from ssl_plugins.datasets._io.tables.options import TableOptions
from ssl_plugins.datasets._io.tables.table import Table

LARGE = 64 << 20
"""Bytes of tables from which on an excerpt is taken; packed ones count four times."""
PACKED = (".gz", ".bz2", ".xz", ".zst", ".parquet", ".pq", ".feather", ".arrow", ".xlsx")
ROWS = 20_000
"""Rows of an excerpt."""
SEED = 0


@dataclass
class ColumnCount:
    """What all rows of a column hold. first: the first value, until another one is found."""

    missing: int = 0
    low: float = np.inf
    high: float = -np.inf
    is_number: bool | None = None
    first: str | None = None
    varies: bool = False

    def add(self, column: Any, missing: Sequence[str]) -> None:
        """Add a block of the column."""
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            self.varies = True
            return
        if self.is_number is None:
            self.is_number = numeric_share(column, missing) > 0.5
        values = as_names(column, missing) if is_text(column.type) else without_missing(column, missing)
        self.missing += values.null_count
        if self.is_number:
            self._add_numbers(values)
        if not self.varies:
            self._compare(values)

    def _add_numbers(self, values: Any) -> None:
        try:
            numbers = values.cast(pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # texts among numbers: the excerpt's reader says so
            return
        extent = pc.min_max(numbers)
        if extent["min"].as_py() is not None:
            self.low, self.high = min(self.low, extent["min"].as_py()), max(self.high, extent["max"].as_py())

    def _compare(self, values: Any) -> None:
        known = values.drop_null()
        if not len(known):
            return
        if self.first is None:
            self.first = str(known[0].as_py())
        different = known.unique().slice(0, 2).to_pylist()
        self.varies = len(different) > 1 or str(different[0]) != self.first


@dataclass
class Excerpter:
    """Reads all rows once, block by block, and keeps rows drawn at random, or the first ones."""

    folder: Path
    options: Any
    in_order: bool
    counts: dict[str, ColumnCount] = field(default_factory=dict)
    rows: int = 0
    kept: int = 0

    def read(self, entry: FileEntry, share: float) -> Path:
        """Read a table and write its excerpt; returns the file.

        Args:
            entry: the table.
            share: share of the excerpt's rows that come from it.
        """
        table = Table.open(entry.path, self.options)
        missing = getattr(self.options, "missing", MISSING)
        most = max(1, round(ROWS * share))
        rng = np.random.default_rng([SEED, zlib.crc32(entry.name.encode("utf-8", "surrogatepass"))])
        kept: list[Any] = []
        keys = np.zeros(0)
        for block in table.blocks(table.columns):
            count = len(next(iter(block.values())))
            for name, column in block.items():
                self.counts.setdefault(name, ColumnCount()).add(column, missing)
            self.rows += count
            part = pa.table(block)
            if self.in_order:
                if (need := most - len(keys)) > 0:
                    kept.append(part.slice(0, need))
                    keys = np.append(keys, np.zeros(min(need, count)))
                continue
            keys = np.append(keys, rng.random(count))  # the rows with the smallest keys are a uniform sample
            kept.append(part)
            if len(keys) > 2 * most:
                kept, keys = _smallest(kept, keys, most)
        table.release()
        if not kept:
            raise DataError(f"{entry.path} has no rows")
        if not self.in_order:
            kept, keys = _smallest(kept, keys, most)
        self.kept += len(keys)
        path = self.folder / f"{entry.path.name.split('.')[0] or 'table'}-{len(list(self.folder.iterdir()))}.parquet"
        pq.write_table(pa.concat_tables(kept), path)
        return path


def _smallest(parts: list[Any], keys: np.ndarray, most: int) -> tuple[list[Any], np.ndarray]:
    """The rows with the smallest keys, in their order."""
    index = np.sort(np.argsort(keys, kind="stable")[:most])
    # `take` of a table with chunks is not zero-copy for texts, so that the blocks are freed
    return [pa.concat_tables(parts).take(pa.array(index))], keys[index]


def is_large(entries: Sequence[FileEntry]) -> bool:
    """Whether tables are too large to be opened for an inspection."""
    total = 0
    for entry in entries:
        try:
            size = entry.path.stat().st_size
        except OSError:
            continue
        total += size * (4 if entry.path.name.lower().endswith(PACKED) else 1)
    return total > LARGE


def excerpt_tables(
    entries: Sequence[FileEntry], options: TableOptions, folder: Path, *, in_order: bool = False
) -> Excerpt | None:
    """An excerpt of some tables, if they are large.

    Args:
        entries: the tables, with their splits.
        options: those of the data set.
        folder: where the excerpt is written.
        in_order: keep the first rows instead of rows drawn at random.

    Raises:
        DataError: a table cannot be read.
    """
    if not entries or not is_large(entries):
        return None
    reader = Excerpter(folder, options, in_order)
    total = sum(entry.path.stat().st_size for entry in entries)
    train: list[Path] = []
    test: list[Path] = []
    files: dict[str, str] = {}
    for entry in entries:
        path = reader.read(entry, entry.path.stat().st_size / total)
        (test if entry.split == "test" else train).append(path)
        files[str(path)] = str(entry.path)
    if not train:
        train, test = test, []
    values: dict[str, Any] = {"root": ",".join(map(str, train))}
    if test:
        values["test_root"] = ",".join(map(str, test))
    counts = reader.counts
    how = (
        "the first rows of each file"
        if in_order
        else "drawn at random; counts, missing values and ranges are of all rows"
    )
    return Excerpt(
        values,
        f"{reader.kept:,} of {reader.rows:,} rows, {how}",
        reader.kept / reader.rows,
        {name: one.missing / max(1, reader.rows) for name, one in counts.items()},
        tuple(name for name, one in counts.items() if not one.varies and one.first is not None and not one.missing),
        {name: (one.low, one.high) for name, one in counts.items() if one.low <= one.high},
        files,
    )
