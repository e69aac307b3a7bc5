"""Leaves out the tables of a folder that describe its other files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_core import DataError
from ssl_plugins.datasets._io.files.entry import FileEntry, FileList, ending_of
from ssl_plugins.datasets._io.files.listing import TABLE_EXTENSIONS
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS
from ssl_plugins.datasets._io.tables.row_metadata import Table

TABLE_LIKE = (".data", ".dat", ".test", ".train", ".val", ".all", ".txt", ".asc", "")
"""Endings of files that are tables if they hold rows of equally many columns."""
FEWEST_ROWS = 5


def holds_table(path: Path, options: Any) -> bool:
    """Whether a file of one of the endings `TABLE_LIKE` is a table of two columns or more, by its first rows."""
    if path.suffix.lower() not in TABLE_LIKE:
        return False
    try:
        table = Table.open(path, options)
        block = next(table.blocks(table.columns), None) if len(table.columns) > 1 else None
    except DataError:
        return False
    return block is not None and len(next(iter(block.values()))) >= FEWEST_ROWS


def without_other_tables(entries: FileList, option: str, options: Any) -> FileList:
    """Leave out the tables of a folder that describe its other files: those without the column that an option names.

    Args:
        entries: the files of a folder.
        option: name of the option, such as "text".
        options: the options of the data set.
    """
    tables = [entry for entry in entries if entry.path.name.lower().endswith(TABLE_EXTENSIONS)]
    if not tables or len(tables) == len(entries):
        return entries
    name = getattr(options, option)
    other = [entry for entry in tables if not _has_column(entry, name, options)]
    why = f"has no column '{name}' and is left out; dataset.{option} names the column to read it"
    return _leave_out(entries, other, why)


def _has_column(entry: FileEntry, name: str, options: Any) -> bool:
    try:
        return name in Table.open(entry.path, options).columns
    except DataError:
        return True  # reading it gives the message


def without_unlike_tables(entries: FileList, options: Any) -> FileList:
    """Leave out the tables that have no column in common with those of most others, and JSON files that are no tables.

    Args:
        entries: tables.
        options: the options of the data set.
    """
    columns = {entry.path: _columns(entry, options) for entry in entries}
    no_tables = [entry for entry in entries if not columns[entry.path] and ".json" in entry.path.name.lower()]
    if no_tables and len(no_tables) < len(entries):
        entries = _leave_out(entries, no_tables, "is no table, and is left out")
    counts = Counter(frozenset(names) for names in columns.values() if names)
    if len(counts) < 2:
        return entries
    (common, count), *_ = counts.most_common()
    other = [entry for entry in entries if columns[entry.path] and not common & set(columns[entry.path])]
    if 2 * count <= len(entries) or not other:
        return entries
    return _leave_out(entries, other, "has no column of the other tables, and is left out; name it to read it alone")


def _leave_out(entries: FileList, other: Sequence[FileEntry], why: str) -> FileList:
    used = entries.with_entries(entry for entry in entries if entry not in other)
    for entry in other:
        used.ignored[ending_of(entry.path.name)] += 1
        used.warnings.append(f"{entry.name} {why}")
    return used


def _columns(entry: FileEntry, options: Any) -> list[str]:
    """The columns of a table without those of labels and the like; none if it cannot be read."""
    try:
        return [name for name in Table.open(entry.path, options).columns if name not in METADATA_COLUMNS]
    except DataError:  # reading it gives the message
        return []
