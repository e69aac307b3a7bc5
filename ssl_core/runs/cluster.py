"""Runs as jobs of a cluster, through submitit: a time-out saves the run, requeues the job, and the run goes on exactly.

submitit unpickles a `RunJob` in the job and calls it. The run itself is a process below it. Before the time of the job
is over, Slurm sends SIGUSR2; submitit then calls `RunJob.checkpoint`, which has the run save and stop, and requeues the
job.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_core.errors import ConfigError
from ssl_core.runs.run_dir import CONFIG, FAILURE, REPORT, read_failure
from ssl_core.utils.children import PROGRAM
from ssl_core.utils.files import write_json

EXECUTORS = ("slurm", "local")
POLL = 0.2
MARGIN = 5.0
"""Seconds of the grace that are left for the requeue."""
MISSING_SECONDS = 20.0
"""Seconds after which a job that the system does not list and that left no result counts as lost."""
NEEDS = "{} needs submitit; run pip install 'sslx[slurm]'"


class RunJob:
    """A run that a job starts, and goes on with when the job is started again.

    Args:
        arguments: of `sslx`, such as run --objective mae; without --out, --resume and --overwrite.
        out: the folder of the run.
        resume: whether `out` already holds the run to go on with, in which case `arguments` may change it.
        grace: seconds between the signal and the end of the job.
        keep: arguments of each start, also where the run goes on by its saved configuration.
    """

    def __init__(
        self, arguments: Sequence[str], out: Path, *, resume: bool = False, grace: float = 90, keep: Sequence[str] = ()
    ) -> None:
        self.arguments, self.out, self.resume, self.grace = list(arguments), str(out.absolute()), resume, grace
        self.keep, self.folder = list(keep), os.getcwd()
        self.process: subprocess.Popen[bytes] | None = None
        self.waiter: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "process": None, "waiter": None}

    def command(self) -> list[str]:
        """The command that begins the run, or goes on with it."""
        begun = (Path(self.out) / CONFIG).exists()
        arguments = ["run", *self.keep] if begun and not self.resume else self.arguments
        return [*PROGRAM, *arguments, "--out", self.out, *(["--resume"] if begun or self.resume else [])]

    def __call__(self) -> str:
        """Run to the end; returns the folder.

        Raises:
            RuntimeError: the run failed; the message is its own.
        """
        out = Path(self.out)
        if (out / REPORT).exists() and not self.resume:  # it was requeued while it ended
            return self.out
        (out / FAILURE).unlink(missing_ok=True)
        command = self.command()
        print(f"starting {shlex.join(command)}", flush=True)
        self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, preexec_fn=_ignore_signal)
        self.waiter = threading.Thread(target=self.process.wait, daemon=True)
        self.waiter.start()
        while self.waiter.is_alive():  # in the main thread, which receives the signal
            self.waiter.join(POLL)
        code = self.process.returncode
        if code == 0:
            return self.out
        raise RuntimeError(read_failure(out) or f"the run in {self.out} ended with code {code}")

    def checkpoint(self) -> Any:
        """Have the run save and stop, and return what submitit requeues. Called in the handler of the signal.

        A run that does not end within the grace is killed; it then goes on from an earlier checkpoint.
        """
        from submitit.helpers import DelayedSubmission

        if self.process is not None and self.waiter is not None:
            self.process.send_signal(signal.SIGTERM)
            self.waiter.join(max(self.grace - MARGIN, self.grace / 2))
            if self.waiter.is_alive():
                self.process.kill()
                self.waiter.join()
        return DelayedSubmission(self)


def _ignore_signal() -> None:
    """Slurm sends the signal to all processes of a job; the run is told by SIGTERM."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@dataclass(frozen=True)
class Resources:
    """What a job is given.

    minutes: time; at its end the job is requeued. grace: seconds before it in which the run saves. requeues: how often
    at most. further: other parameters of submitit's Slurm executor, by name. parallel: jobs of an array at a time.
    """

    executor: str = "slurm"
    name: str = "sslx"
    minutes: float = 60
    grace: int = 90
    requeues: int = 100
    partition: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    parallel: int = 256


