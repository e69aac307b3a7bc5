"""Benchmark the waiting of OpenMP threads: MetaMAE training steps alone and beside processes that keep cores busy.

    python benchmarks/cores.py                          # writes benchmarks/results/cores.json and prints the table
    python benchmarks/cores.py --rounds 1 --seconds 1   # a trial

Each setting has a process of its own that trains a small MetaMAE on spectrograms. The processes take turns, one at a
time, for a few seconds each, while 0, 1 or 2 other processes compute without a pause. The medians of all turns are
compared: read the ratios. Run it on a machine without other work; the script records the load average at its start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_core.training.accel.threads import WAIT_VARIABLES, available_cores, configure_threads

HERE = Path(__file__).resolve().parent
DEFAULT = "OpenMP default"
SETTINGS: dict[str, dict[str, str] | None] = {
    "sslx": None,  # what the command chooses
    DEFAULT: {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = (0, 1, 2)
COMPUTE = "while True: pass"
EDGE, PATCH, BATCH, DIM, DEPTH = 112, 16, 16, 128, 6  # 49 tokens of a spectrogram


def worker() -> None:
    """Train when told to: each line of the standard input is a number of seconds, each line of output samples/s."""
    import torch

    from ssl_core import Geometry, Learner, plugins
    from ssl_core.contracts import PROGRESS
    from ssl_core.nn import EncoderOptions, TransformerEncoder
    from ssl_core.tokenizers import GridTokenizer
    from ssl_core.training.optim import make_optimizer
    from ssl_core.training.options import TrainOptions

    torch.manual_seed(0)
    catalogue = plugins.load()
    options = EncoderOptions(dim=DIM, depth=DEPTH, heads=4)
    tokenizer = GridTokenizer(
        GridTokenizer.Options(normalise="none"), {}, DIM, field="x", channels=1, shape=(EDGE, EDGE), patch=(PATCH,) * 2
    )
    masking, objective = catalogue.masking("random"), catalogue.objective("metamae")
    learner = Learner(
        tokenizer,
        TransformerEncoder(options, tokenizer.layout),
        objective(objective.Options(), tokenizer.layout, DIM, {"mask": masking(masking.Options(), tokenizer.layout)}),
    ).train()
    optimizer = make_optimizer(learner, TrainOptions(lr=1e-5), False)
    inputs = {"x": torch.randn(BATCH, 1, EDGE, EDGE)}
    draws = learner.draw(BATCH, torch.Generator().manual_seed(0), Geometry()) | {PROGRESS: torch.tensor(0.5)}

    def step() -> None:
        learner(inputs, draws).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        seconds, steps = float(line), 0
        step()  # wakes the threads
        start = time.perf_counter()
        while steps == 0 or time.perf_counter() - start < seconds:
            step()
            steps += 1
        print(BATCH * steps / (time.perf_counter() - start), flush=True)


def environment_of(setting: dict[str, str] | None) -> dict[str, str]:
    """The environment of a worker; None: the one that the `sslx` command chooses."""
    clean = {k: v for k, v in os.environ.items() if k not in (*WAIT_VARIABLES, "OMP_NUM_THREADS", "SSLX_THREADS")}
    if setting is None:
        configure_threads(clean)
    return clean | (setting or {})


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run processes that compute without a pause."""
    others = [subprocess.Popen([sys.executable, "-c", COMPUTE]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def ask(process: subprocess.Popen[str], seconds: float) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(settings: Mapping[str, dict[str, str] | None], rounds: int, seconds: float, out: Path) -> dict[str, Any]:
    """Samples per second of each setting, by the number of busy processes: one value a round. Written after each."""
    import torch  # not at the top: a worker loads it with its own environment

    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(), "cores": available_cores(),
            "torch": torch.__version__, "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
        },
        "seconds": seconds, "threads": {}, "samples_per_second": {},
    }  # fmt: skip
    threads, rates = results["threads"], results["samples_per_second"]
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, setting in settings.items():
            processes[name] = process = subprocess.Popen(
                [sys.executable, __file__, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=environment_of(setting),
            )  # fmt: skip
            assert process.stdout is not None
            threads[name] = int(process.stdout.readline())
            rates[name] = {str(count): [] for count in BUSY}
        for _ in range(rounds):
            for count in BUSY:
                with busy(count):
                    for name, process in processes.items():
                        rates[name][str(count)].append(ask(process, seconds))
                        out.write_text(json.dumps(results, indent=2) + "\n")
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return results


def table(results: dict[str, Any]) -> str:
    """Ratios to OpenMP's default on an idle machine."""
    rates = results["samples_per_second"]
    base = statistics.median(rates[DEFAULT]["0"])
    lines = ["| setting | threads | idle | 1 busy process | 2 busy processes |", "|---|--:|--:|--:|--:|"]
    for name, by_count in rates.items():
        ratios = [f"{statistics.median(by_count[str(count)]) / base:.2f}" for count in BUSY]
        lines.append(f"| {name} | {results['threads'][name]} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cores.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return
    settings = {name: SETTINGS[name] for name in (DEFAULT, *arguments.settings)}
    print(table(measure(settings, arguments.rounds, arguments.seconds, arguments.out)))


if __name__ == "__main__":
    main()
