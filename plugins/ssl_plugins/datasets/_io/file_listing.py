"""Lists the user's files with their labels, groups and splits.

Knows paths and tables, no modality. The order of a list never depends on that of the directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets._io.file_entry import FileEntry, SampleLocations
from ssl_plugins.datasets._io.splitting import (
    SPLIT_NAMES,
    LabelEncoder,
    SampleMetadata,
    is_validation,
    split_name_error,
)
from ssl_plugins.datasets._io.table_options import METADATA_COLUMNS

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
__all__ = ["METADATA_COLUMNS", "TABLE_EXTENSIONS", "FileEntry", "SampleLocations", "list_files", "list_sources"]

SPLIT_LIKE_FOLDERS = frozenset({*SPLIT_NAMES, "training", "testing", "eval"})


def list_files(root: str, extensions: Sequence[str], pattern: str | None, options: Any = None) -> list[FileEntry]:
    """All files of a folder, or of a table with the columns path, label, group and split (only path is required).

    Labels come from `pattern`, from the table, or from sub-folders if every file is in one. Where the top folders are
    train/ and at least one of val/ and test/, they are the split and the folders below are the labels.

    Raises:
        ConfigError: `pattern` cannot be used.
        DataError: the root does not exist, holds no file, or its table cannot be read.
    """
    path = Path(root).expanduser()
    if not path.exists():
        raise DataError(f"dataset.root {root} does not exist; name a folder of files, a CSV or a Parquet file")
    if path.is_file():
        if not path.name.lower().endswith(TABLE_EXTENSIONS):
            raise DataError(f"dataset.root {root} is neither a folder nor a table ({', '.join(TABLE_EXTENSIONS)})")
        entries = _entries_of_table(path)
    else:
        entries = _entries_of_folder(path, extensions, pattern)
    return apply_pattern(entries, pattern) if pattern is not None else entries


def list_sources(
    root: str, test_root: str | None, extensions: Sequence[str], pattern: str | None, options: Any = None
) -> list[FileEntry]:
    """The files that hold the samples: root itself, or all files of that folder; then those of `test_root`.

    With a `test_root`, its files are the test split, and those of root the training split but for a validation split.

    Raises:
        ConfigError: `pattern` cannot be used.
        DataError: a root does not exist or holds no file.
    """
    entries: list[FileEntry] = []
    for option, root_path, split in (("root", root, "train" if test_root else None), ("test_root", test_root, "test")):
        if root_path is None:
            continue
        path = Path(root_path).expanduser()
        if not path.exists():
            raise DataError(f"dataset.{option} {root_path} does not exist; name a file or a folder")
        part = [FileEntry(path, path.name)] if path.is_file() else _entries_of_folder(path, extensions, pattern)
        part = apply_pattern(part, pattern) if pattern is not None else part
        if split is not None:
            keeps_validation = split == "train"
            part = [
                entry if keeps_validation and is_validation(entry.split) else replace(entry, split=split)
                for entry in part
            ]
        entries += part
    return entries


def _entries_of_folder(root: Path, extensions: Sequence[str], pattern: str | None) -> list[FileEntry]:
    paths = [path for path in _walk(root) if path.name.lower().endswith(tuple(extensions))]
    if not paths:
        raise DataError(f"dataset.root {root} holds no file ending in {', '.join(extensions)}")
    parts = {path: path.relative_to(root).parts for path in paths}
    paths.sort(key=lambda path: "/".join(parts[path]))
    top_folders = {names[0] if len(names) > 1 else "" for names in parts.values()}
    splits = [SPLIT_NAMES.get(folder.lower()) for folder in top_folders]
    has_split = None not in splits and len(set(splits)) == len(splits) > 1 and "train" in splits
    split_like = {folder.lower() for folder in top_folders} <= SPLIT_LIKE_FOLDERS
    if pattern is None and len(top_folders) > 1 and not has_split and split_like:
        raise DataError(
            f"dataset.root {root} holds the folders {', '.join(sorted(top_folders))}; call those to use train, "
            f"val and test, one for each split, and leave others out"
        )
    below = {path: names[1:] if has_split else names for path, names in parts.items()}
    label_folders = {names[0] if len(names) > 1 else "" for names in below.values()}
    has_labels = len(label_folders) > 1 and "" not in label_folders
    return [
        FileEntry(
            path, "/".join(parts[path]), below[path][0] if has_labels else None,
            split=SPLIT_NAMES[parts[path][0].lower()] if has_split else None,
        )
        for path in paths
    ]  # fmt: skip


def _walk(root: Path) -> Iterator[Path]:
    """All files that are not hidden; follows symbolic links and enters no folder twice."""

    def unreadable(error: OSError) -> None:
        raise DataError(f"dataset.root: {error.filename} cannot be read: {error.strerror}")

    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in visited else sorted(name for name in subfolders if not name.startswith("."))
        if real not in visited:
            yield from (Path(folder, name) for name in files if not name.startswith("."))
        visited.add(real)


def _entries_of_table(table: Path) -> list[FileEntry]:
    import pandas as pd  # slow to import, and most listings do not need it

    try:
        if table.suffix.lower() == ".parquet":
            frame = pd.read_parquet(table)
        else:  # "None" and "NA" are valid names
            delimiter = "\t" if ".tsv" in table.name.lower() else ","
            frame = pd.read_csv(table, sep=delimiter, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read: {' '.join(str(error).split())}") from None
    if "path" not in frame.columns:
        raise DataError(f"{table} has no column 'path', only {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise DataError(f"{table} has no rows")
    columns = {}
    for column in METADATA_COLUMNS:
        values = frame[column] if column in frame.columns else [None] * len(frame)
        columns[column] = [None if pd.isna(value) else str(value).strip() or None for value in values]
    entries = []
    for row, path in enumerate(frame["path"]):
        location = f"{table} row {row + 1}"
        if pd.isna(path) or not str(path).strip():
            raise DataError(f"{location} has no path; fill it in or remove the row")
        if not (file := table.parent / str(path)).is_file():
            raise DataError(f"{location}: there is no file {path}; paths are relative to the table's folder")
        split = columns["split"][row]
        if split is not None and split.lower() not in SPLIT_NAMES:
            raise DataError(f"{location}: {split_name_error(split)}")
        entries.append(FileEntry(file, str(path), columns["label"][row], columns["group"][row], split))
    for column, names in columns.items():
        missing = [row + 1 for row, value in enumerate(names) if value is None]
        if missing and len(missing) < len(entries):
            raise DataError(f"{table} row {missing[0]} has no {column}; fill in the column everywhere or leave it out")
    return entries


def apply_pattern(entries: list[FileEntry], pattern: str) -> list[FileEntry]:
    """Set label, group and split from the named groups of a regular expression, searched in each entry's name.

    Raises:
        ConfigError: `pattern` is invalid, has none of these groups, or does not match a name.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"dataset.label_pattern '{pattern}' is no regular expression: {error}") from None
    groups = set(METADATA_COLUMNS) & set(regex.groupindex)
    if not groups:
        raise ConfigError(
            f"dataset.label_pattern '{pattern}' names neither (?P<label>...) nor (?P<group>...) nor (?P<split>...)"
        )
    entries_out = []
    unmatched = []
    for entry in entries:
        match = regex.search(entry.name)
        if match is None or any(match[group] is None for group in groups):
            unmatched.append(entry.name)
            continue
        values: dict[str, Any] = {group: match[group] for group in groups}
        entries_out.append(replace(entry, **values))
    if unmatched:
        raise ConfigError(
            f"dataset.label_pattern '{pattern}' does not match {len(unmatched)} of {len(entries)} names, "
            f"e.g. '{unmatched[0]}'"
        )
    return entries_out


def metadata_of_files(entries: Sequence[FileEntry]) -> SampleMetadata:
    """Metadata where each file is one sample.

    Raises:
        DataError: some files have a label, group or split and others have none.
    """
    locations = SampleLocations([entry.path for entry in entries], np.arange(len(entries) + 1), unit="")
    columns = {}
    for kind in METADATA_COLUMNS:
        encoder = LabelEncoder()
        encoder.append_names(getattr(entry, kind) for entry in entries)
        columns[kind] = encoder.sorted_codes(kind, locations)
    return SampleMetadata(len(entries), locations, **columns)
