"""How well label-free figures of checkpoints predict the scores of a linear probe.

    python benchmarks/finetune.py --out runs/finetune --probe-every 50
    python benchmarks/criteria.py runs/finetune/*     # writes results/criteria.json and the table in README.md

Of each run the figures along its training (RankMe, alpha-ReQ, LiDAR, the loss) are compared with the probe's scores on
validation samples: the rank correlation of Spearman over the checkpoints, and what is lost by taking the checkpoint
that the figure prefers in place of the best one. RankMe and LiDAR prefer large values, alpha-ReQ values near 1, the
loss small ones. The last checkpoint is what a run uses without a criterion.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from publish import fill
from rich.console import Console
from scipy.stats import spearmanr

RESULTS = Path(__file__).resolve().parent / "results" / "criteria.json"
PAGE = Path(__file__).resolve().parent / "README.md"
TITLES = {
    "rankme": "RankMe", "alpha_req": "alpha-ReQ", "lidar": "LiDAR", "loss": "training loss", "last": "last checkpoint",
}  # fmt: skip


def preference(name: str, lines: list[dict[str, Any]]) -> np.ndarray:
    """How much a figure prefers each checkpoint; NaN where it is not defined."""
    if name == "last":
        return np.array([float(line["step"]) for line in lines])
    key = "train/loss" if name == "loss" else f"health/{name}"
    values = np.array([line.get(key, math.nan) for line in lines], dtype=float)
    return -abs(values - 1) if name == "alpha_req" else -values if name == "loss" else values


def curve_of(folder: Path, probe: str) -> tuple[list[dict[str, Any]], str]:
    """Lines of metrics.jsonl with scores of a probe, each with the loss since the line before; and the score's name."""
    lines, loss = [], math.nan
    for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        loss = line.get("train/loss", loss)
        names = [name for name in line if name.startswith(f"probe/{probe}_")]
        if names and line["step"]:  # of step 0 it is the random initialisation
            lines.append({"train/loss": loss, **line})
    if len(lines) < 4:
        raise SystemExit(f"{folder} has {len(lines)} probes after step 0; pretrain with more, by --probe-every")
    return lines, next(name for name in lines[0] if name.startswith(f"probe/{probe}_"))


def measure(folder: Path, probe: str) -> dict[str, Any]:
    """Correlation and loss of each criterion on one run."""
    lines, key = curve_of(folder, probe)
    scores = np.array([line[key] for line in lines])
    found: dict[str, Any] = {}
    for name in TITLES:
        values = preference(name, lines)
        if np.isnan(values).any():
            continue
        varies = np.ptp(values) > 0 and np.ptp(scores) > 0
        found[name] = {
            "spearman": float(spearmanr(values, scores).statistic) if varies else None,
            "lost": float(scores.max() - scores[int(values.argmax())]),
        }
    return {
        "run": folder.name, "score": key.removeprefix("probe/"), "checkpoints": len(lines),
        "steps": [line["step"] for line in lines], "best": float(scores.max()), "worst": float(scores.min()),
        "criteria": found,
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """Rows of runs, columns of criteria: rank correlation, and points of the score lost."""
    head = ["run", "score", "best, worst", *TITLES.values()]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in results:
        cells = [one["run"], one["score"].replace("_", " "), f"{100 * one['best']:.1f}, {100 * one['worst']:.1f}"]
        for name in TITLES:
            entry = one["criteria"].get(name)
            if entry is None:
                cells.append("-")
                continue
            correlation = "-" if entry["spearman"] is None else f"{entry['spearman']:+.2f}"
            cells.append(f"{correlation}, {100 * entry['lost']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def current() -> str:
    """The table of the kept results."""
    return table(json.loads(RESULTS.read_text(encoding="utf-8"))).strip()


def main() -> None:
    """Compare the criteria on runs, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with probes during training")
    parser.add_argument("--probe", default="linear")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folders = [folder for folder in arguments.runs if (folder / "metrics.jsonl").exists()]
    if not folders:
        raise SystemExit("none of these folders is that of a run")
    results = [measure(folder, arguments.probe) for folder in folders]
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.results == RESULTS:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), "criteria", current()), encoding="utf-8")
    Console().print(table(results), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
