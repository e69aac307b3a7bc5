"""Compare read-outs, post-processing and probes of frozen features on a validation split of real data.

    python benchmarks/real_data.py DATA real-data
    python benchmarks/readouts.py real-data [--steps 100] [--objectives mae,metamae] [--seeds 1]

Trains a small encoder on each data set with each objective, for some steps on one thread, and scores on a validation
split, never on the test split: trained features and those of the random initialisation by each read-out, and the raw
input; each as it is, standardised and PCA-whitened; by logistic regression and 20 nearest neighbours; and tokens by the
attentive probe. Every score is written as it comes to benchmarks/results/readouts.json; what is there is not computed
again. `--table` writes the tables in benchmarks/README.md from this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "readouts.json"
POSTPROCESSES: tuple[Literal["none", "standardise", "whiten"], ...] = ("none", "standardise", "whiten")
PROBES = ("linear", "knn")
SMALL = {
    "train.lr": 1e-3, "train.warmup_steps": 50, "encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4,
    "train.compile": "off", "train.precision": "fp32", "evaluate.max_train": 50, "evaluate.max_test": 50,
    "evaluate.split": "validation", "device": "cpu", "evaluate.probes": ["linear"], "preset": "none",
}  # fmt: skip
MOST_TRAIN, MOST_VALIDATION = 1500, 1000
"""Samples that probes are fitted on and scored on; the run itself is scored on 50, to save time."""
DATA: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fsdd": ("speech", "fsdd", {
        "dataset.label_pattern": r"(?P<label>\d)_(?P<group>[a-z]+)_\d+", "dataset.test_groups": ["theo", "nicolas"],
        "dataset.validation_groups": ["george"],
    }),
    "sp_sw_har": ("time-series", "har", {
        "dataset.label_pattern": r"(?P<group>s\d+)_\d+_sp", "dataset.drop_columns": ["timestamp"],
        "dataset.window": 104, "dataset.stride": 52, "dataset.label_share": 0.8, "tokenizer.patch": 8,
        "dataset.test_groups": ["s19", "s20", "s21", "s22", "s23"],
        "dataset.validation_groups": ["s15", "s16", "s17", "s18"],
    }),
    "wm811k": ("wafer", "wm811k/train.npz", {"dataset.validation_fraction": 0.1}),
    "higgs_15k": ("tabular", "higgs/higgs_train_10k.csv", {
        "dataset.label": "response", "dataset.task": "classes", "dataset.validation_fraction": 0.2,
    }),
    "bacteria": ("genomics", "bacteria/reads.csv", {"dataset.validation_fraction": 0.1}),
}  # fmt: skip
"""Modality, path below the prepared data, and options of each set."""


def columns_of(config: Any) -> dict[str, slice]:
    """The columns of each read-out in "layers+stats", which holds the others: features are computed once."""
    layers = config.dim * config.encoder.options["depth"]
    return {"last": slice(layers - config.dim, layers), "layers": slice(0, layers), "layers+stats": slice(None)}


class Results:
    """Scores in a JSON file, which is written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {"runs": [], "scores": []}

    def add(self, kind: str, entry: dict[str, Any]) -> None:
        """Append an entry to a list and write the file."""
        self.content[kind].append(entry)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.content, indent=0) + "\n")
        part.replace(self.path)

    def has_run(self, data: str, objective: str, seed: int) -> bool:
        """Whether all scores of a run are there."""
        return any((run["data"], run["objective"], run["seed"]) == (data, objective, seed)
                   for run in self.content["runs"])  # fmt: skip


def measure(root: Path, data: str, objective: str, seed: int, steps: int, results: Results) -> None:
    """Train one encoder and score it in every way."""
    import sslx
    from ssl_core.evaluation.protocols import FeatureSpec, Postprocess, make_probes, score
    from ssl_core.runs.scores import Extractor, final_data

    modality, path, options = DATA[data]
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        run = sslx.pretrain(
            str(root / path), modality=modality, objective=objective, out=Path(scratch) / "run", seed=seed,
            steps=steps, set=SMALL | options,
        )  # fmt: skip
        run.learner.eval()
        task = run.task
        assert task is not None
        evaluate = run.config.evaluate
        limits = evaluate.model_copy(update={"max_train": MOST_TRAIN, "max_test": MOST_VALIDATION})
        part = final_data(run).limited(limits, seed)
        names = {name: run.context.catalogue.probe(name) for name in (*PROBES, "attentive")}
        chosen = evaluate.model_copy(update={"probes": tuple(names)})
        probes = make_probes(names, chosen, seed)
        own = {"data": data, "objective": objective, "seed": seed}

        def put(kind: str, readout: str, rows: Iterable[dict[str, Any]]) -> None:
            for row in rows:
                results.add("scores", {
                    **own, "features": kind, "readout": readout, "postprocess": row["postprocess"],
                    "probe": row["probe"], "metric": row["metric"], "value": row["value"],
                    "n_train": row["n_train"], "n_test": row["n_test"],
                })  # fmt: skip

        def score_all(kind: str, extract: Any) -> None:
            spec = FeatureSpec(False, None, "last" if kind == "raw_input" else "layers+stats")
            splits = extract(part.fit, spec), extract(part.scored, spec)
            columns = {"input": slice(None)} if kind == "raw_input" else columns_of(run.config)
            for readout, own_columns in columns.items():
                train, scored = ((x[:, own_columns], y) for x, y in splits)
                score_one(kind, readout, train, scored)

        def score_one(kind: str, readout: str, train: Any, scored: Any) -> None:
            for postprocess, probe in product(POSTPROCESSES, PROBES):
                if (postprocess, probe) == ("standardise", "linear"):
                    continue  # logistic regression standardises
                one = {probe: probes[probe]}
                put(kind, readout, score(task, train, scored, one, (), seed, postprocess=Postprocess(postprocess)))

        def score_tokens(kind: str, extract: Any) -> None:
            spec = FeatureSpec(True, None, "last")
            one = {"attentive": probes["attentive"]}
            put(kind, "tokens", score(task, extract(part.fit, spec), extract(part.scored, spec), one, (), seed))

        for kind, embed in (("trained", run.learner.embed), ("raw_input", run.learner.raw)):
            score_all(kind, Extractor(run, kind, embed))
        score_tokens("trained", Extractor(run, "trained", run.learner.embed))
        with run.random_init_baseline() as fresh:
            extract = Extractor(run, "random_init", fresh.embed)
            score_all("random_init", extract)
            score_tokens("random_init", extract)
        results.add("runs", {
            **own, "steps": run.steps, "train_seconds": run.seconds, "wall_seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu, "samples": {name: len(split) for name, split in run.data.items()},
            "rankme": run.finished_report.health["trained"]["rankme"],
        })  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------------