@dataclass
class ClusterJob:
    """A job that was submitted. folder: of its logs and its result. raw: submitit's object.

    missing_since: when the system was first found not to list it, though there is no result.
    """

    executor: str
    id: str
    folder: Path
    raw: Any = field(repr=False)
    missing_since: float | None = None

    @property
    def log(self) -> Path:
        """The log of the job."""
        return Path(self.raw.paths.stdout)

    def save(self, path: Path) -> None:
        """Write what `load` needs."""
        write_json(path, {"executor": self.executor, "id": self.id, "folder": str(self.folder)})

    @classmethod
    def load(cls, entry: Mapping[str, str]) -> ClusterJob:
        """A job that an earlier process submitted.

        Raises:
            ConfigError: submitit is not installed.
        """
        folder, number = Path(entry["folder"]), entry["id"]
        submitit = import_submitit("a job of a cluster")
        job_class = submitit.SlurmJob if entry["executor"] == "slurm" else submitit.LocalJob
        return cls(entry["executor"], number, folder, job_class(folder=folder, job_id=number))

    def is_active(self) -> bool:
        """Whether the job waits or runs."""
        if Path(self.raw.paths.result_pickle).exists():
            return False
        return _in_queue(self.id) if self.executor == "slurm" else _is_alive(self.raw, int(self.id))

    def failure(self) -> str:
        """Why the job failed, in one line."""
        if not Path(self.raw.paths.result_pickle).exists():
            return f"its job {self.id} ended without a result; its log is {self.log}"
        error = self.raw.exception()
        lines = str(error).strip().splitlines()
        text = next((line for line in reversed(lines) if "Error: " in line), lines[-1] if lines else "no reason given")
        return f"{text.rpartition('Error: ')[2]}; its log is {self.log}"

    def has_ended(self) -> bool:
        """Whether the job has ended for good; one without a result only after a while, since files may come late."""
        if Path(self.raw.paths.result_pickle).exists():
            return True
        if self.is_active():
            self.missing_since = None
            return False
        self.missing_since = self.missing_since or time.monotonic()
        return time.monotonic() - self.missing_since > (MISSING_SECONDS if self.executor == "slurm" else 1.0)

    @property
    def poll_seconds(self) -> float:
        """How often to ask."""
        return 2.0 if self.executor == "slurm" else POLL

    def wait(self) -> None:
        """Wait until the job has ended, over all requeues."""
        while not self.has_ended():
            time.sleep(self.poll_seconds)


def _in_queue(number: str) -> bool:
    """Whether Slurm lists a job; where it does not answer, it may."""
    try:
        done = subprocess.run(["squeue", "-h", "-j", number, "-o", "%T"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return True
    if done.returncode and "Invalid job id" not in done.stderr:
        return True
    return bool(done.stdout.strip())


def _is_alive(job: Any, process: int) -> bool:
    """Whether the controller of a local job runs; it may be a child that has ended."""
    if job._process is not None:
        return bool(job._process.poll() is None)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def import_submitit(what: str) -> Any:
    """The library.

    Raises:
        ConfigError: it is not installed; the message says what needs it.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise ConfigError(NEEDS.format(what)) from None
    return submitit


def submit_jobs(jobs: Sequence[RunJob], folder: Path, resources: Resources, what: str) -> list[ClusterJob]:
    """Submit jobs: to Slurm as one array, if there are several.

    Args:
        jobs: the runs.
        folder: of logs and results; on a cluster all nodes must see it.
        resources: what each job is given.
        what: the command, for messages.

    Raises:
        ConfigError: submitit is not installed, there is no Slurm, or it refuses the jobs.
    """
    submitit = import_submitit(what)
    if resources.executor not in EXECUTORS:
        raise ConfigError(f"unknown executor '{resources.executor}'; choose slurm or local")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = _executor(submitit, folder.absolute(), resources)
        with executor.batch():
            made = [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"Slurm refused the job: {_last_line(error)}") from None
    return [ClusterJob(resources.executor, job.job_id, folder.absolute(), job) for job in made]


def _executor(submitit: Any, folder: Path, resources: Resources) -> Any:
    """submitit's executor with its parameters.

    Raises:
        ConfigError: there is no Slurm, or a parameter is unknown.
    """
    if resources.executor == "local":
        if resources.further or resources.partition:
            raise ConfigError("--partition and --slurm are for Slurm; leave them out with the local executor")
        executor = submitit.LocalExecutor(folder, max_num_timeout=resources.requeues)
        executor.update_parameters(
            timeout_min=resources.minutes, signal_delay_s=resources.grace, gpus_per_node=resources.gpus or 0,
            stderr_to_stdout=True,
        )  # fmt: skip
        return executor
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=resources.requeues)
    except RuntimeError:
        raise ConfigError(
            "there is no Slurm here (srun is not found); submit from a login node, or use the local executor"
        ) from None
    parameters: dict[str, Any] = {
        "job_name": resources.name, "time": max(1, math.ceil(resources.minutes)), "signal_delay_s": resources.grace,
        "partition": resources.partition, "gpus_per_node": resources.gpus, "cpus_per_task": resources.cpus,
        "mem": None if resources.memory_gb is None else f"{math.ceil(resources.memory_gb * 1000)}M",
        "array_parallelism": resources.parallel, "stderr_to_stdout": True,
        # since Slurm 22.05 srun does not take the number of cores from sbatch
        "srun_args": None if resources.cpus is None else [f"--cpus-per-task={resources.cpus}"],
    }  # fmt: skip
    parameters = {name: value for name, value in parameters.items() if value is not None} | dict(resources.further)
    try:
        executor._internal_update_parameters(**parameters)
    except ValueError as error:
        raise ConfigError(f"--slurm: {' '.join(str(error).split())[:300]}") from None
    return executor


def _last_line(error: Exception) -> str:
    """The reason in the output of sbatch."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error:" in line), lines[-1] if lines else "no reason given")
