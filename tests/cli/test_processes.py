"""`sslx run --processes`: real processes on gloo train what one process trains; signals, kills and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

SMALL = [
    "--objective", "metamae", "--modality", "tabular", "--preset", "none", "--batch-size", "12", "--precision", "fp32",
    *(f"--set={value}" for value in (
        "dataset.n_train=48", "dataset.n_test=24", "dataset.n_validation=24", "encoder.dim=32", "encoder.depth=1",
        "encoder.heads=2", "objective.width=16", "objective.heads=1", "objective.depth=1", "train.log_every=1",
        "evaluate.figures=false",
    )),
]  # fmt: skip
TINY = ["--set=encoder.dim=32", "--set=encoder.depth=1", "--set=encoder.heads=2", "--set=evaluate.figures=false"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def sslx(cache: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run a command in a process of its own; exit code and standard error."""
    environment = os.environ | {"SSLX_CACHE_DIR": str(cache), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

    def call(*arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "ssl_core.cli", *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True,
            env=environment, timeout=900,
        )  # fmt: skip
        return done.returncode, done.stderr

    return call


@pytest.fixture
def start(cache: Path, tmp_path: Path) -> Start:
    """Start the command in a process of its own."""
    environment = os.environ | {"SSLX_CACHE_DIR": str(cache), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

    def call(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ssl_core.cli", "run", *SMALL, *map(str, arguments)], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    return call


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error."""
    _, err = process.communicate(timeout=1800)
    return process.returncode, err


def weights(run: Path) -> dict[str, list[float]]:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {name: value.flatten().tolist() for name, value in load_file(newest / "model.safetensors").items()}


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]


def probed(run: Path) -> list[int]:
    """Steps at which a probe was scored during training."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if any(name.startswith("probe/") for name in line)]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 900) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_begun_on_two_processes_and_resumed_on_three_equals_one_process(start: Start, tmp_path: Path) -> None:
    one = start("--steps", 6, "--out", "one", "--probe-every", 2)
    code, err = finish(start("--steps", 4, "--out", "many", "--probe-every", 2, "--processes", 2))
    assert code == 0, err
    assert "2, each with 6 of the 12 samples of a batch" in err
    code, err = finish(start("--steps", 6, "--out", "many", "--resume", "--processes", 3))
    assert code == 0, err
    assert finish(one)[0] == 0
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    expected = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "many").items():
        assert value == pytest.approx(expected[name], rel=1e-3, abs=2e-5), name
    reports = [json.loads((tmp_path / run / "report.json").read_text()) for run in ("one", "many")]
    scores = [{(row["probe"], row["features"]): row["value"] for row in report["scores"]} for report in reports]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)  # two of 24 samples, which rounding may turn
    assert scores[0]
    assert probed(tmp_path / "one") == [0, 2, 4, 6]
    assert probed(tmp_path / "many") == [0, 2, 6]  # step 4 was the last of the first command


@pytest.mark.release
def test_begun_with_shards_and_resumed_by_one_process(start: Start, tmp_path: Path) -> None:
    shards, probe = "--set=train.shard=encoder", "--set=evaluate.every=2"
    one = start("--steps", 6, "--out", "one", probe)
    code, err = finish(start("--steps", 4, "--out", "many", "--processes", 2, shards, probe))
    assert code == 0, err
    assert "the encoder among the processes, by FSDP2" in err
    code, err = finish(start("--steps", 6, "--out", "many", "--resume", shards, probe))
    assert code == 1
    assert "there is one; add --processes 2, or set train.shard=none" in err
    code, err = finish(start("--steps", 6, "--out", "many", "--resume", "--set=train.shard=none", probe))
    assert code == 0, err
    assert finish(one)[0] == 0
    expected = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "many").items():
        assert value == pytest.approx(expected[name], rel=1e-3, abs=2e-5), name


