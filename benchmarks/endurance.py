"""Kill `sslx compare` every few minutes for hours; compare its tables with undisturbed ones, and watch its memory.

    python benchmarks/endurance.py --minutes 120           # writes results/endurance.json

Comparisons of two objectives on two modalities with two seeds are made one after another until the time has passed; the
last is still completed. At random times SIGKILL ends all processes, or the comparison alone, or one of its trainings,
by turns drawn at random; then the same command is given again. The same comparisons are made without kills at the same
time, in another folder with a cache of its own. Scores must have the same bits.

Resident memory and open file descriptors of the undisturbed processes are read every five seconds. The slope of a
training is fitted to the readings from a minute after its first step to its last step; that of a comparison to the
readings during its trainings, from a minute after the first step. So neither the imports at its start nor the tables
at its end count as growth.

    python benchmarks/endurance.py --watch DIR --minutes 120

Starts nothing: it reads the memory of running comparisons whose SSLX_CACHE_DIR is in DIR, and replaces only the slopes
in the results.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results" / "endurance.json"
VICTIMS = ("all", "comparison", "training")
PAUSE = 5.0
"""Seconds between readings."""
SETTLED = 60.0
"""Seconds after which memory is expected to be flat."""
SMALL = {
    "dataset.n_train": 256, "dataset.n_test": 64, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2,
    "objective.depth": 1, "objective.width": 32, "objective.heads": 2, "train.batch_size": 16,
    "train.checkpoint_every": 50, "train.precision": "fp32", "train.compile": "off", "evaluate.figures": "false",
}  # fmt: skip


def comparison(number: int, steps: int, out: Path) -> list[str]:
    """The command of one comparison."""
    options = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    return [
        *(sys.executable, "-m", "ssl_core.cli", "compare", "--objectives", "mae,metamae"),
        *("--modality", "tabular,time-series", "--preset", "none", "--seeds", f"{number},{1000 + number}"),
        *("--jobs", "2", "--steps", str(steps), "--out", str(out), *options),
    ]


def scores(out: Path) -> Any:
    """What a finished comparison measured."""
    return json.loads((out / "comparison.json").read_text(encoding="utf-8"))["scores"]


# --- processes -------------------------------------------------------------------------------------------------------


def processes(place: Path) -> dict[int, str]:
    """Of the processes whose cache is or lies in `place`: what each is, by number."""
    found, name = {}, f"SSLX_CACHE_DIR={place}"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if not any(
                f"{part}/".startswith(f"{name}/") for part in os.fsdecode((entry / "environ").read_bytes()).split("\0")
            ):
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        found[int(entry.name)] = "comparison" if b"compare" in words else "training" if b"run" in words else "other"
    return found


def reading(pid: int) -> tuple[float, int] | None:
    """Resident memory in MB without pages of files, and the number of open file descriptors."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        return resident / 1024, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, StopIteration):
        return None


