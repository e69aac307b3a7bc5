"""Scores of frozen features: what simple probes, fitted on one split, read from them on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_core.data import Task
from ssl_core.errors import DataError
from ssl_core.evaluation.options import EvaluateOptions


@dataclass(frozen=True)
class Rows:
    """What a probe sees: features (n, D), labels (n, ...), and the sample that each row belongs to (n,)."""

    x: np.ndarray
    y: np.ndarray
    sample: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def per_sample(self, samples: int) -> int:
        """How many rows so many samples have on average."""
        return max(1, round(samples * len(self) / len(np.unique(self.sample))))

    def draw(self, most: int | None, seed: int) -> Rows:
        """At most so many rows, drawn at random, in order."""
        chosen = drawn(len(self), most, seed)
        return self if chosen is None else Rows(self.x[chosen], self.y[chosen], self.sample[chosen])


def drawn(count: int, most: int | None, seed: int) -> np.ndarray | None:
    """At most so many of `count` numbers, drawn at random, in order; None for all of them."""
    if most is None or count <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def score(
    task: Task,
    train_features: np.ndarray,
    train_labels: np.ndarray | None,
    test_features: np.ndarray,
    test_labels: np.ndarray | None,
    options: EvaluateOptions,
    seed: int,
) -> list[dict[str, Any]]:
    """One row for each probe, fitted on the training split and scored on a held-out split, here called test.

    Features: (n, D), or (n, L, D) with `task.per_token`. Keys of a row: probe, metric, value (None if undefined),
    standard_error (None if unknown), n_train and n_test (samples, or the tokens that count), details. What
    `max_train` and `max_test` leave out is left out by the caller, before features are made. Entries equal
    to `task.ignore` count neither in training nor in the metric.

    Raises:
        DataError: labels or features do not fit the task.
        PluginError: the metric does not fit the task.
    """
    # scikit-learn takes a second to import, and the options above are needed by every command
    from ssl_core.evaluation import knn, linear, metrics

    metrics.check(task)
    seed = seed if options.seed is None else options.seed
    train = rows_of(task, train_features, train_labels, "training")
    test = rows_of(task, test_features, test_labels, "test")
    if train.x.shape[1] != test.x.shape[1]:
        raise DataError(f"training features have width {train.x.shape[1]}, test features {test.x.shape[1]}")
    rows = []
    for probe in dict.fromkeys(options.probes):
        fit, asked = train, test
        if probe == "knn":
            fit = train.draw(options.knn_tokens if task.per_token else None, seed).draw(options.knn_train, seed)
            asked = test.draw(options.knn_test, seed)
            scores, details = knn.knn(task, fit.x, fit.y, asked.x, options.k)
        elif options.linear in ("adam", "adamw"):
            scores, details = linear.adam(
                task, fit.x, fit.y, test.x, epochs=options.epochs, batch_size=fit.per_sample(options.batch_size),
                lr=options.lr, weight_decay=options.weight_decay, seed=seed, decoupled=options.linear == "adamw",
            )  # fmt: skip
        else:
            scores, details = linear.logistic(task, fit.x, fit.y, test.x, options.c, options.max_iter)
        measured = metrics.measure(task, scores, asked.y, asked.sample if task.per_token else None)
        if measured.notes:
            details["notes"] = list(measured.notes)
        rows.append({
            "probe": probe, "metric": task.metric, "value": measured.value, "standard_error": measured.standard_error,
            "n_train": len(fit), "n_test": len(asked), "details": details,
        })  # fmt: skip
    return rows


def rows_of(task: Task, features: np.ndarray, labels: np.ndarray | None, split: str) -> Rows:
    """Features and labels as rows: tokens laid out one after the other, ignored entries left out.

    Raises:
        DataError: features or labels do not fit the task; the message names the split.
    """
    if labels is None:
        raise DataError(f"task '{task.title}': the {split} split has no labels")
    labels = np.asarray(labels)
    ndim = 3 if task.per_token else 2
    if features.ndim != ndim:
        raise DataError(f"task '{task.title}': {split} features have shape {features.shape}, expected {ndim} axes")
    lead = features.shape[: ndim - 1]
    wanted = (*lead, task.size) if task.kind == "labels" else lead
    if labels.shape != wanted and labels.shape != (*wanted, 1):
        raise DataError(f"task '{task.title}': {split} labels have shape {labels.shape}, expected {wanted}")
    x = features.reshape(-1, features.shape[-1])
    y = labels.reshape(len(x), -1) if task.kind == "labels" else labels.reshape(-1)
    sample = np.arange(len(features)).repeat(len(x) // max(len(features), 1))
    if task.ignore is not None:
        keep = (y != task.ignore).any(axis=1) if y.ndim == 2 else y != task.ignore
        x, y, sample = x[keep], y[keep], sample[keep]
    if len(x) == 0:
        raise DataError(f"task '{task.title}': the {split} split has no label to count")
    return Rows(x, _checked(task, y, split), sample)


def _checked(task: Task, y: np.ndarray, split: str) -> np.ndarray:
    """Labels as int64, or float64 for a number.

    Raises:
        DataError: a value that the task does not have.
    """
    if task.kind == "number":
        bad = ~np.isfinite(y.astype(np.float64))
        what = "finite numbers"
    else:
        most = task.size if task.kind == "classes" else 2
        bad = ~np.isin(y, np.arange(most))
        what = f"whole numbers from 0 to {most - 1}"
    if bad.any():
        raise DataError(f"task '{task.title}': {split} labels must be {what}, found {y[bad][0]}")
    return y.astype(np.float64 if task.kind == "number" else np.int64)
