"""The commands as a user types them: what they print, leave behind and exit with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

SMALL = [
    "--set", "dataset.n_train=48", "--set", "dataset.n_test=24", "--set", "encoder.dim=32",
    "--set", "encoder.depth=1", "--set", "encoder.heads=2", "--set", "objective.width=16",
    "--set", "objective.heads=1", "--set", "objective.depth=1", "--batch-size", "16", "--preset", "none",
]  # fmt: skip


@pytest.fixture
def sslx(cache, tmp_path, server):
    """Run the command in a process of its own; returns exit code, standard output, standard error.

    environment: variables that matter when the program is imported, so that it is.
    """

    def call(*arguments, environment=None):
        arguments = list(map(str, arguments))
        if environment is None:
            return server(arguments, tmp_path, make_environment(cache))
        done = subprocess.run(
            [sys.executable, "-m", "ssl_core.cli", *arguments], cwd=tmp_path, capture_output=True, text=True,
            env=make_environment(cache) | environment, timeout=900,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return call


def make_environment(cache):
    return os.environ | {"SSLX_CACHE_DIR": str(cache), "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def one_error_line(stderr: str) -> str:
    """The only line about an error; no traceback."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    return lines[0]


@pytest.mark.parametrize("objective", ["metamae", "mae"])
def test_a_run_leaves_scores_a_report_and_what_made_them(sslx, tmp_path, objective):
    code, out, err = sslx("run", "--objective", objective, "--modality", "speech", *SMALL, "--steps", 12, "--out", "r")
    assert code == 0, err
    assert "speech/synthetic" in err  # the header says what data it is
    assert "report.html" in out
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    kinds = {(row["features"], row["probe"]) for row in report["scores"]}
    assert kinds == {(f, p) for f in ("trained", "random_init", "raw_input") for p in ("linear", "knn")}
    for row in report["scores"]:
        assert 0 <= row["value"] <= 1
        assert {"dataset", "task", "metric", "n_train", "n_test", "seed"} <= row.keys()
    assert report["steps"] == 12
    assert min(report["wall_seconds"], report["samples_per_second"], report["peak_memory_bytes"]) > 0
    page = (tmp_path / "r" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert json.loads((tmp_path / "r" / "config.json").read_text())["objective"]["name"] == objective
    steps = [json.loads(line)["step"] for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 12, 12]

    code, out, err = sslx("eval", "r", "--out", "again")
    assert code == 0, err
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert [row["value"] for row in again["scores"]] == [row["value"] for row in report["scores"]]

    few = ("--set", "evaluate.max_train=20", "--set", "evaluate.max_test=10")
    code, out, err = sslx("eval", "r", "--out", "few", *few)
    assert code == 0, err
    rows = json.loads((tmp_path / "few" / "report.json").read_text())["scores"]
    assert {(row["n_train"], row["n_test"]) for row in rows} == {(20, 10)}

    code, out, err = sslx("list", "runs", "--root", ".")
    assert code == 0
    assert "finished" in out
    assert "12 of 12" in out


def test_a_killed_run_resumes_to_the_same_bits(sslx, tmp_path, cache):
    arguments = [
        "run", "--objective", "metamae", "--modality", "speech", *SMALL, "--steps", 60,
        "--set", "train.checkpoint_every=7", "--set", "encoder.dropout=0.1", "--set", "train.precision=bf16",
    ]  # fmt: skip
    code, _, err = sslx(*arguments, "--out", "whole")
    assert code == 0, err
    process = subprocess.Popen(
        [sys.executable, "-m", "ssl_core.cli", *map(str, arguments), "--out", "killed"],
        cwd=tmp_path, env=make_environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: list((tmp_path / "killed" / "checkpoints").glob("step-*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    code, _, err = sslx("run", "--resume", "--out", "killed")
    assert code == 0, err
    whole, resumed = (
        load_file(tmp_path / name / "checkpoints/step-00000060/model.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    times = ("train/samples_per_second", "train/seconds")
    first, second = ([{k: v for k, v in json.loads(line).items() if k not in times} for line in part] for part in lines)
    assert first == second


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits(sslx, tmp_path, cache, number, code):
    arguments = ["run", "--objective", "mae", "--modality", "speech", *SMALL, "--steps", 100000, "--out", "r"]
    arguments += ["--set", "train.compile=off"]  # a run of so many steps is compiled
    process = subprocess.Popen(
        [sys.executable, "-m", "ssl_core.cli", *map(str, arguments)], cwd=tmp_path, env=make_environment(cache),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "r" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == code
    assert "go on with --resume" in one_error_line(err)
    assert list((tmp_path / "r" / "checkpoints").glob("step-*"))


def wait_for(condition, process, seconds=600):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it could be stopped"
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_folder_that_is_not_empty_is_refused_with_both_ways_out(sslx, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "precious.txt").write_text("keep me")
    arguments = ["run", "--objective", "mae", "--modality", "speech", *SMALL, "--steps", 2, "--out", "r"]
    code, _, err = sslx(*arguments)
    assert code == 1
    assert "--resume" in one_error_line(err)
    assert "--overwrite" in one_error_line(err)
    code, _, err = sslx(*arguments, "--overwrite")
    assert code == 1
    assert "is not a run folder" in one_error_line(err)
    assert (tmp_path / "r" / "precious.txt").read_text() == "keep me"


@pytest.mark.slow
def test_a_run_of_few_samples_resumes_by_the_same_command_and_only_on_the_same_data(sslx, tmp_path, recordings):
    """Sixteen training samples or so for a batch of 64: what the batch was lowered to is no other configuration."""
    tiny = [*SMALL[4:-4], "--objective", "mae", "--modality", "speech", "--preset", "none", "--batch-size", 64]
    first = ["run", "--data", recordings, *tiny, "--set", "train.schedule=constant", "--out", "r"]
    code, _, err = sslx(*first, "--steps", 3)
    assert code == 0, err
    assert "batch size 64 lowered to" in err
    code, _, err = sslx(*first, "--steps", 5, "--resume")
    assert code == 0, err
    assert "batch size 64 lowered to" in err
    for number in range(5):
        copy = recordings / "low" / f"more{number}.wav"
        copy.write_bytes(next((recordings / "low").glob("[0-9]*.wav")).read_bytes())
    code, _, err = sslx(*first, "--steps", 7, "--resume")
    assert code == 1
    assert "samples when the run was begun" in one_error_line(err)


@pytest.mark.slow
def test_an_evaluation_on_other_data_leaves_the_report_of_the_run(sslx, tmp_path):
    arguments = ["run", "--objective", "mae", "--modality", "speech", *SMALL, "--steps", 2, "--out", "r"]
    assert sslx(*arguments)[0] == 0
    before = (tmp_path / "r" / "report.json").read_text()
    code, _, err = sslx("eval", "r", "--set", "dataset.seed=1")
    assert code == 0, err
    assert (tmp_path / "r" / "report.json").read_text() == before
    assert json.loads((tmp_path / "r" / "eval" / "own" / "report.json").read_text())["scores"]
    code, out, err = sslx("compare", "--from", ".", "--out", "table")
    assert code == 0, err
    assert "different options" not in out + err  # what was measured on other data is no run
    rows = json.loads((tmp_path / "table" / "comparison.json").read_text())["scores"]
    (mean,) = [row["mean"] for row in rows if (row["method"], row["probe"]) == ("mae", "linear")]
    own = [row for row in json.loads(before)["scores"] if (row["features"], row["probe"]) == ("trained", "linear")]
    assert mean == own[0]["value"]


@pytest.mark.slow
def test_resume_refuses_another_configuration_and_takes_more_steps(sslx, tmp_path):
    arguments = ["run", "--objective", "mae", "--modality", "speech", *SMALL, "--out", "r"]
    assert sslx(*arguments, "--steps", 4)[0] == 0
    code, _, err = sslx("run", "--resume", "--out", "r", "--seed", 5)
    assert code == 1
    assert "seed was 0 and is now 5" in one_error_line(err)
    state = tmp_path / "r" / "checkpoints" / "step-00000004" / "state.json"
    saved = json.loads(state.read_text())
    del saved["digest"]  # of the entries as they were
    state.write_text(json.dumps(saved | {"seconds": saved["seconds"] + 5000}))
    code, _, err = sslx("run", "--resume", "--out", "r", "--steps", 6)
    assert code == 0, err
    assert (tmp_path / "r" / "checkpoints" / "step-00000006").exists()
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert min(report["pretrain_seconds"], report["wall_seconds"]) > 5000  # the part before counts in both


BAD = {
    "objective": (["--objective", "metame"], "unknown objective 'metame'; did you mean 'metamae'"),
    "modality": (["--modality", "speach"], "unknown modality 'speach'; did you mean 'speech'"),
    "option": (["--set", "objective.alfa=1"], "unknown option 'objective.alfa'; did you mean"),
    "value": (["--set", "train.lr=fast"], "option 'train.lr'.*got 'fast'"),
    "out": (["--out", "/proc/nowhere"], "cannot write to --out /proc/nowhere"),
    "config": (["--config", "none.toml"], "cannot read none.toml"),
    "device": (["--device", "gpu"], "device 'gpu' is none"),
    "folder": (["--data", "nowhere"], "nowhere"),
    "block": (["--block", "sslx:nothing"], "unknown plugin 'sslx:nothing'|no plugin 'sslx:nothing'"),
    "preset": (["--preset", "metame"], "unknown preset 'metame'; did you mean 'metamae'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(quick, case):
    arguments, message = BAD[case]
    code, _, err = quick("run", "--objective", "mae", "--modality", "speech", "--steps", 2, *arguments)
    assert code == 1
    line = one_error_line(err)
    assert re.search(message, line), line


def test_usage_errors_exit_2(quick):
    assert quick("run", "--objektive", "mae")[0] == 2
    assert quick("no-such-command")[0] == 2


def test_debug_shows_the_traceback(sslx):
    code, _, err = sslx("run", "--objective", "metame", "--modality", "speech", "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.fixture
def recordings(tmp_path):
    """Two classes of tones, as wav files; theirs to damage."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "sounds"
    for label, pitch in (("low", 200), ("high", 900)):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            time_ = np.arange(6000) / 8000
            wave = 0.3 * np.sin(2 * np.pi * pitch * (1 + 0.1 * rng.uniform()) * time_) + 0.01 * rng.standard_normal(
                6000
            )
            soundfile.write(folder / label / f"{number}.wav", wave, 8000)
    return folder


FEW = [*SMALL[4:], "--objective", "mae", "--modality", "speech", "--steps", "3", "--batch-size", "8"]


def test_own_recordings(sslx, tmp_path, recordings):
    code, _, err = sslx("run", "--data", recordings, *FEW, "--out", "r")
    assert code == 0, err
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["dataset"] == "files"
    assert len(report["scores"]) == 6


def test_a_corrupt_file_is_skipped_and_counted_or_refused(sslx, tmp_path, recordings):
    bad = next((recordings / "low").glob("*.wav"))
    bad.write_bytes(b"RIFF nothing of the kind")
    code, _, err = sslx("run", "--data", recordings, *FEW, "--out", "r")
    assert code == 0, err
    assert bad.name in err
    assert "skipped" in err
    notes = json.loads((tmp_path / "r" / "report.json").read_text())["notes"]
    assert any(bad.name in note for note in notes)
    code, _, err = sslx("run", "--data", recordings, *FEW, "--out", "s", "--strict")
    assert code == 1
    assert bad.name in one_error_line(err)


def test_nan_and_short_clips_are_skipped_and_named(sslx, recordings):
    short, broken = sorted((recordings / "low").glob("*.wav"))[:2]
    soundfile.write(short, np.zeros(20), 8000)
    soundfile.write(broken, np.full(6000, np.nan), 8000, subtype="FLOAT")
    code, _, err = sslx("run", "--data", recordings, *FEW, "--out", "r")
    assert code == 0, err
    assert short.name in err
    assert broken.name in err


def test_an_empty_folder_is_refused(quick, tmp_path):
    (tmp_path / "void").mkdir()
    code, _, err = quick("run", "--data", tmp_path / "void", *FEW, "--out", "r")
    assert code == 1
    assert "void" in one_error_line(err)


def test_a_dry_run_prints_the_plan_and_writes_nothing(quick, tmp_path):
    code, out, err = quick("run", "--objective", "metamae", "--modality", "speech", "--dry-run", "--out", "r")
    assert code == 0, err
    assert '"alpha": 0.1' in out  # Table 8, through the preset that applies by default
    assert "1 x 32" in out
    assert "parameters" in out
    assert not (tmp_path / "r").exists()


def test_a_data_set_is_named_with_its_modality(quick):
    code, out, _ = quick("show", "speech/files")
    assert code == 0
    assert "speech/files" in out
    assert "text/files" not in out
    code, _, err = quick("check", "speech/nothing")
    assert code == 1
    assert "speech/nothing" in err


def test_lists_and_options(quick):
    code, out, _ = quick("list")
    assert code == 0
    for word in (
        "metamae",
        "mae",
        "speech/synthetic (default)",
        "speech/files",
        "random",
        "block",
        "sslx:objectives.mae",
    ):
        assert word in out
    code, out, _ = quick("show", "metamae")
    assert code == 0
    assert "objective.alpha" in out
    assert "inner step size" in out
    assert "near | hidden" in out
    code, _, err = quick("show", "metame")
    assert code == 1
    assert "did you mean 'metamae'" in one_error_line(err)
    code, _, err = quick("list", "objektives")
    assert code == 1
    assert "did you mean 'objectives'" in one_error_line(err)


def test_check_reports_passed_checks(quick):
    code, out, err = quick("check", "random")
    assert code == 0, err
    assert "passed" in out


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom ssl_core.cli import app as cli\n"
        "try: cli.app(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_plugin_that_raises_at_import_stops_nothing(sslx, tmp_path):
    site = tmp_path / "site"
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "broken.py").write_text("raise RuntimeError('no such luck')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sslx]\nthing = broken\n")
    path = {"PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])}
    code, out, err = sslx("list", "objectives", environment=path)
    assert code == 0
    assert "metamae" in out
    assert "broken:thing" in err
    assert "no such luck" in err
    code, _, err = sslx("run", "--objective", "luck", "--modality", "speech", environment=path)
    assert code == 1
    assert "no such luck" in one_error_line(err)
    assert sslx("list", "objectives", "--block", "broken:thing", environment=path)[2] == ""
