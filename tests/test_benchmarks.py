"""The benchmark scripts run; what they measure is measured elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "speed.py"


def test_every_part_of_the_speed_benchmark_runs(tmp_path):
    done = subprocess.run(
        [
            sys.executable, str(SCRIPT), "--tiny", "--no-page", "--repeats", "1", "--out", str(tmp_path),
            "--variants", "plain", "fp32", "bf16", "--cache", str(tmp_path / "cache"),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "speed-cpu.json").read_text())["results"]
    parts = {"steps", "objectives", "memory", "scaling", "starts", "data", "machine", "floor", "profile"}
    assert {key.split("/")[0] for key in results} == parts
    assert not [key for key, value in results.items() if "error" in value], results
    steps = results["steps/speech"]
    assert all(seconds > 0 for seconds in steps.values())
    assert {"metamae plain", "mae plain", "metamae bf16", "mae bf16"} <= steps.keys()
    assert "| speech |" in done.stdout
    (shares,) = (value for key, value in results.items() if key.startswith("profile/"))
    assert sum(shares.values()) == pytest.approx(1)
    assert results["floor/speech/mae"]["operations"] < results["floor/speech/metamae"]["operations"] < 1e9


def test_real_data_is_laid_out_whole_or_not_at_all(tmp_path):
    data = tmp_path / "data"
    (data / "adult").mkdir(parents=True)
    (data / "adult" / "adult.data").write_text("39, Private, <=50K\n")
    command = [sys.executable, str(SCRIPT.with_name("real_data.py")), str(data), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "adult: left out" in done.stdout
    assert list((tmp_path / "out").iterdir()) == []
    (data / "adult" / "adult.test").write_text("25, Private, <=50K.\n\n38, ?, >50K.\n")
    subprocess.run(command, capture_output=True, check=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["adult"]
    assert (tmp_path / "out" / "adult" / "adult-test.csv").read_text() == "25, Private, <=50K\n38, ?, >50K\n"
