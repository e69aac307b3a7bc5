"""Metrics over a whole evaluation set, never averaged over batches, with standard errors.

Scores that a probe predicts, for n rows (samples, or the tokens of a per-token task):
- "classes": (n, size); the largest is the prediction.
- "labels": (n, size); a label is predicted where its score is above zero, which is probability 0.5.
- "number": (n,); the prediction itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from ssl_core.data import Task, TaskKind
from ssl_core.errors import ConfigError, PluginError, nearest

BOOTSTRAP_DRAWS = 500


@dataclass(frozen=True)
class MetricValue:
    """Value of a metric.

    value: None where it is undefined. standard_error: None where it is unknown. notes: reasons and exceptions.
    """

    value: float | None
    standard_error: float | None = None
    notes: tuple[str, ...] = ()


Compute: TypeAlias = Callable[[Task, np.ndarray, np.ndarray, np.ndarray | None], MetricValue]


@dataclass(frozen=True)
class Metric:
    """A metric and the tasks that it is defined for.

    compute: maps task, scores, labels and groups to the value. kinds: kinds of tasks. two_classes: also for classes
    if there are two. higher_is_better: whether a larger value is the better one. grouped_error: whether the standard
    error takes rows of one group as one draw; if not, it is unknown for the tokens of a per-token task.
    """

    compute: Compute
    kinds: tuple[TaskKind, ...]
    two_classes: bool = False
    higher_is_better: bool = True
    grouped_error: bool = False

    def fits(self, task: Task) -> bool:
        """Whether the metric is defined for the task's kind and size."""
        return task.kind in self.kinds or (self.two_classes and task.kind == "classes" and task.size == 2)


def matching_metrics(task: Task) -> tuple[str, ...]:
    """Names of the metrics that are defined for a task of this kind and size."""
    return tuple(name for name, metric in METRICS.items() if metric.fits(task))


def check(task: Task) -> None:
    """Check the task's own metric.

    Raises:
        PluginError: If the metric is unknown, or is not defined for the task's kind.
    """
    if task.metric not in METRICS:
        raise PluginError(
            f"task '{task.title}': unknown metric '{task.metric}'; known metrics: {', '.join(sorted(METRICS))}"
        )
    if not METRICS[task.metric].fits(task):
        raise PluginError(f"task '{task.title}': {_does_not_fit(task)}")


def check_names(names: Iterable[str], option: str = "evaluate.metrics") -> None:
    """Check the names of metrics that an option gives.

    Raises:
        ConfigError: If one is unknown; the message has the nearest.
    """
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"{option}: unknown metric '{name}'; {nearest(name, METRICS, 'metric')}")


def tasks_by_metric(task: Task, names: Iterable[str]) -> list[Task]:
    """The task itself, then the same task with each other metric of `names`.

    Raises:
        PluginError: As in `check`, for the task's own metric.
        ConfigError: If a metric of `names` is unknown or is not defined for the task's kind.
    """
    check(task)
    check_names(names)
    tasks = [replace(task, metric=name) for name in dict.fromkeys((task.metric, *names))]
    for one in tasks:
        if not METRICS[one.metric].fits(one):
            raise ConfigError(f"evaluate.metrics: task '{one.title}': {_does_not_fit(one)}")
    return tasks


def _does_not_fit(task: Task) -> str:
    return (
        f"metric '{task.metric}' does not fit kind '{task.kind}' with size {task.size}; "
        f"use one of {', '.join(matching_metrics(task))}"
    )