def test_a_batch_that_cannot_be_divided_is_refused_with_one_that_can(
    quick: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = quick("run", *SMALL, "--steps", 2, "--out", "r", "--processes", 5)
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: a batch of 12 samples cannot be divided among 5 processes; use 4, or begin a run with "
        "train.batch_size=10"
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_the_clock_ends_all_processes_at_the_same_step(start: Start, tmp_path: Path) -> None:
    """Two micro-batches of two processes in a step; a process that went on would be lost by the other."""
    options = ("--set=train.accumulate_steps=2", "--out", "r", "--processes", 2)
    code, err = finish(start("--budget", "2s", *options))
    assert code == 0, err
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["steps"] > 1
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == report["steps"]


@pytest.mark.release
def test_a_batch_lowered_to_the_data_is_refused_in_the_processes(start: Start) -> None:
    code, err = finish(start("--steps", 2, "--out", "r", "--processes", 2, "--set=dataset.n_train=9"))
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.endswith(
        "a batch of 9 samples cannot be divided among 2 processes; use 1, or begin a run with train.batch_size=8"
    )
    assert "Traceback" not in err


@pytest.mark.release
def test_a_signal_saves_and_the_rest_is_the_same_to_the_bit(start: Start, tmp_path: Path) -> None:
    undisturbed = start("--steps", 40, "--out", "a", "--processes", 2)
    stopped = start("--steps", 40, "--out", "b", "--processes", 2)
    wait_for(lambda: (tmp_path / "b" / "metrics.jsonl").exists() and len(losses(tmp_path / "b")) > 2, stopped)
    stopped.send_signal(signal.SIGTERM)
    code, err = finish(stopped)
    assert code == 128 + signal.SIGTERM, err
    assert "go on with --resume" in err
    code, err = finish(start("--steps", 40, "--out", "b", "--processes", 2, "--resume"))
    assert code == 0, err
    assert finish(undisturbed)[0] == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.slow
def test_all_start_again_when_one_is_killed(start: Start, tmp_path: Path) -> None:
    arguments = ("--steps", 60, "--set", "train.checkpoint_every=5", "--processes", 2)
    undisturbed, process = start("--out", "a", *arguments), start("--out", "b", *arguments)
    wait_for(lambda: list((tmp_path / "b" / "checkpoints").glob("step-*")), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)  # the process of rank 1
    code, err = finish(process)
    assert code == 0, err
    assert "process 1 was killed by SIGKILL" in err
    assert "starting all 2 again from the newest checkpoint (1 of 3 times)" in err
    assert finish(undisturbed)[0] == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.slow
def test_training_while_data_are_prepared_survives_a_kill(start: Start, cache: Path, tmp_path: Path) -> None:
    """In one process and in two; the undisturbed run finds all data prepared."""
    arguments = (
        "--steps", 80, "--set=dataset.n_train=3000", "--set=train.start_after=256", "--set=train.checkpoint_every=5",
    )  # fmt: skip
    process = start("--out", "killed", *arguments)
    wait_for(lambda: list((tmp_path / "killed" / "checkpoints").glob("step-*")), process)
    children = [int(child) for task in Path(f"/proc/{process.pid}/task").iterdir()
                for child in (task / "children").read_text().split()]  # fmt: skip
    process.kill()
    process.communicate()
    time.sleep(1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    code, err = finish(start("--out", "killed", *arguments, "--resume"))
    assert code == 0, err
    for out, more in (("whole", ()), ("two", ("--processes", 2))):
        code, err = finish(start("--out", out, *arguments, *more))
        assert code == 0, err
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


@pytest.mark.slow
def test_processes_evaluate_and_embed_as_one(sslx: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, err = sslx("run", *SMALL, "--steps", 2, "--out", "run")
    assert code == 0, err
    code, err = sslx("eval", "run", "--out", "two", "--processes", 2)
    assert code == 0, err
    rows = [json.loads((tmp_path / place / "report.json").read_text())["scores"] for place in ("run", "two")]
    assert rows[1] == rows[0]
    assert rows[0]

    numbers = np.random.default_rng(0).standard_normal((40, 2))
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(f"{a:.3f},{b:.3f}" for a, b in numbers) + "\n")
    code, err = sslx("run", *SMALL[:4], "--data", "t.csv", "--steps", 2, "--out", "own", "--preset", "none", *TINY)
    assert code == 0, err
    for out, more in (("one.csv", ()), ("many.csv", ("--processes", 2))):
        code, err = sslx("embed", "own", "t.csv", "--out", out, "--batch-size", 8, *more)
        assert code == 0, err
    assert err.count("written: many.csv (40 samples)") == 1
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    code, err = sslx("embed", "own", "absent.csv", "--out", "no.csv", "--processes", 2)
    assert code == 1
    assert "absent.csv" in err
    assert "Traceback" not in err
    assert not (tmp_path / "no.csv").exists()
