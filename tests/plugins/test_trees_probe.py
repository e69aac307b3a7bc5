"""Boosted trees as a probe."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_core import Task
from ssl_plugins.probes.trees import TreesProbe

pytestmark = pytest.mark.fast


def fit(task, x, y, **options):
    return TreesProbe(TreesProbe.Options(**options)).fit(x, y, task)


def data(seed, count=300):
    """Features of which two decide together: no linear probe finds that."""
    x = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int64)


def test_classes_labels_and_numbers():
    (x, y), (test, expected) = data(0), data(1)
    scores = fit(Task("classes", 2, "accuracy"), x, y).predict_scores(test)
    assert np.mean(scores.argmax(axis=1) == expected) > 0.85
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-6)
    labels = np.stack([y, x[:, 2] > 0], axis=1).astype(np.int64)
    several = fit(Task("labels", 2, "auroc"), x, labels).predict_scores(test)
    assert np.mean((several > 0) == np.stack([expected, test[:, 2] > 0], axis=1)) > 0.85
    number = fit(Task("number", 1, "pearson"), x, (x[:, 0] * x[:, 1]).astype(np.float64)).predict_scores(test)
    assert np.corrcoef(number, test[:, 0] * test[:, 1])[0, 1] > 0.8


def test_missing_classes_and_values():
    x, y = data(0)
    predictor = fit(Task("classes", 4, "accuracy"), x, 2 * y + 1, iterations=5)
    scores = predictor.predict_scores(np.full((3, 4), np.nan, np.float32))
    assert scores.shape == (3, 4)
    assert np.isfinite(scores).all()
    assert scores[:, [0, 2]].max() < scores[:, [1, 3]].min() - 1000
    alone = fit(Task("classes", 4, "accuracy"), x, np.full(300, 2)).predict_scores(x)
    assert (alone.argmax(axis=1) == 2).all()
    never = fit(Task("labels", 2, "auroc"), x, np.stack([y, np.zeros_like(y)], axis=1), iterations=5).predict_scores(x)
    assert (never[:, 1] < 0).all()
    assert predictor.details == {"iterations": 5, "lr": 0.1}
