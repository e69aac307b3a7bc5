"""k nearest neighbours on frozen features: no training, no scale to choose, a second opinion on the linear probe."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from ssl_core.data import Task
from ssl_core.evaluation.linear import Scored

TEMPERATURE = 0.07
QUERIES = 16_384  # of one look-up: they bound what is held for test rows beside their features and votes


def knn(task: Task, train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, k: int) -> Scored:
    """Weighted vote of the `k` most similar training rows, or of all where there are fewer.

    Similarity is the cosine of features (n, D); a neighbour weighs exp(similarity / 0.07), as in Wu et al. (2018),
    section 3.4. Returns the scores of metrics.py: shares of the vote for classes, share minus one half for labels,
    the weighted mean for a number. Details: the k that was used.
    """
    k = min(k, len(train_x))
    # On the unit sphere the square of the distance is 2 - 2 cosine, and scikit-learn is several times faster at it
    model = NearestNeighbors(n_neighbors=k, metric="sqeuclidean", algorithm="brute").fit(normalize(train_x))
    labels = np.asarray(train_y)
    votes = np.zeros((len(test_x), *((task.size,) if task.kind == "classes" else labels.shape[1:])))
    for start in range(0, len(test_x), QUERIES):
        few = slice(start, start + QUERIES)
        squares, found = model.kneighbors(normalize(test_x[few]))
        _vote(task, labels[found], _weights(squares), votes[few])
    return votes - 0.5 if task.kind == "labels" else votes, {"k": k}


def _vote(task: Task, near: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Labels (n, k, ...) of the neighbours and their weights (n, k) to shares or means, written to `out` (n, ...).

    A class that no neighbour has keeps its zero, so nothing as wide as rows times classes is made for training rows.
    """
    whole = weights.sum(axis=1)
    if task.kind == "classes":
        for label in np.unique(near):
            out[:, label] = ((near == label) * weights).sum(axis=1) / whole
    elif near.ndim == 2:
        out[:] = (near * weights).sum(axis=1) / whole
    else:
        for j in range(near.shape[2]):
            out[:, j] = (near[:, :, j] * weights).sum(axis=1) / whole


def _weights(squares: np.ndarray) -> np.ndarray:
    """(n, k) squared distances of unit vectors to weights, that of the nearest of each row 1."""
    nearest = squares.min(axis=1, keepdims=True)
    return np.exp((nearest - squares) / (2 * TEMPERATURE))
