"""Scores of frozen features: probes are fitted on one split and scored on another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ssl_core.data import Task
from ssl_core.errors import DataError, PluginError
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.postprocess import PostprocessName, fit_postprocess


class Predictor(Protocol):
    """A fitted probe, as `ssl_core.Predictor`."""

    def predict_scores(self, features: np.ndarray) -> np.ndarray:
        """Scores of features in the form of metrics.py."""
        ...


class Probe(Protocol):
    """What is used of a probe, see `ssl_core.Probe`."""

    per_token: bool
    layers: tuple[int, ...] | None
    max_test_rows: int | None

    def fit_groups(self, features: np.ndarray, labels: np.ndarray, task: Task, groups: np.ndarray) -> Predictor:
        """Fit to features (n, ...) and labels (n, ...); `groups` (n,) is the sample of each row."""
        ...


@dataclass(frozen=True)
class FunctionPredictor:
    """A predictor made of a function.

    details: values for the report. n_train: rows that the probe was fitted on; None for all that it was given.
    """

    predict_scores: Callable[[np.ndarray], np.ndarray]
    details: Mapping[str, Any] = field(default_factory=dict)
    n_train: int | None = None


@dataclass(frozen=True)
class FeatureSpec:
    """Features that a probe reads: token features or pooled ones; of some layers, or else by a read-out."""

    per_token: bool
    layers: tuple[int, ...] | None
    readout: str = "last"

    @property
    def title(self) -> str:
        """The features in a few words, as reports name them: the read-out, "tokens", "layers 4, 8"."""
        of = "" if self.layers is None else f"layers {', '.join(map(str, self.layers))}"
        if not self.per_token:
            return of or self.readout
        return "tokens" + (f" of {of}" if of else " of all layers" if self.readout == "layers" else "")


@dataclass(frozen=True)
class Rows:
    """Rows of a split: features (n, D) or (n, L, D), labels (n, ...), and the sample that each row belongs to (n,)."""

    x: np.ndarray
    y: np.ndarray
    sample: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def subset(self, most: int | None, seed: int) -> Rows:
        """At most `most` rows, drawn at random, in order."""
        index = random_subset(len(self), most, seed)
        return self if index is None else Rows(self.x[index], self.y[index], self.sample[index])


@dataclass(frozen=True)
class Postprocess:
    """Post-processing of features by name, see `ssl_core.evaluation.postprocess`. components: of `whiten`."""

    name: PostprocessName = "none"
    components: int = 64

    @classmethod
    def of(cls, options: EvaluateOptions) -> Postprocess:
        """That of the options of an evaluation."""
        return cls(options.postprocess, options.components)

    def apply(self, train: Rows, other: Rows, seed: int) -> tuple[Rows, Rows]:
        """Both rows, transformed with constants of `train` alone."""
        if self.name == "none":
            return train, other
        transform = fit_postprocess(self.name, train.x, self.components, seed)
        return replace(train, x=transform(train.x)), replace(other, x=transform(other.x))


NO_POSTPROCESS = Postprocess()


def random_subset(count: int, most: int | None, seed: int) -> np.ndarray | None:
    """At most `most` of the numbers below `count`, drawn at random, in order; None for all of them."""
    if most is None or count <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def probe_seed(options: EvaluateOptions, seed: int) -> int:
    """Seed of the probes of a run with this seed."""
    return seed if options.seed is None else options.seed


def probe_values(name: str, probe_class: Any, options: EvaluateOptions, seed: int) -> dict[str, Any]:
    """Values for the options of a probe class: those that it takes from the section evaluate, then its own."""
    values = {key: getattr(options, key) for key in probe_class.evaluate_options}
    if "seed" in values:
        values["seed"] = probe_seed(options, seed)
    return values | options.probe_options.get(name, {})


def make_probes(classes: Mapping[str, Any], options: EvaluateOptions, seed: int) -> dict[str, Probe]:
    """By name: probes with their options, for a run with this seed."""
    return {
        name: probe_class(probe_class.Options(**probe_values(name, probe_class, options, seed)))
        for name, probe_class in classes.items()
    }


def group_by_features(
    probes: Mapping[str, Probe], task: Task, readout: str = "last"
) -> dict[FeatureSpec, dict[str, Probe]]:
    """Probes by the features that they read, so that each kind of features is computed once.

    Probes of token features read the tokens of the last layer, whatever the read-out, unless they name layers. In a
    per-token task the read-out "layers" is that of single tokens.
    """
    groups: dict[FeatureSpec, dict[str, Probe]] = {}
    for name, probe in probes.items():
        own = probe.per_token or probe.layers is not None
        spec = FeatureSpec(probe.per_token or task.per_token, probe.layers, "last" if own else readout)
        groups.setdefault(spec, {})[name] = probe
    return groups


def score(
    task: Task,
    train: tuple[np.ndarray, np.ndarray | None],
    test: tuple[np.ndarray, np.ndarray | None],
    probes: Mapping[str, Probe],
    metrics: Iterable[str] = (),
    seed: int = 0,
    observe: Callable[[str, np.ndarray, Rows], None] | None = None,
    postprocess: Postprocess = NO_POSTPROCESS,
) -> list[dict[str, Any]]:
    """Fit probes on the training split and score them on the test split.

    Entries equal to `task.ignore` count neither in training nor in the metric.

    Args:
        task: Task that the labels belong to.
        train: Features and labels of the training split. Features are (n, D), or (n, L, D) for a per-token task or
            for probes that read token features.
        test: The same of the test split.
        probes: Probes by name, all of which read these features.
        metrics: Names of metrics besides the task's own.
        seed: Seed of the draw of test rows, where a probe predicts some of them only.
        observe: Called for each probe with its name, its scores and the test rows that it scored.
        postprocess: What is done to the features first, with constants of the training rows; not to the token features
            of a sample (n, L, D).

    Returns:
        A row for each probe and metric, with the keys probe, metric, higher_is_better, value (None if undefined),
        standard_error (None if unknown), n_train and n_test (samples, or tokens of a per-token task), postprocess,
        details.

    Raises:
        DataError: If labels or features do not fit the task.
        PluginError: If the task's metric does not fit it, or a probe returns scores or details that cannot be used.
        ConfigError: If one of `metrics` is unknown or does not fit the task.
    """
    # scikit-learn takes a second to import, and the functions above are needed by every command
    from ssl_core.evaluation.metrics import METRICS, measure, tasks_by_metric

    tasks = tasks_by_metric(task, metrics)
    token_features = any(probe.per_token for probe in probes.values())
    train_rows = rows_of(task, *train, "training", token_features)
    test_rows = rows_of(task, *test, "test", token_features)
    if train_rows.x.shape[1:] != test_rows.x.shape[1:]:
        shapes = [rows.x.shape[1:] if rows.x.ndim > 2 else rows.x.shape[1] for rows in (train_rows, test_rows)]
        raise DataError(f"training features have width {shapes[0]}, test features {shapes[1]}")
    if train_rows.x.ndim > 2:
        postprocess = NO_POSTPROCESS
    train_rows, test_rows = postprocess.apply(train_rows, test_rows, seed)

    def of_probe(name: str, probe: Probe) -> list[dict[str, Any]]:
        predictor = probe.fit_groups(train_rows.x, train_rows.y, task, train_rows.sample)
        scored = test_rows.subset(probe.max_test_rows, seed)
        scores = _checked_scores(name, task, predictor.predict_scores(scored.x), len(scored))
        if observe is not None:
            observe(name, scores, scored)
        details = _checked_details(name, getattr(predictor, "details", {}))
        n_train = getattr(predictor, "n_train", None)
        rows = []
        for one in tasks:
            result = measure(one, scores, scored.y, scored.sample if task.per_token else None)
            rows.append({
                "probe": name, "metric": one.metric, "higher_is_better": METRICS[one.metric].higher_is_better,
                "value": result.value, "standard_error": result.standard_error,
                "n_train": len(train_rows) if n_train is None else n_train, "n_test": len(scored),
                "postprocess": postprocess.name,
                "details": details | ({"notes": list(result.notes)} if result.notes else {}),
            })  # fmt: skip
        return rows

    return [row for name, probe in probes.items() for row in of_probe(name, probe)]


def _checked_scores(name: str, task: Task, scores: np.ndarray, count: int) -> np.ndarray:
    """Scores of a probe as an array. Raises PluginError for another shape, or numbers that are not finite."""
    scores = np.asarray(scores)
    expected = (count,) if task.kind == "number" else (count, task.size)
    if scores.shape != expected and not (task.kind == "number" and scores.shape == (count, 1)):
        raise PluginError(
            f"probe '{name}': predict_scores returned the shape {scores.shape} for task '{task.title}'; "
            f"return {expected}"
        )
    if not np.isfinite(scores).all():
        raise PluginError(f"probe '{name}': predict_scores returned numbers that are not finite")
    return scores


def _checked_details(name: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Details of a predictor as a dict. Raises PluginError for what a report cannot hold."""
    try:
        json.dumps(dict(details))
    except (TypeError, ValueError) as error:
        raise PluginError(f"probe '{name}': details must be values of JSON ({error})") from None
    return dict(details)


