"""k nearest neighbours on frozen features: no training, no scale to choose, a second opinion on the linear probe."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import normalize

from ssl_core.data import Task
from ssl_core.evaluate.linear import Scored

TEMPERATURE = 0.07


def knn(task: Task, train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, k: int) -> Scored:
    """Weighted vote of the `k` most similar training rows, or of all where there are fewer.

    Similarity is the cosine of features (n, D); a neighbour weighs exp(similarity / 0.07), as in Wu et al. (2018),
    section 3.4. Returns the scores of metrics.py: shares of the vote for classes, share minus one half for labels,
    the weighted mean for a number. Details: the k that was used.
    """
    k = min(k, len(train_x))
    if task.kind == "classes":
        wanted = np.eye(task.size, dtype=np.float32)[train_y]
    else:
        wanted = np.asarray(train_y, dtype=np.float64)
    # The vote for each class is a regression on its indicator, so one model serves every kind of task. On the unit
    # sphere the square of the distance is 2 - 2 cosine, and scikit-learn is several times faster at it.
    model = KNeighborsRegressor(n_neighbors=k, weights=_weights, metric="sqeuclidean", algorithm="brute")
    votes = model.fit(normalize(train_x), wanted).predict(normalize(test_x))
    return votes - 0.5 if task.kind == "labels" else votes, {"k": k}


def _weights(squares: np.ndarray) -> np.ndarray:
    """(n, k) squared distances of unit vectors to weights, that of the nearest of each row 1."""
    nearest = squares.min(axis=1, keepdims=True)
    return np.exp((nearest - squares) / (2 * TEMPERATURE))
