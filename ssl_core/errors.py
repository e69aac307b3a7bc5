"""Every error that a user can cause, under one base: one line that names the culprit and the cure."""

from __future__ import annotations

import difflib
import itertools
import traceback
from collections.abc import Iterable
from pathlib import Path

LIBRARIES = {"torch", "timm", "numpy", "pydantic", "pluggy"}  # errors come out of them, not from them


class SslxError(Exception):
    """What went wrong and what to do about it, in one line. The command line prints it without a traceback."""


class ConfigError(SslxError):
    """An option, name or file of the configuration that cannot be used."""


class PluginError(SslxError):
    """A plugin that cannot be loaded, clashes with another or breaks its contract."""


class DataError(SslxError):
    """A data set that cannot be read, is empty, or does not fit the run."""


class BadSample(DataError):
    """One sample that cannot be used (corrupt, too short, not finite). The engine skips and counts it, or refuses."""


class CheckpointError(SslxError):
    """A run folder or checkpoint that is missing, damaged, or was made by another configuration."""


def nearest(word: str, known: Iterable[str], kind: str = "name") -> str:
    """The part of a message that helps with an unknown word: the nearest known ones, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"known {kind}s: " + (", ".join(names) if names else "none")


def place_of(error: BaseException, skip: int = 0) -> str:
    """File and line that raised an error; where a library did, those that called it. Empty where nothing is known.

    skip: frames of the caller's own, at the beginning of the traceback, that do not count.
    """
    frames = traceback.extract_tb(error.__traceback__)[skip:]
    own = [frame for frame in frames if not _is_library(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _is_library(filename: str) -> bool:
    parts = Path(filename).parts
    installed = any(a.endswith("-packages") and b in LIBRARIES for a, b in itertools.pairwise(parts))
    return installed or "importlib" in filename
