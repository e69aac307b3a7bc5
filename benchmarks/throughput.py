"""Benchmark training steps of one and of two processes on two cores.

    python benchmarks/throughput.py                         # writes results/throughput.json and docs/distributed.md
    python benchmarks/throughput.py --rounds 1 --steps 6    # a trial; add --out and it writes no page

Each setting trains on the embedded speech data in processes of its own, as `sslx run --processes N` does. The settings
take turns. A turn yields the median over the lines of its log, without the first, and a setting the median of its
turns: read the ratios. Run it on a machine without other work; the script records the load average at its start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from publish import fill

from ssl_core.training.accel.threads import available_cores

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "throughput.json"
PAGE = HERE.parent / "docs" / "distributed.md"
SETTINGS: dict[str, tuple[int, int]] = {
    "one process, one thread": (1, 1), "one process, two threads": (1, 2), "two processes, one thread each": (2, 1),
}  # fmt: skip
"""Processes, and threads of each."""
BASE = "one process, two threads"
MICRO_BATCHES: dict[str, Any] = {"train.batch_size": 16, "train.accumulate_steps": 4}
KINDS: dict[str, dict[str, Any]] = {
    "demo": {},
    "demo, compiled": {"train.compile": "on"},
    "demo, in 4 micro-batches": MICRO_BATCHES,
    "paper": {"preset": "metamae"},
}
WORK: dict[str, dict[str, Any]] = {
    f"{name}, {title}": {"objective.name": name, "train.compile": "off"} | options
    for title, options in KINDS.items()
    for name in ("metamae", "mae")
}
"""Options by what is trained."""
EVERY = 3
"""Steps of a line of the log. The first line of a turn is left out."""


def worker(options: dict[str, Any], folder: Path) -> None:
    """Train, in this process alone or as one of several; rank 0 prints the seconds of a step by line of the log."""
    from ssl_core import plugins
    from ssl_core.runs.build import build_run, open_data
    from ssl_core.runs.pretrain import RunRequest, plan_run, run_folder, training_plan
    from ssl_core.runs.run import RunContext
    from ssl_core.training.loop import train
    from ssl_core.training.parallel import is_main, join

    catalogue = plugins.load()
    plan = plan_run(RunRequest(options, out=folder), catalogue)
    with join():
        context = RunContext(catalogue, folder)
        with run_folder(plan, context) as plan:
            run = build_run(plan.config, plan.plugins, context, opened=open_data(plan.config, plan.plugins, context))
            result = train(run.learner, run.data["train"], training_plan(run, None), None)
        if is_main():
            size = run.config.train.batch_size * run.config.train.accumulate_steps
            rates = [line["train/samples_per_second"] for line in result.log.lines]
            print(json.dumps([size / rate for rate in rates]), flush=True)


def turn(options: dict[str, Any], processes: int, threads: int) -> float:
    """Seconds of a step: the median of the steps of one training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if processes > 1:
        shared |= {
            "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", json.dumps(options), str(Path(scratch) / "run")],
                stdout=subprocess.PIPE, text=True,
                env=shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
            )
            for rank in range(processes)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in workers]
    if any(process.returncode for process in workers):
        raise SystemExit(f"a worker failed with {options}")
    return statistics.median(json.loads(outputs[0].splitlines()[-1])[1:])


def measure(rounds: int, steps: int, work: list[str], out: Path, add: bool) -> dict[str, Any]:
    """Milliseconds of a step by work and setting, one value a round; written after each turn."""
    import torch  # not at the top: a worker loads it with its own environment

    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "cores": available_cores(),
            "torch": torch.__version__, "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
        },
        "steps": steps, "milliseconds": {name: {setting: [] for setting in SETTINGS} for name in work},
    }  # fmt: skip
    if add:
        results["milliseconds"] |= json.loads(out.read_text())["milliseconds"]
    for _ in range(rounds):
        for name in work:
            options = {"modality": "speech", "train.steps": steps, "train.log_every": EVERY, "device": "cpu"} | WORK[
                name
            ]
            for setting, (processes, threads) in SETTINGS.items():
                seconds = turn(options, processes, threads)
                results["milliseconds"][name][setting].append(round(1000 * seconds, 1))
                out.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{name}: {setting}: {1000 * seconds:,.0f} ms", flush=True)
    return results


def table(results: dict[str, Any]) -> str:
    """Throughput of each setting as a ratio to one process with two threads."""
    ratios = [setting for setting in SETTINGS if setting != BASE]
    lines = [
        f"| step | {BASE}, ms | {' | '.join(f'{setting}, throughput' for setting in ratios)} |",
        f"|---|--:|{'--:|' * len(ratios)}",
    ]
    for name, settings in results["milliseconds"].items():
        middle = {setting: statistics.median(values) for setting, values in settings.items()}
        cells = [f"{middle[BASE] / middle[setting]:.2f}" for setting in ratios]
        lines.append(f"| {name} | {middle[BASE]:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def current() -> str:
    """The table of the published results."""
    return table(json.loads(RESULTS.read_text()))


def main() -> None:
    """Measure and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="steps of a turn")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--add", action="store_true", help="add the rounds to those of an earlier call")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(json.loads(arguments.worker[0]), Path(arguments.worker[1]))
        return
    results = measure(arguments.rounds, arguments.steps, arguments.work, arguments.out, arguments.add)
    print(table(results))
    if arguments.out == RESULTS:
        PAGE.write_text(fill(PAGE.read_text(), "throughput", table(results)))


if __name__ == "__main__":
    main()
