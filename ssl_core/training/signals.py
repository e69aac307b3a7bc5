"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class Signals:
    """A context in which the first SIGINT or SIGTERM is recorded in `number` and a second one interrupts at once."""

    def __init__(self) -> None:
        self.number = 0
        self._old: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._record)
            except ValueError:  # only the main thread can set handlers; its owner then decides what a signal does
                break
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
