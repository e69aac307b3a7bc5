"""Download and unpack the archives of a public data set.

Downloads are resumed and checked, and an archive is unpacked completely or not at all. An archive can write only below
its own folder, and only up to a bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from ssl_core.errors import DataError
from ssl_core.public_data.download import fetch
from ssl_core.public_data.extract import unpack
from ssl_core.public_data.source import Archive, Source

__all__ = ["DOWNLOADS", "Progress", "fetch", "obtain", "unpack"]

DOWNLOADS = "downloads"
"""Folder of the archives, below the root."""
Progress = Callable[[str, int, int | None], None]
"""Called with a description, the bytes done, and the total number of bytes if known."""


def obtain(source: Source, root: Path, progress: Progress, keep: bool = False) -> Path:
    """Download and unpack every archive that is not unpacked yet. Returns the data set's folder.

    An archive that lies in `archive_folder` already is used and kept. One that is downloaded here is removed after
    unpacking, unless `keep`. A failed archive leaves no files behind, except for an interrupted download, which the
    next call resumes.

    Raises:
        DataError: if an archive cannot be downloaded or unpacked.
    """
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; name a folder with --root")
    folder = source.locate_in(root)
    for archive in source.archives:
        if not archive.is_unpacked(folder):
            _obtain(archive, archive_folder(source, root), folder, progress, keep, source.homepage)
    return folder


def archive_folder(source: Source, root: Path) -> Path:
    """The folder of a data set's archives, whether downloaded or put there by hand."""
    return root / DOWNLOADS / source.folder


def _obtain(archive: Archive, store: Path, folder: Path, progress: Progress, keep: bool, homepage: str) -> None:
    is_download = not (store / archive.file).exists()
    new_dirs = [path for top in (folder, store) for path in (top, *top.parents) if not path.exists()]
    try:
        path = fetch(archive, store, progress, homepage)
        try:
            unpack(path, archive, folder, progress)
        except DataError:
            if is_download:
                path.unlink(missing_ok=True)
            raise
        if is_download and not keep:
            path.unlink()
    except OSError as error:
        raise DataError(f"{error.filename or store}: {error.strerror or error}") from None
    finally:
        for directory in new_dirs:
            with contextlib.suppress(OSError):
                directory.rmdir()  # fails, as intended, if it is not empty
