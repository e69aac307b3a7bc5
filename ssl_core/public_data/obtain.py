"""Gets the archives of a public data set and unpacks them: resumed, checked, and never half done.

Nothing here trusts what it downloads: an archive writes only below its own folder, and no more than a bound.
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
"""Folder below the root in which archives lie."""
Progress = Callable[[str, int, int | None], None]
"""Told what is being done, and how many bytes of how many are."""


def obtain(source: Source, root: Path, progress: Progress, keep: bool = False) -> Path:
    """Download and unpack every archive that is not done yet; returns the data set's folder.

    An archive already in `archive_folder` is taken from there; one that was downloaded here is removed once it is
    unpacked, unless `keep`. Errors: DataError; then nothing is left of the archive that failed, but for an interrupted
    download, which the next call goes on with.
    """
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; name a folder with --root")
    folder = source.place(root)
    for archive in source.archives:
        if not archive.is_unpacked(folder):
            _obtain(archive, archive_folder(source, root), folder, progress, keep, source.homepage)
    return folder


def archive_folder(source: Source, root: Path) -> Path:
    """Where the archives of a data set are downloaded to, or put by hand."""
    return root / DOWNLOADS / source.folder


def _obtain(archive: Archive, store: Path, folder: Path, progress: Progress, keep: bool, homepage: str) -> None:
    mine = not (store / archive.file).exists()
    new = [path for place in (folder, store) for path in (place, *place.parents) if not path.exists()]
    try:
        path = fetch(archive, store, progress, homepage)
        try:
            unpack(path, archive, folder, progress)
        except DataError:
            if mine:
                path.unlink(missing_ok=True)
            raise
        if mine and not keep:
            path.unlink()
    except OSError as error:
        raise DataError(f"{error.filename or store}: {error.strerror or error}") from None
    finally:
        for empty in new:
            with contextlib.suppress(OSError):
                empty.rmdir()  # refuses a folder that holds anything
