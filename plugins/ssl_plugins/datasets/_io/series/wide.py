"""Reads wide tables, a series a row, and the archives of classified series in the formats .ts and .arff."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.listing import METADATA_COLUMNS, FileEntry
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, Table, as_numbers, number_error

MIN_STEPS = 16  # a row of fewer numbers is no series
MAX_CLASSES = 100  # different whole numbers in a first column of labels
SNIFFED_ROWS = 200
SMOOTHER = 0.7
TEXT_EXTENSIONS = (".txt", ".dat")
LABEL_NAMES = ("class", "target")  # names that stand for no step
UCR_ENDINGS = tuple(f"_{part}{ending}" for part in ("train", "test") for ending in (".txt", ""))
"""Endings of the text files of the UCR archive, which are found in a folder too."""

STEP_NAMES = re.compile(r"(?P<prefix>t|time|step|timestep|att|)[ _.-]?(?P<number>\d+)", re.IGNORECASE)
MAYBE_STEP_NAMES = re.compile(r"(?P<prefix>x|v|val|value|col|s|p|f|var)[ _.-]?(?P<number>\d+)", re.IGNORECASE)


@dataclass
class SeriesList:
    """Series of any length, each (channels, steps) float32."""

    path: Path
    series: Sequence[np.ndarray]

    line_numbers = None
    unit = "row"

    def __len__(self) -> int:
        return len(self.series)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The different shapes of the series."""
        return {x.shape for x in self.series}

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(self.series[index])


@dataclass(frozen=True)
class WideLayout:
    """Why a table is read as a series a row. names: of a file without a line of names. doubtful: whether it may be
    meant otherwise."""

    why: str
    names: tuple[str, ...] = ()
    doubtful: bool = False


def find_wide_layout(path: Path, options: Any) -> WideLayout | None:
    """The layout of a table by its names and the shape of its beginning; None if its rows are time points.

    Raises:
        DataError: the table cannot be read.
    """
    table = Table.open(path, options)
    if len(table.columns) < MIN_STEPS and options.layout != "wide":
        return None
    has_names = bool(table.found.has_header or options.columns)
    layout = _by_names(table.columns, options) if has_names else None
    if has_names and (layout is None or not layout.doubtful):
        return layout
    block = next(table.blocks(table.columns), None)
    if block is None:
        return None
    columns = {name: as_numbers(block[name][:SNIFFED_ROWS]) for name in table.columns}
    rows = np.stack([values for values, invalid in columns.values() if invalid is None], axis=1)
    if layout is not None:
        return None if _smoother_along(rows, 0) else layout
    return _without_names(path, rows, options) if rows.shape[1] == len(columns) else None


def _by_names(names: Sequence[str], options: Any) -> WideLayout | None:
    others = {*METADATA_COLUMNS, "id", *LABEL_NAMES, options.label, options.group, options.split, options.id}
    steps = [name for name in names if name not in others and name.lower() not in others]
    if len(steps) < MIN_STEPS or options.channels:
        return None
    for pattern, doubtful in ((STEP_NAMES, False), (MAYBE_STEP_NAMES, True)):
        matches = [pattern.fullmatch(name.strip()) for name in steps]
        numbers = [int(match["number"]) for match in matches if match]
        prefixes = {match["prefix"] for match in matches if match}
        if len(numbers) == len(steps) and len(prefixes) == 1 and (np.diff(numbers) > 0).all():
            return WideLayout(f"its columns {steps[0]} to {steps[-1]} are numbered", doubtful=doubtful)
    return None


def _without_names(path: Path, rows: np.ndarray, options: Any) -> WideLayout | None:
    """The layout of a file of numbers without names: a series a row, if its first or last column holds labels.

    The rows of a table of time points are like each other, and the steps of a series are.
    """
    width, is_wide = rows.shape[1], options.layout == "wide"
    names = [f"step {i}" for i in range(1, width)]
    for place, column, others in (("first", 0, rows[:, 1:]), ("last", -1, rows[:, :-1])):
        labels = rows[:, column]
        classes = len(np.unique(labels))
        if not _all_whole(labels) or not np.isfinite(labels).all() or classes > max(2, min(MAX_CLASSES, len(rows) / 2)):
            continue
        fits = not _smoother_along(others, 0) if place == "first" else _smoother_along(others, 1)
        if is_wide or (fits and not _all_whole(others)):  # whole numbers are counts or pixels
            why = f"it has no names, and the {place} of its {width} columns holds {classes} different whole numbers"
            named = ("label", *names) if place == "first" else (*names, "label")
            return WideLayout(why, named, doubtful=not path.stem.lower().endswith(("_train", "_test")))
    return None


