"""Metrics over a whole evaluation set, never averaged over batches (protocol D55), with standard errors.

What probes hand over as `scores`, for n rows (samples, or the tokens of a per-token task):
- "classes": (n, size); the largest is the prediction.
- "labels": (n, size); a label is predicted where its score is above zero, which is probability 0.5.
- "number": (n,); the prediction itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from ssl_core.data import MetricName, Task
from ssl_core.errors import PluginError

BOOTSTRAP = 500


@dataclass(frozen=True)
class Measured:
    """A metric. value: None where it is undefined. standard_error: None where it is not known. notes: why, if so."""

    value: float | None
    standard_error: float | None = None
    notes: tuple[str, ...] = ()


def fitting(task: Task) -> tuple[MetricName, ...]:
    """The metrics that are defined for a task of this kind and size."""
    if task.kind == "number":
        return ("pearson", "spearman")
    if task.kind == "classes" and task.size == 2:
        return ("accuracy", "weighted_f1", "auroc", "pearson", "spearman")
    return ("accuracy", "weighted_f1", "auroc")


def check(task: Task) -> None:
    """Errors: PluginError if the task's metric is not defined for its kind."""
    if task.metric not in fitting(task):
        raise PluginError(
            f"task '{task.title}': metric '{task.metric}' does not fit kind '{task.kind}' with size {task.size}; "
            f"use one of {', '.join(fitting(task))}"
        )


def measure(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> Measured:
    """The task's metric.

    scores: as above. labels: (n,) int classes, (n, size) of 0 and 1, or (n,) numbers. groups: (n,) int, the sample
    that each row belongs to, if several rows share one (tokens). Errors: PluginError as in `check`.

    - accuracy: share of correct rows; for "labels" the mean over rows and labels of correctness at 0.5.
    - weighted_f1: F1 of each class or label weighted by its count in `labels`; 0 where nothing was predicted.
    - auroc: with two classes that of the second; else the unweighted mean over classes (one against the rest) or
      labels. Those with one value only in `labels` have none and are left out, with a note.
    - pearson, spearman: with two classes between the score of the second and the label. 0.0, with a note, for
      constant predictions.

    Standard errors are over the drawing of test samples, with the probe as it is: exact for the mean of correctness
    (binomial for one label a sample; tokens of one sample move together), bootstrap for the F1 of classes, Hanley
    and McNeil (1982) for AUROC (their mean over labels, an upper bound), (1 - r^2) / sqrt(n - 1) for Pearson, Bonett
    and Wright (2000) for Spearman. Unknown for the F1 of labels, and for tokens except in accuracy.
    """
    check(task)
    scores = np.asarray(scores, dtype=np.float64)
    measured = _METRICS[task.metric](task, scores, np.asarray(labels), groups)
    if groups is not None and task.metric != "accuracy":
        return Measured(measured.value, None, measured.notes)
    return measured


def decide(task: Task, scores: np.ndarray) -> np.ndarray:
    """Predictions of scores: (n,) classes, (n, size) of 0 and 1, or (n,) numbers."""
    if task.kind == "classes":
        return scores.argmax(axis=1)
    return (scores > 0).astype(np.int64) if task.kind == "labels" else scores


def _accuracy(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Measured:
    predicted = decide(task, scores)
    if task.kind == "labels":
        value = 1.0 - sk.hamming_loss(labels, predicted)
        correct = (predicted == labels).mean(axis=1)
    else:
        value = sk.accuracy_score(labels, predicted)
        correct = (predicted == labels).astype(np.float64)
    return Measured(float(value), _error_of_mean(correct, groups))


def _error_of_mean(values: np.ndarray, groups: np.ndarray | None) -> float:
    """Standard error of a mean over rows; rows of one group count as one draw (linearised ratio estimator)."""
    residuals = values - values.mean()
    if groups is not None:
        residuals = np.bincount(np.unique(groups, return_inverse=True)[1], weights=residuals)
    return float(np.sqrt(np.square(residuals).sum()) / len(values))


def _weighted_f1(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Measured:
    predicted = decide(task, scores)
    value = float(sk.f1_score(labels, predicted, average="weighted", zero_division=0))
    if task.kind == "labels":
        return Measured(value)
    confusion = sk.confusion_matrix(labels, predicted)
    # F1 depends on the confusion matrix alone, so drawing matrices is the same as drawing samples, and quicker
    drawn = np.random.default_rng(0).multinomial(len(labels), confusion.ravel() / len(labels), size=BOOTSTRAP)
    return Measured(value, float(_f1_of(drawn.reshape(BOOTSTRAP, *confusion.shape)).std()))


def _f1_of(confusions: np.ndarray) -> np.ndarray:
    """Weighted F1 of each confusion matrix, (R, C, C) with true classes in rows, to (R,)."""
    true, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    return (f1 * true).sum(axis=1) / true.sum(axis=1)


def _auroc(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Measured:
    if task.kind == "labels":
        truth, what = labels > 0, "labels"
    elif task.size == 2:
        truth, scores, what = (labels == 1)[:, None], _second(scores)[:, None], "classes"
    else:
        truth, what = labels[:, None] == np.arange(task.size), "classes"
    defined = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if len(defined) == 0:
        return Measured(None, None, ("AUROC is undefined: the test split holds one value of the label only",))
    areas = np.array([sk.roc_auc_score(truth[:, j], scores[:, j]) for j in defined])
    errors = [_auroc_error(area, truth[:, j]) for area, j in zip(areas, defined, strict=True)]
    notes = []
    if len(defined) < truth.shape[1]:
        missing = sorted(set(range(truth.shape[1])) - set(defined.tolist()))
        notes.append(f"AUROC leaves out {what} {', '.join(map(str, missing))}: one value only in the test split")
    return Measured(float(areas.mean()), float(np.mean(errors)), tuple(notes))


def _auroc_error(area: float, truth: np.ndarray) -> float:
    """Hanley and McNeil (1982), equations 1 and 2."""
    yes = int(truth.sum())
    no = len(truth) - yes
    both_yes, both_no = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (yes - 1) * (both_yes - area**2) + (no - 1) * (both_no - area**2)
    return float(np.sqrt(max(spread, 0.0) / (yes * no)))


def _second(scores: np.ndarray) -> np.ndarray:
    """(n, 2) to (n,): how much the second class is preferred; log-odds if the scores are log-probabilities."""
    return scores[:, 1] - scores[:, 0]


def _correlation(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Measured:
    predicted = _second(scores) if task.kind == "classes" else scores.reshape(-1)
    labels = labels.reshape(-1).astype(np.float64)
    count = len(labels)
    if count < 2 or np.ptp(labels) == 0:
        return Measured(None, None, ("the correlation is undefined: the labels of the test split are all the same",))
    pearson = task.metric == "pearson"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant input; what is not finite is dealt with below
        found = stats.pearsonr(predicted, labels) if pearson else stats.spearmanr(predicted, labels)
        value = float(found.statistic)
    if np.ptp(predicted) == 0 or not np.isfinite(value):
        return Measured(0.0, None, ("the predictions are constant; their correlation counts as 0",))
    if pearson:
        return Measured(value, (1 - value**2) / float(np.sqrt(count - 1)))
    error = (1 - value**2) * float(np.sqrt((1 + value**2 / 2) / (count - 3))) if count > 3 else None
    return Measured(value, error)


_METRICS: dict[str, Callable[[Task, np.ndarray, np.ndarray, np.ndarray | None], Measured]] = {
    "accuracy": _accuracy,
    "weighted_f1": _weighted_f1,
    "auroc": _auroc,
    "pearson": _correlation,
    "spearman": _correlation,
}
