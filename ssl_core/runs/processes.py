"""A run in several processes of one machine: start them, pass signals on, and start them again if one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from ssl_core.runs.run_dir import CONFIG
from ssl_core.training.accel.threads import share_cores
from ssl_core.training.parallel import LOST
from ssl_core.utils.children import start_child

GRACE = 30.0
"""Seconds that the other processes have to end after one of them has failed."""
POLL = 0.05  # seconds between two looks at the processes
RESTARTS = 3


@dataclass
class Workers:
    """The processes of a run.

    arguments: of `sslx`, the same for all. say: prints one line for the user.
    """

    arguments: Sequence[str]
    count: int
    say: Callable[[str], None]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    errors: list[IO[bytes]] = field(default_factory=list)
    signal: int = 0
    """The signal that this process received and passed on; 0 if none."""

    def start(self, arguments: Sequence[str]) -> None:
        """Start all processes. That of rank 0 prints; the errors of the others are kept."""
        self.errors = [tempfile.TemporaryFile() for _ in range(1, self.count)]  # noqa: SIM115 - read after the end
        environment = share_cores(os.environ, self.count) | {
            "WORLD_SIZE": str(self.count), "LOCAL_WORLD_SIZE": str(self.count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
        }  # fmt: skip
        self.processes = []
        for rank in range(self.count):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            streams = {"stdout": subprocess.DEVNULL, "stderr": self.errors[rank - 1]} if rank else {}
            self.processes.append(start_child(arguments, own, **streams))
            if self.signal:  # received meanwhile
                self.processes[-1].send_signal(self.signal)

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Handler of signals: all processes get what this one has received."""
        self.signal = number
        for process in self.processes:
            process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; return 0, or the code of the process that failed, after stopping the others."""
        while True:
            now = [process.poll() for process in self.processes]
            if all(code == 0 for code in now):
                return 0
            if any(now):
                break
            time.sleep(POLL)
        codes = self._end()
        rank = next((i for i, code in enumerate(codes) if code < 0), None)  # killed; the others then lose it
        if rank is None:
            rank = next((i for i, code in enumerate(codes) if code not in (0, LOST)), codes.index(max(codes)))
        if rank and codes[rank] > 0 and not self.signal:
            self.errors[rank - 1].seek(0)
            lines = self.errors[rank - 1].read().decode(errors="replace").strip().splitlines()
            self.say(f"process {rank}: {lines[-1] if lines else f'ended with code {codes[rank]}'}")
        elif codes[rank] < 0:
            name = signal.Signals(-codes[rank]).name
            hint = "; is the memory of the machine enough for all processes?" if name == "SIGKILL" else ""
            self.say(f"process {rank} was killed by {name}{hint}")
        return codes[rank]

    def _end(self) -> list[int]:
        """Wait until all processes have ended, and kill those that do not; their codes, 0 for those."""
        until, codes = time.monotonic() + GRACE, []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.0, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                codes.append(0)
        return codes


def run_processes(
    arguments: Sequence[str], folder: Path, count: int, say: Callable[[str], None], restarts: int = RESTARTS
) -> int:
    """Run `sslx` in several processes of this machine that train together.

    If one is killed, all are started again and go on from the newest checkpoint.

    Args:
        arguments: those of the command line, the command first; they name the folder.
        folder: the run's folder.
        count: number of processes.
        say: prints one line for the user.
        restarts: how often they are started again.

    Returns:
        The exit code.
    """
    workers = Workers(arguments, count, say)
    with _handled(workers):
        for attempt in range(restarts + 1):
            again = attempt > 0 and (folder / CONFIG).exists()
            workers.start(_resuming(arguments) if again else arguments)
            code = workers.wait()
            if code >= 0 or workers.signal:
                break
            if attempt < restarts:
                say(f"starting all {count} again from the newest checkpoint ({attempt + 1} of {restarts} times)")
    return code if code >= 0 else 128 - code


def _resuming(arguments: Sequence[str]) -> list[str]:
    kept = [argument for argument in arguments if argument not in ("--overwrite", "--resume")]
    return [*kept, "--resume"]


@contextlib.contextmanager
def _handled(workers: Workers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = {number: signal.signal(number, workers.pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
