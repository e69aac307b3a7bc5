"""What a table looks like: its columns and the beginning of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.images.parquet import is_image_type
from ssl_plugins.datasets._io.recognition.survey import spread, total_bytes
from ssl_plugins.datasets._io.recognition.text_facts import TextFacts, facts_of
from ssl_plugins.datasets._io.series.time import TIME_NAMES, plain_name, sortable_times
from ssl_plugins.datasets._io.series.wide import WideLayout, find_wide_layout
from ssl_plugins.datasets._io.tables.columns import as_numbers, as_text, holds_dates, is_text, numeric_share
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS, TableOptions
from ssl_plugins.datasets._io.tables.table import Table

ROWS = 4000
TEXTS = 300
TABLES = 6
"""Tables of a folder that are opened."""
IN_ORDER = 0.95
"""Share of steps of time that must not go back."""
SMOOTH = 0.6
"""Correlation of neighbouring rows, the median over columns, from which on rows follow each other in time."""


@dataclass
class TableFacts:
    """What a table looks like.

    Args:
        path: the table.
        columns: its columns without those of labels, groups and splits.
        roles: the columns called label, group and split.
        rows: number of rows that were looked at.
        is_whole: whether these are all rows.
        numeric: columns of numbers.
        texts: facts of the columns of texts.
        images: columns of Parquet that hold images.
        nested: columns of lists and structures.
        time: the column of times, if there is one.
        in_order: whether its values rarely go back, but from one series to the next.
        series: number of rows of each series, by the column id.
        correlation: median correlation of neighbouring rows.
        wide: how a row is a series, if one can be.
    """

    path: Path
    columns: list[str]
    roles: list[str] = field(default_factory=list)
    rows: int = 0
    is_whole: bool = True
    numeric: list[str] = field(default_factory=list)
    texts: dict[str, TextFacts] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)
    time: str | None = None
    in_order: bool = False
    series: tuple[int, ...] = ()
    correlation: float = 0.0
    wide: WideLayout | None = None

    @property
    def row_estimate(self) -> float:
        """About the number of rows of the whole file."""
        return self.rows if self.is_whole else max(self.rows, self.rows * total_bytes([self.path]) / (8 << 20))


def look_at_tables(paths: Sequence[Path]) -> tuple[TableFacts | None, str, list[Path]]:
    """The facts of a table of those that most have in common, the error if none can be read, and the like tables."""
    error, tables = "", []
    for path in spread(paths, TABLES):
        try:
            tables.append((path, Table.open(path, TableOptions())))
        except DataError as problem:
            error = error or str(problem)
    if not tables:
        return None, error, []
    names = Counter(frozenset(table.columns) for _, table in tables)
    usual = max(names, key=lambda key: (names[key], sum(total_bytes([p]) for p, t in tables if set(t.columns) == key)))
    alike = [(path, table) for path, table in tables if frozenset(table.columns) == usual]
    try:
        path, table = max(alike, key=lambda item: total_bytes([item[0]]))
        return _facts(path, table), "", [path for path, _ in alike]
    except DataError as problem:
        return None, str(problem), []


def _facts(path: Path, table: Table) -> TableFacts:
    images = [name for name, kind in table.types.items() if is_image_type(kind)]
    plain = [name for name in table.columns if name not in images]
    facts = TableFacts(path, [name for name in table.columns if name not in METADATA_COLUMNS], images=images)
    facts.roles = [name for name in table.columns if name in METADATA_COLUMNS]
    block = next(iter(table.blocks(plain)), None) if plain else None
    table.release()
    if block is None:
        return facts
    count = len(next(iter(block.values())))
    facts.rows, facts.is_whole = count, total_bytes([path]) <= (8 << 20) or count < ROWS
    head = {name: column.slice(0, ROWS) for name, column in block.items()}
    for name in facts.columns:
        if name in images:
            continue
        share = numeric_share(head[name])
        if share > 0.5:
            facts.numeric.append(name)
        elif share <= 0.5 and is_text(head[name].type):
            step = max(1, len(head[name]) // TEXTS)
            texts = [text for text in as_text(head[name])[::step].to_pylist() if text]
            facts.texts[name] = facts_of(texts[:TEXTS])
        elif np.isnan(share) and is_nested(head[name].type):
            facts.nested.append(name)
    _look_at_order(facts, head, block)
    options = SimpleNamespace(**{**TableOptions().model_dump(), **NO_OPTIONS})
    facts.wide = find_wide_layout(path, options) if len(facts.numeric) > 1 else None
    return facts


NO_OPTIONS: dict[str, Any] = {
    "layout": "auto", "label": None, "group": None, "split": None, "id": None, "channels": (), "pivot": None,
    "time": None,
}  # fmt: skip


def is_nested(kind: Any) -> bool:
    """Whether values are lists or structures."""
    return bool(pa.types.is_nested(kind))


def _look_at_order(facts: TableFacts, head: dict[str, Any], block: dict[str, Any]) -> None:
    """Find times, series, and whether rows that follow each other are like each other."""
    ids = next((name for name in facts.columns if name.lower() == "id"), None)
    border = np.zeros(len(next(iter(head.values()))), bool)
    if ids is not None:
        values = np.array([str(value) for value in head[ids].to_pylist()])
        border[1:] = values[1:] != values[:-1]
        counts = Counter(map(str, block[ids].to_pylist()))
        facts.series = tuple(counts.values())
    named = [name for name in facts.columns if plain_name(name) in TIME_NAMES]
    for name in named or [name for name in facts.columns if holds_dates(head[name])]:
        times = sortable_times([head[name]], None).values
        if times is None or np.isfinite(times).mean() < 0.9:
            continue
        steps = np.diff(times)
        inside = steps[~border[1:] & np.isfinite(steps)]
        facts.time = name
        facts.in_order = len(inside) > 2 and bool((inside >= 0).mean() >= IN_ORDER and (inside > 0).any())
        break
    found = []
    for name in facts.numeric:
        if name in (ids, facts.time):
            continue
        x = as_numbers(head[name])[0]
        pairs = np.isfinite(x[1:]) & np.isfinite(x[:-1]) & ~border[1:]
        a, b = x[:-1][pairs], x[1:][pairs]
        if len(a) > 16 and a.std() > 0 and b.std() > 0 and not _counts(x):
            found.append(float(np.corrcoef(a, b)[0, 1]))
    facts.correlation = float(np.median(found)) if found else 0.0


def _counts(x: np.ndarray) -> bool:
    """Whether numbers count the rows."""
    steps = np.diff(x)
    return bool(len(steps)) and bool((steps == steps[0]).all())
