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

from ssl_core import Column, DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.listing import METADATA_COLUMNS, FileEntry
from ssl_plugins.datasets._io.series.precision import LOOK_SERIES, doubt_of_float32
from ssl_plugins.datasets._io.tables.reader import check_columns, open_tables
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, Table, as_numbers, number_error

MIN_STEPS = 16  # a row of fewer numbers is no series
MAX_CLASSES = 100  # different whole numbers in a first column of labels
SNIFFED_ROWS = 200
SMOOTHER = 0.7
TEXT_EXTENSIONS = (".txt", ".dat")
NO_STEPS = (*METADATA_COLUMNS, "id", "class", "target")  # names that stand for no step, in lower case
UCR_ENDINGS = tuple(f"_{part}{ending}" for part in ("train", "test") for ending in (".txt", ""))
"""Endings of the text files of the UCR archive, which are found in a folder too."""

STEP_NAMES = re.compile(r"(?P<prefix>t|time|step|timestep|att|)[ _.-]?(?P<number>\d+)", re.IGNORECASE)
MAYBE_STEP_NAMES = re.compile(r"(?P<prefix>x|v|val|value|col|s|p|f|var)[ _.-]?(?P<number>\d+)", re.IGNORECASE)


@dataclass
class SeriesList:
    """Series of any length, each (channels, steps) float32. unused: names of what else their file holds.

    doubt: a line if float32 does not hold them.
    """

    path: Path
    series: Sequence[np.ndarray]
    unused: tuple[str, ...] = ()
    doubt: str = ""

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

    def view(self, index: int) -> np.ndarray:
        """A series that is no copy."""
        return self.series[index]


@dataclass(frozen=True)
class WideLayout:
    """Why a table is read as a series a row. steps: names of the columns of the steps, in order. names: of all columns
    of a file without a line of names. doubtful: whether it may be meant otherwise."""

    why: str
    steps: tuple[str, ...] = ()
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
    steps = _step_columns(names, options)
    if len(steps) < MIN_STEPS or options.channels:
        return None
    for pattern, doubtful in ((STEP_NAMES, False), (MAYBE_STEP_NAMES, True)):
        matches = [pattern.fullmatch(name.strip()) for name in steps]
        numbers = [int(match["number"]) for match in matches if match]
        prefixes = {match["prefix"] for match in matches if match}
        if len(numbers) == len(steps) and len(prefixes) == 1 and (np.diff(numbers) > 0).all():
            return WideLayout(f"its columns {steps[0]} to {steps[-1]} are numbered", tuple(steps), doubtful=doubtful)
    return None


def _step_columns(names: Sequence[str], options: Any) -> list[str]:
    """The names without those that stand for no step, in any case, or that an option names for something else."""
    named = {options.label, options.group, options.split, options.id, *options.drop_columns}
    return [name for name in names if name not in named and name.lower() not in NO_STEPS]


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
            return WideLayout(why, tuple(names), named, doubtful=not path.stem.lower().endswith(("_train", "_test")))
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


def read_wide_tables(
    entries: Sequence[FileEntry], layout: WideLayout | None, options: Any, metadata: MetadataCollector
) -> tuple[list[SeriesList], list[Table], list[Column]]:
    """Read the rows of tables as series of one channel. Missing values at the end of a row are padding.

    The steps of all files are the columns of the same names, in the order of the first file.

    Args:
        entries: the files, with metadata of all of each.
        layout: what was found of the first; None where the option says that it is wide.
        options: names of columns.
        metadata: receives label, group and split of each row.

    Returns:
        The series and the table of each file, and the columns that are no steps.

    Raises:
        DataError: a table cannot be read, lacks a step, or holds something else than numbers.
    """
    if layout is not None and layout.names and not options.columns:
        options = options.model_copy(update={"columns": layout.names})
    reference, tables = open_tables(entries, options)
    roles = reference.metadata_columns(options.label, options.group, options.split)
    found, first = _step_columns(reference.columns, options), layout.steps if layout is not None else ()
    steps = [name for name in found if name not in roles.values()]
    steps = [*(name for name in first if name in steps), *(name for name in steps if name not in first)]
    if not steps:
        raise DataError(f"{reference.path} has no column of steps; shorten dataset.drop_columns")
    check_columns(tables, reference, [*steps, *roles.values()], roles.get("label"), options.test_root)
    series = [
        _read_wide_table(entry, table, steps, roles, metadata) for entry, table in zip(entries, tables, strict=True)
    ]
    return series, tables, _other_columns(reference, steps, roles, metadata)


