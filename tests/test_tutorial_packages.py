"""The packages of docs/more-tutorials.md: their conformance, their own tests, and runs that use several at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial"
PACKAGES = ("sslx-point-cloud", "sslx-graph", "sslx-parallel-encoder", "sslx-leaderboard")
PUBLIC = ("ssl_core", "ssl_core.evaluation", "ssl_core.nn", "ssl_core.report", "ssl_core.tokenizers")
MAIN = "from ssl_core.cli.app import main; main()"
FEATURES = ("trained", "random_init", "raw_input")
SMALL = {
    "encoder.name": "parallel", "encoder.dim": 32, "encoder.depth": 1, "encoder.heads": 2, "objective.depth": 1,
    "objective.width": 32, "objective.heads": 2, "train.batch_size": 16, "train.warmup_steps": 0, "train.lr": 0.003,
    "train.log_every": 1, "dataset.n_train": 64, "dataset.n_validation": 16, "dataset.n_test": 32,
}  # fmt: skip


def start(cwd: Path, path: list[Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the modules of `path` can be imported."""
    found = [*path, ROOT, ROOT / "plugins"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, found)), "SSLX_CACHE_DIR": str(cwd / "cache"), "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


def call(cwd: Path, path: list[Path], *arguments: str) -> str:
    """As `start`, for a process that must succeed; returns its output."""
    done = start(cwd, path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """Folders on the path in which all packages look installed: their sources, and their metadata."""
    for package in PACKAGES:
        project = tomllib.loads((TUTORIAL / package / "pyproject.toml").read_text("utf-8"))["project"]
        folder = tmp_path / "metadata" / f"{package.replace('-', '_')}-{project['version']}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {project['version']}\n")
        points = [f"{name} = {module}" for name, module in project["entry-points"]["sslx"].items()]
        (folder / "entry_points.txt").write_text("\n".join(["[sslx]", *points, ""]))
    return [tmp_path / "metadata", *(TUTORIAL / package / "src" for package in PACKAGES)]


@pytest.mark.parametrize("package", ["sslx-point-cloud", "sslx-graph"])
def test_package_conforms(package, tmp_path):
    results = json.loads(call(tmp_path, [], "-c", MAIN, "check", str(TUTORIAL / package), "--json"))
    assert len(results) == 2  # a tokenizer and a data set
    assert all(check["outcome"] == "pass" for one in results for check in one["checks"])


HEAVY = ("sslx-parallel-encoder", "sslx-graph", "sslx-point-cloud")


@pytest.mark.parametrize("package", [pytest.param(p, marks=pytest.mark.slow) if p in HEAVY else p for p in PACKAGES])
def test_own_tests_pass(package, tmp_path):
    folder = TUTORIAL / package
    output = call(tmp_path, [folder / "src"], "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests"))
    assert " passed" in output


@pytest.mark.parametrize("package", PACKAGES)
def test_package_has_the_licence(package):
    assert (TUTORIAL / package / "LICENSE").read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_public_names_alone(package):
    """Its sources import the modules in PUBLIC, and of these only names in `__all__`."""
    import ast
    import importlib

    imported = [
        node
        for file in (TUTORIAL / package / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("ssl_core", "ssl_plugins"))
    ]
    assert imported
    for node in imported:
        assert node.module in PUBLIC
        names = getattr(importlib.import_module(node.module), "__all__", None)
        assert names is None or {alias.name for alias in node.names} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "modality"), [("mae", "graph"), ("metamae", "point-cloud")])
def test_shipped_objective_runs_with_tokenizer_data_and_encoder_of_packages(objective, modality, installed, tmp_path):
    values = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    arguments = ["run", "--objective", objective, "--modality", modality, "--steps", "30", "--out", "run", *values]
    call(tmp_path, installed, "-c", MAIN, *arguments)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert {score["features"] for score in report["scores"]} == set(FEATURES)


@pytest.mark.slow
def test_command_of_a_package_ranks_the_scores_of_probes(installed, tmp_path):
    """The probe's scores are in all three reports of a run, and the command ranks them."""
    arguments = ["run", "--objective", "mae", "--modality", "tabular", "--steps", "5", "--out", "runs/first"]
    values = ["--set", "evaluate.probes=linear,attentive", "--set", "evaluate.probe_options={attentive.epochs = 3}"]
    terminal = call(tmp_path, installed, "-c", MAIN, *arguments, *values)
    report = json.loads((tmp_path / "runs" / "first" / "report.json").read_text("utf-8"))
    scores = {(score["probe"], score["features"]): score for score in report["scores"]}
    assert set(scores) == {(probe, kind) for probe in ("linear", "attentive") for kind in FEATURES}
    page = (tmp_path / "runs" / "first" / "report.html").read_text("utf-8")
    (line,) = (line for line in terminal.splitlines() if "attentive" in line)
    for kind in FEATURES:
        score = scores["attentive", kind]
        assert 1 <= score["details"]["epochs"] <= 3
        assert f"{100 * score['value']:.1f} ±" in line
        assert f"{100 * score['value']:.1f}" in page
    assert "attentive" in page

    rows = json.loads(call(tmp_path, installed, "-c", MAIN, "leaderboard", "runs", "--json"))
    best = sorted((scores[probe, "trained"] for probe in ("linear", "attentive")), key=lambda score: -score["value"])
    assert [(row["run"], row["probe"], row["value"]) for row in rows] == [
        ("first", score["probe"], score["value"]) for score in best
    ]
    assert f"{best[0]['value']:.3f}" in call(tmp_path, installed, "-c", MAIN, "leaderboard", "runs")


def test_command_of_a_package_is_listed_and_its_errors_are_one_line(installed, tmp_path):
    assert "From sslx-leaderboard." in call(tmp_path, installed, "-c", MAIN, "--help")
    refused = start(tmp_path, installed, "-c", MAIN, "leaderboard", "nowhere")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: nowhere is no folder; name one with finished runs\n"
    traceback = start(tmp_path, installed, "-c", MAIN, "leaderboard", "nowhere", "--debug")
    assert traceback.returncode == 1
    assert "Traceback" in traceback.stderr
    usage = start(tmp_path, installed, "-c", MAIN, "leaderboard")
    assert usage.returncode == 2
    assert usage.stderr.startswith("error: missing argument")
