"""What the cache holds: entries, who uses them, and the removal of those that can be made again.

An entry is a folder of the cache. A process that uses one holds a lock file of its own beside it until it ends, so that
no other process removes the entry meanwhile. The time of last use is that of the folder's last change.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ssl_core.errors import ConfigError
from ssl_core.utils.files import write_json
from ssl_core.utils.locks import file_lock
from ssl_core.utils.units import parse_size, size_text

ABOUT = "about.json"
"""In an entry: what it belongs to."""
MAKING, REMOVED = ".making-", ".removed-"
"""Prefixes beside an entry: of what is being made of it, and of what is being removed."""
HOLDS = ".in-use"
"""Folder of the cache with the locks of the users of entries."""
LIMIT_VARIABLE = "SSLX_CACHE_MAX"
UNFINISHED = "unfinished"
FOLDERS = {
    "prepared": "prepared", "unpacked": "archive", "streams": "stream", "tables": "table", "encoders": "encoder"
}  # fmt: skip
"""Folders of the cache that hold entries, with the kind of these. The folder `compiled` is an entry itself."""
COMPILED = "compiled"
REMADE = ("prepared", UNFINISHED, "archive", "stream", COMPILED)
"""Kinds that a run makes again when it needs them; a stream when it is given again. A table or encoder came from
Python; a run may name its file."""
KINDS = (*REMADE, "table", "encoder")
WORKING = 3600.0
"""Seconds after its last change in which a folder that is written without a lock counts as in use."""

_numbers = itertools.count()
_own_locks: set[Path] = set()


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache.

    kind: one of KINDS. bytes: on disk. used: seconds since the epoch, of the last use. about: what it belongs to, in
    words. in_use: whether a running process holds it, or makes it.
    """

    kind: str
    path: Path
    bytes: int
    used: float
    about: str
    in_use: bool

    @property
    def name(self) -> str:
        """Its path in the cache, by which `sslx cache prune` takes it."""
        return self.path.name if self.kind == COMPILED else f"{self.path.parent.name}/{self.path.name}"


class Hold:
    """Owner of holds: they end when it is collected."""


def guard_file(entry: Path) -> Path:
    """The lock of an entry while it is made, removed, or a hold of it is taken."""
    return entry.parent / f"{MAKING}{entry.name.removeprefix(MAKING)}.lock"


def _holds(entry: Path) -> tuple[Path, str]:
    """The folder of the locks of an entry's users, and how their names begin."""
    if entry.name == COMPILED:
        return entry.parent / HOLDS, f"{COMPILED}-"
    return entry.parent.parent / HOLDS, f"{entry.parent.name}-{entry.name}-"


def hold_entry(
    entry: Path,
    owner: Hold | None = None,
    on_busy: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Mark an entry as used by this process, so that no other removes it, and as used now.

    Args:
        entry: the folder. It may have been removed just before; look for its content after the call.
        owner: the owner of the hold. By default it lasts as long as the process.
        on_busy: called if another process makes the entry, which is then waited for.
        stop: tells meanwhile whether to stop.

    Raises:
        ConfigError: the cache cannot be written.
        WaitStopped: `stop` has returned True.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    folder, prefix = _holds(entry)
    folder.mkdir(exist_ok=True)
    path = folder / f"{prefix}{socket.gethostname()}-{os.getpid()}-{next(_numbers)}.lock"
    lock = FileLock(path)
    with file_lock(guard_file(entry), on_busy, stop=stop):
        lock.acquire()
        with contextlib.suppress(OSError):
            os.utime(entry)
    _own_locks.add(path)
    # an owner that lives for ever is the process itself: the system then releases the lock
    finalizer = weakref.finalize(_end_of_process if owner is None else owner, _release, lock, path, os.getpid())
    finalizer.atexit = False  # `_end_of_process` removes the files; a forked process must not


def _release(lock: FileLock, path: Path, process: int) -> None:
    if os.getpid() != process:
        return
    _own_locks.discard(path)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    lock.release()


@atexit.register
def _end_of_process(process: int = os.getpid()) -> None:
    """Remove the lock files of this process; the system releases the locks."""
    for path in _own_locks if os.getpid() == process else ():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def write_about(entry: Path, about: Mapping[str, str]) -> None:
    """Record what an entry belongs to."""
    write_json(entry / ABOUT, dict(about))


def cache_entries(cache: Path) -> list[CacheEntry]:
    """All entries, those of the oldest use first. Public data below the cache are none."""
    entries = [_entry(kind, path) for kind, path in _paths(cache)]
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.used)


def _paths(cache: Path) -> Iterator[tuple[str, Path]]:
    for folder, kind in FOLDERS.items():
        with contextlib.suppress(OSError):
            for path in sorted((cache / folder).iterdir()):
                if not path.is_dir() or path.is_symlink():
                    continue
                yield (UNFINISHED if path.name.startswith(".") else kind), path
    if (cache / COMPILED).is_dir():
        yield COMPILED, cache / COMPILED


def _entry(kind: str, path: Path) -> CacheEntry | None:
    """The entry of a folder; None if it was removed meanwhile."""
    try:
        used = path.stat().st_mtime
    except OSError:
        return None
    sizes, times = [], [used]
    for one in _files(path):
        sizes.append(getattr(one, "st_blocks", one.st_size / 512) * 512)
        times += [one.st_mtime] if kind in (UNFINISHED, COMPILED) else []
    in_use = is_held(path) or (
        kind == UNFINISHED and not path.name.startswith((MAKING, REMOVED)) and time.time() - max(times) < WORKING
    )
    return CacheEntry(kind, path, int(sum(sizes)), max(times), _about(kind, path), in_use)


