"""Errors that a user can cause. Each message is one line that names the cause and the remedy."""

from __future__ import annotations

import difflib
import errno
import itertools
import traceback
from collections.abc import Iterable
from pathlib import Path

LIBRARIES = {"torch", "timm", "numpy", "pydantic", "pluggy"}  # their frames are left out when a cause is located


class SslxError(Exception):
    """Base class: one line that says what went wrong and what to do. The command line prints it without a traceback."""


class ConfigError(SslxError):
    """An option, a name or a file of the configuration is not usable."""


class PluginError(SslxError):
    """A plugin cannot be loaded, conflicts with another plugin or violates its contract."""


class DataError(SslxError):
    """A data set cannot be read, is empty or does not fit the run."""


class BadSample(DataError):
    """A sample is not usable: corrupt, too short or not finite. A run skips and counts it, or stops if `strict`."""


class CheckpointError(SslxError):
    """A run folder or checkpoint is missing, damaged, or belongs to another configuration."""


CURES = {
    errno.ENOSPC: "free space, or write to another folder",
    errno.EDQUOT: "free space, or write to another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or write to another folder",
    errno.EROFS: "use a copy in a folder that can be written",
    errno.EACCES: "change its permissions, or use a copy in a folder that can be written",
    errno.EPERM: "change its permissions, or use a copy in a folder that can be written",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs, which hold too many files open",
    errno.EIO: "the disk may be damaged; use a copy on another one",
}
"""What helps against errors of the system, by number."""


def system_error(error: BaseException) -> str | None:
    """One line for an error of disk, permissions or limits that a user can mend; None for any other."""
    if not isinstance(error, OSError) or error.errno not in CURES:
        return None
    name = "" if error.filename is None else f"{error.filename}: "
    return f"{name}{error.strerror}; {CURES[error.errno]}"


def nearest(word: str, known: Iterable[str], kind: str = "name") -> str:
    """A hint for an unknown word: the most similar known words, or all of them if none is similar."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"known {kind}s: " + (", ".join(names) if names else "none")


def place_of(error: BaseException, skip: int = 0) -> str:
    """File and line that raised an error, or that called the library that raised it; "" if unknown.

    Args:
        skip: number of frames at the beginning of the traceback to leave out.
    """
    frames = traceback.extract_tb(error.__traceback__)[skip:]
    frames = [frame for frame in frames if not _is_library(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    installed = any(a.endswith("-packages") and b in LIBRARIES for a, b in itertools.pairwise(parts))
    return installed or "importlib" in filename
