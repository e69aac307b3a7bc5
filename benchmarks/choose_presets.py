"""Choose the options of demo presets on the validation split of the embedded data.

    OMP_NUM_THREADS=1 python benchmarks/choose_presets.py --out runs/presets   # writes results/presets.json

The options of the presets demo-tabular, demo-image and demo-medical-image were set with the test split in view. For
each of them two candidates are trained with three seeds: those values, and the values that hold without them (the
learning rate of all demo presets, the mask ratio of the paper's Table 8 or of the objective). The candidate with the
better mean of the linear probe on the validation split is chosen. No test sample is read. Finished cells are kept: the
script continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import sslx

RESULTS = Path(__file__).resolve().parent / "results" / "presets.json"
CANDIDATES: dict[str, tuple[tuple[float, float], ...]] = {
    "tabular": ((1e-3, 0.5), (2e-3, 0.5)),
    "image": ((1e-3, 0.85), (1e-3, 0.7)),
    "medical-image": ((1e-3, 0.85), (1e-3, 0.6)),
}
"""Learning rates and mask ratios by modality."""
SEEDS = 3


def score(modality: str, rate: float, ratio: float, seed: int, out: Path) -> dict[str, Any]:
    """Train one candidate and score it on the validation split."""
    began = time.perf_counter()
    folder = out / f"{modality}-lr{rate:g}-ratio{ratio:g}-seed{seed}"
    options = {
        "train.lr": rate, "masking.ratio": ratio, "evaluate.split": "validation", "evaluate.probes": ("linear",),
    }  # fmt: skip
    run = sslx.pretrain(modality=modality, objective="metamae", seed=seed, out=folder, overwrite=True, set=options)
    rows = {row.features: row for row in run.finished_report.scores if row.probe == "linear"}
    trained = rows["trained"]
    return {
        "modality": modality, "lr": rate, "ratio": ratio, "seed": seed, "metric": trained.metric,
        "value": trained.value, "random_init": rows["random_init"].value, "raw_input": rows["raw_input"].value,
        "steps": run.steps, "seconds": round(time.perf_counter() - began, 1), "folder": folder.name,
    }  # fmt: skip


class Cells:
    """Results by cell, kept in a file."""

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self.out = path, out
        self.rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def add(self, modality: str, rate: float, ratio: float, seed: int) -> None:
        """Compute a cell that is not there yet."""
        cell = {"modality": modality, "lr": rate, "ratio": ratio, "seed": seed}
        if any(cell.items() <= row.items() for row in self.rows):
            return
        row = score(modality, rate, ratio, seed, self.out)
        self.rows.append(row)
        part = self.path.with_suffix(".part")
        part.write_text("[\n" + ",\n".join(map(json.dumps, self.rows)) + "\n]\n")
        part.replace(self.path)
        print(f"{modality} lr {rate:g} ratio {ratio:g} seed {seed}: {row['value']:.4f}", flush=True)

    def mean(self, modality: str, rate: float, ratio: float) -> float:
        """The mean score of a candidate over seeds."""
        wanted = {"modality": modality, "lr": rate, "ratio": ratio}
        return statistics.mean(row["value"] for row in self.rows if wanted.items() <= row.items())


def main() -> None:
    """Run the choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/presets"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    arguments = parser.parse_args()
    cells = Cells(arguments.results, arguments.out)
    for seed in range(SEEDS):
        for modality, candidates in CANDIDATES.items():
            for candidate in candidates:
                cells.add(modality, *candidate, seed)
    for modality, candidates in CANDIDATES.items():
        rate, ratio = max(candidates, key=lambda one: cells.mean(modality, *one))
        print(f"{modality}: chosen lr {rate:g}, ratio {ratio:g} ({cells.mean(modality, rate, ratio):.4f})", flush=True)


if __name__ == "__main__":
    main()
