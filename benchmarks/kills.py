"""Kill commands with SIGKILL, repeat them, and compare with what undisturbed commands make.

    python benchmarks/kills.py                # writes results/kills.json

Each kill comes at a random moment, or before the n-th operation on files (open for writing, rename, remove, mkdir,
rmdir) in the folders of the results and of the cache. Then the same command is given again: `sslx run` with --resume,
as its message says, others as they were, with --overwrite where they refuse. What counts:

- identical: weights, optimiser state, losses and scores, or tables and exported weights, have the same bits as without
  the kill;
- lost: optimiser steps that a whole checkpoint held and that were computed again, a refusal that no message cures, or
  another result.

Commands run in processes that are forked from one that has imported the program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from ssl_core import plugins
from ssl_core.cli import app

RESULTS = Path(__file__).resolve().parent / "results" / "kills.json"
OBJECTIVES = ("metamae", "mae", "emix", "shed", "capri", "dabs-mae", "m3ae", "ijepa")
STEPS, EVERY = 12, 4
LONG = 60
"""Steps of a run whose data are prepared meanwhile."""
SECONDS = 300.0
"""A command that takes longer hangs."""
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
CONTEXT = multiprocessing.get_context("fork")


# --- commands in processes of their own ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code; minus the number of the signal that ended it."""
    error: str
    seconds: float
    operations: int
    """Operations on files below the folder of the command."""
    steps: int
    """Optimiser steps that were computed."""