def _files(path: Path) -> Iterator[os.stat_result]:
    """The state of each file below a folder; those removed meanwhile are left out."""
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(folder, name))


def _about(kind: str, path: Path) -> str:
    """What an entry belongs to, in words."""
    if kind == COMPILED:
        return "compiled steps of training"
    if path.name.startswith(REMOVED):
        return "a removal that was stopped"
    if kind == "archive":
        return ", ".join(sorted(one.name for one in path.iterdir() if not one.name.startswith("."))) or "nothing"
    if kind == "table":
        return "a table given from Python"
    if kind == "encoder":
        return "an encoder given from Python to start from"
    try:
        about = dict(json.loads((path / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return "not recorded"
    what = " ".join(str(about[key]) for key in ("data", "split") if about.get(key))
    return f"{what} of {about['source']}" if about.get("source") else what


def is_held(entry: Path) -> bool:
    """Whether a running process uses an entry, or makes it. Removes the locks of processes that were killed."""
    if entry.name.startswith(".") and _is_locked(guard_file(entry)):
        return True
    return _has_users(entry)


def _has_users(entry: Path) -> bool:
    folder, prefix = _holds(entry)
    return any(list(map(_is_locked, folder.glob(f"{prefix}*.lock"))))  # all of them, so that each left file is removed


def _is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; one that nobody holds is removed."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # another user's, or a link
        return True
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    lock.release()
    return False


class _Busy(Exception):
    """The lock of an entry is held."""


def remove_entry(entry: CacheEntry) -> bool:
    """Remove an entry unless a process uses it; whether it was removed.

    Raises:
        ConfigError: the cache cannot be written.
    """

    def refuse() -> None:
        raise _Busy

    aside = entry.path.parent / f"{REMOVED}{entry.path.name.lstrip('.')}-{os.getpid()}"
    try:
        with file_lock(guard_file(entry.path), refuse, timeout=0):
            # the lock of what is being made is this one, which is ours now
            if _has_users(entry.path):
                return False
            try:
                os.rename(entry.path, aside)
            except FileNotFoundError:  # another process removed it
                return False
            except OSError as error:
                raise ConfigError(f"cannot remove {entry.path} ({error.strerror}); make it writable") from None
    except _Busy:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists():
        raise ConfigError(f"cannot remove all of {aside}; make it writable, and remove it")
    return True


@dataclass(frozen=True)
class PruneRequest:
    """What to remove: entries of `kinds` that were not used for `age` seconds, and those of the oldest use until the
    cache has at most `max_bytes`. names: only these entries."""

    age: float | None = None
    max_bytes: int | None = None
    kinds: Sequence[str] = REMADE
    names: Sequence[str] = ()


def choose_entries(entries: Iterable[CacheEntry], request: PruneRequest, now: float | None = None) -> list[CacheEntry]:
    """The entries that a request removes, the oldest use first; never one in use.

    Raises:
        ConfigError: a name is that of no entry.
    """
    entries = sorted(entries, key=lambda entry: entry.used)
    now = time.time() if now is None else now
    known = {entry.name for entry in entries}
    if unknown := [name for name in request.names if name not in known]:
        raise ConfigError(f"the cache has no entry '{unknown[0]}'; `sslx cache ls` names those that it has")
    total, chosen = sum(entry.bytes for entry in entries), []
    for entry in entries:
        if entry.in_use or (entry.kind not in request.kinds and entry.name not in request.names):
            continue
        if request.names and entry.name not in request.names:
            continue
        old = request.age is not None and now - entry.used > request.age
        large = request.max_bytes is not None and total > request.max_bytes
        if old or large or (request.age is None and request.max_bytes is None):
            chosen.append(entry)
            total -= entry.bytes
    return chosen


def cache_limit() -> int | None:
    """The bytes that the variable SSLX_CACHE_MAX allows the cache; None without it.

    Raises:
        ConfigError: it is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    return None if not text else parse_size(text, LIMIT_VARIABLE)


def keep_limit(cache: Path) -> list[str]:
    """Remove entries of the oldest use until the cache keeps the limit of SSLX_CACHE_MAX; lines that say what was done.

    Raises:
        ConfigError: the limit is no size, or the cache cannot be written.
    """
    limit = cache_limit()
    if limit is None:
        return []
    entries = cache_entries(cache)
    removed = [entry for entry in choose_entries(entries, PruneRequest(max_bytes=limit)) if remove_entry(entry)]
    left = sum(entry.bytes for entry in entries) - sum(entry.bytes for entry in removed)
    lines = []
    if removed:
        freed = size_text(sum(entry.bytes for entry in removed))
        what = f"{len(removed)} entries" if len(removed) > 1 else "1 entry"
        lines.append(f"cache      {what} of the oldest use removed, {freed}, for {LIMIT_VARIABLE}={size_text(limit)}")
    if left > limit:
        lines.append(
            f"warning: the cache has {size_text(left)}, more than {LIMIT_VARIABLE}={size_text(limit)}: the rest is in "
            f"use, or came from Python (`sslx cache ls`)"
        )
    return lines
