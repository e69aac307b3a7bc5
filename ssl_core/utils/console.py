"""Console output of a run. The base classes print nothing; the command line prints to a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tabs and ends of lines, marks that reverse the direction of text, bytes that are no UTF-8."""


def printable(text: str) -> str:
    """A text in which control characters are replaced by their escapes, such as \\x1b."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def as_utf8(text: str) -> str:
    """A text that can be written to a file; a file name may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


class Progress:
    """A progress bar."""

    def advance(self, by: int = 1, **figures: float) -> None:
        """Advance the bar by `by` units and show `figures` beside it."""


class Console:
    """Messages and progress bars."""

    def info(self, text: str) -> None:
        """Print one line."""

    @contextmanager
    def waiting(self, title: str) -> Iterator[None]:
        """Show that work of unknown length goes on."""
        yield

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Show a progress bar of `total` units, the first `done` of which are complete."""
        yield Progress()
