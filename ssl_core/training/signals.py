"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class Signals:
    """While open, SIGINT and SIGTERM are noted instead of acted on; a second one acts at once."""

    def __init__(self) -> None:
        self.caught = 0
        self._old: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the owner of the main thread decides
                break
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
