"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


class Signals:
    """A context in which the first SIGINT or SIGTERM is recorded in `number` and a second one interrupts at once.

    continued: called when the process goes on after it was stopped.
    """

    def __init__(self, continued: Callable[[], None] | None = None) -> None:
        self.number, self.continued = 0, continued
        self._old: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def _continue(self, number: int, frame: FrameType | None) -> None:
        if self.continued is not None:
            self.continued()

    def __enter__(self) -> Signals:
        handlers = {signal.SIGINT: self._record, signal.SIGTERM: self._record}
        if hasattr(signal, "SIGCONT"):  # not on Windows
            handlers[signal.SIGCONT] = self._continue
        for number, handler in handlers.items():
            try:
                self._old[number] = signal.signal(number, handler)
            except ValueError:  # only the main thread can set handlers; its owner then decides what a signal does
                break
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
