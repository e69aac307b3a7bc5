"""Files of one's own: which there are, what their labels and groups are, and which are held out.

Knows paths and tables, no modality. A listing is a list of `Item`; the order never depends on that of the directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssl_core import ConfigError, DataError, nearest

SPLIT_SEED = 42
TABLES = (".csv", ".parquet")


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

    Labels: by `pattern` from the names; from the table; from sub-folders if every file is in one. Errors: DataError,
    ConfigError.
    """
    place = Path(root).expanduser()
    if not place.exists():
        raise DataError(f"dataset.root {root} does not exist; name a folder of recordings, a CSV or a Parquet file")
    if place.is_file():
        if place.suffix.lower() not in TABLES:
            raise DataError(f"dataset.root {root} is neither a folder nor a table ({', '.join(TABLES)})")
        items = _from_table(place)
    else:
        items = _from_folder(place, extensions)
    return _by_pattern(items, pattern) if pattern is not None else items


def _from_folder(root: Path, extensions: Sequence[str]) -> list[Item]:
    paths = [path for path in _walk(root) if path.suffix.lower() in extensions]
    if not paths:
        raise DataError(f"dataset.root {root} holds no file ending in {', '.join(extensions)}")
    names = {path: path.relative_to(root).as_posix() for path in paths}
    paths.sort(key=lambda path: names[path])
    folders = {name.split("/")[0] for name in names.values() if "/" in name}
    labelled = all("/" in name for name in names.values()) and len(folders) > 1
    return [Item(path, names[path], names[path].split("/")[0] if labelled else None) for path in paths]


def _walk(root: Path) -> Iterator[Path]:
    """All files that are not hidden, symbolic links followed but no folder entered twice."""

    def refuse(error: OSError) -> None:
        raise DataError(f"dataset.root: {error.filename} cannot be read: {error.strerror}")

    entered = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        inner[:] = [] if real in entered else [name for name in inner if not name.startswith(".")]
        if real not in entered:
            yield from (Path(folder, name) for name in files if not name.startswith("."))
        entered.add(real)


def _from_table(table: Path) -> list[Item]:
    import pandas as pd  # slow to import, and most listings need none

    try:
        frame = pd.read_csv(table, dtype=str) if table.suffix.lower() == ".csv" else pd.read_parquet(table)
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read: {' '.join(str(error).split())}") from None
    if "path" not in frame.columns:
        raise DataError(f"{table} has no column 'path', only {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise DataError(f"{table} has no rows")
    columns = {}
    for column in ("label", "group", "split"):
        values = frame[column] if column in frame.columns else [None] * len(frame)
        columns[column] = [None if pd.isna(value) else str(value) for value in values]
    items = []
    for row, path in enumerate(frame["path"]):
        where = f"{table} row {row + 1}"
        if pd.isna(path) or not (file := table.parent / str(path)).is_file():
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


def _by_pattern(items: list[Item], pattern: str) -> list[Item]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"dataset.label_pattern '{pattern}' is no regular expression: {error}") from None
    named = {"label", "group"} & set(compiled.groupindex)
    if not named:
        raise ConfigError(f"dataset.label_pattern '{pattern}' names neither (?P<label>...) nor (?P<group>...)")
    out = []
    unmatched = []
    for item in items:
        found = compiled.search(item.name)
        if found is None or any(found[name] is None for name in named):
            unmatched.append(item.name)
            continue
        label, group = (found[name] if name in named else getattr(item, name) for name in ("label", "group"))
        out.append(replace(item, label=label, group=group))
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
    if all(item.split for item in items):
        if test_groups or train_groups:
            raise ConfigError("the table's column 'split' decides; leave dataset.test_groups and train_groups out")
        divided = items
    elif any(item.group is not None for item in items):
        divided = _by_group(items, fraction, test_groups, train_groups)
    elif test_groups or train_groups:
        raise ConfigError("dataset.test_groups and train_groups need groups; name them by (?P<group>...) or a column")
    else:
        divided = _at_random(items, fraction)
    for split in ("train", "test"):
        if not any(item.split == split for item in divided):
            raise DataError(f"no file is left for the {split} split; change test_fraction or the groups")
    missing = {item.label for item in divided if item.split == "test"} - {
        item.label for item in divided if item.split == "train"
    }
    if missing:
        label = sorted(map(str, missing))[0]
        example = next(item.name for item in divided if item.label == label)
        raise DataError(f"class '{label}' is only in the test split (e.g. {example}); hold out other groups")
    return divided


def _by_group(items: list[Item], fraction: float, test: Sequence[str], train: Sequence[str]) -> list[Item]:
    groups = sorted({str(item.group) for item in items})
    for option, named in (("test_groups", test), ("train_groups", train)):
        for group in named:
            if group not in groups:
                raise ConfigError(f"dataset.{option}: no group '{group}'; {nearest(group, groups, 'group')}")
    both = set(test) & set(train)
    if both:
        raise ConfigError(f"group '{min(both)}' is in both dataset.test_groups and dataset.train_groups")
    held = set(test)
    if not test and not train:
        if len(groups) < 2:
            raise DataError(f"there is one group only ('{groups[0]}'), so none can be held out; name another group")
        order = [groups[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(groups))]
        held = set(order[: min(max(1, round(fraction * len(groups))), len(groups) - 1)])
    elif not test:
        held = set(groups) - set(train)
    kept = set(train) if train else set(groups) - held
    chosen = [item for item in items if str(item.group) in held | kept]
    return [replace(item, split="test" if str(item.group) in held else "train") for item in chosen]


def _at_random(items: list[Item], fraction: float) -> list[Item]:
    random = np.random.RandomState(SPLIT_SEED)
    split: dict[str, str] = {}
    for label in sorted({str(item.label) for item in items}):
        mine = [item.name for item in items if str(item.label) == label]
        order = random.permutation(len(mine))
        held = min(max(1, round(fraction * len(mine))), len(mine) - 1) if len(mine) > 1 else 0
        split |= {mine[i]: "test" if rank < held else "train" for rank, i in enumerate(order)}
    return [replace(item, split=split[item.name]) for item in items]


def class_names(items: list[Item]) -> tuple[str, ...]:
    """The different labels in order, whole numbers by size."""
    names = {item.label for item in items if item.label is not None}
    numbers = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))
