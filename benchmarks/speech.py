"""MetaMAE and MAE on speech: the embedded recordings and the Free Spoken Digit Dataset, three seeds, as a table.

    python benchmarks/speech.py --data ../shared/data/fsdd/recordings --out runs/speech

Every cell is an ordinary run folder. A cell whose report is there is not run again, one that was stopped goes on.
Writes benchmarks/results/speech.json (every score of every run) and the table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- speech table: begin -->", "<!-- speech table: end -->"

DIGITS = [r"--label-pattern=(?P<label>\d)_(?P<group>[a-z]+)_\d+", '--set=dataset.test_groups=["theo", "nicolas"]']
SPEAKERS = [
    r"--label-pattern=\d_(?P<label>[a-z]+)_(?P<group>\d+)",
    '--set=dataset.test_groups=["0", "1", "2", "3", "4"]',
]
TASKS = {
    "synthetic-word": ("embedded: word, new speakers", []),
    "fsdd-digit": ("fsdd: digit, speakers theo and nicolas held out", DIGITS),
    "fsdd-speaker": ("fsdd: speaker, takes 0 to 4 held out", SPEAKERS),
}


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, Path, list[str]]]:
    """Task, objective, seed, run folder and command of each cell."""
    for seed in range(arguments.seeds):
        for task, (_, options) in TASKS.items():
            for objective in arguments.objectives:
                folder = arguments.out / f"{task}-{objective}-{seed}"
                command = ["run", "--objective", objective, "--modality", "speech", "--seed", str(seed)]
                if task.startswith("fsdd"):
                    if arguments.data is None:
                        continue
                    command += ["--data", str(arguments.data), "--steps", str(arguments.steps), *options]
                yield task, objective, seed, folder, command


def run(folder: Path, command: list[str], threads: int) -> str | None:
    """Run a cell if it is not finished. Returns why it failed, or None."""
    if (folder / "report.json").exists():
        return None
    go_on = ["--resume"] if (folder / "config.json").exists() else []
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "ssl_core.cli", *command, "--out", str(folder), *go_on],
            stdout=log, stderr=subprocess.STDOUT, env=environment, check=False,
        )  # fmt: skip
    return None if done.returncode == 0 else f"{folder.name} failed with exit code {done.returncode}, see its log"


def collect(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The scores and figures of every finished cell."""
    rows = []
    for task, objective, seed, folder, command in cells(arguments):
        if not (folder / "report.json").exists():
            continue
        report = json.loads((folder / "report.json").read_text())
        keep = ("steps", "wall_seconds", "pretrain_seconds", "samples_per_second", "peak_memory_bytes", "device")
        shown = " ".join(part.replace(str(arguments.data), "FSDD") for part in ["sslx", *command])
        rows.append(
            {"task": task, "objective": objective, "seed": seed, "command": shown, "scores": report["scores"]}
            | {key: report[key] for key in (*keep, "precision", "versions")}
        )
    return rows


def mean_and_deviation(values: list[float]) -> str:
    """In percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def table(rows: list[dict[str, Any]], objectives: list[str]) -> str:
    """Markdown: accuracy in percent, mean and standard deviation over seeds."""
    head = ["task", "probe", *objectives, "random init", "raw input", "seeds", "steps", "minutes a run"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for task, (title, _) in TASKS.items():
        mine = [row for row in rows if row["task"] == task]
        for probe in ("linear", "knn"):
            if not mine:
                continue

            def scores(kind: str, objective: str, mine: Any = mine, probe: str = probe) -> list[float]:
                chosen = [row for row in mine if row["objective"] == objective]
                return [
                    score["value"]
                    for row in chosen
                    for score in row["scores"]
                    if (score["features"], score["probe"]) == (kind, probe)
                ]

            cells_ = [mean_and_deviation(found) if (found := scores("trained", o)) else "-" for o in objectives]
            base = next(o for o in objectives if scores("trained", o))
            cells_ += [mean_and_deviation(scores(kind, base)) for kind in ("random_init", "raw_input")]
            minutes = [
                f"{statistics.mean(row['wall_seconds'] for row in mine if row['objective'] == o) / 60:.1f}"
                for o in objectives
                if scores("trained", o)
            ]
            steps = " / ".join(sorted({f"{row['steps']:,}" for row in mine}))
            seeds = len({row["seed"] for row in mine})
            lines.append(f"| {title} | {probe} | {' | '.join(cells_)} | {seeds} | {steps} | {' / '.join(minutes)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, write what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the recordings of fsdd; without it only embedded data")
    parser.add_argument("--out", type=Path, default=Path("runs/speech"), help="where the run folders go")
    parser.add_argument("--objectives", nargs="+", default=["metamae", "mae"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="steps on fsdd; the embedded runs use their preset")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=0, help="threads of a run; 0 = as many as there are")
    parser.add_argument("--collect", action="store_true", help="run nothing, only write what is there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.collect:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [pool.submit(run, folder, command, arguments.threads) for *_, folder, command in cells(arguments)]
            for job in jobs:
                if problem := job.result():
                    print(problem, file=sys.stderr)
    rows = collect(arguments)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "speech.json").write_text(json.dumps(rows, indent=1) + "\n")
    made = table(rows, arguments.objectives)
    print(made)
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")


if __name__ == "__main__":
    main()
