"""Run a grid: each cell is an ordinary run in its own process; finished cells are not repeated, failures reported.

The result of a cell is an object: the report that its run wrote, or a Failure with the message of its failure.json. The
log beside a cell's folder is for people.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.compare.grid import Cell
from ssl_core.errors import CheckpointError, ConfigError, SslxError
from ssl_core.plugins import Catalogue
from ssl_core.report import REPORT, Report, read
from ssl_core.runs.cluster import ClusterJob, Resources, RunJob, import_submitit, submit_jobs
from ssl_core.runs.pretrain import RunRequest, plan_run, pretrain, run_folder
from ssl_core.runs.run import RunContext
from ssl_core.runs.run_dir import CONFIG, FAILURE, read_failure
from ssl_core.training.accel.threads import available_cores, share_cores
from ssl_core.training.device import pick_device
from ssl_core.training.loop import Interrupted
from ssl_core.utils.children import start_child
from ssl_core.utils.console import Console
from ssl_core.utils.files import write_json
from ssl_core.utils.locks import file_lock

CELLS = "cells"
MOST_JOBS = 4
LOCK = ".lock"


@dataclass(frozen=True)
class Failure:
    """A cell without a report, and the reason in one line."""

    cell: Cell
    reason: str

    @property
    def line(self) -> str:
        """What failed and why."""
        return f"failed: {self.cell.method} on {self.cell.data}, seed {self.cell.seed}: {self.reason}"


class Stopped(Exception):
    """A signal stopped the grid."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_cells(
    cells: Sequence[Cell], folder: Path, jobs: int, console: Console, launcher: Resources | None = None
) -> tuple[list[Report], list[Failure]]:
    """Run the cells that have no report, `jobs` at a time; return the reports of all cells, and the failures.

    A cell that was stopped continues from its checkpoint. With a `launcher` each cell is a job of a cluster.

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
            if launcher is None:
                results |= _run(waiting, folder, jobs, console, len(cells))
            else:
                results |= _run_jobs(waiting, folder, launcher, console, len(cells))
    ordered = [results[cell.name] for cell in cells]
    reports = [result for result in ordered if isinstance(result, Report)]
    return reports, [result for result in ordered if isinstance(result, Failure)]


def run_cells_here(
    cells: Sequence[Cell], folder: Path, catalogue: Catalogue, console: Console
) -> tuple[list[Report], list[Failure]]:
    """As `run_cells`, one after the other in this process, for data in memory, which other processes do not have.

    Raises:
        ConfigError: the folder holds the same cell with other options, or another comparison is at work in it.
        Interrupted: a signal stopped it; the state of every cell is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: list[Report | Failure] = []
    with locked(folder), console.progress("comparing", len(cells)) as progress:
        for cell in cells:
            _record(folder, cell)
        for cell in cells:
            own = folder / CELLS / cell.name
            results.append(finished(own) or _run_cell_here(cell, own, catalogue))
            if isinstance(failure := results[-1], Failure):
                console.info(failure.line)
            progress.advance()
    reports = [result for result in results if isinstance(result, Report)]
    return reports, [result for result in results if isinstance(result, Failure)]


def _run_cell_here(cell: Cell, own: Path, catalogue: Catalogue) -> Report | Failure:
    """Run or continue one cell in this process."""
    try:
        resume = (own / CONFIG).exists()
        plan = plan_run(RunRequest(cell.options, None, own, resume), catalogue)
        context = RunContext(catalogue, own)
        with run_folder(plan, context) as current:
            return pretrain(current, context).finished_report
    except Interrupted:
        raise
    except SslxError as error:
        return Failure(cell, str(error))
    except Exception as error:  # of one run, such as memory that ran out; the others go on
        return Failure(cell, f"{type(error).__name__}: {error}")


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


