"""The cache directory."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from ssl_core.errors import ConfigError

_FOLDER: ContextVar[Path | None] = ContextVar("sslx_cache_folder", default=None)


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Use another cache folder in this thread while the context is open."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def cache_dir() -> Path:
    """The folder of prepared data and compiled code: SSLX_CACHE_DIR, else sslx in the user's cache folder.

    Inside `cache_in`, the folder given there. A new folder is open to its user only.

    Raises:
        ConfigError: if it cannot be written, belongs to another user, or can be written by other users.
    """
    variable = os.environ.get("SSLX_CACHE_DIR")
    own = Path(variable) if variable else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslx"
    folder = _FOLDER.get() or own
    make_private(folder, "SSLX_CACHE_DIR")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to the cache folder {folder} ({error.strerror}); set SSLX_CACHE_DIR") from None
    return folder


def make_private(folder: Path, variable: str, *, close: bool = False) -> None:
    """Make a folder that only its user can write to, or check that an existing one is so.

    The mode is not checked on Windows, and the folders above it are checked nowhere.

    Args:
        folder: The folder. If it is new, only its user can read it.
        variable: The environment variable that names another folder, for messages.
        close: Let no other user read an existing folder either.

    Raises:
        ConfigError: if it cannot be made, belongs to another user, or could be written by other users until now.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder, variable)
        if close and hasattr(os, "geteuid"):
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot write to the cache folder {folder} ({error.strerror}); set {variable}") from None


def _check_private(folder: Path, variable: str) -> None:
    """Raises:
    ConfigError: someone other than this user and the administrator can put files into a folder.
    """
    if not hasattr(os, "geteuid"):
        return
    entry = folder.stat()
    if entry.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"the cache folder {folder} belongs to another user (id {entry.st_uid}), and sslx runs compiled code from "
            f"its cache; set {variable} to a folder of your own"
        )
    if entry.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"other users can write to the cache folder {folder}, and sslx runs compiled code from its cache; "
            f"chmod -R go-w {folder}, or set {variable} to a folder of your own"
        )