def rows_of(
    task: Task, features: np.ndarray, labels: np.ndarray | None, split: str, token_features: bool = False
) -> Rows:  # fmt: skip
    """Features and labels as rows, without ignored entries.

    A row is a sample, or one token of a per-token task. With `token_features` the row of a sample is (L, D).

    Raises:
        DataError: If features or labels do not fit the task; the message names the split.
    """
    if labels is None:
        raise DataError(f"task '{task.title}': the {split} split has no labels")
    labels = np.asarray(labels)
    ndim = 3 if task.per_token or token_features else 2
    if features.ndim != ndim:
        raise DataError(f"task '{task.title}': {split} features have shape {features.shape}, expected {ndim} axes")
    lead = features.shape[: 2 if task.per_token else 1]
    expected = (*lead, task.size) if task.kind == "labels" else lead
    if labels.shape != expected and labels.shape != (*expected, 1):
        raise DataError(f"task '{task.title}': {split} labels have shape {labels.shape}, expected {expected}")
    x = features.reshape(-1, features.shape[-1]) if task.per_token else features
    y = labels.reshape(len(x), -1) if task.kind == "labels" else labels.reshape(-1)
    sample = np.arange(len(features)).repeat(len(x) // max(len(features), 1))
    if task.ignore is not None:
        counted = (y != task.ignore).any(axis=1) if y.ndim == 2 else y != task.ignore
        x, y, sample = x[counted], y[counted], sample[counted]
    if len(x) == 0:
        raise DataError(f"task '{task.title}': the {split} split has no label to count")
    return Rows(x, _checked_labels(task, y, split), sample)


def _checked_labels(task: Task, y: np.ndarray, split: str) -> np.ndarray:
    """Labels as int64, or float64 for a number. Raises DataError for a value that the task does not have."""
    if task.kind == "number":
        bad = ~np.isfinite(y.astype(np.float64))
        expected = "finite numbers"
    else:
        size = task.size if task.kind == "classes" else 2
        bad = ~np.isin(y, np.arange(size))
        expected = f"whole numbers from 0 to {size - 1}"
    if bad.any():
        raise DataError(f"task '{task.title}': {split} labels must be {expected}, found {y[bad][0]}")
    return y.astype(np.float64 if task.kind == "number" else np.int64)
