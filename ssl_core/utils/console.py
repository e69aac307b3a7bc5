"""What a run tells whoever watches it. Silent here; the command line tells it to a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """One bar: `advance` by so many, with figures to show beside it."""

    def advance(self, by: int = 1, **figures: float) -> None:
        """Move on."""


class Console:
    """Lines and bars."""

    def info(self, text: str) -> None:
        """One line about what was chosen or found."""

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Progress]:
        """A bar for `total` things, `done` of them already."""
        yield Progress()
