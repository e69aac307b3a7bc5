"""The command `sslx submit` and `sslx compare --launcher`, with submitit's local executor."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_core.errors import ConfigError
from ssl_core.runs import cluster
from ssl_core.runs.cluster import ClusterJob, Resources, RunJob, submit_jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a job in /proc")

RUN = ("run", "--objective", "mae", "--modality", "tabular", "--device", "cpu")
SMALL = [
    "encoder.dim=16", "encoder.depth=1", "encoder.heads=2", "dataset.n_train=64", "dataset.n_test=30",
    "train.batch_size=8", "train.log_every=1", "train.precision=fp32", "train.compile=off", "encoder.dropout=0.1",
    "evaluate.figures=false",
]  # fmt: skip
SETTINGS = [part for setting in SMALL for part in ("--set", setting)]


@pytest.fixture
def quick(quick, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return quick


def wait_for(happened: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def last_step(folder: Path) -> int:
    try:
        return max(
            (json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()), default=0
        )
    except (OSError, ValueError):
        return 0


@pytest.mark.slow
def test_a_job_that_is_timed_out_is_requeued_and_gives_the_same_weights(quick, tmp_path):
    steps = ("--steps", 300)
    code, _, err = quick("submit", "--executor", "local", "--time", "30m", "--", *RUN, *SETTINGS, *steps, "--out", "r")
    assert code == 0, err
    assert (tmp_path / "r").is_dir()
    controller = int(re.search(r"submitted job (\d+) \(local\) for the run in r; its log is", err)[1])
    wait_for(lambda: last_step(tmp_path / "r") >= 5)
    (task,) = children(controller)
    (run,) = children(task)
    os.kill(run, signal.SIGUSR2)  # Slurm sends it to all processes of a job
    os.kill(task, signal.SIGUSR2)
    job = ClusterJob.load({"executor": "local", "id": str(controller), "folder": str(tmp_path / "r.job")})
    wait_for(lambda: Path(job.raw.paths.result_pickle).exists())
    assert job.raw.exception() is None
    log = job.log.read_text()
    starts = [line for line in log.splitlines() if line.startswith("starting ")]
    assert len(starts) == 2
    assert "--resume" not in starts[0]
    assert starts[1].endswith(f"run --out {tmp_path / 'r'} --resume")
    stopped = int(re.search(r"stopped by SIGTERM at step (\d+); saved", log)[1])
    assert 5 <= stopped < 300

    code, _, err = quick(*RUN, *SETTINGS, *steps, "--out", "whole")
    assert code == 0, err
    whole, resumed = (
        load_file(tmp_path / name / "checkpoints/step-00000300/model.safetensors") for name in ("whole", "r")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_a_failing_run_fails_the_job_by_its_own_message(quick, tmp_path):
    options = ("--set", "train.schedule=cosine", "--budget", "1s")
    code, _, err = quick("submit", "--executor", "local", "--wait", "--", *RUN, *SETTINGS, *options, "--out", "r")
    assert code == 1
    assert "error: the job failed: train.max_seconds ends a run at a step that is not known in advance" in err
    assert "its log is" in err


@pytest.mark.release
def test_a_comparison_by_jobs_gives_its_table_and_names_a_failure(quick, tmp_path):
    arguments = ("compare", "--modality", "tabular", "--objectives", "mae,shed", "--seeds", "1", "--steps", "2")
    failing = ("--set", "encoder.heads=3")  # 16 is not divisible by it
    code, _, err = quick(*arguments, *SETTINGS[4:], "--launcher", "local", "--out", "bad", *failing)
    assert code == 1
    assert err.count("failed: ") >= 2
    code, _, err = quick(*arguments, *SETTINGS, "--launcher", "local", "--out", "c")
    assert code == 0, err
    rows = json.loads((tmp_path / "c" / "comparison.json").read_text())["scores"]
    assert {row["method"] for row in rows} >= {"mae", "shed"}
    saved = json.loads(next((tmp_path / "c" / "cells").rglob("*.job")).read_text())
    assert saved["executor"] == "local"
    began = time.monotonic()
    assert quick(*arguments, *SETTINGS, "--launcher", "local", "--out", "c")[0] == 0  # nothing is run again
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--", "eval", "r"), "sslx submit takes a run, not 'eval'"),
        (("--executor", "pbs", "--", *RUN), "unknown executor 'pbs'; choose slurm or local"),
        (("--time", "soon", "--", *RUN), "--time soon: write it as 90s, 10m, 1.5h or 30d"),
        (("--mem", "lots", "--", *RUN), "--mem lots: write it as 500MB, 10GB or 1.5TiB"),
        (("--slurm", "account", "--", *RUN), "--slurm account: write it as account=NAME"),
        (("--executor", "local", "--", "run", "--objective", "nae", "--modality", "tabular"), "nae"),
        (("--executor", "local", "--", *RUN, "--set", "train.stepz=3"), "stepz"),
        (("--executor", "local", "--", *RUN, "--dry-run"), "--dry-run prints what would run; give it to sslx run"),
        (
            ("--executor", "local", "--partition", "gpu", "--", *RUN, "--out", "r"),
            "--partition and --slurm are for Slurm",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_a_job_waits(quick, tmp_path, arguments, message):
    code, _, err = quick("submit", *arguments)
    assert code == 1
    assert message in " ".join(err.split())
    assert not list(tmp_path.glob("*.job/*"))


def test_an_unknown_option_of_the_run_is_a_usage_error(quick):
    code, _, err = quick("submit", "--executor", "local", "--", *RUN, "--stepz", "3")
    assert code == 2
    assert "error: no such option: --stepz" in err


def test_a_folder_that_holds_a_run_is_refused(quick, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").touch()
    code, _, err = quick("submit", "--executor", "local", "--", *RUN, "--out", "r")
    assert code == 1
    assert "--out r is not empty" in err


def test_without_slurm_the_message_names_the_way(quick, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name, *more: None)
    code, _, err = quick("submit", "--", *RUN, "--out", "r")
    assert code == 1
    assert "there is no Slurm here (srun is not found); submit from a login node" in " ".join(err.split())


def test_without_submitit_the_message_names_the_extra(quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, err = quick("submit", "--", *RUN)
    assert code == 1
    assert "error: sslx submit needs submitit; run pip install 'sslx[slurm]'" in err


def test_the_batch_file_says_what_was_asked_for(monkeypatch, tmp_path):
    """By a stand-in for sbatch that keeps the file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text("#!/bin/sh\n")
    (programs / "sbatch").write_text(f"#!/bin/sh\ncp $1 {tmp_path}/batch; echo Submitted batch job 12\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    given = Resources(
        minutes=90, grace=60, partition="gpu", gpus=2, cpus=8, memory_gb=32, further={"account": "lab"}, parallel=3
    )
    jobs = submit_jobs([RunJob(["run"], tmp_path / str(number)) for number in range(4)], tmp_path / "j", given, "it")
    assert [job.id for job in jobs] == ["12_0", "12_1", "12_2", "12_3"]
    text = (tmp_path / "batch").read_text()
    for line in (
        "time=90", "signal=USR2@60", "partition=gpu", "gpus-per-node=2", "cpus-per-task=8", "mem=32000M", "account=lab",
        "array=0-3%3",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    assert "--cpus-per-task=8 " in text.splitlines()[-1]
    with pytest.raises(ConfigError, match=r"--slurm: Unavailable parameter\(s\): \['acount'\]"):
        submit_jobs(
            [RunJob(["run"], tmp_path / "r")], tmp_path / "j", Resources(further={"acount": "lab"}), "sslx submit"
        )
    (programs / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1\n")
    with pytest.raises(ConfigError, match="Slurm refused the job: sbatch: error: invalid partition specified: gpu"):
        submit_jobs([RunJob(["run"], tmp_path / "r")], tmp_path / "j", given, "sslx submit")


def test_the_command_of_a_job_begins_or_goes_on(tmp_path):
    job = RunJob(["run", "--block", "a:b", "--steps", "9"], tmp_path, keep=["--block", "a:b"])
    copy = pickle.loads(pickle.dumps(job))
    assert copy.command()[4:] == ["run", "--block", "a:b", "--steps", "9", "--out", str(tmp_path)]
    (tmp_path / "config.json").touch()
    assert copy.command()[4:] == ["run", "--block", "a:b", "--out", str(tmp_path), "--resume"]
    job.resume = True  # the first start may change the number of steps
    assert job.command()[4:] == ["run", "--block", "a:b", "--steps", "9", "--out", str(tmp_path), "--resume"]


def test_a_job_that_slurm_does_not_list_has_ended_after_a_while(tmp_path, monkeypatch):
    job = ClusterJob.load({"executor": "slurm", "id": "7", "folder": str(tmp_path)})
    listed, now = [True], [100.0]
    monkeypatch.setattr(cluster, "_in_queue", lambda number: listed[0])
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    assert not job.has_ended()
    listed[0] = False
    assert not job.has_ended()  # it may just be listed again, or its result may come late
    now[0] += 2 * cluster.MISSING_SECONDS
    assert job.has_ended()
    assert job.failure().startswith("its job 7 ended without a result; its log is ")
    listed[0] = True
    assert not job.has_ended()
