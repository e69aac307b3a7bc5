"""Files of one's own: which there are, what their labels and groups are, and which are held out.

Knows paths and tables, no modality. A listing is a list of `Item`; the order never depends on that of the directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets._io.splitting import SPLITS, Coder, Said, divide_rows, in_order

TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
LIKE_SPLITS = frozenset({*SPLITS, "training", "testing", "val", "valid", "validation", "dev", "eval"})


@dataclass(frozen=True)
class Item:
    """One file. `name` is its path as the user knows it; `split` is what a table says of it."""

    path: Path
    name: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


def listing(root: str, extensions: Sequence[str], pattern: str | None) -> list[Item]:
    """All files of a folder, or of a table with the columns path, label, group and split (path alone is needed).

    Labels: by `pattern` from the names; from the table; from sub-folders if every file is in one, those within train/
    and test/ if there are these. Errors: DataError, ConfigError.
    """
    place = Path(root).expanduser()
    if not place.exists():
        raise DataError(f"dataset.root {root} does not exist; name a folder of files, a CSV or a Parquet file")
    if place.is_file():
        if not place.name.lower().endswith(TABLES):
            raise DataError(f"dataset.root {root} is neither a folder nor a table ({', '.join(TABLES)})")
        items = _from_table(place)
    else:
        items = _from_folder(place, extensions, pattern)
    return by_pattern(items, pattern) if pattern is not None else items


def sources(root: str, test_root: str | None, extensions: Sequence[str], pattern: str | None) -> list[Item]:
    """The files that hold the samples: root itself, or all in that folder; and those of `test_root`, as its split.

    Errors: DataError, ConfigError.
    """
    found = []
    for option, path, split in (("root", root, "train" if test_root else None), ("test_root", test_root, "test")):
        if path is None:
            continue
        place = Path(path).expanduser()
        if not place.exists():
            raise DataError(f"dataset.{option} {path} does not exist; name a file or a folder")
        items = [Item(place, place.name)] if place.is_file() else _from_folder(place, extensions, pattern)
        items = by_pattern(items, pattern) if pattern is not None else items
        found += [replace(item, split=item.split if split is None else split) for item in items]
    return found


def _from_folder(root: Path, extensions: Sequence[str], pattern: str | None) -> list[Item]:
    paths = [path for path in _walk(root) if path.name.lower().endswith(tuple(extensions))]
    if not paths:
        raise DataError(f"dataset.root {root} holds no file ending in {', '.join(extensions)}")
    parts = {path: path.relative_to(root).parts for path in paths}
    paths.sort(key=lambda path: "/".join(parts[path]))
    tops = {own[0] if len(own) > 1 else "" for own in parts.values()}
    divided = tops == set(SPLITS)
    if pattern is None and len(tops) > 1 and not divided and {top.lower() for top in tops} <= LIKE_SPLITS:
        raise DataError(
            f"dataset.root {root} holds the folders {', '.join(sorted(tops))}; call those to use train and test, and "
            f"leave others out"
        )
    below = {path: own[1:] if divided else own for path, own in parts.items()}
    folders = {own[0] if len(own) > 1 else "" for own in below.values()}
    labelled = len(folders) > 1 and "" not in folders
    return [
        Item(
            path, "/".join(parts[path]), below[path][0] if labelled else None,
            split=parts[path][0] if divided else None,
        )
        for path in paths
    ]  # fmt: skip


def _walk(root: Path) -> Iterator[Path]:
    """All files that are not hidden, symbolic links followed but no folder entered twice."""

    def refuse(error: OSError) -> None:
        raise DataError(f"dataset.root: {error.filename} cannot be read: {error.strerror}")

    entered = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        inner[:] = [] if real in entered else sorted(name for name in inner if not name.startswith("."))
        if real not in entered:
            yield from (Path(folder, name) for name in files if not name.startswith("."))
        entered.add(real)


def _from_table(table: Path) -> list[Item]:
    import pandas as pd  # slow to import, and most listings need none

    try:
        if table.suffix.lower() == ".parquet":
            frame = pd.read_parquet(table)
        else:  # "None" and "NA" are names as any other
            mark = "\t" if ".tsv" in table.name.lower() else ","
            frame = pd.read_csv(table, sep=mark, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read: {' '.join(str(error).split())}") from None
    if "path" not in frame.columns:
        raise DataError(f"{table} has no column 'path', only {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise DataError(f"{table} has no rows")
    columns = {}
    for column in ("label", "group", "split"):
        values = frame[column] if column in frame.columns else [None] * len(frame)
        columns[column] = [None if pd.isna(value) else str(value).strip() or None for value in values]
    items = []
    for row, path in enumerate(frame["path"]):
        where = f"{table} row {row + 1}"
        if pd.isna(path) or not str(path).strip():
            raise DataError(f"{where} has no path; fill it in or remove the row")
        if not (file := table.parent / str(path)).is_file():
            raise DataError(f"{where}: there is no file {path}; paths are relative to the table's folder")
        split = columns["split"][row]
        if split not in (None, "train", "test"):
            raise DataError(f"{where}: split is '{split}', it must be train or test")
        items.append(Item(file, str(path), columns["label"][row], columns["group"][row], split))
    for column in columns:
        missing = [row + 1 for row, value in enumerate(columns[column]) if value is None]
        if missing and len(missing) < len(items):
            raise DataError(f"{table} row {missing[0]} has no {column}; fill in the column everywhere or leave it out")
    return items


def by_pattern(items: list[Item], pattern: str) -> list[Item]:
    """The items with what the named groups of a regular expression find in their names. Errors: ConfigError."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"dataset.label_pattern '{pattern}' is no regular expression: {error}") from None
    named = {"label", "group", "split"} & set(compiled.groupindex)
    if not named:
        raise ConfigError(
            f"dataset.label_pattern '{pattern}' names neither (?P<label>...) nor (?P<group>...) nor (?P<split>...)"
        )
    out = []
    unmatched = []
    for item in items:
        found = compiled.search(item.name)
        if found is None or any(found[name] is None for name in named):
            unmatched.append(item.name)
            continue
        said: dict[str, Any] = {name: found[name] for name in named}
        out.append(replace(item, **said))
    if unmatched:
        raise ConfigError(
            f"dataset.label_pattern '{pattern}' does not match {len(unmatched)} of {len(items)} names, "
            f"e.g. '{unmatched[0]}'"
        )
    return out


def divide(items: list[Item], fraction: float, test_groups: Sequence[str], train_groups: Sequence[str]) -> list[Item]:
    """Each item with its split: as a table says, by named groups, by random whole groups, or at random.

    At random means a seeded shuffle, within each label if there are labels. Errors: ConfigError, DataError.
    """
    coders = {what: Coder() for what in ("label", "group", "split")}
    for what, coder in coders.items():
        coder.each(getattr(item, what) for item in items)

    def where(row: int) -> str:
        return items[row].name

    said = Said(len(items), where, **{what: coder.marks(what, where) for what, coder in coders.items()})
    held = divide_rows(said, fraction, test_groups, train_groups)
    return [replace(items[row], split=SPLITS[held[row]]) for row in np.flatnonzero(held >= 0)]


def class_names(items: list[Item]) -> tuple[str, ...]:
    """The different labels in order, whole numbers by size."""
    return in_order(item.label for item in items if item.label is not None)
