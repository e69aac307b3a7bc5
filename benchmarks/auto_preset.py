"""Compare the preset `auto` with the defaults of the options on a validation split of real data.

    python benchmarks/real_data.py DATA real-data
    OMP_NUM_THREADS=1 python benchmarks/auto_preset.py real-data [--seeds 1]

Trains MetaMAE on each data set with `--preset auto` and with `--preset default`, on one thread, and scores both on the
validation split; the test split is not opened. Each run is written to benchmarks/results/auto-preset.json when it ends;
what is there is not computed again. `--table` writes the table in docs/inspect.md from this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from publish import fill
from readouts import DATA

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "auto-preset.json"
PAGE = HERE.parent / "docs" / "inspect.md"
PRESETS = ("auto", "default")
SCORED = {
    "evaluate.split": "validation", "evaluate.probes": ["linear"], "evaluate.figures": False, "device": "cpu",
}  # fmt: skip
Row = dict[str, Any]


def measure(root: Path, data: str, preset: str, seed: int) -> Row:
    """Train and score once."""
    import sslx

    modality, path, options = DATA[data]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = sslx.pretrain(
            str(root / path), modality=modality, objective="metamae", out=Path(scratch) / "run", seed=seed,
            preset=preset, set=SCORED | {name: v for name, v in options.items() if name.startswith("dataset.")},
        )  # fmt: skip
        report = run.finished_report
        scores = {row.features: row.value for row in report.scores if row.probe == "linear"}
        return {
            "data": data, "preset": preset, "seed": seed, "samples": len(run.data["train"]), "steps": run.steps,
            "dim": run.config.dim, "depth": run.config.encoder.options["depth"],
            "metric": next(row.metric for row in report.scores), "scores": scores,
            "train_seconds": round(run.seconds, 1), "wall_seconds": round(time.perf_counter() - began, 1),
            "precision": run.config.train.precision,
        }  # fmt: skip


def table(rows: list[Row]) -> str:
    """Scores and seconds by data set and preset, means over seeds."""
    lines = [
        "| data | samples | preset | encoder | steps | seconds of training | linear probe | random init | raw input |",
        "|---|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    for data, preset in product(dict.fromkeys(row["data"] for row in rows), PRESETS):
        own = [row for row in rows if (row["data"], row["preset"]) == (data, preset)]
        if not own:
            continue
        first = own[0]
        values = (
            f"{100 * statistics.mean(row['scores'][kind] for row in own):.1f}"
            for kind in ("trained", "random_init", "raw_input")
        )
        seconds = statistics.mean(row["train_seconds"] for row in own)
        lines.append(
            f"| {data} | {first['samples']:,} | `{preset}` | {first['depth']} blocks of {first['dim']} "
            f"| {first['steps']:,} | {seconds:,.0f} | {' | '.join(values)} |"
        )
    return "\n".join(lines)


def current() -> str:
    """The table of the published results."""
    return table(json.loads(RESULTS.read_text()))


def main() -> None:
    """Measure what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="output directory of real_data.py")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--table", action="store_true", help="write the table and measure nothing")
    arguments = parser.parse_args()
    rows: list[Row] = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    if arguments.table:
        PAGE.write_text(fill(PAGE.read_text(), "auto-preset", table(rows)))
        return
    if arguments.root is None:
        parser.error("give the output directory of real_data.py")
    wanted = product(range(arguments.seeds), arguments.data.split(","), arguments.presets.split(","))
    for seed, data, preset in wanted:
        if any((row["data"], row["preset"], row["seed"]) == (data, preset, seed) for row in rows):
            continue
        rows.append(measure(arguments.root, data, preset, seed))
        part = arguments.out.with_suffix(".part")
        part.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
        part.replace(arguments.out)
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
