"""Lists recordings or pictures by a table of their paths, or adds what a table in their folder says of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_core import DataError, nearest
from ssl_plugins.datasets._io.files.entry import FileEntry, FileList, is_excluded
from ssl_plugins.datasets._io.splitting import SPLIT_NAMES, split_name_error
from ssl_plugins.datasets._io.tables.columns import as_names
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS, TableOptions
from ssl_plugins.datasets._io.tables.table import Table

PATH_COLUMNS = (
    "path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path",
    "audio", "audio_path", "wav", "wav_path", "recording", "picture",
)  # fmt: skip
"""Names that the column of the path may have; the first that a table has is taken."""

METADATA_FILES = tuple(f"metadata.{ending}" for ending in ("csv", "jsonl", "parquet", "tsv", "json"))
"""Tables that describe the files of their folder, as Hugging Face's imagefolder and audiofolder have them."""


def entries_of_table(path: Path, options: Any) -> FileList:
    """The files that a table lists, relative to its folder. Rows without a file are left out, counted and warned of.

    Args:
        path: the table, with a column of paths and perhaps label, group and split.
        options: as `TableOptions`; `label`, `group`, `split` and `path_column` name columns if the options have them.

    Raises:
        DataError: the table cannot be read, has no column of paths, or lists no file that exists.
    """
    table, path_column, columns = _open(path, options)
    if path_column is None:
        raise DataError(
            f"{path} has no column of paths, such as path, file or filename, only {', '.join(table.columns)}; set "
            f"dataset.path_column to its name"
        )
    rows = _rows(table, [path_column, *columns.values()])
    if not rows:
        raise DataError(f"{path} has no rows")
    files, missing, excluded = FileList(), [], 0
    for row, values in enumerate(rows):
        name, known = values[path_column], {kind: values[column] for kind, column in columns.items()}
        file = None if name is None else _existing(path.parent, name)
        if file is None:
            missing.append(f"row {row + 1}: {name or 'no path'}")
            continue
        if is_excluded(_name_below(path.parent, file), options):
            excluded += 1
            continue
        _check_split(f"{path} row {row + 1}", known.get("split"))
        files.append(FileEntry(file, str(name), **known))
    if not files and excluded:
        raise DataError(f"{path}: dataset.exclude leaves out each of the files that it lists; shorten it")
    if not files:
        raise DataError(
            f"{path}: none of the {len(rows)} files that it lists exists ({missing[0]}); paths are relative to the "
            f"table's folder"
        )
    if missing:
        files.ignored["listed, but missing"] = len(missing)
        files.warnings.append(
            f"{len(missing)} of the {len(rows)} files that {path} lists do not exist and are left out ({missing[0]})"
        )
    _note(files, table, path_column, columns)
    return files


def add_metadata(files: FileList, root: Path, options: Any) -> None:
    """Take label, group and split from tables called metadata with a column file_name, in the folders of the files.

    A file that such a table does not list keeps what its folder says. Changes the list in place.

    Raises:
        DataError: a table cannot be read, or names an unknown split.
    """
    parents = dict.fromkeys(entry.path.parent for entry in files)
    folders = dict.fromkeys(folder for parent in parents for folder in _folders_up(parent, root))
    known: dict[Path, dict[str, str | None]] = {}
    for table_path in (folder / name for folder in folders for name in METADATA_FILES):
        if not table_path.is_file() or is_excluded(table_path.relative_to(root).as_posix(), options):
            continue
        table, path_column, columns = _open(table_path, options)
        if path_column is None:
            continue
        for row, values in enumerate(_rows(table, [path_column, *columns.values()])):
            if values[path_column] is not None:
                said = {kind: values[column] for kind, column in columns.items()}
                _check_split(f"{table_path} row {row + 1}", said.get("split"))
                known[Path(os.path.normpath(table_path.parent / str(values[path_column])))] = said
        ending = table_path.suffix
        files.ignored[ending] -= 1
        files.ignored += type(files.ignored)()  # drops counts of zero
        files.facts["metadata"] = table_path.name
        _note(files, table, path_column, columns)
    if not known:
        return
    for index, entry in enumerate(files):
        said = known.get(Path(os.path.normpath(entry.path)), {})
        found: dict[str, Any] = {kind: value for kind, value in said.items() if value is not None}
        files[index] = replace(entry, **found)
    unlisted = sum(Path(os.path.normpath(entry.path)) not in known for entry in files)
    if unlisted:
        files.warnings.append(f"{unlisted} of {len(files)} files are not listed in {files.facts['metadata']}")


def _folders_up(folder: Path, root: Path) -> list[Path]:
    """A folder and those above it, up to the root."""
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _open(path: Path, options: Any) -> tuple[Table, str | None, dict[str, str]]:
    """A table, its column of paths, and the columns of label, group and split."""
    table = Table.open(path, options if isinstance(options, TableOptions) else TableOptions())
    named = getattr(options, "path_column", None)
    if named is not None and named not in table.columns:
        raise DataError(f"{path} has no column '{named}'; {nearest(named, table.columns, 'column')}")
    lower = {name.lower(): name for name in reversed(table.columns)}
    path_column = named or next((lower[name] for name in PATH_COLUMNS if name in lower), None)
    label, group, split = (getattr(options, kind, None) for kind in METADATA_COLUMNS)
    return table, path_column, table.metadata_columns(label, group, split)


def _rows(table: Table, columns: Sequence[str]) -> list[dict[str, str | None]]:
    """The rows of a table as stripped texts; empty cells are None."""
    names = list(dict.fromkeys(columns))
    rows: list[dict[str, str | None]] = []
    for block in table.blocks(names):
        texts = [as_names(block[name]).to_pylist() for name in names]
        rows += [dict(zip(names, values, strict=True)) for values in zip(*texts, strict=True)]
    return rows


def _existing(folder: Path, name: str) -> Path | None:
    """The file of a listing's row, also one written with the separators of Windows."""
    for candidate in dict.fromkeys((name, name.replace("\\", "/"))):
        try:
            if (path := folder / candidate).is_file():
                return path
        except (OSError, ValueError):  # no valid name of a file
            continue
    return None


def _name_below(folder: Path, file: Path) -> str:
    """The path of a file from a folder, with the separators of an option."""
    file = Path(os.path.normpath(file))
    return (file.relative_to(folder) if folder in file.parents else file).as_posix()


def _check_split(location: str, split: str | None) -> None:
    if split is not None and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{location}: {split_name_error(split)}")


def _note(files: FileList, table: Table, path_column: str, columns: dict[str, str]) -> None:
    """Record what is not plain of a listing."""
    files.facts |= table.facts
    files.warnings += table.warnings.values()
    files.doubts += table.doubts.values()
    if path_column != "path":
        files.facts["path column"] = path_column
    for kind, column in columns.items():
        if kind != column:
            files.facts[f"{kind} column"] = column
