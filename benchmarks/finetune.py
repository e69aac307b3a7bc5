"""What pretraining is worth with few labels: fine-tuned, from scratch, two probes, and a classical baseline.

    python benchmarks/real_data.py DATA real-data
    python benchmarks/finetune.py --out runs/finetune                      # four data sets, three seeds
    python benchmarks/finetune.py --out runs/trial --sets adult --steps 20 --finetune-steps 5 --seeds 1 --fractions 1

The data sets are those of benchmarks/grids/real.toml. An encoder is pretrained on the training split of each, and
trained further on 1 %, 10 % and 100 % of the labels by `sslx.finetune`. The attentive probe reads the frozen tokens of
the same samples, and holds a tenth of them out to stop. The classical baseline has the same labelled samples: boosted
trees and logistic regression, on the table's columns, on statistics of each sensor channel, on failure densities of a
wafer's regions, or on statistics of MFCCs. The better of the two on the validation split is fitted again on both. Each
data set's results are written when it is done (OUT/NAME.json and OUT/table.md), and are not computed again.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import fill
from rich.console import Console as Terminal
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sslx
from ssl_core import Dataset, plugins
from ssl_core.cli.terminal import RichConsole
from ssl_core.data import Split
from ssl_core.evaluation.metrics import METRICS, measure, tasks_by_metric
from ssl_core.nn.readout import read_out
from ssl_core.report.finetune import METHODS, FinetuneScore, mean_score
from ssl_core.report.scores import format_score, metric_title
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder
from ssl_core.runs.finetune import FinetuneRequest, finetune_encoder
from ssl_core.runs.labelled import DataRequest, LabelledData, open_labelled, share_of_labels
from ssl_core.training.options import FinetuneOptions
from ssl_core.training.supervised import LabelledRows
from ssl_core.utils.console import Console

RESULTS = Path(__file__).resolve().parent / "results" / "finetune.json"
PAGE = Path(__file__).resolve().parent / "README.md"
GRID = Path(__file__).resolve().parent / "grids" / "real.toml"
SETS = {"har": "phone sensors", "wafer": "wm811k", "adult": "adult", "digits": "spoken digits"}
METRIC_NAMES = ("accuracy", "balanced_accuracy", "macro_f1")
CLASSICAL, ATTENTIVE = "classical", "attentive probe"
COLUMNS = (*METHODS, ATTENTIVE, CLASSICAL)


# --- hand-made features ----------------------------------------------------------------------------------------------


def table_features(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Numbers, NaN where missing, then the ids of categories."""
    numbers = inputs["numeric"].astype(float)
    if "missing" in inputs:
        numbers = np.where(inputs["missing"] > 0, np.nan, numbers)
    others = [inputs[name].reshape(-1) for name in sorted(inputs) if name not in ("numeric", "missing")]
    return np.concatenate([numbers, *others])


def sensor_features(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Of each channel: mean, deviation, quantiles, mean change, energies of eight frequency bands; correlations."""
    x = next(iter(inputs.values())).astype(float)
    x = np.nan_to_num(x)
    spectrum = np.square(np.abs(np.fft.rfft(x - x.mean(axis=1, keepdims=True))))
    bands = [np.log1p(part.sum(axis=1)) for part in np.array_split(spectrum, 8, axis=1)]
    parts = [x.mean(axis=1), x.std(axis=1), *np.quantile(x, (0, 0.25, 0.5, 0.75, 1), axis=1)]
    parts += [np.abs(np.diff(x, axis=1)).mean(axis=1), *bands]
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = np.nan_to_num(np.corrcoef(x))[np.triu_indices(len(x), 1)]
    return np.concatenate([*parts, pairs])


def wafer_features(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Share of failed dies: in all, in rings by radius, in sectors by angle, and in an 8 x 8 grid."""
    wafer = next(iter(inputs.values()))
    wafer = wafer[0] if wafer.ndim == 3 else wafer
    height, width = wafer.shape
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    ring = np.minimum((np.hypot(x, y) * 10).astype(int), 11)
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * 8).astype(int) % 8
    cell = ((y + 1) * 4).astype(int).clip(0, 7) * 8 + ((x + 1) * 4).astype(int).clip(0, 7)
    failed, die = (wafer == 2).ravel(), (wafer > 0).ravel()
    parts = [np.array([failed.sum() / max(die.sum(), 1)])]
    for index, count in ((ring, 12), (sector, 8), (cell, 64)):
        flat = index.ravel()
        dies = np.bincount(flat, die, count)
        parts.append(np.bincount(flat, failed, count) / np.maximum(dies, 1))
    return np.concatenate([*parts, np.log([height, width])])