def _all_whole(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool((known == np.rint(known)).all())


def _smoother_along(rows: np.ndarray, axis: int) -> bool:
    """Whether neighbours along an axis are clearly more like each other than those along the other axis."""

    def roughness(axis: int) -> float:
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of columns without any value
            return float(np.nanmean(np.abs(np.diff(rows, axis=axis))) / np.nanmean(np.nanstd(rows, axis=axis)))

    return len(rows) > 2 and roughness(axis) < SMOOTHER * roughness(1 - axis)


def read_wide_table(
    entry: FileEntry, layout: WideLayout | None, options: Any, metadata: MetadataCollector
) -> tuple[SeriesList, Table]:
    """Read the rows of a table as series of one channel. Missing values at the end of a row are padding.

    Args:
        entry: the file, with metadata of all of it.
        layout: what was found of it; None where the option says that it is wide.
        options: names of columns.
        metadata: receives label, group and split of each row.

    Raises:
        DataError: the table cannot be read, or holds something else than numbers.
    """
    path = entry.path
    if layout is not None and layout.names and not options.columns:
        options = options.model_copy(update={"columns": layout.names})
    table = Table.open(path, options)
    roles = table.metadata_columns(options.label, options.group, options.split)
    others = {*roles.values(), *options.drop_columns, options.id or "id", *LABEL_NAMES}
    steps = [name for name in table.columns if name not in others]
    values: list[np.ndarray] = []
    count = 0
    for block in table.blocks([*steps, *roles.values()]):
        start, rows = count, np.empty((len(next(iter(block.values()))), len(steps)), np.float32)
        for column, name in enumerate(steps):
            rows[:, column], invalid = as_numbers(block[name])
            if invalid is not None:
                cure = "fix it, name the column in dataset.drop_columns, or set dataset.layout=long if rows are moments"
                raise number_error(path, start + invalid + 1, name, block[name][invalid].as_py(), cure)
        metadata.append(block, roles, entry, lambda row, start=start: f"{path} row {start + row + 1}")  # type: ignore[misc]
        values.append(rows)
        count += len(rows)
    if not count:
        raise DataError(f"{path} has no rows")
    return SeriesList(path, without_padding(np.concatenate(values))), table


def without_padding(rows: np.ndarray) -> Sequence[np.ndarray]:
    """Rows (n, steps) as series (1, steps); missing values at the end of a row are cut off.

    A row without any value keeps one step.
    """
    ends = rows.shape[1] - np.argmax(~np.isnan(rows[:, ::-1]), axis=1)
    ends[np.isnan(rows).all(axis=1)] = 1
    if (ends == rows.shape[1]).all():
        return list(rows[:, np.newaxis])
    return [row[np.newaxis, :end] for row, end in zip(rows, ends, strict=True)]


def read_ts(entry: FileEntry, metadata: MetadataCollector) -> SeriesList:
    """Read a file in the format .ts of sktime and aeon: a series a line, channels separated by colons, label last.

    Raises:
        DataError: the file is no such file, or its series have time stamps.
    """
    path, series, labels = entry.path, list[np.ndarray](), list[str]()
    header: dict[str, str] = {}
    in_data = False
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(io.StringIO(text), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if not in_data:
            name, _, value = line.partition(" ")
            in_data = name.lower() == "@data"
            header[name.lower()] = value.strip().lower()
            continue
        if header.get("@timestamps") == "true" or line.startswith("("):
            raise DataError(f"{path} line {number}: series with time stamps are not read; save them as a long table")
        parts = line.split(":")
        if header.get("@classlabel", header.get("@targetlabel", "false")).startswith("true"):
            labels.append(parts.pop())
        try:
            series.append(_ts_series(parts))
        except ValueError as error:
            raise DataError(f"{path} line {number}: {' '.join(str(error).split()):.100}; fix the line") from None
    if not series:
        raise DataError(f"{path} holds no series below a line @data")
    _append_labels(metadata, entry, len(series), labels)
    return SeriesList(path, series)


def _number(cell: str) -> float:
    cell = cell.strip()
    return float("nan") if cell in ("", "?", "NaN") else float(cell)


def _ts_series(parts: Sequence[str]) -> np.ndarray:
    """(channels, steps) of a line's channels; shorter ones end in NaN."""
    channels = [np.array([_number(cell) for cell in part.split(",")], np.float32) for part in parts]
    out = np.full((len(channels), max(map(len, channels))), np.nan, np.float32)
    for row, channel in zip(out, channels, strict=True):
        row[: len(channel)] = channel
    return out


def read_arff(entry: FileEntry, metadata: MetadataCollector) -> SeriesList:
    """Read a file of Weka's format: a series a row, or a relational attribute of channels a row; the class is last.

    Raises:
        DataError: the file is no such file.
    """
    from scipy.io import arff  # slow to import

    path = entry.path
    try:
        data, meta = arff.loadarff(str(path))
    except Exception as error:
        raise DataError(f"{path} cannot be read as ARFF: {' '.join(str(error).split()):.200}") from None
    kinds = dict(zip(meta.names(), meta.types(), strict=True))
    nominal = [name for name, kind in kinds.items() if kind == "nominal"]
    label = next((name for name in nominal if name.lower() in ("label", "class", "target")), (nominal or [""])[-1])
    relational = [name for name, kind in kinds.items() if kind == "relational"]
    if not len(data):
        raise DataError(f"{path} has no rows")
    series: Sequence[np.ndarray]
    if relational:
        series = [np.array([list(channel) for channel in row[relational[0]]], np.float32) for row in data]
    else:
        steps = [name for name, kind in kinds.items() if kind == "numeric" and name != label]
        if not steps:
            raise DataError(f"{path} has no numeric attribute")
        series = without_padding(np.stack([data[name].astype(np.float32) for name in steps], axis=1))
    labels = [value.decode() for value in data[label]] if label else []
    _append_labels(metadata, entry, len(series), ["" if value == "?" else value for value in labels])
    return SeriesList(path, series)


def _append_labels(metadata: MetadataCollector, entry: FileEntry, count: int, labels: Sequence[str]) -> None:
    block: dict[str, Any] = {"": pa.nulls(count)}
    if labels:
        block["label"] = pa.array(list(labels), pa.string())
    columns = {kind: kind for kind in block if kind}
    metadata.append(block, columns, entry, lambda row: f"{entry.path} row {row + 1}")
