"""What tells that files have changed, without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def state(path: Path) -> str:
    """Size and time of change, or that there is no such file."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return "none"
    return f"{found.st_size}\0{found.st_mtime_ns}"


def stamp(folder: Path, names: Iterable[str]) -> str:
    """A digest of names below a folder (or whole paths), and of the state of each file."""
    made = hashlib.sha256()
    for name in dict.fromkeys(names):
        made.update(f"{name}\0{state(folder / name)}\n".encode("utf-8", "surrogatepass"))
    return made.hexdigest()
