"""Console output of a run. The base classes print nothing; the command line prints to a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """A progress bar."""

    def advance(self, by: int = 1, **figures: float) -> None:
        """Advance the bar by `by` units and show `figures` beside it."""


class Console:
    """Messages and progress bars."""

    def info(self, text: str) -> None:
        """Print one line."""

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Show a progress bar of `total` units, the first `done` of which are complete."""
        yield Progress()
