"""k nearest neighbours on frozen features, weighted by cosine similarity."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from ssl_core.data import Task
from ssl_core.evaluation.protocols import FunctionPredictor

TEMPERATURE = 0.07
QUERIES = 16_384  # test rows per look-up: bounds the memory for their neighbours


def fit_knn(task: Task, features: np.ndarray, labels: np.ndarray, k: int) -> FunctionPredictor:
    """A weighted vote of the `k` most similar training rows, or of all where there are fewer.

    Similarity is the cosine of features (n, D); the weight of a neighbour is exp(similarity / 0.07), as in Wu et al.
    (2018), section 3.4. The scores (metrics.py) are shares of the vote for classes, share minus one half for labels,
    and the weighted mean for a number. Details: the k that is used.
    """
    k = min(k, len(features))
    # on the unit sphere the squared distance is 2 - 2 cosine, which scikit-learn computes several times faster
    model = NearestNeighbors(n_neighbors=k, metric="sqeuclidean", algorithm="brute").fit(normalize(features))
    labels = np.asarray(labels)

    def predict_scores(queries: np.ndarray) -> np.ndarray:
        votes = np.zeros((len(queries), *((task.size,) if task.kind == "classes" else labels.shape[1:])))
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            distances, neighbours = model.kneighbors(normalize(queries[part]))
            _vote(task, labels[neighbours], _weights(distances), votes[part])
        return votes - 0.5 if task.kind == "labels" else votes

    return FunctionPredictor(predict_scores, {"k": k}, len(features))


def _vote(task: Task, neighbour_labels: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Write shares or means of labels (n, k, ...) with weights (n, k) to `out` (n, ...).

    `out` holds zeros. A class that no neighbour has keeps its zero, so no array is as large as training rows times
    classes.
    """
    total = weights.sum(axis=1)
    if task.kind == "classes":
        for label in np.unique(neighbour_labels):
            out[:, label] = ((neighbour_labels == label) * weights).sum(axis=1) / total
    elif neighbour_labels.ndim == 2:
        out[:] = (neighbour_labels * weights).sum(axis=1) / total
    else:
        for j in range(neighbour_labels.shape[2]):
            out[:, j] = (neighbour_labels[:, :, j] * weights).sum(axis=1) / total


def _weights(distances: np.ndarray) -> np.ndarray:
    """Squared distances (n, k) of unit vectors to weights, 1 for the nearest of each row."""
    nearest = distances.min(axis=1, keepdims=True)
    return np.exp((nearest - distances) / (2 * TEMPERATURE))
