"""Runs and comparisons below a folder, as their files say. Imports no torch, so that the server starts at once.

Folders may be damaged, written at this moment, or not from this sslx: nothing here raises for what a file holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ssl_core.errors import SslxError
from ssl_core.report import REPORT, Report, read
from ssl_core.report.page import HTML

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG, FAILURE, LOCK, METRICS, CHECKPOINTS = "config.json", "failure.json", ".lock", "metrics.jsonl", "checkpoints"
COMPARISON = "comparison.html"
CELLS = "cells"
MAX_DEPTH = 6
MAX_RUNS = 2_000
MAX_BYTES = 50_000_000
MAX_DIGITS = 18
"""Largest file that is read; of a longer metrics.jsonl its end."""
RECENT = 120.0
"""Seconds since its last line in which a run counts as running, where locks cannot be looked at."""

State: TypeAlias = Literal["running", "finished", "failed", "stopped", "damaged"]
STATES: tuple[State, ...] = ("running", "finished", "failed", "stopped", "damaged")


@dataclass(frozen=True)
class RunEntry:
    """A run folder.

    Attributes:
        id: what addresses name it by; says nothing of its path.
        name: its path below the root.
        folder: the folder.
        state: what it is doing, or how it ended.
        problem: why it failed or cannot be read, in one line.
        config: config.json, or empty.
        report: report.json, or None.
        step: the last step in metrics.jsonl.
        loss: the last loss in it.
        changed: time of its last change, in seconds since 1970.
    """

    id: str
    name: str
    folder: Path
    state: State
    problem: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    report: Report | None = None
    step: int = 0
    loss: float | None = None
    changed: float = 0.0

    def value(self, *path: str) -> str:
        """A value of the configuration as text; empty if it has none."""
        value: Any = self.config
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return "" if value is None else _printable(str(value))

    @property
    def method(self) -> str:
        """The label of the run, or its objective."""
        return self.value("label") or self.value("objective", "name")

    @property
    def data(self) -> str:
        """The label of its data, or modality and data set."""
        return self.value("data_label") or "/".join(
            filter(None, (self.value("modality"), self.value("dataset", "name")))
        )

    @property
    def steps(self) -> int | None:
        """Steps that were asked for."""
        text = self.value("train", "steps")
        return int(text) if text.isdecimal() and len(text) < MAX_DIGITS else None


@dataclass(frozen=True)
class ComparisonEntry:
    """A folder of `sslx compare`: its id, its path below the root, its folder, whether its table is written."""

    id: str
    name: str
    folder: Path
    finished: bool


@dataclass(frozen=True)
class Listing:
    """What is below the root. more: whether there are more runs than are read."""

    runs: Sequence[RunEntry]
    comparisons: Sequence[ComparisonEntry]
    more: bool = False

    def run(self, id_: str) -> RunEntry | None:
        """The run of an id."""
        return next((run for run in self.runs if run.id == id_), None)

    def comparison(self, id_: str) -> ComparisonEntry | None:
        """The comparison of an id."""
        return next((one for one in self.comparisons if one.id == id_), None)


class Scanner:
    """Lists what is below a folder; a run that did not change since the last time is not read again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[Path, tuple[Any, RunEntry]] = {}

    def scan(self) -> Listing:
        """The runs and comparisons that are there now."""
        runs: list[RunEntry] = []
        comparisons: list[ComparisonEntry] = []
        more = False
        for folder, is_run in self._folders(self.root, 0):
            if not is_run:
                finished = safe_file(folder, COMPARISON, self.root) is not None
                comparisons.append(ComparisonEntry(self._id(folder), self._name(folder), folder, finished))
            elif len(runs) == MAX_RUNS:
                more = True
                break
            else:
                runs.append(self._entry(folder))
        return Listing(runs, comparisons, more)

    def _folders(self, folder: Path, depth: int) -> Iterator[tuple[Path, bool]]:
        """Run folders and comparisons below a folder; links to folders are not followed."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            return
        names = {entry.name for entry in entries}
        if CONFIG in names:
            yield folder, True
            return
        if COMPARISON in names or (CELLS in names and (folder / CELLS).is_dir()):
            yield folder, False
        if depth < MAX_DEPTH:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                        yield from self._folders(Path(entry.path), depth + 1)

    def _name(self, folder: Path) -> str:
        name = folder.relative_to(self.root).as_posix()
        return _printable(self.root.name if name == "." else name)

    def _id(self, folder: Path) -> str:
        name = os.fsencode(folder.relative_to(self.root))
        return hashlib.blake2b(name, digest_size=8).hexdigest()

    def _entry(self, folder: Path) -> RunEntry:
        stamps = tuple(_stamp(folder / name) for name in (CONFIG, REPORT, METRICS, FAILURE, CHECKPOINTS))
        running = is_running(folder)
        known = self.known.get(folder)
        if known is None or known[0] != (stamps, running):
            entry = read_run(folder, self.root, self._id(folder), self._name(folder), running)
            known = self.known[folder] = ((stamps, running), entry)
        return known[1]


def read_run(folder: Path, root: Path, id_: str, name: str, running: bool) -> RunEntry:
    """A run folder as its files say."""
    config, problem, report = _json(folder, CONFIG, root), "", None
    state: State = "running" if running else "stopped"
    if not isinstance(config, Mapping):
        return RunEntry(id_, name, folder, "damaged", f"{CONFIG} cannot be read", changed=_changed(folder))
    failure = _json(folder, FAILURE, root)
    if not running and isinstance(failure, Mapping):
        state, problem = "failed", _printable(str(failure.get("message", "")))[:500]
    elif not running and (folder / REPORT).exists():
        try:
            report = read(folder) if safe_file(folder, REPORT, root) else None
            state = "finished" if report else "damaged"
        except SslxError as error:
            state, problem = "damaged", _printable(str(error))
    lines = read_metrics(folder, root)
    steps = [int(line["step"]) for line in lines]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    if state == "finished" and report is not None and max(steps, default=0) > report.steps:  # resumed, and stopped
        state = "stopped"
    return RunEntry(
        id_, name, folder, state, problem, config, report, max(steps, default=0), losses[-1] if losses else None,
        _changed(folder),
    )  # fmt: skip


def read_metrics(folder: Path, root: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that hold a step, with their finite numbers; a line that is cut short is left out."""
    path = safe_file(folder, METRICS, root)
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_BYTES))
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            numbers = {
                _printable(name): float(value)
                for name, value in content.items()
                if isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
            }
            if "step" in numbers:
                lines.append(numbers)
    return lines


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def is_running(folder: Path) -> bool:
    """Whether a run holds the lock of the folder. Nothing is written; without locks, by the time of its last line."""
    path = folder / LOCK
    if fcntl is None:
        return not (folder / REPORT).exists() and time.time() - _stamp(folder / METRICS)[0] / 1e9 < RECENT
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)  # releases the lock, too
    return False


def safe_file(folder: Path, name: str, root: Path) -> Path | None:
    """A regular file of a folder that lies below the root also after links are resolved, and is not too large."""
    path = folder / name
    try:
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            return None
        return path if name == METRICS or path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return None


def report_page(folder: Path, root: Path) -> Path | None:
    """The report.html of a run."""
    return safe_file(folder, HTML, root)


def _json(folder: Path, name: str, root: Path) -> Any:
    path = safe_file(folder, name, root)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
        return about.st_mtime_ns, about.st_size
    except OSError:
        return 0, 0


def _changed(folder: Path) -> float:
    return max(_stamp(folder / name)[0] for name in (CONFIG, REPORT, METRICS, FAILURE)) / 1e9


def _printable(text: str) -> str:
    """A text that can be sent; a file name may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
