"""benchmarks/gpu_check.sh: its phases, its dry run on the CPU, and what is left of an interrupted check."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT, HELPER, PAGE = (ROOT / "benchmarks" / name for name in ("gpu_check.sh", "gpu_check.py", "README.md"))
SECTION = "Code that has not run on a GPU since the last GPU measurement"
DRY_RUN = ["environment", "tests-cuda_graph", "tests-attention", "speed-speech", "evidence-metamae", "evidence-mae"]
REASON = "needs CUDA"

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("timeout") is None, reason="needs bash and timeout"
)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a check without the variables that the script reads."""
    read = ("DATA", "LABEL_PATTERN", "TEST_GROUPS", "TOTAL_SECONDS", "COMMIT", "DRY_RUN", "PYTEST_ADDOPTS")
    own = {name: value for name, value in os.environ.items() if name not in read}
    return own | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | variables


def check(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env=environment(**variables), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def summary(results: Path) -> dict[str, Any]:
    return json.loads((results / "summary.json").read_text())


def statuses(results: Path) -> dict[str, str]:
    return {phase["phase"]: phase["status"] for phase in summary(results)["phases"]}


def listing(*arguments: str) -> dict[str, tuple[int, str]]:
    """Seconds and command of each phase."""
    done = check("--list", *arguments)
    assert done.returncode == 0, done.stderr
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {name: (int(seconds), command) for name, seconds, command in rows}


def test_files(command: str) -> list[str]:
    return re.findall(r"tests/[\w/]+\.py", command)


test_files.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
def helper() -> Iterator[ModuleType]:
    """The Python part of the check as a module."""
    spec = importlib.util.spec_from_file_location("sslx_gpu_check", HELPER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shell_accepts_the_script():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_has_no_remarks():
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_tests_come_first_then_speed_then_scores_within_ten_minutes():
    phases = listing()
    kinds = [name.split("-")[0] for name in phases]
    assert kinds == sorted(kinds, key=["environment", "tests", "speed", "evidence"].index)
    assert {"speed-speech", "speed-HIGGS", "speed-genomics", "evidence-metamae", "evidence-mae"} <= phases.keys()
    assert all(seconds > 0 for seconds, _ in phases.values())
    assert sum(seconds for seconds, _ in phases.values()) < 590
    assert "bf16 compiled" in phases["speed-speech"][1]
    assert "train.steps=3000" in phases["evidence-mae"][1]
    assert list(listing("--dry-run")) == DRY_RUN


def test_the_page_lists_the_files_that_run_first():
    phases = listing()
    first = [file for name, (_, command) in phases.items() if name != "tests-other" for file in test_files(command)]
    section = PAGE.read_text(encoding="utf-8").partition(f"## {SECTION}\n")[2].partition("\n## ")[0]
    assert first == re.findall(r"`(tests/\S+\.py)`", section)
    assert all((ROOT / file).is_file() for file in first)


def test_every_file_with_a_cuda_test_is_in_one_phase():
    """And every CUDA test states the reason by which the check selects it."""
    files = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("skipif"):
                condition = ast.unparse(node.args[0])
                if "cuda.is_available" in condition:
                    reason = next(ast.literal_eval(word.value) for word in node.keywords if word.arg == "reason")
                    assert REASON in reason, f"{path}: {condition}"
                    files.append(str(path.relative_to(ROOT)))
    listed = [file for name, (_, command) in listing().items() for file in test_files(command)]
    assert sorted(listed) == sorted(set(files))


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--fast"], {}, "unknown option --fast"),
        (["one", "two"], {}, "more than one RESULTS"),
        ([], {"DATA": "/no/such/directory"}, "DATA is not a directory: /no/such/directory"),
        ([], {"TOTAL_SECONDS": "ten"}, "TOTAL_SECONDS must be a number of seconds, not ten"),
        ([], {"DRY_RUN": "yes"}, "DRY_RUN must be 0 or 1, not yes"),
        (["--dry-run"], {"PYTHON": "/no/such/python"}, "/no/such/python is not a program; set PYTHON"),
    ],
)
def test_a_bad_argument_is_refused_before_any_phase(arguments, variables, message):
    done = check(*arguments, **variables)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_names_every_variable_that_the_script_reads():
    done = check("--help")
    assert done.returncode == 0
    read = set(re.findall(r"\$\{([A-Z_]+)[:-]", SCRIPT.read_text())) - {"BASH_SOURCE", "PYTHONPATH", "NEW_CODE_TESTS"}
    assert read == {"DRY_RUN", "PYTHON", "DATA", "LABEL_PATTERN", "TEST_GROUPS", "TOTAL_SECONDS"}
    assert all(name in done.stdout for name in read)


