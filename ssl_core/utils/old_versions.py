"""The message for files that an earlier version of sslx wrote."""

from __future__ import annotations

from pathlib import Path


def first_version_message(path: Path) -> str:
    """The error for a file of sslx 0.1, whose names and formats differ from today's."""
    return f"{path} was written by sslx 0.1; make the run anew, or use it with sslx 0.1 (pip install 'sslx<0.2')"
