"""Puts together what was found while files and tables were read: the summary, warnings and doubts of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ssl_core import Column, DataSummary
from ssl_plugins.datasets._io.files.entry import FileEntry, FileList, ending_of


class ReadTable(Protocol):
    """A table that was read, such as `Table`."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What is not plain of its form."""

    @property
    def warnings(self) -> Mapping[str, str]:
        """Lines on what was left out, by kind."""

    @property
    def doubts(self) -> Mapping[str, str]:
        """Lines on what may have been misread, by kind."""


def summarise(
    files: Sequence[FileEntry], columns: Iterable[Column], tables: Iterable[ReadTable], facts: Mapping[str, str]
) -> tuple[DataSummary, tuple[str, ...], tuple[str, ...]]:
    """The summary of a data set, its warnings and its doubts.

    A kind of warning or doubt that several tables have is given once, with their number.

    Args:
        files: the files that hold the samples; a `FileList` also says what was ignored.
        columns: what was read of the samples.
        tables: those of the files that are tables.
        facts: other facts, which come last.
    """
    tables = list(tables)
    listed = files if isinstance(files, FileList) else FileList(files)
    merged: dict[str, str] = dict(listed.facts)
    for name in dict.fromkeys(name for table in tables for name in table.facts):
        values = Counter(table.facts.get(name, "plain") for table in tables)
        merged[name] = ", ".join(
            value if len(values) == 1 else f"{value} ({count} of {len(tables)} files)"
            for value, count in values.items()
            if value != "plain"
        )
    endings = Counter(ending_of(entry.path.name) for entry in files)
    summary = DataSummary(tuple(columns), dict(endings), dict(listed.ignored), merged | dict(facts))
    warnings = (*listed.warnings, *_once_each([table.warnings for table in tables]))
    doubts = (*listed.doubts, *_once_each([table.doubts for table in tables]))
    return summary, tuple(dict.fromkeys(warnings)), tuple(dict.fromkeys(doubts))


def _once_each(lines: Sequence[Mapping[str, str]]) -> list[str]:
    """The first line of each kind, with the number of other tables that have one."""
    found: dict[str, list[str]] = {}
    for table in lines:
        for kind, line in table.items():
            found.setdefault(kind, []).append(line)
    return [
        first if not others else f"{first} ({len(others)} more file{'s' if len(others) > 1 else ''} alike)"
        for first, *others in found.values()
    ]
