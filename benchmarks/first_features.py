"""Time from `pip install` to the features of own data: by two commands, and by five lines of Python.

    python benchmarks/real_data.py DATA real-data
    python benchmarks/first_features.py real-data/fsdd --modality speech     # writes results/first-features.json

A virtual environment is made and sslx is installed into it from this folder, with what it requires, from the package
index or pip's cache. Then `sslx run` pretrains on the data, with the preset and the number of steps that it chooses,
and `sslx embed` writes their features. The lines of Python do the same with an array of random series, for as many
steps as `--steps` says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "first-features.json"
LINES = """\
import numpy as np, sslx
x = np.random.default_rng(0).standard_normal((2000, 3, 128)).cumsum(axis=2)
run = sslx.pretrain(x, modality="time-series", objective="metamae", steps={steps}, out="in-python")
features = sslx.embed(run, x)
print(features.shape)
"""


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Seconds that a command took, and its standard output."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began, done.stdout


def measure(data: Path, modality: str, steps: int) -> dict[str, object]:
    """Seconds of each step by name, and what was made."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment = os.environ | {"SSLX_CACHE_DIR": str(folder / "cache"), "COLUMNS": "200"}
        environment.pop("PYTHONPATH", None)
        python, sslx = str(folder / "venv" / "bin" / "python"), str(folder / "venv" / "bin" / "sslx")
        seconds = {"venv": timed([sys.executable, "-m", "venv", "venv"], folder, environment)[0]}
        seconds["pip install"] = timed([python, "-m", "pip", "install", "-q", str(ROOT)], folder, environment)[0]
        run = [sslx, "run", "--objective", "metamae", "--modality", modality, "--data", str(data), "--out", "run"]
        seconds["sslx run"] = timed(run, folder, environment)[0]
        seconds["sslx embed"] = timed([sslx, "embed", "run", str(data), "--out", "f.parquet"], folder, environment)[0]
        read = "import pandas as p; t = p.read_parquet('f.parquet'); print(len(t), t.filter(regex='^f[0-9]').shape[1])"
        samples, width = map(int, timed([python, "-c", read], folder, environment)[1].split())
        report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
        text = LINES.format(steps=steps)
        seconds["five lines of Python"], shape = timed([python, "-c", text], folder, environment)
        return {
            "data": data.name, "samples": samples, "width": width, "steps": report["steps"], "python_steps": steps,
            "python_shape": shape.strip(), "cores": os.cpu_count(), "seconds": seconds,
        }  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--modality", required=True)
    parser.add_argument("--steps", type=int, default=200, help="of the run in Python")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = measure(arguments.data.resolve(), arguments.modality, arguments.steps)
    arguments.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
