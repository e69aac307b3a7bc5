"""What tells that files have changed, without reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def stamp(folder: Path, names: Iterable[str]) -> str:
    """A digest of names below a folder, and of each file's size and time of change, or that there is none."""
    made = hashlib.sha256()
    for name in dict.fromkeys(names):
        try:
            found = (folder / name).stat()
            state = f"{found.st_size}\0{found.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a name that no file can have
            state = "none"
        made.update(f"{name}\0{state}\n".encode("utf-8", "surrogatepass"))
    return made.hexdigest()
