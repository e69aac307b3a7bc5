"""Detects changed files by size and modification time, without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_state(path: Path) -> str:
    """Size and modification time of a file, or "none" if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: not a valid file name
        return "none"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def file_state_digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over the names (relative to `folder`, or absolute paths) and the state of each file."""
    digest = hashlib.sha256()
    for name in dict.fromkeys(names):
        digest.update(f"{name}\0{file_state(folder / name)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
