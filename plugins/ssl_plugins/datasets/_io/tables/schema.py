"""Presents the rows of a table in the form of the table that an encoder was trained on: columns matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_core import DataError, nearest
from ssl_plugins.datasets._io.tables.columns import shown
from ssl_plugins.datasets._io.tables.options import TableOptions

Schema = Mapping[str, Any]
STATS_CELLS = 1 << 20  # values of a table that are looked at together


@dataclass
class Rows:
    """Rows of a table.

    numbers: (n,) float32 of each column of numbers, NaN where missing, as (x - shift) / scale.
    ids: (n,) of each column of categories: 0 where missing or unknown, else 1 + the index of the category.
    """

    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    units: dict[str, tuple[float, float]] = field(default_factory=dict)
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    has_missing: bool = False


@dataclass(frozen=True)
class ColumnStats:
    """Of a column of numbers as float32: the smallest, the largest and the mean finite value, NaN without one, and the
    share of missing values."""

    low: float
    high: float
    mean: float
    missing: float


def column_stats(rows: Rows) -> dict[str, ColumnStats]:
    """Of all columns of numbers, in one pass over the rows, which may not be in memory."""
    columns = list(rows.numbers.values())
    if not columns:
        return {}
    total, width = len(columns[0]), len(columns)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    count, missing, mean = np.zeros(width), np.zeros(width), np.zeros(width)
    size = max(1, STATS_CELLS // width)
    for start in range(0, total, size):
        part = np.stack([column[start : start + size] for column in columns])
        finite = np.isfinite(part)
        low = np.minimum(low, np.where(finite, part, np.inf).min(axis=1))
        high = np.maximum(high, np.where(finite, part, -np.inf).max(axis=1))
        count += finite.sum(axis=1)
        missing += np.isnan(part).sum(axis=1)
        mean += np.where(finite, part, 0).sum(axis=1, dtype=np.float64)
    found = count > 0
    low, high = np.where(found, low, np.nan), np.where(found, high, np.nan)
    mean, missing = np.where(found, mean / np.maximum(count, 1), np.nan), missing / max(1, total)
    values = zip(low.tolist(), high.tolist(), mean.tolist(), missing.tolist(), strict=True)
    return {name: ColumnStats(*each) for name, each in zip(rows.numbers, values, strict=True)}


def schema_of(rows: Rows, order: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """The schema of a table, as JSON. order: the input columns in their order in the file."""
    columns: list[dict[str, Any]] = []
    stats = column_stats(rows)
    for name in order:
        if name in rows.numbers:
            shift, scale = rows.units[name]
            mean = 0.0 if np.isnan(stats[name].mean) else stats[name].mean
            columns.append({"name": name, "kind": "number", "mean": mean, "shift": shift, "scale": scale})
        elif name in rows.ids:
            columns.append({"name": name, "kind": "category", "categories": list(rows.categories[name])})
    return {"columns": columns, "missing": rows.has_missing, "classes": list(classes)}


def conform_rows(
    rows: Rows, schema: Schema, where: str, empty: Sequence[str], options: TableOptions
) -> tuple[Rows, list[str]]:
    """The rows in the columns, units and categories of a schema.

    Args:
        rows: rows as they were read.
        schema: what `schema_of` returned for the table of the training.
        where: the file, for messages.
        empty: columns that the file has, without a value.
        options: those of the file.

    Returns:
        The rows, and what was adapted, a line each.

    Raises:
        DataError: a column seems to be renamed, none is left, or texts are where numbers were.
    """
    trained = {column["name"]: column for column in schema["columns"]}
    own = [*rows.numbers, *rows.ids]
    absent = [name for name in trained if name not in own and name not in empty]
    extra = [name for name in own if name not in trained]
    renamed = [name for name in absent if name not in options.role_columns]
    if renamed and (extra or len(absent) == len(trained)):
        hint = nearest(renamed[0], extra or own, "other column")
        cure = f"; rename it, or set {options.dropping(*extra)} to use missing values instead" if extra else ""
        raise DataError(f"{where} has no column '{renamed[0]}', on which the encoder was trained; {hint}{cure}")
    notes = []
    if extra:
        notes.append(f"columns on which the encoder was not trained are left out: {_listed(extra)}")
    if absent:
        as_mean = "" if schema["missing"] else " (numbers: as the mean of training)"
        notes.append(
            f"columns on which the encoder was trained are absent, and count as missing{as_mean}: {_listed(absent)}"
        )
    count = len(next(iter([*rows.numbers.values(), *rows.ids.values()])))
    out = Rows(has_missing=bool(schema["missing"]))
    for name, column in trained.items():
        if column["kind"] == "number":
            values = _numbers_of(name, rows, count, where)
            values = ((values - column["shift"]) / column["scale"]).astype(np.float32)
            gaps = np.isnan(values)
            if gaps.any() and not out.has_missing:
                values[gaps] = column["mean"]
            if gaps.any() and not out.has_missing and name not in absent:
                notes.append(
                    f"{int(gaps.sum())} missing numbers of column '{name}' are filled with the mean of training, "
                    f"for the encoder was trained without missing numbers"
                )
            out.numbers[name], out.units[name] = values, (column["shift"], column["scale"])
        else:
            categories = tuple(column["categories"])
            out.ids[name], unknown = _ids_of(name, rows, categories, count)
            out.categories[name] = categories
            if unknown:
                total = sum(unknown.values())
                notes.append(
                    f"{total} values of column '{name}' are categories unknown in training, and count as missing: "
                    f"{_listed(list(unknown))}"
                )
    return out, notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _numbers_of(name: str, rows: Rows, count: int, where: str) -> np.ndarray:
    """(count,) float64 numbers of a column in the file's own units, NaN where missing."""
    if name in rows.numbers:
        shift, scale = rows.units[name]
        return rows.numbers[name].astype(np.float64) * scale + shift
    if name not in rows.ids:
        return np.full(count, np.nan)
    table = [np.nan]
    for text in rows.categories[name]:
        try:
            table.append(float(text))
        except ValueError:
            raise DataError(
                f"{where}: column '{name}' holds texts such as {shown(text)}, and numbers when the encoder was "
                f"trained; fix it, or name the texts in dataset.missing"
            ) from None
    return np.array(table)[rows.ids[name]]


def _ids_of(name: str, rows: Rows, categories: Sequence[str], count: int) -> tuple[np.ndarray, dict[str, int]]:
    """(count,) ids in the given categories, and how often each unknown value occurs."""
    if name in rows.ids:
        own, ids = rows.categories[name], rows.ids[name]
    elif name in rows.numbers:  # categories that are numbers, such as codes
        values = _numbers_of(name, rows, count, "").astype(np.float32)
        unique, index = np.unique(values, return_inverse=True)
        names = {float(np.float32(text)): text for text in categories if _is_float(text)}
        own = tuple(names.get(float(value), f"{value:g}") for value in unique)
        ids = np.where(np.isnan(values), 0, index + 1)
    else:
        return np.zeros(count, np.int32), {}
    position = {category: index + 1 for index, category in enumerate(categories)}
    for name in ("True", "False"):  # an encoder may have been trained on a table that spelled them in small letters
        if name.lower() in position:
            position.setdefault(name, position[name.lower()])
    table = np.array([0, *(position.get(category, 0) for category in own)], np.int32)
    counts = np.bincount(ids, minlength=len(own) + 1)
    unknown = {
        category: int(counts[index + 1])
        for index, category in enumerate(own)
        if category not in position and counts[index + 1]
    }
    return table[ids], unknown


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