def _command(arguments: Sequence[str], folder: Path, fatal: int | None, operations: Any, steps: Any) -> None:
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "error")):
        file = os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.environ.update(SSLX_CACHE_DIR=str(folder / "cache"), COLUMNS="200", NO_COLOR="1")
    root = str(folder)

    def watch(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            mode, flags = values[1], values[2]
            writes = (
                any(letter in "wax+" for letter in mode) if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
            )
            if not writes:
                return
        elif event not in EVENTS:
            return
        if not os.path.abspath(
            os.fsdecode(values[0]) if isinstance(values[0], str | bytes | os.PathLike) else ""
        ).startswith(root):
            return
        operations.value += 1
        if operations.value == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # resuming steps optimisers of one parameter to learn the form of their state
        steps.value += sum(len(group["params"]) for group in optimizer.param_groups) > 1

    sys.addaudithook(watch)
    register_optimizer_step_post_hook(count)
    sys.argv = ["sslx", *arguments]
    app.main()


def call(arguments: Sequence[str], folder: Path, after: float | None = None, fatal: int | None = None) -> Ended:
    """Run a command; kill it after some seconds, or before an operation on files."""
    operations, steps = (CONTEXT.Value("q", 0, lock=False) for _ in range(2))
    process = CONTEXT.Process(target=_command, args=(arguments, folder, fatal, operations, steps))
    began = time.perf_counter()
    process.start()
    process.join(SECONDS if after is None else after)
    if process.is_alive():
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if after is None:
            raise SystemExit(f"sslx {' '.join(arguments)} has not ended after {SECONDS:.0f} s")
    seconds = time.perf_counter() - began
    code = process.exitcode
    assert code is not None
    error = Path(f"{folder}.error")
    return Ended(code, error.read_text() if error.exists() else "", seconds, operations.value, steps.value)


# --- results ---------------------------------------------------------------------------------------------------------


def _tensors(path: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _scores(path: Path) -> list[Any]:
    rows = json.loads(path.read_text())["scores"]
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def run_result(folder: Path) -> Any:
    """Weights, optimiser, losses, scores of a run."""
    out = folder / "run"
    last = max((out / "checkpoints").glob("step-*"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line.get("loss"), line.get("value")) for line in lines]
    weights = {path.name: _tensors(path) for path in sorted(last.glob("*.safetensors"))}
    return last.name, weights, losses, _scores(out / "report.json")


def eval_result(folder: Path) -> Any:
    """Scores of an evaluation, and the untouched run."""
    return _scores(folder / "again" / "report.json"), run_result(folder)


def embed_result(folder: Path) -> Any:
    """The table of features."""
    table = pyarrow.parquet.read_table(folder / "features.parquet")
    return table.column_names, [np.asarray(column).tolist() for column in table.columns]


def export_result(folder: Path) -> Any:
    """Exported weights."""
    return {path.name: _tensors(path) for path in sorted((folder / "exported").glob("*.safetensors"))}


def finetune_result(folder: Path) -> Any:
    """Scores and weights of a fine-tuned model."""
    tuned = folder / "tuned"
    weights = {str(path.relative_to(tuned)): _tensors(path) for path in sorted(tuned.rglob("*.safetensors"))}
    return _scores(tuned / "finetune.json"), weights


def compare_result(folder: Path) -> Any:
    """The table of a comparison."""
    return json.loads((folder / "table" / "comparison.json").read_text())["scores"]


@dataclass(frozen=True)
class Scenario:
    """A command and what it makes."""

    name: str
    arguments: tuple[str, ...]
    result: Callable[[Path], Any]
    before: tuple[str, ...] = ()
    """A command that is run first, undisturbed."""
    again: tuple[str, ...] = ()
    """Arguments that are added when the command is given again."""
    checkpoints: str = ""
    """Folder of the checkpoints, if the command trains in steps."""
    steps: int = STEPS


SMALL = [
    f"{name}={value}"
    for name, value in {
        "dataset.n_train": 48, "dataset.n_test": 24, "encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2,
        "objective.depth": 1, "objective.width": 16, "objective.heads": 2, "train.batch_size": 8,
        "train.checkpoint_every": EVERY, "train.log_every": 1, "train.precision": "fp32", "evaluate.figures": "false",
    }.items()
]  # fmt: skip


def training(objective: str, *data: str, steps: int | None = STEPS) -> tuple[str, ...]:
    """The command of a small run; without `steps` their number is to be added."""
    known = plugins.load().objective(objective).Options.model_fields
    options = []
    for option in SMALL:
        section, _, name = option.partition("=")[0].partition(".")
        if not (section == "objective" and name not in known) and not (section == "dataset" and data):
            options += ["--set", option]
    return (
        *("run", "--objective", objective, "--modality", "image-text" if objective == "m3ae" else "tabular", *data),
        *("--preset", "none", *(() if steps is None else ("--steps", str(steps))), "--out", "run", *options),
    )


def scenarios() -> list[Scenario]:
    """All commands that write."""
    runs = [
        Scenario(f"run {name}", training(name), run_result, again=("--resume",), checkpoints="run/checkpoints")
        for name in OBJECTIVES
    ]
    growing = (
        *("--set", "dataset.n_train=3000", "--set", "train.start_after=256", "--set", f"train.steps={LONG}"),
    )  # fmt: skip
    mae = training("mae", "--data", "data.csv")
    options = [part for option in SMALL for part in ("--set", option)]
    return [
        *runs,
        Scenario(
            "run while data are prepared", (*training("mae", steps=None), *growing), run_result, again=("--resume",),
            checkpoints="run/checkpoints", steps=LONG,
        ),
        Scenario("eval", ("eval", "run", "--out", "again"), eval_result, before=mae),
        Scenario("embed", ("embed", "run", "data.csv", "--out", "features.parquet"), embed_result, before=mae),
        Scenario("export", ("export", "run", "--to", "safetensors", "--out", "exported"), export_result, before=mae),
        Scenario(
            "finetune", ("finetune", "run", "--steps", "6", "--batch-size", "8", "--out", "tuned"), finetune_result,
            before=mae,
        ),
        Scenario(
            "compare", (
                "compare", "--objectives", "mae,metamae", "--modality", "tabular", "--preset", "none", "--seeds", "1",
                "--jobs", "1", "--steps", str(STEPS), "--out", "table", *options,
            ), compare_result,
        ),
    ]  # fmt: skip


# --- kills -----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Kills of one command."""

    moments: int = 0
    operations: int = 0
    identical: int = 0
    late: int = 0
    """The command had ended before its kill came."""
    lost: list[dict[str, Any]] = field(default_factory=list)


def _newest(folder: Path, scenario: Scenario) -> int:
    found = (folder / scenario.checkpoints).glob("step-*") if scenario.checkpoints else ()
    return max((int(path.name[5:]) for path in found), default=0)


def _again(scenario: Scenario, folder: Path) -> tuple[Ended, list[str]]:
    """Give the command again as its messages say."""
    refusals = []
    for more in (scenario.again, (), ("--overwrite",)):
        ended = call([*scenario.arguments, *more], folder)
        if ended.code == 0:
            break
        refusals.append(ended.error.strip().splitlines()[-1] if ended.error.strip() else f"exit code {ended.code}")
    return ended, refusals


def disturb(scenario: Scenario, whole: Any, start: Path, work: Path, **kill: Any) -> dict[str, Any] | None:
    """Kill the command once, give it again, compare; what is wrong, or None."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    ended = call(scenario.arguments, work, **kill)
    if ended.code == 0:
        return {"late": True}
    if ended.code != -signal.SIGKILL:
        return {"kill": kill, "why": f"exit code {ended.code}: {ended.error[-500:]}"}
    newest = _newest(work, scenario)
    ended, refusals = _again(scenario, work)
    if ended.code:
        return {"kill": kill, "why": f"no way on: {refusals}"}
    if scenario.checkpoints and ended.steps != scenario.steps - newest:
        return {
            "kill": kill,
            "why": f"checkpoint of step {newest}, but {ended.steps} steps were computed",
            "refusals": refusals,
        }
    if repr(scenario.result(work)) != repr(whole):
        return {"kill": kill, "why": "another result", "refusals": refusals}
    left = [str(path.relative_to(work)) for path in work.rglob(".*-*") if path.name != ".in-use"]
    return {"kill": kill, "why": f"left behind: {left}"} if left else None


def study(scenario: Scenario, moments: int, operations: int, rng: random.Random, folder: Path) -> Tally:
    """Kill a command many times."""
    start, work = folder / "start", folder / "work"
    for path in (start, work):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    rows = "".join(f"{(i * 37 % 101) / 7},{i % 7},{'xyz'[i % 3]},{'yn'[i % 2]}\n" for i in range(80))
    (start / "data.csv").write_text("size,count,kind,label\n" + rows)
    if scenario.before:
        ended = call(scenario.before, start)
        if ended.code:
            raise SystemExit(f"{scenario.name}: {ended.error}")
    shutil.copytree(start, work, dirs_exist_ok=True)
    ended = call(scenario.arguments, work)
    if ended.code:
        raise SystemExit(f"{scenario.name}: {ended.error}")
    whole = scenario.result(work)
    tally = Tally()
    numbers = range(1, ended.operations + 1)
    kills: list[Mapping[str, Any]] = [
        *({"after": rng.uniform(0.02, ended.seconds)} for _ in range(moments)),
        *({"fatal": number} for number in sorted(rng.sample(numbers, min(operations, len(numbers))))),
    ]
    for kill in kills:
        wrong = disturb(scenario, whole, start, work, **kill)
        if wrong and wrong.get("late"):
            tally.late += 1
            continue
        tally.moments += "after" in kill
        tally.operations += "fatal" in kill
        if wrong:
            tally.lost.append(wrong)
        else:
            tally.identical += 1
    return tally


def main() -> None:
    """Kill the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [scenario.name for scenario in scenarios()]
    parser.add_argument("--moments", type=int, default=12, help="kills of each command at random moments")
    parser.add_argument("--operations", type=int, default=20, help="kills of each command at operations on files")
    parser.add_argument("--only", default=",".join(names), help="commands, with commas between them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--add", action="store_true", help="add to the results of another seed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for scenario in scenarios():
        if scenario.name not in arguments.only.split(","):
            continue
        rng = random.Random(f"{arguments.seed}-{scenario.name}")
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            tally = study(scenario, arguments.moments, arguments.operations, rng, Path(folder))
        before = rows.get(scenario.name, {}) if arguments.add else {}
        rows[scenario.name] = {key: before.get(key, type(value)()) + value for key, value in vars(tally).items()}
        part = arguments.results.with_suffix(".part")
        part.write_text(json.dumps(rows, indent=1) + "\n")
        part.replace(arguments.results)
        print(
            f"{scenario.name}: {tally.moments} at moments, {tally.operations} at operations, {tally.late} late; "
            f"{tally.identical} identical, {len(tally.lost)} lost", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
