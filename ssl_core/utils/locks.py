"""Locks between processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ssl_core.errors import ConfigError

RETRY = 0.2  # seconds; the last holder may remove the file while it is being locked, which costs a second attempt


class WaitStopped(Exception):
    """The wait for another process was to stop."""


@contextlib.contextmanager
def file_lock(
    path: Path,
    on_busy: Callable[[], None],
    *,
    timeout: float = RETRY,
    remove: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the lock file at `path`; no other process or thread holds it at the same time.

    The system releases the lock when its holder is killed. A symbolic link at `path` is refused: it is neither followed
    nor is its target changed.

    Args:
        on_busy: called when another process holds the lock for `timeout` seconds. It raises an error to give up, or
            returns to wait without a limit.
        remove: whether to delete the file before the lock is released.
        stop: tells during a wait without a limit whether to stop.

    Raises:
        WaitStopped: `stop` has returned True.
        ConfigError: if the file cannot be created or locked.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            on_busy()
            try:
                lock.acquire(cancel_check=stop)
            except Timeout:
                raise WaitStopped from None
    except OSError as error:
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link, so it cannot be used as a lock file; remove it") from None
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot lock {path} ({reason}); make {path.parent} writable, or use a copy of it") from None
    try:
        yield
    finally:
        if remove:
            with contextlib.suppress(OSError):  # Windows does not remove an open file
                path.unlink()
        lock.release()