def test_plugins_are_found_where_sslx_is_not_installed(helper, tmp_path):
    assert helper.main(["site", str(tmp_path)]) == 0
    (distribution,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert distribution.name == "sslx"
    names = {point.name for point in distribution.entry_points if point.group == "sslx"}
    assert {"objectives.metamae", "tokenizers.speech", "datasets.files"} <= names


def test_missing_packages_are_named(helper, monkeypatch, tmp_path, capsys):
    version = importlib.metadata.version

    def lacks_timm(name):
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", lacks_timm)
    assert helper.main(["environment", str(tmp_path), "--dry-run"]) == 1
    (missing,) = [
        name for name in helper.read_json(tmp_path / "environment.json")["missing_packages"] if "timm" in name
    ]
    assert missing.startswith("timm>=")
    assert f"missing package: {missing}" in capsys.readouterr().out


def test_a_phase_at_its_limit_has_timed_out(helper, tmp_path):
    (tmp_path / "log.txt").write_text("before\n")
    for phase, code, seconds in (("one", 124, 5), ("two", 124, 1), ("three", 0, 5)):
        helper.main(["start", str(tmp_path), phase, "--limit", "5"])
        with (tmp_path / "log.txt").open("a") as file:
            file.write(f"== {phase}\noutput of {phase}\n")
        helper.main(["finish", str(tmp_path), phase, "--exit-code", str(code), "--seconds", str(seconds)])
    assert statuses(tmp_path) == {"one": "timed out", "two": "failed", "three": "passed"}
    assert [phase["tail"] for phase in summary(tmp_path)["phases"]] == [
        f"output of {n}" for n in ("one", "two", "three")
    ]


def test_the_table_has_the_goals_beside_the_measurements(helper, tmp_path, capsys):
    steps = {"metamae plain": 0.05, "metamae bf16": 0.01, "mae bf16": 0.009, "metamae bf16 compiled": 0.006,
             "mae bf16 compiled": 0.004}  # fmt: skip
    helper.write_json(tmp_path / "speed-cuda.json", {"results": {"steps/speech": steps}})
    helper.main(["start", str(tmp_path), "speed-speech", "--limit", "5"])
    (tmp_path / "log.txt").touch()
    helper.main(["finish", str(tmp_path), "speed-speech", "--exit-code", "0", "--seconds", "3"])
    assert helper.main(["table", str(tmp_path)]) == 0
    rows = {line[:60].strip(): line[60:].split() for line in capsys.readouterr().out.splitlines() if len(line) > 60}
    assert rows["speech: ms a MetaMAE step"] == ["6.000", "<=", "2.5"]
    assert rows["speech: MetaMAE : MAE"] == ["1.500", "<=", "1.4"]
    assert rows["speech: times faster than plain"] == ["8.333", "-"]
    assert rows["speed-speech"] == ["passed", "3", "5"]


def test_an_unfinished_run_leaves_its_last_metrics(helper, tmp_path):
    assert helper.read_run(tmp_path / "absent") == {"unfinished": {}}
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n{"st')
    assert helper.read_run(tmp_path) == {"unfinished": {"step": 20}}


CUDA_TESTS = """
import pytest

@pytest.mark.skipif({absent}, reason="needs CUDA")
def test_on_a_gpu():
    assert {holds}

def test_on_a_cpu():
    raise AssertionError("it is not selected")
"""


@pytest.mark.parametrize(
    ("absent", "holds", "code", "outcome"),
    [(True, True, 1, "skipped"), (False, True, 0, "passed"), (False, False, 1, "failed")],
)
def test_the_cuda_tests_are_selected_and_one_must_run(tmp_path, absent, holds, code, outcome):
    (tmp_path / "test_gpu.py").write_text(CUDA_TESTS.format(absent=absent, holds=holds))
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu_check", "-p", "no:cacheprovider",
            "--gpu-check-results", str(tmp_path / "tests.json"), str(tmp_path),
        ],
        cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    (result,) = json.loads((tmp_path / "tests.json").read_text()).items()
    assert result[0].endswith("test_on_a_gpu")
    assert result[1]["outcome"] == outcome


@pytest.mark.release
def test_a_dry_run_leaves_the_result_of_every_phase(tmp_path):
    results = tmp_path / "results"
    done = check("--dry-run", results)
    assert done.returncode == 0, done.stdout
    assert statuses(results) == dict.fromkeys(DRY_RUN, "passed")
    assert all(phase["seconds"] <= phase["limit_seconds"] for phase in summary(results)["phases"])
    record = json.loads((results / "environment.json").read_text())
    assert record["python"].startswith("3.")
    assert record["torch"]
    outcomes = [one["outcome"] for one in json.loads((results / "tests.json").read_text()).values()]
    assert outcomes.count("passed") >= 4
    assert "failed" not in outcomes
    assert json.loads((results / "speed-cpu.json").read_text())["results"].keys() == {"steps/speech"}
    evidence = json.loads((results / "evidence.json").read_text())
    assert {name: run["steps"] for name, run in evidence.items()} == {"metamae": 2, "mae": 2}
    assert {score["features"] for score in evidence["mae"]["scores"]} == {"trained", "random_init", "raw_input"}
    assert re.search(r"speech: ms a MetaMAE step +[\d.]+ +<= 2\.5", done.stdout)
    assert "synthetic word, linear accuracy: metamae, 2 steps" in done.stdout


@pytest.mark.release
def test_a_failing_phase_is_reported_and_stops_no_other(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    data, results, noise = tmp_path / "recordings", tmp_path / "results", np.random.default_rng(0)
    data.mkdir()
    for digit in range(3):
        for speaker in ("jackson", "lucas", "theo", "nicolas"):
            for take in range(6):
                soundfile.write(data / f"{digit}_{speaker}_{take}.wav", 0.1 * noise.standard_normal(4000), 8000)
    done = check("--dry-run", results, DATA=str(data), PYTEST_ADDOPTS="--no-such-option")
    assert done.returncode == 1
    assert statuses(results) == {name: "failed" if name.startswith("tests-") else "passed" for name in DRY_RUN}, (
        done.stdout
    )
    assert "unrecognized arguments: --no-such-option" in summary(results)["phases"][1]["tail"]
    assert "unrecognized arguments: --no-such-option" in done.stdout
    evidence = json.loads((results / "evidence.json").read_text())
    assert {run["dataset"] for run in evidence.values()} == {"files"}
    assert {score["n_test"] for score in evidence["metamae"]["scores"]} == {36}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "last"), [(signal.SIGTERM, "interrupted"), (signal.SIGKILL, "running")])
def test_a_check_that_is_stopped_keeps_the_phases_that_finished(tmp_path, number, last):
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "--dry-run", str(tmp_path)],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "summary.json").exists() or len(statuses(tmp_path)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == (143 if number == signal.SIGTERM else -number)
        assert statuses(tmp_path) == {"environment": "passed", "tests-cuda_graph": last}
        assert json.loads((tmp_path / "environment.json").read_text())["torch"]
        if number == signal.SIGTERM:
            assert members(process.pid) == []
    finally:
        for member in members(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)


def members(session: int) -> list[int]:
    """The processes of a session, zombies left out."""
    processes = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, number = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                processes.append(int(path.name))
    return processes


@pytest.mark.slow
def test_no_phase_runs_on_after_the_time_of_all(tmp_path):
    began = time.monotonic()
    done = check("--dry-run", tmp_path, TOTAL_SECONDS="6")
    assert time.monotonic() - began < 60
    assert done.returncode == 1
    assert list(statuses(tmp_path)) == DRY_RUN
    assert statuses(tmp_path)["evidence-mae"] == "timed out"