def measure(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> MetricValue:
    """The task's metric with its standard error.

    - accuracy: share of correct rows; for "labels" the mean over rows and labels of correctness at 0.5.
    - balanced_accuracy: mean over classes of the share of their rows that is correct.
    - weighted_f1, macro_f1: F1 of each class or label, its mean weighted by their counts in `labels` or unweighted;
      0 where nothing was predicted. macro_f1 counts the classes that occur in `labels` or predictions.
    - auroc: with two classes that of the second; else the unweighted mean over classes (one against the rest) or
      labels. Those with one value only in `labels` have none and are left out, with a note.
    - map: average precision, averaged like auroc; classes or labels without a positive row are left out, with a
      note.
    - pearson, spearman: with two classes between the score of the second and the label. 0.0, with a note, for
      constant predictions.
    - r2: 1 - sum of squared errors / sum of squared deviations of the labels from their mean; undefined, with a note,
      for constant labels.
    - mae: mean absolute error, in units of the label.

    Standard errors are over the drawing of test samples, with the probe as it is:

    - accuracy, mae: standard error of a mean; tokens of one sample count as one draw.
    - balanced_accuracy: binomial within each class, with the counts of the classes as they are.
    - weighted_f1, macro_f1 of classes: bootstrap of the confusion matrix. Unknown for labels.
    - auroc: Hanley and McNeil (1982); mean over labels, an upper bound.
    - map: sqrt(AP (1 - AP) / positives), the binomial interval of Boyd, Eng and Page (2013); mean over labels.
    - pearson: (1 - r^2) / sqrt(n - 1). spearman: Bonett and Wright (2000).
    - r2: delta method for a ratio of two means.

    For the tokens of a per-token task only those of accuracy and mae are known.

    Args:
        task: Task with the metric.
        scores: Scores in the form that the module's docstring describes.
        labels: (n,) int classes, (n, size) of 0 and 1, or (n,) numbers.
        groups: (n,) int, the sample that each row belongs to, if several rows share one (tokens).

    Raises:
        PluginError: As in `check`.
    """
    check(task)
    metric = METRICS[task.metric]
    result = metric.compute(task, np.asarray(scores, dtype=np.float64), np.asarray(labels), groups)
    draws = len(scores) if groups is None else len(np.unique(groups))
    known = draws > 1 and (groups is None or metric.grouped_error)
    return result if known else MetricValue(result.value, None, result.notes)


def decide(task: Task, scores: np.ndarray) -> np.ndarray:
    """Predictions of scores: (n,) classes, (n, size) of 0 and 1, or (n,) numbers."""
    if task.kind == "classes":
        return scores.argmax(axis=1)
    return (scores > 0).astype(np.int64) if task.kind == "labels" else scores


def _accuracy(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    predicted = decide(task, scores)
    if task.kind == "labels":
        value = 1.0 - sk.hamming_loss(labels, predicted)
        correct = (predicted == labels).mean(axis=1)
    else:
        value = sk.accuracy_score(labels, predicted)
        correct = (predicted == labels).astype(np.float64)
    return MetricValue(float(value), _error_of_mean(correct, groups))


def _error_of_mean(values: np.ndarray, groups: np.ndarray | None) -> float:
    """Standard error of a mean over rows; rows of one group count as one draw (linearised ratio estimator)."""
    residuals = values - values.mean()
    if groups is not None:
        residuals = np.bincount(np.unique(groups, return_inverse=True)[1], weights=residuals)
    return float(np.sqrt(np.square(residuals).sum()) / len(values))


def _balanced_accuracy(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    predicted = decide(task, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class may be predicted that the test split lacks: noted below
        value = float(sk.balanced_accuracy_score(labels, predicted))
    present, counts = np.unique(labels, return_counts=True)
    recalls = sk.recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    error = float(np.sqrt((recalls * (1 - recalls) / counts).sum()) / len(present))
    return MetricValue(value, error, _left_out("balanced accuracy", "classes", present, task.size, "not"))


def _left_out(metric: str, columns: str, defined: np.ndarray, size: int, reason: str) -> tuple[str, ...]:
    """A note on the classes or labels that a mean leaves out; empty if it has all of them."""
    missing = sorted(set(range(size)) - set(defined.tolist()))
    return (f"{metric} leaves out {columns} {', '.join(map(str, missing))}: {reason} in the test split",) * bool(
        missing
    )


def _weighted_f1(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    return _f1(task, scores, labels, "weighted")


def _macro_f1(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    return _f1(task, scores, labels, "macro")


def _f1(task: Task, scores: np.ndarray, labels: np.ndarray, average: str) -> MetricValue:
    predicted = decide(task, scores)
    if task.kind == "labels":
        if task.size == 1:  # a column of one label looks to scikit-learn like two classes
            return MetricValue(float(sk.f1_score(labels[:, 0], predicted[:, 0], zero_division=0)))
        return MetricValue(float(sk.f1_score(labels, predicted, average=average, zero_division=0)))
    value = float(sk.f1_score(labels, predicted, average=average, zero_division=0))
    # F1 depends on the confusion matrix alone, so drawing matrices is the same as drawing samples, and quicker
    pairs, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=BOOTSTRAP_DRAWS)
    return MetricValue(value, float(_f1_of_confusions(draws, pairs, average).std()))


def _f1_of_confusions(counts: np.ndarray, pairs: np.ndarray, average: str) -> np.ndarray:
    """Weighted or macro F1 of confusion matrices.

    Args:
        counts: (R, K), the entries of each matrix that are not 0 in the data.
        pairs: (2, K), their true and predicted classes.
        average: weighted or macro.

    Returns:
        (R,)
    """
    from scipy.sparse import csr_array

    classes, index = np.unique(pairs, return_inverse=True)
    place = index.reshape(pairs.shape)
    entries = np.arange(pairs.shape[1])

    def by_class(entries: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(R, C), sums of the entries by class."""
        where = csr_array((np.ones(len(entries)), (entries, columns)), shape=(pairs.shape[1], len(classes)))
        return np.asarray(counts @ where)

    true, predicted = by_class(entries, place[0]), by_class(entries, place[1])
    right = entries[place[0] == place[1]]
    correct = by_class(right, place[0][right])
    f1 = 2 * correct / np.maximum(true + predicted, 1)
    weights = true if average == "weighted" else (true + predicted > 0)
    return (f1 * weights).sum(axis=1) / weights.sum(axis=1)


def _auroc(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    truth, scores, columns = _one_against_rest(task, scores, labels)
    defined = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    if len(defined) == 0:
        return MetricValue(None, None, ("AUROC is undefined: the test split holds one value of the label only",))
    areas = np.array([sk.roc_auc_score(truth[:, j], scores[:, j]) for j in defined])
    errors = [_auroc_error(area, truth[:, j]) for area, j in zip(areas, defined, strict=True)]
    notes = _left_out("AUROC", columns, defined, truth.shape[1], "one value only")
    return MetricValue(float(areas.mean()), float(np.mean(errors)), notes)


def _one_against_rest(
    task: Task, scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:  # fmt: skip
    """Truth (n, C) bool, scores (n, C) and what the columns are; with two classes the second is the one column."""
    if task.kind == "labels":
        return labels > 0, scores, "labels"
    if task.size == 2:
        return (labels == 1)[:, None], _second_class(scores)[:, None], "classes"
    return labels[:, None] == np.arange(task.size), scores, "classes"


def _auroc_error(area: float, truth: np.ndarray) -> float:
    """Hanley and McNeil (1982), equations 1 and 2."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))


def _mean_average_precision(
    task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None
) -> MetricValue:  # fmt: skip
    truth, scores, columns = _one_against_rest(task, scores, labels)
    defined = np.flatnonzero(truth.any(axis=0))
    if len(defined) == 0:
        return MetricValue(None, None, ("average precision is undefined: the test split holds no positive label",))
    precisions = np.array([sk.average_precision_score(truth[:, j], scores[:, j]) for j in defined])
    errors = np.sqrt(precisions * (1 - precisions) / truth[:, defined].sum(axis=0))
    notes = _left_out("mean average precision", columns, defined, truth.shape[1], "no positive")
    return MetricValue(float(precisions.mean()), float(errors.mean()), notes)


def _second_class(scores: np.ndarray) -> np.ndarray:
    """(n, 2) to (n,): how much the second class is preferred; log-odds if the scores are log-probabilities."""
    return scores[:, 1] - scores[:, 0]


def _correlation(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    predicted = _second_class(scores) if task.kind == "classes" else scores.reshape(-1)
    labels = labels.reshape(-1).astype(np.float64)
    count = len(labels)
    if count < 2 or np.ptp(labels) == 0:
        return MetricValue(None, None, ("the correlation is undefined: the labels of the test split are all the same",))
    pearson = task.metric == "pearson"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly constant input; a result that is not finite is replaced below
        result = stats.pearsonr(predicted, labels) if pearson else stats.spearmanr(predicted, labels)
        value = float(result.statistic)
    if np.ptp(predicted) == 0 or not np.isfinite(value):
        return MetricValue(0.0, None, ("the predictions are constant; their correlation counts as 0",))
    if count < 4:
        return MetricValue(value, None)
    variance = 1 / (count - 1) if pearson else (1 + value**2 / 2) / (count - 3)
    return MetricValue(value, (1 - value**2) * float(np.sqrt(variance)))


def _r2(task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> MetricValue:
    predicted, labels = scores.reshape(-1), labels.reshape(-1).astype(np.float64)
    if len(labels) < 2 or np.ptp(labels) == 0:
        return MetricValue(None, None, ("R2 is undefined: the labels of the test split are all the same",))
    value = float(sk.r2_score(labels, predicted))
    # R2 = 1 - mean(errors) / mean(spread); derivatives of the ratio give what each row adds to it
    errors, spread = np.square(labels - predicted), np.square(labels - labels.mean())
    influence = (errors - (1 - value) * spread) / spread.mean()
    return MetricValue(value, float(np.sqrt(np.square(influence).mean() / len(labels))))


def _mean_absolute_error(
    task: Task, scores: np.ndarray, labels: np.ndarray, groups: np.ndarray | None
) -> MetricValue:  # fmt: skip
    predicted, labels = scores.reshape(-1), labels.reshape(-1).astype(np.float64)
    value = float(sk.mean_absolute_error(labels, predicted))
    return MetricValue(value, _error_of_mean(np.abs(labels - predicted), groups))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy, ("classes", "labels"), grouped_error=True),
    "balanced_accuracy": Metric(_balanced_accuracy, ("classes",)),
    "weighted_f1": Metric(_weighted_f1, ("classes", "labels")),
    "macro_f1": Metric(_macro_f1, ("classes", "labels")),
    "auroc": Metric(_auroc, ("classes", "labels")),
    "map": Metric(_mean_average_precision, ("classes", "labels")),
    "pearson": Metric(_correlation, ("number",), two_classes=True),
    "spearman": Metric(_correlation, ("number",), two_classes=True),
    "r2": Metric(_r2, ("number",)),
    "mae": Metric(_mean_absolute_error, ("number",), higher_is_better=False, grouped_error=True),
}
"""By name; a new metric is one entry here."""
