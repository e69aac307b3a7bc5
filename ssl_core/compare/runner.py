"""Run a grid: each cell is an ordinary run in its own process; finished cells are not repeated, failures reported.

The result of a cell is an object: the report that its run wrote, or a Failure with the message of its failure.json. The
log beside a cell's folder is for people.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.compare.grid import Cell
from ssl_core.errors import CheckpointError, ConfigError
from ssl_core.report import REPORT, Report, read
from ssl_core.runs.run_dir import CONFIG, FAILURE, read_failure
from ssl_core.training.accel.threads import available_cores, share_cores
from ssl_core.training.device import pick_device
from ssl_core.utils.console import Console
from ssl_core.utils.files import write_json
from ssl_core.utils.locks import file_lock

CELLS = "cells"
MOST_JOBS = 4
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork
PR_SET_PDEATHSIG = 1  # of Linux's prctl
LOCK = ".lock"


@dataclass(frozen=True)
class Failure:
    """A cell without a report, and the reason in one line."""

    cell: Cell
    reason: str


class Stopped(Exception):
    """A signal stopped the grid."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_cells(cells: Sequence[Cell], folder: Path, jobs: int, console: Console) -> tuple[list[Report], list[Failure]]:
    """Run the cells that have no report, `jobs` at a time; return the reports of all cells, and the failures.

    A cell that was stopped continues from its checkpoint.

    Raises:
        ConfigError: the folder holds the same cell with other options, or another comparison is at work in it.
        Stopped: a signal stopped it; the state of every cell is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for cell in cells:
            _record(folder, cell)
        results: dict[str, Report | Failure] = {
            cell.name: report for cell in cells if (report := finished(folder / CELLS / cell.name)) is not None
        }
        waiting = [cell for cell in cells if cell.name not in results]
        if waiting:
            results |= _run(waiting, folder, jobs, console, len(cells))
    ordered = [results[cell.name] for cell in cells]
    reports = [result for result in ordered if isinstance(result, Report)]
    return reports, [result for result in ordered if isinstance(result, Failure)]


def usual_jobs(device: str | None) -> int:
    """The default number of runs at a time: one for each core up to MOST_JOBS, and one on a CUDA device."""
    if pick_device(device or "auto").type == "cuda":
        return 1
    return min(MOST_JOBS, available_cores())


def is_finished(folder: Path, cell: Cell) -> bool:
    """Whether a cell of the grid in a folder has its report."""
    return finished(folder / CELLS / cell.name) is not None


def finished(folder: Path) -> Report | None:
    """The report of a finished cell."""
    try:
        return read(folder)
    except CheckpointError:
        return None


def collect(folder: Path) -> list[Report]:
    """The reports of all finished runs below a folder, without those of evaluations inside a run's folder.

    Raises:
        ConfigError: there is none.
    """
    paths = [path.parent for path in sorted(folder.rglob(REPORT)) if not _within_run(path.parent, folder)]
    reports = [report for path in paths if (report := finished(path)) is not None]
    if not reports:
        raise ConfigError(f"no finished run in {folder}; name a folder that holds run folders")
    return reports


def _within_run(path: Path, top: Path) -> bool:
    """Whether a folder below `top`, or `top` itself, holds the folder and is a run's."""
    above = [path.parent, *path.parent.parents] if path != top else []
    return any((one / CONFIG).exists() for one in above if one == top or top in one.parents)


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a comparison's folder.

    Raises:
        ConfigError: if another comparison holds it, or the lock file cannot be written.
    """

    def refuse() -> None:
        raise ConfigError(f"another sslx compare is at work in {folder}; wait for it, or use another --out")

    return file_lock(folder / LOCK, refuse, remove=False)


def _record(folder: Path, cell: Cell) -> None:
    """Save the options of a cell beside its run folder.

    Raises:
        ConfigError: the cell was made with other options.
    """
    path = folder / CELLS / f"{cell.name}.json"
    options = json.loads(json.dumps(cell.options))
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != options:
            changed = sorted(key for key in before.keys() | options.keys() if before.get(key) != options.get(key))
            raise ConfigError(
                f"{path.with_suffix('')} was made with {changed[0]}={before.get(changed[0])!r} and not "
                f"{options.get(changed[0])!r}; name another --out, or give the options that it was made with"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, options)


def _run(waiting: Sequence[Cell], folder: Path, jobs: int, console: Console, total: int) -> dict[str, Report | Failure]:
    """Run cells, `jobs` at a time, each with its share of the cores; return their results by name."""
    environment = share_cores(os.environ, jobs) if jobs > 1 else dict(os.environ)
    running: set[subprocess.Popen[bytes]] = set()
    signals: list[int] = []
    results: dict[str, Report | Failure] = {}
    guard = threading.Lock()

    def stop(number: int, frame: Any) -> None:
        signals.append(number)
        for process in list(running):
            process.send_signal(signal.SIGTERM)  # saves, then exits

    def one(cell: Cell, progress: Any) -> None:
        if signals:
            return
        result = _run_cell(cell, folder, environment, running, guard, signals)
        if signals:
            return
        results[cell.name] = result
        if isinstance(result, Failure):
            console.info(f"failed: {cell.method} on {cell.data}, seed {cell.seed}: {result.reason}")
        progress.advance()

    with (
        _handled(stop),
        console.progress("comparing", total, total - len(waiting)) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for job in [pool.submit(one, cell, progress) for cell in waiting]:
            job.result()
    if signals:
        raise Stopped(signals[0])
    return results


@contextlib.contextmanager
def _handled(stop: Any) -> Iterator[None]:
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_cell(
    cell: Cell,
    folder: Path,
    environment: Mapping[str, str],
    running: set[subprocess.Popen[bytes]],
    guard: threading.Lock,
    signals: Sequence[int],
) -> Report | Failure:
    """Run or continue one cell, its output in a log beside its folder."""
    own, log = folder / CELLS / cell.name, folder / CELLS / f"{cell.name}.log"
    options = folder / CELLS / f"{cell.name}.json"
    resume = (own / CONFIG).exists()
    if own.exists() and not resume:
        shutil.rmtree(own)  # killed before it wrote its configuration
    (own / FAILURE).unlink(missing_ok=True)
    command = [sys.executable, "-m", "ssl_core.cli", "run", "--config", str(options), "--out", str(own)]
    with log.open("ab") as output:
        with guard:
            process = subprocess.Popen(
                [*command, *(["--resume"] if resume else [])], stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env=dict(environment), start_new_session=True,
                preexec_fn=_die_with_parent if LIBC else None,
            )  # fmt: skip
            running.add(process)
            if signals:  # a signal came while it was being started
                process.send_signal(signal.SIGTERM)
        code = process.wait()
        running.discard(process)
    report = finished(own)
    if code == 0 and report is not None:
        return report
    return Failure(cell, read_failure(own) or f"it ended with code {code}; its log is {log}")


def _die_with_parent() -> None:
    """Linux only: have the system send SIGTERM to this process when the comparison is killed."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