def is_training(pid: int) -> bool:
    """Whether a training is between its first and its last step."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        out = Path(f"/proc/{pid}/cwd") / words[words.index("--out") + 1]
        options = json.loads((out / "config.json").read_text())["train"]
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        if options["max_seconds"] is not None:  # it began after its configuration was written
            return bool(time.time() - (out / "config.json").stat().st_mtime < options["max_seconds"])
        return bool(last["step"] + 20 < options["steps"])
    except (OSError, ValueError, IndexError, KeyError):
        return False


@dataclass
class Watch:
    """Readings of the processes of a place until `done`."""

    place: Path
    done: threading.Event
    readings: dict[tuple[str, int], list[tuple[float, float, int]]] = field(default_factory=dict)

    def run(self) -> None:
        """Read every few seconds."""
        while not self.done.wait(PAUSE):
            found = processes(self.place)
            training = {pid for pid, what in found.items() if what == "training" and is_training(pid)}
            for pid, what in found.items():
                value = reading(pid) if pid in training or (what == "comparison" and training) else None
                if value is not None:
                    self.readings.setdefault((what, pid), []).append((time.monotonic(), *value))

    def slopes(self, what: str) -> dict[str, Any]:
        """Slopes over all processes of a kind, each with an offset of its own."""
        times, values, spans = [], [], []
        for (kind, _), rows in self.readings.items():
            settled = np.array([row for row in rows if row[0] - rows[0][0] >= SETTLED])
            if kind == what and len(settled) >= 6:
                times.append(settled[:, 0] - settled[:, 0].mean())
                values.append(settled[:, 1:] - settled[:, 1:].mean(axis=0))
                spans.append(settled[-1, 0] - settled[0, 0])
        if not times:
            return {"processes": 0}
        t, v = np.concatenate(times), np.concatenate(values)
        slope = t @ v / (t @ t)
        residual = np.sqrt(((v - t[:, None] * slope) ** 2).sum(axis=0) / max(1, len(t) - len(times) - 1))
        error = residual / np.sqrt(t @ t)
        return {
            "processes": len(times), "readings": len(t), "hours": sum(spans) / 3600,
            "mb_per_hour": slope[0] * 3600, "mb_per_hour_error": error[0] * 3600,
            "descriptors_per_hour": slope[1] * 3600, "descriptors_per_hour_error": error[1] * 3600,
        }  # fmt: skip


# --- comparisons -----------------------------------------------------------------------------------------------------


def start(command: list[str], place: Path) -> subprocess.Popen[bytes]:
    """Start a comparison with a cache of its own."""
    environment = {**os.environ, "SSLX_CACHE_DIR": str(place / "cache"), "NO_COLOR": "1"}
    with (place / "log.txt").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill(victim: str, place: Path, rng: random.Random) -> str | None:
    """Kill some processes; what was killed, or None where there was no such process."""
    found = processes(place)
    pids = sorted(pid for pid, what in found.items() if victim in ("all", what))
    if victim == "training":
        pids = [rng.choice(pids)] if pids else []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return victim if pids else None


def disturbed(number: int, arguments: argparse.Namespace, place: Path, rng: random.Random) -> dict[str, Any]:
    """Make a comparison under kills."""
    out, kills, starts = place / f"table-{number}", [], 0
    while True:
        process, starts = start(comparison(number, arguments.steps, out), place), starts + 1
        while True:
            try:
                code = process.wait(rng.uniform(*arguments.every) * 60)
                break
            except subprocess.TimeoutExpired:
                killed = kill(rng.choice(VICTIMS), place, rng)
                kills += [killed] if killed else []
                if killed in ("all", "comparison"):
                    code = process.wait()
                    break
        while any(what != "other" for what in processes(place).values()):
            time.sleep(0.5)  # trainings of a killed comparison save and end
        if code == 0:
            return {"kills": kills, "starts": starts}
        if starts > len(kills) + 3:
            raise SystemExit(f"comparison {number} does not complete; its log is {place / 'log.txt'}")


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the results so far."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def slopes(watch: Watch) -> dict[str, Any]:
    """Slopes of both kinds of processes."""
    return {what: watch.slopes(what) for what in ("comparison", "training")}


def watch_only(place: Path, minutes: float, path: Path) -> None:
    """Read memory for some minutes, and replace the slopes in the results every minute."""
    done = threading.Event()
    watch = Watch(place, done)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        time.sleep(min(60.0, max(0.0, end - time.monotonic())))
        write(path, json.loads(path.read_text(encoding="utf-8")) | {"slopes": slopes(watch)})
    done.set()
    thread.join()


def main() -> None:
    """Make comparisons with and without kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="time after which no comparison is begun")
    parser.add_argument("--every", type=float, nargs=2, default=(1.0, 5.0), help="minutes between kills, from and to")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--watch", type=Path, metavar="DIR", help="only watch comparisons whose cache is in here")
    arguments = parser.parse_args()
    if arguments.watch is not None:
        watch_only(arguments.watch, arguments.minutes, arguments.results)
        return
    rng = random.Random(arguments.seed)
    began, wanted, done = time.monotonic(), threading.Semaphore(0), threading.Event()
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        for place in (whole, killed):
            place.mkdir()
        watch = Watch(whole, done)
        failures: list[str] = []

        def undisturbed() -> None:
            number = 0
            while wanted.acquire() and not done.is_set():
                if start(comparison(number, arguments.steps, whole / f"table-{number}"), whole).wait():
                    failures.append(f"comparison {number} failed without a kill; its log is {whole / 'log.txt'}")
                number += 1
                finished.release()

        finished = threading.Semaphore(0)
        threads = [threading.Thread(target=watch.run, daemon=True), threading.Thread(target=undisturbed, daemon=True)]
        for thread in threads:
            thread.start()
        rows: list[dict[str, Any]] = []
        while not rows or time.monotonic() - began < arguments.minutes * 60:
            number = len(rows)
            wanted.release()
            rows.append(disturbed(number, arguments, killed, rng))
            finished.acquire()
            if failures:
                raise SystemExit(failures[0])
            same = scores(whole / f"table-{number}") == scores(killed / f"table-{number}")
            rows[-1] |= {"cells": 8, "same": same, "minutes": (time.monotonic() - began) / 60}
            result = {
                "minutes": (time.monotonic() - began) / 60, "every": list(arguments.every), "steps": arguments.steps,
                "comparisons": rows, "slopes": slopes(watch),
            }  # fmt: skip
            write(arguments.results, result)
            print(json.dumps(rows[-1]), flush=True)
        done.set()
        wanted.release()


if __name__ == "__main__":
    main()
