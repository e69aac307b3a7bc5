"""Gradient-boosted trees, the usual baseline for tables of hand-made features."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from ssl_core.data import Task
from ssl_core.evaluation.protocols import FunctionPredictor

ABSENT_CLASS_SCORE = -1e9  # of a class that the training data lacks; finite, so that rankings stay defined
LEAST_PROBABILITY = 1e-12


def fit_trees(
    task: Task, features: np.ndarray, labels: np.ndarray, iterations: int = 100, lr: float = 0.1, seed: int = 0
) -> FunctionPredictor:
    """scikit-learn's histogram-based gradient boosting: one model, or one for each of several labels.

    Class scores are log-probabilities, label scores log-odds. Details: "iterations".

    Args:
        task: Task of the labels.
        features: (n, F) training features; NaN is a missing value.
        labels: Training labels.
        iterations: Trees, for each class if there are more than two.
        lr: Learning rate.
        seed: Seed of the model.
    """
    options = {"max_iter": iterations, "learning_rate": lr, "early_stopping": False, "random_state": seed}
    details = {"iterations": iterations, "lr": lr}
    if task.kind == "number":
        regressor = HistGradientBoostingRegressor(**options).fit(features, labels)
        return FunctionPredictor(regressor.predict, details)
    columns = [labels] if task.kind == "classes" else list(labels.T)
    models = [
        HistGradientBoostingClassifier(**options).fit(features, column) if np.ptp(column) else int(column[0])
        for column in columns
    ]

    def predict_scores(test: np.ndarray) -> np.ndarray:
        size = task.size if task.kind == "classes" else 2
        scores = [_log_probabilities(model, test, size) for model in models]
        return scores[0] if task.kind == "classes" else np.stack([s[:, 1] - s[:, 0] for s in scores], axis=1)

    return FunctionPredictor(predict_scores, details)


def _log_probabilities(model: HistGradientBoostingClassifier | int, test: np.ndarray, size: int) -> np.ndarray:
    """Log-probabilities (n, size) of a model, or of the only class that there is."""
    scores = np.full((len(test), size), ABSENT_CLASS_SCORE)
    if isinstance(model, int):
        scores[:, model] = 0.0
    else:
        scores[:, model.classes_] = np.log(np.maximum(model.predict_proba(test), LEAST_PROBABILITY))
    return scores
