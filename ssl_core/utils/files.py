"""Atomic writes of files and folders: a reader sees the old content or the new content, never a part of it."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_core.errors import ConfigError
from ssl_core.utils.locks import file_lock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write text, whole or in parts, atomically: to a temporary file in the same folder, flushed to disk, then renamed.

    Temporary files that killed processes left of the same file are removed.

    Raises:
        OSError: if the folder cannot be written.
    """
    _remove_temporary(path)
    handle, name = _make_temporary(path)
    lock = None if fcntl is None else os.dup(handle)  # Windows does not rename open files
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        apply_umask(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _make_temporary(path: Path) -> tuple[int, str]:
    """A new locked file beside `path`, as a handle that is open for writing, and its name."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        if fcntl is None:
            return handle, name
        with contextlib.suppress(OSError):  # a file system without locks: what a kill leaves there stays
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # else another process took it for a leftover before it was locked
            return handle, name
        os.close(handle)


def _remove_temporary(path: Path) -> None:
    """Remove temporary files of `path` that no process holds."""
    if fcntl is None:
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}-" + 8 * "[a-z0-9_]"):  # as mkstemp names them
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: it takes its place at the end, and is removed if an exception is raised. What a
    killed process left of it is removed. It has the ending of `path`, by which libraries know a format.

    Raises:
        ConfigError: another process writes the file, or the folder cannot be written.
        OSError: the file cannot be written.
    """
    work = path.with_name(f".{path.stem}-unfinished{path.suffix}")
    with _only_writer(path, work):
        work.unlink(missing_ok=True)
        try:
            yield work
            os.replace(work, path)
        finally:
            work.unlink(missing_ok=True)


@contextmanager
def _only_writer(target: Path, work: Path) -> Iterator[None]:
    """Hold the lock of what is written to `work`."""

    def refuse() -> None:
        raise ConfigError(f"another process writes {target}; wait for it, or name another place")

    with file_lock(work.with_name(f"{work.name}.lock"), refuse):
        yield


@contextmanager
def new_folder(folder: Path, *, overwrite: bool, marker: str, known: Collection[str]) -> Iterator[Path]:
    """A folder beside `folder` to write into: it takes its place at the end, and is removed if an exception is raised.
    What a killed process left of it is removed.

    Args:
        folder: the folder; it may exist if it is empty.
        overwrite: replace a folder that holds the file `marker` and nothing but `known` beside it.
        marker: name of the file by which such a folder is known.
        known: names of its other files and folders.

    Raises:
        ConfigError: the folder holds something that must stay, is being written, or cannot be written.
    """
    check_replaceable(folder, overwrite, {marker, *known}, marker)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = folder.absolute().parent / f".{folder.name}-unfinished"
        with _only_writer(folder, work):
            old = work.with_name(f"{work.name}-old")
            if old.exists() and not folder.exists():  # killed between the two renames
                os.rename(old, folder)
            for path in (work, old):
                shutil.rmtree(path, ignore_errors=True)
            check_replaceable(folder, overwrite, {marker, *known}, marker)
            work.mkdir()
            try:
                yield work
                check_replaceable(folder, overwrite, {marker, *known}, marker)  # it may have been written meanwhile
                _put_in_place(work, folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write {folder}: {error.strerror or error}; free space or name another folder"
        ) from None


def check_replaceable(folder: Path, overwrite: bool, known: Collection[str], marker: str) -> None:
    """Raises:
    ConfigError: a folder must stay as it is.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        if folder.is_file():
            raise ConfigError(f"{folder} is a file; name a folder") from None
        raise ConfigError(f"cannot write {folder}: {error.strerror}; name another folder") from None
    if not names:
        return
    if not overwrite:
        raise ConfigError(f"{folder} is not empty; name another folder, or overwrite it (--overwrite, overwrite=True)")
    other = next((name for name in names if name not in known), None)
    if marker not in names or other is not None:
        raise ConfigError(f"{folder} holds {other or names[0]}, so it is not overwritten; name another folder")


def _put_in_place(work: Path, folder: Path) -> None:
    """Rename `work` to `folder`; what is there stays until then."""
    if not folder.exists():
        os.rename(work, folder)
        return
    old = work.with_name(f"{work.name}-old")
    os.rename(folder, old)
    try:
        os.rename(work, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def apply_umask(path: Path) -> None:
    """Give a file that a library made for its user alone the mode of an ordinary new file."""
    os.chmod(path, 0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