def collect(folder: Path) -> tuple[list[Report], list[str]]:
    """The reports of all finished runs below a folder, without those of evaluations inside a run's folder.

    Returns:
        The reports, and a line for each that is damaged.

    Raises:
        ConfigError: there is none.
    """
    paths = [path.parent for path in sorted(folder.rglob(REPORT)) if not _within_run(path.parent, folder)]
    reports, problems = [], []
    for path in paths:
        try:
            reports.append(read(path))
        except CheckpointError as error:
            problems.append(f"left out: {error}")
    if not reports:
        why = f" ({problems[0]})" if problems else ""
        raise ConfigError(f"no finished run in {folder}{why}; name a folder that holds run folders")
    return reports, problems


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
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it") from None
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
            console.info(result.line)
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


def _run_jobs(
    waiting: Sequence[Cell], folder: Path, launcher: Resources, console: Console, total: int
) -> dict[str, Report | Failure]:
    """Run cells as jobs of a cluster, and wait for them; return their results by name.

    Jobs that an earlier call submitted and that still wait or run are waited for, and not submitted again.
    """
    import_submitit(f"--launcher {launcher.executor}")
    running = {cell.name: job for cell in waiting if (job := _active_job(folder, cell)) is not None}
    fresh = [cell for cell in waiting if cell.name not in running]
    by_name = {cell.name: cell for cell in waiting}
    signals: list[int] = []
    results: dict[str, Report | Failure] = {}
    with (
        _handled(lambda number, frame: signals.append(number)),
        console.progress("comparing", total, total - len(waiting)) as progress,
    ):
        while fresh or running:
            room = len(fresh) if launcher.executor == "slurm" else launcher.parallel - len(running)
            chosen, fresh = fresh[: max(0, room)], fresh[max(0, room) :]
            running |= _submit(chosen, folder, launcher)
            for name in [name for name, job in running.items() if job.has_ended()]:
                job, cell = running.pop(name), by_name[name]
                results[name] = finished(folder / CELLS / name) or Failure(cell, job.failure())
                if isinstance(failure := results[name], Failure):
                    console.info(failure.line)
                progress.advance()
            if signals:
                raise Stopped(signals[0])
            if running:
                time.sleep(next(iter(running.values())).poll_seconds)
    return results


def _submit(cells: Sequence[Cell], folder: Path, launcher: Resources) -> dict[str, ClusterJob]:
    """Submit cells as one array; their jobs by name."""
    if not cells:
        return {}
    jobs = []
    for cell in cells:
        own, options = folder / CELLS / cell.name, folder / CELLS / f"{cell.name}.json"
        is_begun(own)
        jobs.append(RunJob(["run", "--config", str(options.absolute())], own, grace=launcher.grace))
    made = submit_jobs(jobs, folder / "jobs", launcher, f"--launcher {launcher.executor}")
    for cell, job in zip(cells, made, strict=True):
        job.save(folder / CELLS / f"{cell.name}.job")
    return {cell.name: job for cell, job in zip(cells, made, strict=True)}


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run to go on with. One that was killed before it wrote its configuration is removed."""
    if (folder / CONFIG).exists():
        return True
    if folder.exists():
        shutil.rmtree(folder)
    return False


def _active_job(folder: Path, cell: Cell) -> ClusterJob | None:
    """The job of a cell that an earlier call submitted, while it waits or runs."""
    try:
        job = ClusterJob.load(json.loads((folder / CELLS / f"{cell.name}.job").read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError):
        return None
    return job if job.is_active() else None


@contextlib.contextmanager
def _handled(stop: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
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
    resume = is_begun(own)
    (own / FAILURE).unlink(missing_ok=True)
    command = ["run", "--config", str(options), "--out", str(own), *(["--resume"] if resume else [])]
    with log.open("ab") as output:
        with guard:
            process = start_child(command, environment, stdout=output, stderr=subprocess.STDOUT)
            running.add(process)
            if signals:  # a signal came while it was being started
                process.send_signal(signal.SIGTERM)
        code = process.wait()
        running.discard(process)
    report = finished(own)
    if code == 0 and report is not None:
        return report
    return Failure(cell, read_failure(own) or f"it ended with code {code}; its log is {log}")