def _read_wide_table(
    entry: FileEntry, table: Table, steps: Sequence[str], roles: dict[str, str], metadata: MetadataCollector
) -> SeriesList:
    path, values, count, doubt = entry.path, list[np.ndarray](), 0, ""
    for block in table.blocks([*steps, *roles.values()]):
        start, rows = count, np.empty((len(next(iter(block.values()))), len(steps)), np.float32)
        looked = np.empty((min(LOOK_SERIES, len(rows)), len(steps)))
        for column, name in enumerate(steps):
            numbers, invalid = as_numbers(block[name])
            rows[:, column], looked[:, column] = numbers, numbers[: len(looked)]
            if invalid is not None:
                cure = "fix it, name the column in dataset.drop_columns, or set dataset.layout=long if rows are moments"
                raise number_error(path, start + invalid + 1, name, block[name][invalid].as_py(), cure)
        doubt = doubt or doubt_of_float32(path, looked)
        metadata.append(block, roles, entry, lambda row, start=start: f"{path} row {start + row + 1}")  # type: ignore[misc]
        values.append(rows)
        count += len(rows)
    table.release()
    if not count:
        raise DataError(f"{path} has no rows")
    return SeriesList(path, without_padding(np.concatenate(values)), doubt=doubt)


def _other_columns(
    table: Table, steps: Sequence[str], roles: dict[str, str], metadata: MetadataCollector
) -> list[Column]:
    """What becomes of the columns that are no steps."""
    dropped = getattr(table.options, "drop_columns", ())
    columns, role_of = list[Column](), {name: kind for kind, name in roles.items()}
    for name in table.columns:
        if name in role_of:
            is_number = role_of[name] == "label" and metadata.target() is not None
            columns.append(Column(name, role_of[name], "number" if is_number else "category"))  # type: ignore[arg-type]
        elif name not in steps:
            why = "dataset.drop_columns" if name in dropped else "its name stands for no step"
            columns.append(Column(name, "left out", why=why))
    return columns + [Column(name, "left out", why=why) for name, why in table.left_out.items()]


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
    _append_labels(metadata, entry, labels or None, len(series))
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
    relational = [name for name, kind in kinds.items() if kind == "relational"]
    if not len(data):
        raise DataError(f"{path} has no rows")
    label = _arff_label(kinds)
    series: Sequence[np.ndarray]
    if relational:
        series = [np.array([list(channel) for channel in row[relational[0]]], np.float32) for row in data]
        used = relational[:1]
    else:
        used = [name for name, kind in kinds.items() if kind == "numeric" and name.lower() not in NO_STEPS]
        if not used:
            raise DataError(f"{path} has no numeric attribute")
        series = without_padding(np.stack([data[name].astype(np.float32) for name in used], axis=1))
    labels = None if label is None else [_decoded(value) for value in data[label].tolist()]
    _append_labels(metadata, entry, labels, len(series))
    samples = SeriesList(path, series)
    samples.unused = tuple(name for name in kinds if name not in used and name != label)
    return samples


def _arff_label(kinds: dict[str, str]) -> str | None:
    """The attribute of the label: one of such a name, nominal or else a number; by default the last nominal one."""
    nominal, numeric = ([name for name in kinds if kinds[name] == kind] for kind in ("nominal", "numeric"))
    named = [name for name in (*nominal, *numeric) if name.lower() in ("label", "class", "target")]
    return next(iter(named or nominal[-1:]), None)


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _append_labels(metadata: MetadataCollector, entry: FileEntry, labels: Sequence[Any] | None, count: int) -> None:
    """Append labels, texts or numbers; a question mark and NaN stand for none, as in both formats."""
    block: dict[str, Any] = {"": pa.nulls(count)}
    if labels is not None:
        known = [None if _is_missing(value) else value for value in labels]
        block["label"] = pa.array(known, pa.string() if isinstance(labels[0], str) else pa.float64())
    columns = {kind: kind for kind in block if kind}
    metadata.append(block, columns, entry, lambda row: f"{entry.path} row {row + 1}")


def _is_missing(label: Any) -> bool:
    return label.strip() in ("", "?") if isinstance(label, str) else bool(np.isnan(label))
