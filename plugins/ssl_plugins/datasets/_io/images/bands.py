"""Bands of one image in several files, and folders that are scenes or cases and no classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.files.patterns import NamePattern
from ssl_plugins.datasets._io.images.readers import FileImages
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS

BAND_GROUP = "band"
BAND_NAME = re.compile(
    r"(?:(?<=[_\-.])|^)(B\d{1,2}A?|(?:band|ch|channel)[_-]?\d{1,2})(?=\.[A-Za-z0-9]+$)", re.IGNORECASE
)
CASE_NAME = re.compile(r"^(?:patient|pat|case|subject|subj|sub|scene|study|series|exam)[-_ ]?\d+$", re.IGNORECASE)
MIN_SHARE = 0.9  # of the scenes that must have the same bands, and of the folders that must hold the same names


@dataclass(frozen=True)
class Scenes:
    """Images whose bands are files; an entry for each."""

    entries: list[FileEntry]
    images: FileImages


def has_bands(pattern: str | None) -> bool:
    """Whether a pattern names the group band."""
    if pattern is None:
        return False
    try:
        return BAND_GROUP in NamePattern(pattern).groups
    except ConfigError:
        return False


def pattern_of_metadata(pattern: str) -> str | None:
    """The pattern, if it also names label, group or split; else None."""
    return pattern if set(METADATA_COLUMNS) & NamePattern(pattern).groups else None


def stack_bands(entries: Sequence[FileEntry], pattern: str) -> Scenes:
    """Join the files whose names differ in the group `band` only. Bands are in natural order (B2, B8A, B11).

    Raises:
        ConfigError: the pattern does not match a name.
        DataError: two files are the same band of one scene.
    """
    regex = NamePattern(pattern)
    scenes: dict[str, dict[str, FileEntry]] = {}
    unmatched = []
    for entry in entries:
        match = regex.search(entry.name)
        if match is None or match[BAND_GROUP] is None:
            unmatched.append(entry.name)
            continue
        start, stop = match.span(BAND_GROUP)
        files = scenes.setdefault(f"{entry.name[:start]}*{entry.name[stop:]}", {})
        if match[BAND_GROUP] in files:
            raise DataError(f"{entry.name} and {files[match[BAND_GROUP]].name} are the same band of one scene")
        files[match[BAND_GROUP]] = entry
    if unmatched:
        raise ConfigError(
            f"dataset.label_pattern '{pattern}' does not match {len(unmatched)} of {len(entries)} names, "
            f"e.g. '{unmatched[0]}'"
        )
    common = Counter(frozenset(files) for files in scenes.values()).most_common(1)[0][0]
    bands = tuple(sorted(common, key=natural_key))
    scene_entries: list[FileEntry] = []
    paths, names, problems = [], [], {}
    for number, (name, files) in enumerate(scenes.items()):
        first = files[min(files, key=natural_key)]
        scene_entries.append(replace(first, name=name))
        paths.append(tuple(files[band].path for band in bands if band in files) or (first.path,))
        names.append(f"{first.path.as_posix().removesuffix(first.name)}{name}")
        absent = [band for band in bands if band not in files]
        if absent:
            problems[number] = f"has no file of the band {absent[0]}; add it or remove the scene"
    labels = [entry.label for entry in scene_entries]
    if pattern_of_metadata(pattern) is None and len(set(labels)) == len(labels) > 1:  # a folder for each scene
        scene_entries = [replace(entry, label=None) for entry in scene_entries]
    return Scenes(scene_entries, FileImages(paths, names, bands, problems))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in names by value."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def doubt_of_bands(entries: Sequence[FileEntry]) -> tuple[str, ...]:
    """A doubt if the names look as if each file were one band of a scene."""
    scenes: dict[str, set[str]] = {}
    for entry in entries:
        match = BAND_NAME.search(Path(entry.name).name)
        if match is None:
            return ()
        folder = entry.name[: len(entry.name) - len(Path(entry.name).name)]
        name = Path(entry.name).name
        scenes.setdefault(f"{folder}{name[: match.start(1)]}*{name[match.end(1) :]}", set()).add(match[1])
    bands, count = Counter(map(frozenset, scenes.values())).most_common(1)[0] if scenes else (frozenset(), 0)
    if len(bands) < 2 or count < MIN_SHARE * len(scenes):
        return ()
    names = sorted(bands, key=natural_key)
    return (
        f"names such as {entries[0].name} look like a file for each band ({', '.join(names[:3])}"
        f"{', ...' if len(names) > 3 else ''}); set 'dataset.label_pattern=(?P<band>{_expression(names)})[.]' to stack "
        f"the bands of a scene",
    )


def _expression(names: Sequence[str]) -> str:
    """A regular expression that matches the names, and little else."""
    prefixes = {re.match(r"\D*", name)[0] for name in names}  # type: ignore[index]
    return f"{prefixes.pop()}[0-9]+A?" if len(prefixes) == 1 else "|".join(map(re.escape, names))


def doubt_of_folders(entries: Sequence[FileEntry], needs_test: bool) -> tuple[str, ...]:
    """A doubt if the folders that became classes hold the same file names, as scenes and cases do.

    Args:
        entries: the files.
        needs_test: whether there must be a test split.

    Raises:
        DataError: each folder holds one file, so that each would be a class of its own.
    """
    labels = [entry.label for entry in entries]
    classes = {label for label in labels if label is not None}
    if len(classes) < 2 or None in labels or any(entry.label not in Path(entry.name).parts[:-1] for entry in entries):
        return ()
    cure = "'dataset.label_pattern=^(?P<group>[^/]+)/'"
    if len(classes) == len(entries):
        if not needs_test:
            return ()
        raise DataError(
            f"each of the {len(entries)} classes has one sample, as each folder holds one file, e.g. "
            f"{entries[0].name}; set {cure} if the folders are scenes or cases, or dataset.test_fraction=0 to pretrain "
            f"on everything"
        )
    if all(CASE_NAME.match(str(name)) for name in classes):
        why = f"are called {', '.join(sorted(map(str, classes))[:3])}"
    elif (names := _same_names(entries)) is not None:
        why = f"hold files of the same names ({', '.join(names[:3])})"
    else:
        return ()
    return (f"the {len(classes)} folders {why} and are read as classes; set {cure} if they are scenes or cases",)


def _same_names(entries: Sequence[FileEntry]) -> list[str] | None:
    """The file names that nearly all folders have alike, if these are more than numbers; else None."""
    folders: dict[str, set[str]] = {}
    for entry in entries:
        folders.setdefault(str(entry.label), set()).add(Path(entry.name).name)
    names, count = Counter(map(frozenset, folders.values())).most_common(1)[0]
    kinds = {re.sub(r"\d+", "", name) for name in names}
    return sorted(names) if count >= MIN_SHARE * len(folders) and len(kinds) >= 2 else None
