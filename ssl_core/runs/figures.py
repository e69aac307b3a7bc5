"""The figures of a report: maps of the features, predictions of a probe, nearest neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from ssl_core.data import Split
from ssl_core.evaluation.features import features
from ssl_core.evaluation.linear import one_thread
from ssl_core.evaluation.protocols import random_subset
from ssl_core.report.figures import Figures, Neighbour, Neighbours, Predicted
from ssl_core.report.reconstruction import SegmentValues
from ssl_core.report.schema import FiguresReport
from ssl_core.report.scores import ALWAYS
from ssl_core.runs.encoder import EMBED_BATCH
from ssl_core.runs.kept import MAP_NUMBERS, MAP_SAMPLES, Kept, KeptFeatures
from ssl_core.runs.maps import label_text, make_maps
from ssl_core.runs.pictured import add_names, describe, recordings
from ssl_core.runs.reconstructions import sample_values
from ssl_core.runs.run import Run
from ssl_core.training.device import autocast

QUERIES = 4
NEIGHBOURS = 4
MAX_CLASSES = 200
"""Classes of a confusion matrix in report.json."""
Part = TypeVar("Part")


def make_figures(run: Run, kept: Kept) -> Figures | None:
    """The figures of an evaluated run; None if `evaluate.figures` is false.

    A part that cannot be made is left out, with a warning and a note in the report: a picture must not cost the scores
    of a long run.

    Args:
        run: the run.
        kept: what its evaluation kept. Missing features are computed: those of data without labels, and of tasks with a
            label for each token.
    """
    if not run.config.evaluate.figures:
        return None
    began = time.perf_counter()
    notes: list[str] = []

    def attempt(name: str, make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except Exception as error:  # a plugin's fault, or a sample that is no longer there
            notes.append(f"warning: the report has no {name}: {type(error).__name__}: {' '.join(str(error).split())}")
            run.console.info(notes[-1])
            return None

    attempt("map", lambda: _complete(run, kept))
    split = _split(run)
    labels = run.data[split].labels
    by_kind = {kind: kept.scored[kind] for kind in ALWAYS if kind in kept.scored}
    options, seed = run.config.evaluate, run.config.seed
    with one_thread():
        maps = attempt("map", lambda: make_maps(by_kind, labels, run.task, options, seed)) if by_kind else None
        predicted = attempt("predictions", lambda: _predicted(run, kept))
        neighbours = attempt("neighbours", lambda: _neighbours(run, kept))
    return Figures(
        FiguresReport(
            seconds=time.perf_counter() - began,
            map_method=None if maps is None else maps.method,
            map_samples=0 if maps is None else max(len(one.points) for one in maps.maps.values()),
            explained={} if maps is None else {k: one.explained for k, one in maps.maps.items() if one.explained},
            neighbours=0 if neighbours is None else neighbours.total,
            **({} if predicted is None else _numbers(predicted)),
        ),
        maps, predicted, neighbours, notes,
    )  # fmt: skip


def _split(run: Run) -> Split:
    """The split whose samples are shown: the scored one, or the training split without it."""
    return run.scored_split if run.scored_split in run.data else "train"


def _complete(run: Run, kept: Kept) -> None:
    """Compute the pooled features that the evaluation did not keep, of samples with a label where there are some."""
    split, seed = _split(run), run.config.seed
    missing = [kind for kind in ALWAYS if kind not in kept.scored]
    if not missing:
        return
    run.learner.eval()
    rows = run.data[split].labelled_rows
    for kind in missing:
        most = MAP_SAMPLES
        if kind == "raw_input":
            most = max(2, min(most, MAP_NUMBERS // _raw_width(run)))
        subset = random_subset(len(rows), most, seed)
        index = rows if subset is None else rows[subset]
        if kind == "random_init":
            with run.random_init_baseline() as fresh:
                x = _embed(run, fresh.embed, split, index)
        else:
            x = _embed(run, run.learner.embed if kind == "trained" else run.learner.raw, split, index)
        kept.scored[kind] = KeptFeatures(x, index)
    if kept.train is None and split != "train":
        subset = random_subset(len(run.data["train"]), MAP_SAMPLES, seed)
        index = np.arange(len(run.data["train"])) if subset is None else subset
        kept.train = KeptFeatures(_embed(run, run.learner.embed, "train", index), index)
    elif kept.train is None:
        kept.train = kept.scored["trained"]


def _raw_width(run: Run) -> int:
    return int(run.learner.raw(run.data["train"].take(np.arange(1)).to(run.device).inputs).shape[-1])


def _embed(run: Run, embed: Callable[..., Any], split: Split, index: np.ndarray) -> np.ndarray:
    """Pooled features (n, D) of some samples."""
    with autocast(run.device, run.config.train.precision):  # type: ignore[arg-type]
        batches = (batch.to(run.device) for batch in run.data[split].sweep(EMBED_BATCH, index))
        return features(embed, batches, len(index))[0]


# --- predictions -----------------------------------------------------------------------------------------------------


def _predicted(run: Run, kept: Kept) -> Predicted | None:
    """Predictions of the linear probe, or of the first one."""
    task = run.task
    if task is None or not kept.predictions:
        return None
    probe = "linear" if "linear" in kept.predictions else next(iter(kept.predictions))
    scores, labels = kept.predictions[probe]
    names = task.names or tuple(map(str, range(task.size)))
    unit = "token" if task.per_token else "sample"
    if task.kind == "classes":
        return Predicted(probe, task.title, task.kind, names, labels, scores.argmax(axis=1), unit=unit)
    if task.kind == "number":
        return Predicted(probe, task.title, task.kind, (), labels.reshape(-1), scores.reshape(-1), unit=unit)
    return Predicted(probe, task.title, task.kind, names, labels, scores, label_auroc(labels, scores), unit)


def label_auroc(labels: np.ndarray, scores: np.ndarray) -> list[float | None]:
    """AUROC of each label, (n, size) of 0 and 1 with scores (n, size); None where only one value occurs."""
    from sklearn.metrics import roc_auc_score

    return [
        float(roc_auc_score(y, s)) if 0 < y.sum() < len(y) else None for y, s in zip(labels.T, scores.T, strict=True)
    ]


def _numbers(predicted: Predicted) -> dict[str, Any]:
    """The entries of report.json."""
    confusion = predicted.kind == "classes" and len(predicted.names) <= MAX_CLASSES
    return {
        "probe": predicted.probe,
        "classes": tuple(predicted.names),
        "confusion": predicted.confusion().tolist() if confusion else (),
        "label_auroc": tuple(predicted.auroc),
    }


# --- neighbours ------------------------------------------------------------------------------------------------------


def _neighbours(run: Run, kept: Kept) -> Neighbours | None:
    """A few samples of the scored split with the training samples that are nearest to them, by cosine."""
    scored, train, split = kept.scored.get("trained"), kept.train, _split(run)
    if scored is None or train is None or len(train.x) < 2:
        return None
    chosen = np.sort(np.random.default_rng(run.config.seed).permutation(len(scored.x))[:QUERIES])
    queries, pool = (_normalised(part) for part in (scored.x[chosen], train.x))
    distances = np.clip(1 - queries @ pool.T, 0, 2)
    if split == "train":  # a sample is no neighbour of itself
        distances[scored.rows[chosen][:, np.newaxis] == train.rows] = np.inf
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(train.x) - 1)]
    rows: list[tuple[Split, int]] = [(split, int(row)) for row in scored.rows[chosen]]
    rows += [("train", int(train.rows[place])) for place in nearest.reshape(-1)]
    shown = [Neighbour(place, describe(run, *row), _label(run, *row)) for place, row in enumerate(rows)]
    groups = []
    for number in range(len(chosen)):
        first = len(chosen) + number * nearest.shape[1]
        found = zip(shown[first : first + nearest.shape[1]], distances[number, nearest[number]], strict=True)
        groups.append(
            (shown[number], [Neighbour(one.row, one.name, one.label, float(distance)) for one, distance in found])
        )
    return Neighbours(_values(run, rows), groups, dict(recordings(run, rows)), len(train.x))


def _normalised(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    normalised: np.ndarray = x / np.maximum(length, 1e-12)
    return normalised


def _label(run: Run, split: Split, row: int) -> str:
    """The label of a prepared sample in words; empty if it has none, or one for each token."""
    data, task = run.data[split], run.task
    if task is None or task.per_token or data.labels is None:
        return ""
    if data.labelled is not None and not data.labelled[row]:
        return ""
    return label_text(task, data.labels[row])


def _values(run: Run, rows: list[tuple[Split, int]]) -> list[SegmentValues]:
    """The segments of samples of several splits, in this order."""
    order: dict[Split, list[int]] = {}
    for place, (split, _) in enumerate(rows):
        order.setdefault(split, []).append(place)
    parts = [
        sample_values(run.learner, run.data[split].take(np.array([rows[place][1] for place in places])))
        for split, places in order.items()
    ]
    back = np.argsort(np.concatenate(list(order.values())))
    joined = []
    for segments in zip(*parts, strict=True):
        first = segments[0]
        values = np.concatenate([one.values for one in segments])[back]
        valid = None
        if first.valid is not None:
            valid = np.concatenate([cast(np.ndarray, one.valid) for one in segments])[back]
        joined.append(SegmentValues(first.name, first.target, first.grid, values, valid, first.style))
    return add_names(run, joined)
