"""Detects changed files by size and modification time, without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ssl_plugins.datasets._io.files.archives import stable_name
from ssl_plugins.datasets._io.files.stores import is_store, store_state


def file_state(path: Path) -> str:
    """Size and modification time of a file, or "none" if it does not exist."""
    if is_store(path):
        return store_state(path)
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: not a valid file name
        return "none"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def file_state_digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over the names (relative to `folder`, or absolute paths) and the state of each file.

    For an unpacked file the name of its archive, by content, stands for the state.
    """
    digest = hashlib.sha256()
    for name in dict.fromkeys(names):
        if (unpacked := stable_name(folder / name)) is not None:
            digest.update(f"{unpacked}\n".encode("utf-8", "surrogatepass"))
            continue
        digest.update(f"{name}\0{file_state(folder / name)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
