"""The benchmark scripts run; what they measure is measured elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
    assert {key.split("/")[0] for key in results} == {"steps", "objectives", "memory", "scaling", "starts", "data"}
    assert not [key for key, value in results.items() if "error" in value], results
    steps = results["steps/speech"]
    assert all(seconds > 0 for seconds in steps.values())
    assert {"metamae plain", "mae plain", "metamae bf16", "mae bf16"} <= steps.keys()
    assert "| speech |" in done.stdout
