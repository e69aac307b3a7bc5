"""How far the reading of a large file is: a data set reports it, and the run says how long it will take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_LISTENER: ContextVar[Callable[[str, float, int], None] | None] = ContextVar("sslx_reading", default=None)
LOOK_SECONDS = 2.0
"""Seconds of reading after which its whole time is estimated."""
LONG_SECONDS = 20.0
"""Seconds of reading that are announced."""
LARGE_BYTES = 1 << 30
"""Bytes of values that are announced."""


def report_reading(name: str, share: float, values_bytes: int = 0) -> None:
    """Report how much of a file was read; a data set calls it at the beginning, with 0, and after each block.

    Args:
        name: the file.
        share: in [0, 1]; 0 as long as it is not known.
        values_bytes: bytes of the values read so far.
    """
    listener = _LISTENER.get()
    if listener is not None:
        listener(name, share, values_bytes)


@contextlib.contextmanager
def announced_reading(say: Callable[[str, float, float], None]) -> Iterator[None]:
    """While the context is open, announce files that take long or hold much, once each and while they are read.

    Args:
        say: called with the name of a file, the estimated seconds of reading, and the estimated bytes of its values.
    """
    began: dict[str, float] = {}
    said: set[str] = set()

    def listen(name: str, share: float, values_bytes: int) -> None:
        now = time.monotonic()
        if share == 0 or name not in began:
            began[name] = now
            return
        elapsed = now - began[name]
        if name in said or elapsed < LOOK_SECONDS or share >= 0.5:
            return
        said.add(name)
        seconds, size = elapsed / share, values_bytes / share
        if seconds >= LONG_SECONDS or size >= LARGE_BYTES:
            say(name, seconds, size)

    token = _LISTENER.set(listen)
    try:
        yield
    finally:
        _LISTENER.reset(token)