def speech_features(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Mean, deviation and extremes of 20 MFCCs and of their changes, and their means in thirds of the recording."""
    import librosa

    wave = next(iter(inputs.values())).astype(np.float32).reshape(-1)
    wave = np.trim_zeros(wave)
    wave = np.pad(wave, (0, max(0, 2048 - len(wave))))
    mfcc = librosa.feature.mfcc(y=wave, sr=8000, n_mfcc=20, n_fft=256, hop_length=80, n_mels=40)
    delta = np.diff(mfcc, axis=1, prepend=mfcc[:, :1])
    parts = [f(x, axis=1) for x in (mfcc, delta) for f in (np.mean, np.std, np.min, np.max)]
    parts += [part.mean(axis=1) for part in np.array_split(mfcc, 3, axis=1)]
    return np.concatenate([*parts, [np.log(len(wave))]])


FEATURES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "tabular": table_features, "time-series": sensor_features, "wafer": wafer_features, "speech": speech_features,
}  # fmt: skip


def features_of(part: LabelledRows, dataset: Dataset) -> np.ndarray:
    """(n, k) hand-made features of labelled samples."""
    if part.split.bad:
        raise SystemExit("some samples cannot be used, so that prepared samples are not numbered as raw ones")
    return np.stack([FEATURES[dataset.modality](dataset[int(row)]["inputs"]) for row in part.rows])


MODELS = ("trees", "logistic")


def class_scores(
    name: str, labelled: tuple[np.ndarray, np.ndarray], at: np.ndarray, size: int, seed: int
) -> np.ndarray:  # fmt: skip
    """Log-probabilities (n, size) of a model fitted on features and classes; very low for a class that it lacks."""
    x, y = labelled
    if name == "trees":
        model = HistGradientBoostingClassifier(random_state=seed, min_samples_leaf=min(20, 1 + len(x) // 20))
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        x, at = np.nan_to_num(x), np.nan_to_num(at)
    model.fit(x, y)
    out = np.full((len(at), size), -1e9)
    out[:, model.classes_] = np.log(model.predict_proba(at).clip(1e-12))
    return out


def classical(data: LabelledData, fractions: list[float], seeds: int) -> list[FinetuneScore]:
    """Scores of the better of boosted trees and logistic regression, on the labels that the networks have."""
    held: Split = "validation" if "validation" in data.splits else "train"
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    sets = {"train": data.splits["train"], "validation": data.splits[held], "test": data.splits["test"]}
    x = {name: features_of(part, sets[name]) for name, part in parts.items()}
    y = {name: part.labels.reshape(-1) for name, part in parts.items()}
    tasks = tasks_by_metric(data.task, METRIC_NAMES)
    rows = []
    for seed in range(seeds):
        for fraction in fractions:
            index = share_of_labels(data.task, y["train"], fraction, seed)
            watched = share_of_labels(data.task, y["validation"], fraction, seed)
            train = x["train"][index], y["train"][index]
            validation = x["validation"][watched], y["validation"][watched]
            values = {}
            for name in MODELS:
                scores = class_scores(name, train, validation[0], data.task.size, seed)
                values[name] = measure(tasks[0], scores, validation[1]).value
            best = max(values, key=lambda name: values[name] or 0.0)
            both = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
            found = class_scores(best, both, x["test"], data.task.size, seed)
            for task in tasks:
                result = measure(task, found, y["test"])
                rows.append(FinetuneScore(
                    method="linear probe", fraction=fraction, seed=seed, metric=task.metric,
                    higher_is_better=METRICS[task.metric].higher_is_better, value=result.value,
                    standard_error=result.standard_error, validation=values[best], n_train=len(index),
                    n_validation=len(watched), n_test=len(y["test"]), notes=(best,),
                ))  # fmt: skip
    return rows


def attentive(
    encoder: PretrainedEncoder, data: LabelledData, fractions: list[float], seeds: int, catalogue: plugins.Catalogue
) -> list[FinetuneScore]:  # fmt: skip
    """Scores of the attentive probe on frozen tokens, fitted on the labels of training and validation together."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    x = {name: token_features(encoder, part) for name, part in parts.items()}
    y = {name: part.labels.reshape(-1) for name, part in parts.items()}
    probe_class: Any = catalogue.probes["attentive"].value
    rows = []
    for seed in range(seeds):
        for fraction in fractions:
            index, held = (share_of_labels(data.task, y[name], fraction, seed) for name in ("train", "validation"))
            features = np.concatenate([x["train"][index], x["validation"][held]])
            labels = np.concatenate([y["train"][index], y["validation"][held]])
            found = probe_class(probe_class.Options(seed=seed)).fit(features, labels, data.task)
            scores = found.predict_scores(x["test"])
            for task in tasks_by_metric(data.task, METRIC_NAMES):
                result = measure(task, scores, y["test"])
                rows.append(FinetuneScore(
                    method="linear probe", fraction=fraction, seed=seed, metric=task.metric,
                    higher_is_better=METRICS[task.metric].higher_is_better, value=result.value,
                    standard_error=result.standard_error, n_train=len(index), n_validation=len(held),
                    n_test=len(y["test"]),
                ))  # fmt: skip
    return rows


@torch.no_grad()
def token_features(encoder: PretrainedEncoder, part: LabelledRows) -> np.ndarray:
    """(n, L, D) float32 outputs of the last layer; zeros at padding."""
    encoder.eval()
    out = []
    for batch in part.sweep(EMBED_BATCH):
        tokens = encoder.tokenizer(batch.to(encoder.device).inputs)
        features = read_out("last", encoder.encoder, tokens, per_token=True).float()
        if tokens.valid is not None:
            features = features * tokens.valid.unsqueeze(-1)
        out.append(features.cpu().numpy())
    return np.concatenate(out)


# --- runs ------------------------------------------------------------------------------------------------------------


def measure_set(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Pretrain on a data set, fine-tune, and fit the classical baseline."""
    grid = tomllib.loads(GRID.read_text(encoding="utf-8"))
    entry = next(one for one in grid["data"] if one["name"] == SETS[name])
    folder = arguments.out / name
    options = {**grid["set"], **entry["set"]}
    if arguments.probe_every:
        options |= {"evaluate.every": arguments.probe_every, "evaluate.lidar_views": 10}
    length = {"budget": arguments.budget} if arguments.steps is None else {"steps": arguments.steps}
    console = RichConsole()
    if not (folder / "report.json").exists():
        resume = (folder / "config.json").exists()
        sslx.pretrain(
            objective=arguments.objective, modality=entry["modality"], dataset="files", out=folder, set=options,
            resume=resume, console=console, device=arguments.device, **length,
        )  # fmt: skip
    encoder, catalogue = sslx.load(folder), plugins.load()
    values = {} if arguments.finetune_steps is None else {"steps": arguments.finetune_steps}
    request = FinetuneRequest(
        options=FinetuneOptions(**values, train=arguments.train), fractions=tuple(arguments.fractions),
        seeds=arguments.seeds, metrics=METRIC_NAMES, device=arguments.device,
    )  # fmt: skip
    model = finetune_encoder(encoder, request, catalogue, console)
    same = DataRequest(validation_fraction=request.options.validation_fraction)
    data = open_labelled(encoder, same, catalogue, Console())
    console.info(f"{name}: the attentive probe")
    attended = attentive(encoder, data, arguments.fractions, arguments.seeds, catalogue)
    console.info(f"{name}: the classical baseline")
    baseline = classical(data, arguments.fractions, arguments.seeds)
    assert model.report is not None
    scores = [(score.method, score) for score in model.report.scores] + [(ATTENTIVE, score) for score in attended]
    scores += [(CLASSICAL, score) for score in baseline]
    return {
        "data": name, "samples": data.counts, "options": model.report.options,
        "scores": [{**score.model_dump(mode="json"), "method": method} for method, score in scores],
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table: mean and deviation over seeds."""
    lines = ["| data | labels | metric | " + " | ".join(COLUMNS) + " |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for result in results:
        scores = result["scores"]
        for fraction in sorted({score["fraction"] for score in scores}):
            for metric in METRIC_NAMES:
                cells, used = [], 0
                for method in COLUMNS:
                    key = (fraction, metric, method)
                    rows = [row for row in scores if (row["fraction"], row["metric"], row["method"]) == key]
                    used = max([used, *(row["n_train"] + row["n_validation"] for row in rows)])
                    shown = [FinetuneScore(**{**row, "method": "linear probe"}) for row in rows]
                    cells.append(format_score(metric, mean_score(shown)) if shown else "-")
                name = metric_title(metric)
                lines.append(f"| {result['data']} | {fraction:.0%}: {used:,} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def current() -> str:
    """The table of the kept results."""
    return table(json.loads(RESULTS.read_text(encoding="utf-8"))).strip()


def main() -> None:
    """Measure the data sets and write a table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.01, 0.1, 1.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objective", default="metamae")
    parser.add_argument("--train", default="all")
    parser.add_argument("--budget", default="10m", help="time of pretraining")
    parser.add_argument("--steps", type=int, help="steps of pretraining, in place of a time")
    parser.add_argument("--finetune-steps", type=int)
    parser.add_argument("--probe-every", type=int, help="steps between probes of pretraining, for criteria.py")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--publish", action="store_true", help="write results/finetune.json and the table in README.md")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in arguments.sets:
        file = arguments.out / f"{name}.json"
        if not file.exists():
            part = file.with_suffix(".part")
            part.write_text(json.dumps(measure_set(name, arguments), indent=1))
            part.replace(file)
        results.append(json.loads(file.read_text()))
        (arguments.out / "table.md").write_text(table(results))
    if arguments.publish:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), "finetune", current()), encoding="utf-8")
    Terminal().print(table(results), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
