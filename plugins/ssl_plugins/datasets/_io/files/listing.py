"""Lists the user's files with their labels, groups and splits.

Knows paths and tables, no modality. The order of a list never depends on that of the directory.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError, Split
from ssl_plugins.datasets._io.copies import copies_of_files
from ssl_plugins.datasets._io.files.archives import ENDING as ARCHIVE_ENDING
from ssl_plugins.datasets._io.files.archives import NOT_DATA, folder_in_place_of
from ssl_plugins.datasets._io.files.entry import FileEntry, FileList, SampleLocations, ending_of, is_excluded
from ssl_plugins.datasets._io.files.kind import COMPRESSION_ENDINGS
from ssl_plugins.datasets._io.files.listing_tables import add_metadata, entries_of_table
from ssl_plugins.datasets._io.files.patterns import NamePattern
from ssl_plugins.datasets._io.files.stores import is_store
from ssl_plugins.datasets._io.splitting import (
    SPLIT_NAMES,
    LabelEncoder,
    SampleMetadata,
    is_unlabelled,
    is_validation,
    split_of_folder,
)
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS

SHOWN_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".feather", ".xlsx")
TABLE_EXTENSIONS = (
    *(
        f".{ending}{compression}"
        for ending in ("csv", "tsv", "tab", "jsonl", "ndjson", "json")
        for compression in ("", *COMPRESSION_ENDINGS)
    ),
    *(".parquet", ".pq", ".feather", ".arrow", ".xlsx"),
)
__all__ = [
    "METADATA_COLUMNS", "SHOWN_TABLES", "TABLE_EXTENSIONS", "FileEntry", "FileList", "SampleLocations",
    "apply_pattern", "is_excluded", "list_files", "list_sources", "metadata_of_files", "splits_by_name",
]  # fmt: skip

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "rgb")
MASK_FOLDERS = (
    "labels",
    "masks",
    "mask",
    "annotations",
    "segmentation",
    "segmentations",
    "gt",
    "groundtruth",
    "targets",
)
SAVED_MARKS, SAVED_DICT = ("state.json", "dataset_info.json"), "dataset_dict.json"
"""Files that `datasets.save_to_disk` writes beside a data set, and beside the folders of several splits."""
SHOWN_ENDINGS = 8
"""Endings of files that a message names."""
MATCHING_NAMES = 0.9  # share of the masks that are called as an image, so that they are surely masks
SPLIT_LIKE_FOLDERS = frozenset({*SPLIT_NAMES, "training", "testing", "eval"})


def list_files(root: str, extensions: Sequence[str], pattern: str | None, options: Any = None) -> FileList:
    """All files of a folder, of a table with a column of paths, or of a pattern such as data/*.wav; or a single file.

    Labels come from `pattern`, from the table, from a metadata.csv in the folder, or from sub-folders if every file is
    in one. Where the top folders are train/ and at least one of val/ and test/, they are the split and the folders
    below are the labels. Folders such as unlabeled/ are for pretraining alone, at the top or beside those of classes.
    A folder that holds all others and no file is seen through.

    Args:
        root: the folder, table, pattern or file.
        extensions: endings of the files to read, in lower case.
        pattern: a regular expression with named groups; see `apply_pattern`.
        options: as `UserDataOptions` and `TableOptions`; see `entries_of_table`.

    Raises:
        ConfigError: `pattern` cannot be used, or an option names a column where no table lists the files.
        DataError: the root does not exist, holds no file, or its table cannot be read.
    """
    path = Path(root).expanduser()
    cure = "set dataset.extensions to read others"
    if (several := _entries_of_several(root, extensions, pattern, options)) is not None:
        files = several
    elif not path.exists():
        raise DataError(f"dataset.root {root} does not exist; name a folder of files, a table of paths, or a file")
    elif path.is_dir():
        files = _entries_of_folder(path, extensions, pattern, options, cure)
        if pattern is None:
            add_metadata(files, path, options)
    elif path.name.lower().endswith(tuple(extensions)):
        files = FileList([_single(path, "root")])
    elif path.name.lower().endswith(TABLE_EXTENSIONS):
        files = entries_of_table(path, options)
    else:
        raise DataError(
            f"dataset.root {root} is neither a folder nor a file ending in {_shown(extensions)}, nor a table of "
            f"paths ({', '.join(SHOWN_TABLES)}); {cure}"
        )
    if pattern is not None:
        files = files.with_entries(apply_pattern(files, pattern))
    if not (path.name.lower().endswith(TABLE_EXTENSIONS) and path.is_file()) and "metadata" not in files.facts:
        _refuse_columns(files, root, pattern, options)
    return files


def _shown(extensions: Sequence[str]) -> str:
    """The first endings in words; those of compressed files are not named."""
    plain = list(dict.fromkeys(ending for ending in extensions if not ending.endswith(COMPRESSION_ENDINGS)))
    more = len(plain) - SHOWN_ENDINGS
    return ", ".join(plain[:SHOWN_ENDINGS]) + (f" or {more} others" if more > 0 else "")


def _refuse_columns(files: FileList, root: str, pattern: str | None, options: Any) -> None:
    """Raises:
    ConfigError: an option names a column of a table, and no table lists the files.
    """
    for kind in METADATA_COLUMNS:
        if (name := getattr(options, kind, None)) is None or (pattern is not None and f"(?P<{kind}>" in pattern):
            continue
        raise ConfigError(
            f"dataset.{kind}={name} names a column, and no table lists the files of {root}; give such a table as "
            f"dataset.root, put metadata.csv with the columns file_name and {name} into the folder, or set "
            f"dataset.label_pattern"
        )


def list_sources(
    root: str,
    test_root: str | None,
    extensions: Sequence[str],
    pattern: str | None,
    options: Any = None,
    by_content: Callable[[Path], bool] | None = None,
) -> FileList:
    """The files that hold the samples: root itself, all files of that folder or pattern; then those of `test_root`.

    With a `test_root`, its files are the test split, and those of root the training split but for a validation split.
    Files of a folder that are called after splits, such as train.csv and test.csv, are these splits. In a folder
    without a file of these extensions, `by_content` decides which of the others are read.

    Raises:
        ConfigError: `pattern` cannot be used.
        DataError: a root does not exist or holds no file.
    """
    files = FileList()
    for option, root_path, split in (("root", root, "train" if test_root else None), ("test_root", test_root, "test")):
        if root_path is None:
            continue
        path = Path(root_path).expanduser()
        if (several := _entries_of_several(root_path, extensions, pattern, options)) is not None:
            part = several
        elif not path.exists():
            raise DataError(
                f"dataset.{option} {root_path} does not exist; name a file, a folder, or a pattern of files"
            )
        elif path.is_dir() and not is_store(path):
            cure = "name one file to read it anyway"
            part = _entries_of_folder(path, extensions, pattern, options, cure, by_content)
        else:
            part = FileList([_single(path, option)])
        if pattern is not None:
            part = part.with_entries(apply_pattern(part, pattern))
        if split is None:
            part = part.with_entries(splits_by_name(part))  # keeps what the pattern says of splits
        if split is not None:
            part = part.with_entries(
                entry if split == "train" and is_validation(entry.split) else replace(entry, split=split)
                for entry in part
            )
        files.absorb(part)
    return files


def _single(path: Path, option: str) -> FileEntry:
    if not path.is_file() and not is_store(path):
        raise DataError(f"dataset.{option} {path} is no regular file, perhaps a pipe; save it as a file first")
    return FileEntry(path, path.name)


def root_parts(root: str) -> list[str]:
    """The paths that a root names: several if they have commas between them and each exists, else the root itself."""
    parts = [part.strip() for part in root.split(",")]
    several = len(parts) > 1 and not Path(root).expanduser().exists()
    return parts if several and all(part and Path(part).expanduser().exists() for part in parts) else [root]


def _entries_of_several(root: str, extensions: Sequence[str], pattern: str | None, options: Any) -> FileList | None:
    """The files of a pattern such as data/*.csv, or several files; None if the root is one path.

    The folders below the fixed part of a pattern say what those of a folder do. Files of other endings are counted,
    unless there are no others.
    """
    parts, names, folder = root_parts(root), {}, None
    if len(parts) > 1:
        for part in parts:
            if not (path := Path(part).expanduser()).is_file():
                raise DataError(f"{part} is no regular file; of several paths each must be a file")
            names[path] = path.name if len({Path(each).name for each in parts}) == len(parts) else part
    else:
        expression = os.path.expanduser(root)
        if not glob.has_magic(expression) or os.path.exists(expression):
            return None
        first = min(expression.find(sign) % (len(expression) + 1) for sign in "*?[")
        folder = Path(os.path.dirname(expression[:first]) or ".")
        found = sorted(Path(name) for name in glob.glob(expression, recursive=True))
        names = {path: path.relative_to(folder).as_posix() for path in found if path.is_file()}
        if not names:
            raise DataError(f"dataset.root {root}: no file has such a name")
    files = FileList()
    names = {path: name for path, name in names.items() if not is_excluded(name, options)}
    if not names:
        raise DataError(f"dataset.root {root}: dataset.exclude leaves out each of its files; shorten it")
    known = {path: name for path, name in names.items() if path.name.lower().endswith(tuple(extensions))}
    if known and len(known) < len(names):
        files.ignored.update(ending_of(path.name) for path in names if path not in known)
        names = known
    if folder is None:
        files += [FileEntry(path, name) for path, name in names.items()]
    else:
        _add_by_folders(files, folder, {path: tuple(name.split("/")) for path, name in names.items()}, pattern)
    return files


def splits_by_name(files: Sequence[FileEntry]) -> list[FileEntry]:
    """Take the split of files from names such as train.csv and data_test_5k.csv, if all files have one in their names.

    What folders say comes first.
    """
    splits = [_split_in_name(entry.path.name) for entry in files]
    stems = {entry.path.stem for entry, split in zip(files, splits, strict=True) if split == "test"}
    splits = [  # as in the UCI repository: adult.data and adult.test
        "train" if split is None and entry.path.suffix.lower() == ".data" and entry.path.stem in stems else split
        for entry, split in zip(files, splits, strict=True)
    ]
    if None in splits or len(set(splits)) < 2 or "train" not in splits or any(entry.split for entry in files):
        return list(files)
    return [replace(entry, split=split) for entry, split in zip(files, splits, strict=True)]


def _split_in_name(name: str) -> Split | None:
    """The split that one of the words of a file's name says; None if none or several do."""
    stem, _, ending = name.lower().rpartition(".")
    if ending in SPLIT_NAMES and stem:
        return SPLIT_NAMES[ending]
    words = re.split(r"[^a-z]+", name.split(".")[0].lower())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _entries_of_folder(
    root: Path,
    extensions: Sequence[str],
    pattern: str | None,
    options: Any,
    cure: str,
    by_content: Callable[[Path], bool] | None = None,
) -> FileList:
    files, parts, others = FileList(), {}, {}
    for path, names in _files_below(root, extensions, options):
        if is_excluded("/".join(names), options):
            continue
        reason = None if path.name.lower().endswith(tuple(extensions)) else ending_of(path.name)
        if (
            reason is None and not path.is_file() and path.exists() and not is_store(path)
        ):  # a link to nothing is a bad sample
            reason = "no regular file"
        elif reason is None and not _is_utf8(path):
            reason = "name is not UTF-8"
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            files.warnings.append(f"{shown} is left out, for its name is not UTF-8; rename it to use it")
        if reason is None:
            parts[path] = names
        else:
            files.ignored[reason] += 1
            others[path] = names
    if not parts and by_content is not None:
        parts = {path: names for path, names in others.items() if path.is_file() and by_content(path)}
        files.ignored.subtract(ending_of(path.name) for path in parts)
        files.ignored = +files.ignored
    if not parts:
        found = ", ".join(f"{count} {reason}" for reason, count in files.ignored.most_common(5))
        found = f"; it holds {found}: {cure}" if found else ""
        raise DataError(f"dataset.root {root} holds no file ending in {_shown(extensions)}{found}")
    _add_by_folders(files, root, parts, pattern)
    return files


def _add_by_folders(files: FileList, root: Path, parts: Mapping[Path, tuple[str, ...]], pattern: str | None) -> None:
    """Append files with the label and split that the names of their folders say.

    Args:
        files: receives them, and what is doubtful.
        root: the folder above all.
        parts: the names below it to each file.
        pattern: the option `label_pattern`, which says the labels in place of the folders.

    Raises:
        DataError: the folders seem to be splits, and it is not clear which is which, or they are of masks.
    """
    paths = sorted(parts, key=lambda path: "/".join(parts[path]))
    depth = _wrapper_depth(parts.values())
    below = {path: names[depth:] for path, names in parts.items()}
    top_folders = {names[0] if len(names) > 1 else "" for names in below.values()}
    splits = [split_of_folder(folder) for folder in top_folders if not is_unlabelled(folder)]
    unlabelled = any(map(is_unlabelled, top_folders))
    has_split = None not in splits and len(set(splits)) == len(splits) > (0 if unlabelled else 1) and "train" in splits
    split_like = {folder.lower() for folder in top_folders} <= SPLIT_LIKE_FOLDERS
    if pattern is None and len(top_folders) > 1 and not has_split and split_like:
        raise DataError(
            f"dataset.root {root} holds the folders {', '.join(sorted(top_folders))}; call those to use train, "
            f"val and test, one for each split, and leave others out"
        )
    classes = {path: names[1:] if has_split else names for path, names in below.items()}
    levels = 2 if has_split else 1
    for_pretraining = {path for path, names in below.items() if any(map(is_unlabelled, names[:-1][:levels]))}
    label_folders = {
        names[0] if len(names) > 1 else "" for path, names in classes.items() if path not in for_pretraining
    }
    has_labels = len(label_folders) > 1 and "" not in label_folders
    if pattern is None and has_labels and (masks := _mask_folders(root, label_folders, classes)):
        of_masks = {path for path, names in classes.items() if names[0] in masks}
        shown = ", ".join(sorted(masks))
        files.warnings.append(
            f"the files of {shown} belong to those of {min(label_folders - masks)} by their names, and are left out; "
            f"dataset.exclude={','.join(sorted(masks))} says so, too"
        )
        files.ignored.update(f"{ending_of(path.name)} of {shown}" for path in of_masks)
        paths, has_labels = [path for path in paths if path not in of_masks], False
    if pattern is None and not has_labels and len(label_folders) > 2:
        _doubt_strays(files, root, label_folders, ["/".join(parts[path]) for path in paths if len(classes[path]) == 1])
    files += [
        FileEntry(
            path, "/".join(parts[path]), classes[path][0] if has_labels and path not in for_pretraining else None,
            split=(split_of_folder(below[path][0]) or "train") if has_split else None,
        )
        for path in paths
    ]  # fmt: skip


def _mask_folders(root: Path, folders: set[str], names: Mapping[Path, tuple[str, ...]]) -> set[str]:
    """The folders of masks beside one of images, whose files are called like those of the images; else none.

    Raises:
        DataError: there are such folders, and their files have other names, so that the folders would become classes.
    """
    images = {name for name in folders if name.lower() in IMAGE_FOLDERS}
    masks = {name for name in folders if name.lower() in MASK_FOLDERS}
    if len(images) != 1 or not masks or images | masks != folders:
        return set()
    stems: dict[bool, set[str]] = {True: set(), False: set()}
    for path, parts in names.items():
        if len(parts) > 1:
            stems[parts[0] in masks].add("/".join([*parts[1:-1], path.stem]))
    if len(stems[True] & stems[False]) >= MATCHING_NAMES * max(1, len(stems[True])):
        return masks
    raise DataError(
        f"dataset.root {root}: the folders {min(images)} and {', '.join(sorted(masks))} hold images and what belongs "
        f"to each of them, and are no classes; set dataset.exclude={','.join(sorted(masks))} to read the images"
    )


def _doubt_strays(files: FileList, root: Path, folders: set[str], strays: Sequence[str]) -> None:
    """Say why folders are no labels, if few files lie beside them."""
    if len(strays) <= len(folders) - 1:
        shown = ", ".join(strays[:3]) + (", ..." if len(strays) > 3 else "")
        names = ", ".join(sorted(folders - {""})[:3])
        files.doubts.append(
            f"dataset.root {root}: the folders ({names}, ...) are not read as labels, for {shown} lies beside them; "
            f"set 'dataset.exclude={','.join(strays)}' to read them as labels"
        )


def _wrapper_depth(parts: Iterable[tuple[str, ...]]) -> int:
    """How many folders at the top hold all files and no file themselves, as that of an unpacked archive."""
    folders = [names[:-1] for names in parts]
    depth = 0
    while len({names[: depth + 1] for names in folders}) == 1 and len(folders[0]) > depth:
        depth += 1
    return depth if any(len(names) > depth for names in folders) else 0


def _shared_folders(parts: Iterable[tuple[str, ...]]) -> int:
    """How many folders at the top hold all files, down to that of the files themselves."""
    levels = zip(*(names[:-1] for names in parts), strict=False)
    return sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))


def _is_utf8(path: Path) -> bool:
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _files_below(root: Path, extensions: Sequence[str], options: Any) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """All files, with the names of the folders to each. A ZIP archive is a folder without the ending of its name.

    Of a folder that `datasets.save_to_disk` wrote, those that hold its rows.
    """
    for path in _without_side_files(walk(root)):
        names = path.relative_to(root).parts
        is_archive = path.name.lower().endswith(ARCHIVE_ENDING) and not path.name.lower().endswith(tuple(extensions))
        if not is_archive or is_excluded("/".join(names), options):
            yield path, names
            continue
        folder = folder_in_place_of(path, extensions)
        if folder is None:
            yield path, names
            continue
        inner = {member: member.relative_to(folder).parts for member in walk(folder)}
        depth = _shared_folders(inner.values())
        for member, below in inner.items():
            yield member, (*names[:-1], path.stem, *below[depth:])


def _without_side_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths without what `datasets.save_to_disk` and its cache put beside the rows of a data set."""
    rows_of: dict[Path, set[str] | None] = {}
    for path in paths:
        folder = path.parent
        if folder not in rows_of:
            rows_of[folder] = _saved_files(folder)
        rows = rows_of[folder]
        if path.name != SAVED_DICT and (rows is None or path.name in rows):
            yield path


def _saved_files(folder: Path) -> set[str] | None:
    """The names of the files of rows in a folder that `datasets.save_to_disk` wrote; None for any other folder."""
    if not all((folder / name).is_file() for name in SAVED_MARKS):
        return None
    try:
        state = json.loads((folder / SAVED_MARKS[0]).read_text(encoding="utf-8"))
        return {str(file["filename"]) for file in state["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def walk(root: Path) -> Iterator[Path]:
    """All files that are not hidden; follows symbolic links and enters no folder twice."""

    def unreadable(error: OSError) -> None:
        raise DataError(f"dataset.root: {error.filename} cannot be read: {error.strerror}")

    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in visited else sorted(map(str, filter(_is_shown, subfolders)))
        if real not in visited:
            stores = [name for name in subfolders if is_store(Path(folder, name))]
            subfolders[:] = [name for name in subfolders if name not in stores]
            yield from (Path(folder, name) for name in (*files, *stores) if not name.startswith("."))
        visited.add(real)


def _is_shown(folder: str) -> bool:
    return not folder.startswith(".") and folder not in NOT_DATA


def apply_pattern(entries: list[FileEntry], pattern: str) -> list[FileEntry]:
    """Set label, group and split from the named groups of a regular expression, searched in each entry's name.

    Raises:
        ConfigError: `pattern` is invalid, has none of these groups, does not match a name, or takes too long.
    """
    regex = NamePattern(pattern)
    groups = set(METADATA_COLUMNS) & regex.groups
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
    label, group, split = (columns[kind] for kind in METADATA_COLUMNS)
    metadata = SampleMetadata(len(entries), locations, label, group, split)
    if metadata.draws_test:
        metadata = replace(metadata, copies=copies_of_files([entry.path for entry in entries]))
    return metadata
