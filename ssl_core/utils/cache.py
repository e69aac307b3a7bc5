"""Where the things are kept that can be made again, and the code that they were made by."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ssl_core.errors import ConfigError


def cache_root() -> Path:
    """Where prepared data is kept: SSLX_CACHE_DIR, else sslx in the user's cache folder. Errors: ConfigError."""
    given = os.environ.get("SSLX_CACHE_DIR")
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sslx"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write to the cache folder {root} ({error.strerror}); set SSLX_CACHE_DIR") from None
    return root


def files_of(classes: Iterable[type]) -> list[str]:
    """The files that define classes and what they are derived from, but for torch's and Python's own."""
    files = set()
    for cls in {base for one in classes for base in one.__mro__}:
        if cls.__module__.split(".")[0] in ("torch", "builtins", "typing"):
            continue
        with contextlib.suppress(OSError, TypeError):  # defined in a shell or a notebook
            files.add(inspect.getfile(cls))
    return sorted(files)


@functools.cache
def source_of(file: str) -> str:
    """A digest of the file that defines a class and of the private helper files beside it."""
    files = [Path(file), *sorted(Path(file).parent.glob("_*.py"))]
    return hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=16).hexdigest()
