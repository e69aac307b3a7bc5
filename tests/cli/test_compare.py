"""`sslx compare` as a user meets it: real processes, a failing cell, a kill, tables from folders alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_core.utils.children import PROGRAM

TINY = [
    "encoder.dim=16", "encoder.depth=1", "encoder.heads=2", "objective.depth=1", "objective.width=16",
    "objective.heads=2", "dataset.n_train=48", "dataset.n_test=30", "train.batch_size=8", "train.checkpoint_every=2",
    "train.precision=fp32",
]  # fmt: skip


@pytest.fixture
def sslx(cache, tmp_path):
    environment = os.environ | {"SSLX_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ssl_core.cli", *arguments], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def test_cells_import_nothing_from_the_working_directory(tmp_path):
    """Not even modules of the standard library by name, nor plugins."""
    (tmp_path / "random.py").write_text("import pathlib; pathlib.Path('ran').touch(); from _random import *")
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sslx]\nevil = evil\n")
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    command = [*PROGRAM, "list", "maskings"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
    unsafe = [part for part in command if part != "-P"]
    subprocess.run(unsafe, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (tmp_path / "ran").exists(), "the attack works without -P, so this test can fail"


def arguments(out: str, *more: str, steps: int = 4) -> list[str]:
    options = [part for option in TINY for part in ("--set", option)]
    return ["compare", "--modality", "speech", "--steps", str(steps), "--out", out, *options, *more]


def scores(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "comparison.json").read_text())["scores"]


@pytest.mark.slow
def test_a_failing_cell_is_reported_and_the_rest_goes_on(sslx, tmp_path):
    (tmp_path / "grid.toml").write_text(
        '[[method]]\nname = "mae"\nobjective = "mae"\n'
        '[[method]]\nname = "alone"\nobjective = "metamae"\nset = {train.batch_size = 1}\n'
    )
    process = sslx(*arguments("out", "--config", "grid.toml", "--seeds", "2", "--jobs", "2"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "needs a batch of at least 2" in out
    rows = scores(tmp_path / "out")
    assert {row["method"] for row in rows} == {"mae", "random init", "raw input"}
    assert all(row["seeds"] == 2 for row in rows)
    assert "Traceback" not in out + err

    # finished cells are not repeated, and tables can be made from the folders alone
    report = tmp_path / "out" / "cells" / "speech" / "mae" / "seed-0" / "report.json"
    before = report.stat().st_mtime_ns
    process = sslx("compare", "--from", "out/cells", "--out", "again")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert scores(tmp_path / "again") == rows
    assert report.stat().st_mtime_ns == before

    # other options in the same folder are refused, naming what differs
    process = sslx(*arguments("out", "--objectives", "mae", "--seeds", "2", steps=5))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "train.steps=4" in err
    assert "not 5" in err


@pytest.mark.slow
def test_a_killed_comparison_gives_the_same_table(sslx, tmp_path):
    whole = sslx(*arguments("whole", "--objectives", "mae,metamae", "--seeds", "1", steps=60))
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err

    killed = sslx(*arguments("killed", "--objectives", "mae,metamae", "--seeds", "1", steps=60))
    second = tmp_path / "killed" / "cells" / "speech" / "metamae" / "seed-0"
    until = time.monotonic() + 200
    while not list(second.glob("checkpoints/*")) and time.monotonic() < until:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (second / "report.json").exists(), "the cell was done before the kill: raise the steps"

    again = sslx(*arguments("killed", "--objectives", "mae,metamae", "--seeds", "1", steps=60))
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert scores(tmp_path / "killed") == scores(tmp_path / "whole")


def test_a_method_may_have_seeds_of_its_own(quick, tmp_path):
    (tmp_path / "grid.toml").write_text(
        'seeds = 1\nmodalities = ["speech"]\n'
        '[[method]]\nname = "mae"\nobjective = "mae"\n'
        '[[method]]\nname = "thrice"\nobjective = "metamae"\nseeds = 3\n'
    )

    def planned(*more: str) -> list[str]:
        code, out, err = quick("compare", "--config", "grid.toml", "--dry-run", *more)
        assert code == 0, err
        return [f"{method} {seed}" for method, seed in re.findall(r"(mae|thrice)\W+speech\W+(\d)", out)]

    assert planned() == ["mae 0", "thrice 0", "thrice 1", "thrice 2"]
    assert planned("--seeds", "5,6") == ["mae 5", "thrice 5", "mae 6", "thrice 6"]


def test_own_data_are_recognised(quick, tmp_path):
    rows = "".join(f"{i}.5,{i % 7}.25,{'ab'[i % 2]}\n" for i in range(60))
    (tmp_path / "x.csv").write_text("p,q,label\n" + rows)
    code, out, err = quick("compare", "--objectives", "mae,metamae", "--data", "x.csv", "--seeds", "1", "--dry-run")
    assert code == 0, err
    assert "recognised x.csv as tabular" in err
    assert out.count("to do") == 2


def test_the_command_of_the_documentation_names_its_runs(quick):
    page = (Path(__file__).resolve().parents[2] / "docs" / "compare.md").read_text()
    (command,) = re.findall(r"^sslx (compare .*)$", page, re.MULTILINE)
    code, out, err = quick(*command.split(), "--dry-run")
    assert code == 0, err
    assert out.count("to do") == 6 * 3


def test_bad_usage_is_one_line(quick):
    for given, message in (
        (["compare"], "names nothing to compare"),
        (["compare", "--objectives", "nope", "--modality", "speech"], "unknown objective 'nope'"),
        (["compare", "--from", "nowhere"], "no finished run"),
        (["compare", "--from", ".", "--steps", "9"], "leave out the options of new runs"),
        (["compare", "--objectives", "mae", "--modality", "speech", "--label-pattern", "x"], "is for --data"),
    ):
        code, _, err = quick(*given)
        assert code == 1
        assert message in err
        assert len(err.strip().splitlines()) == 1