def protocols(entries: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Read-out, post-processing and probe, in order of appearance."""
    return list(dict.fromkeys((e["readout"], e["postprocess"], e["probe"]) for e in entries))


def tables(content: dict[str, Any]) -> Iterator[str]:
    """Markdown: a table for each kind of features, means over objectives and seeds, with mean ranks over data sets."""
    for kind in ("trained", "random_init", "raw_input"):
        entries = [entry for entry in content["scores"] if entry["features"] == kind]
        if not entries:
            continue
        sets = list(dict.fromkeys(entry["data"] for entry in entries))
        metrics = {entry["data"]: entry["metric"] for entry in entries}
        rows = protocols(entries)
        mean = {
            (row, data): statistics.mean(
                e["value"] for e in entries
                if (e["readout"], e["postprocess"], e["probe"]) == row and e["data"] == data
            )
            for row, data in product(rows, sets)
        }  # fmt: skip
        ranks = np.mean([rankdata([-mean[row, data] for row in rows]) for data in sets], axis=0)
        yield f"**{kind.replace('_', ' ')}**\n"
        yield (
            "| read-out | post-processing | probe | "
            + " | ".join(f"{d}, {metrics[d]}" for d in sets)
            + " | mean rank |"
        )
        yield "|---|---|---|" + "---|" * (len(sets) + 1)
        best = {data: max(mean[row, data] for row in rows) for data in sets}
        for row, rank in sorted(zip(rows, ranks, strict=True), key=lambda pair: pair[1]):
            cells = [f"{100 * mean[row, d]:.1f}" for d in sets]
            cells = [f"**{c}**" if mean[row, d] == best[d] else c for c, d in zip(cells, sets, strict=True)]
            yield f"| {row[0]} | {row[1]} | {row[2]} | " + " | ".join(cells) + f" | {rank:.1f} |"
        yield ""
    runs = content["runs"]
    steps = ", ".join(f"{count:,}" for count in sorted({run["steps"] for run in runs}))
    seeds = sorted({run["seed"] for run in runs})
    objectives = ", ".join(dict.fromkeys(run["objective"] for run in runs))
    yield f"- Seeds {', '.join(map(str, seeds))}; objectives {objectives}, means over them; {steps} steps of training."
    yield f"- {sum(run['cpu_seconds'] for run in runs) / 60:.1f} minutes of CPU in all."


def write_tables(content: dict[str, Any]) -> None:
    """Put the tables between the markers of benchmarks/README.md."""
    page = HERE / "README.md"
    begin, end = "<!-- readouts: begin -->", "<!-- readouts: end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} lacks the markers '{begin}' and '{end}'")
    page.write_text(f"{before}{begin}\n" + "\n".join(tables(content)) + f"\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Measure what is missing, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="output directory of real_data.py")
    parser.add_argument("--steps", type=int, default=100, help="steps of training of each encoder")
    parser.add_argument("--objectives", default="mae,metamae")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--table", action="store_true", help="write the tables and measure nothing")
    arguments = parser.parse_args()
    results = Results(arguments.out)
    if arguments.table:
        write_tables(results.content)
        return
    if arguments.root is None:
        parser.error("give the output directory of real_data.py")
    for seed, data, objective in product(
        range(arguments.seeds), arguments.data.split(","), arguments.objectives.split(",")
    ):
        if results.has_run(data, objective, seed):
            continue
        done = {"data": data, "objective": objective, "seed": seed}
        results.content["scores"] = [s for s in results.content["scores"] if not done.items() <= s.items()]
        measure(arguments.root, data, objective, seed, arguments.steps, results)
        print(f"{data} {objective} {seed}: {results.content['runs'][-1]}", flush=True)


if __name__ == "__main__":
    main()
