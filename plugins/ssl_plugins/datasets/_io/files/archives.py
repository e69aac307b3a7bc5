"""Reads ZIP archives as folders: those that a root names, and those in a folder of files."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ssl_core import unpacked_archive

ENDING = ".zip"
NOT_DATA = ("__MACOSX",)
"""Folders in archives that hold no data, but what a system adds to them."""
OFFICE = ("xl/workbook.xml", "word/document.xml", "content.xml", "[Content_Types].xml")
"""Members of documents that are ZIP archives inside."""
ZIP_ERRORS = (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error)
"""What `zipfile` raises on an archive that is damaged, or of a version that it does not know."""


def is_archive(path: Path) -> bool:
    """Whether a file is a ZIP archive by its content, and neither a document nor an .npz of arrays."""
    try:
        if not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # an archive behind other content, as in a program
                return False
        names = member_names(path)
    except OSError:
        return False
    is_npz = bool(names) and all(name.endswith(".npy") for name in names) and not path.name.lower().endswith(ENDING)
    return not is_npz and not set(OFFICE) & set(names)


def member_names(path: Path) -> list[str]:
    """The names of the files in an archive; none if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name and not name.endswith("/")]
    except ZIP_ERRORS:
        return []
    return [name for name in names if is_data(name)]


def is_data(name: str) -> bool:
    """Whether a member is none that a system added, and not hidden."""
    parts = PurePosixPath(name).parts
    return not any(part.startswith(".") or part in NOT_DATA for part in parts)


def open_root(root: str) -> str:
    """A root in which a ZIP archive is the folder of its members: data.zip, or data.zip/train.csv.

    Raises:
        DataError: the archive cannot be unpacked.
    """
    path = Path(root)
    for part in (path, *path.parents):
        if part.exists() and not is_archive(part):
            return root
        if part.exists():
            inner = path.relative_to(part)
            return str(unpacked_archive(part) / inner)
    return root


def open_archives(options: Any) -> Any:
    """The options with the roots of `open_root`."""
    roots = {name: getattr(options, name, None) for name in ("root", "test_root", "images")}
    opened = {name: open_root(root) for name, root in roots.items() if root is not None}
    changed = {name: root for name, root in opened.items() if root != roots[name]}
    return options.model_copy(update=changed) if changed else options


def folder_in_place_of(path: Path, extensions: Sequence[str]) -> Path | None:
    """The folder of the members of an archive that lies among other files.

    None if it holds no file with one of the extensions, or if it seems to be unpacked beside itself.

    Raises:
        DataError: the archive cannot be unpacked.
    """
    if not is_archive(path):
        return None
    names = [name for name in member_names(path) if name.lower().endswith(tuple(extensions))]
    if not names:
        return None
    if any((folder / names[0]).exists() for folder in (path.parent, path.with_suffix(""))):
        return None
    return unpacked_archive(path)


def stable_name(path: Path) -> str | None:
    """The name of an unpacked file, which does not depend on where the cache lies; None for any other file."""
    parts = path.parts
    places = [i for i, part in enumerate(parts) if part == "unpacked" and i + 3 < len(parts)]
    for place in places:
        if is_digest(parts[place + 1]):
            return "/".join(parts[place:])
    return None


def is_digest(name: str) -> bool:
    """Whether a folder is called after the content of an archive."""
    return len(name) == 20 and all(letter in "0123456789abcdef" for letter in name)
