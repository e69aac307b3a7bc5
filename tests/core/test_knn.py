"""k nearest neighbours against votes by hand, for every kind of task."""

import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import normalize

from ssl_core.data import Task
from ssl_core.evaluation import knn as module
from ssl_core.evaluation.knn import TEMPERATURE, fit_knn
from ssl_core.evaluation.metrics import measure


def knn(task, train_x, labels, test_x, k):
    """Scores of the test rows and details."""
    predictor = fit_knn(task, train_x, labels, k)
    return predictor.predict_scores(test_x), predictor.details


def by_hand(train_x, targets, test_x, k):
    """Weighted mean of the k most similar rows, one test row at a time."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(test_x) @ unit(train_x).T
    out = []
    for row in similarity:
        nearest = np.argsort(-row)[:k]
        weights = np.exp(row[nearest] / TEMPERATURE)
        out.append((weights[:, None] * targets[nearest]).sum(axis=0) / weights.sum())
    return np.array(out)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)), rng.normal(size=(15, 5)), rng


def test_classes_by_hand(data):
    train, test, rng = data
    labels = rng.integers(4, size=60)
    scores, details = knn(Task("classes", 4, "accuracy"), train, labels, test, 7)
    np.testing.assert_allclose(scores, by_hand(train, np.eye(4)[labels], test, 7), rtol=1e-6)
    assert details == {"k": 7}


def test_scores_of_labels_are_shares_minus_one_half(data):
    train, test, rng = data
    labels = rng.integers(2, size=(60, 3))
    scores, _ = knn(Task("labels", 3, "accuracy"), train, labels, test, 5)
    np.testing.assert_allclose(scores + 0.5, by_hand(train, labels, test, 5), rtol=1e-6)


def test_scores_of_numbers_are_weighted_means(data):
    train, test, rng = data
    labels = rng.normal(size=60)
    scores, _ = knn(Task("number", 1, "pearson"), train, labels, test, 5)
    np.testing.assert_allclose(scores, by_hand(train, labels[:, None], test, 5)[:, 0], rtol=1e-6)


def test_scores_do_not_depend_on_the_norm_of_features(data):
    train, test, rng = data
    labels = rng.integers(3, size=60)
    task = Task("classes", 3, "accuracy")
    lengths = rng.uniform(0.01, 100, size=(60, 1))
    np.testing.assert_allclose(
        knn(task, train, labels, test, 5)[0], knn(task, lengths * train, labels, 9 * test, 5)[0], rtol=1e-6
    )


def test_fewer_training_rows_than_neighbours():
    task = Task("classes", 3, "accuracy")
    scores, details = knn(task, np.eye(3)[:2], np.array([0, 2]), np.eye(3)[:1], 20)
    assert details == {"k": 2}
    assert scores.argmax(axis=1).tolist() == [0]
    assert scores[0, 1] == 0.0  # class 1 is not in the training data


def test_weighted_votes_rank_more_finely_than_counts():
    rng = np.random.default_rng(1)
    labels = np.arange(400) % 2
    x = rng.normal(size=(400, 4)) + np.array([1.5, 0, 0, 0]) * (2 * labels[:, None] - 1)
    task = Task("classes", 2, "auroc")
    scores, _ = knn(task, x[:200], labels[:200], x[200:], 20)
    assert measure(task, scores, labels[200:]).value > 0.9
    assert len(np.unique(scores[:, 1])) > 50  # an unweighted vote of 20 has 21 values


def test_features_of_zeros():
    scores, _ = knn(Task("classes", 2, "accuracy"), np.zeros((4, 3)), np.array([0, 1, 0, 1]), np.zeros((2, 3)), 4)
    np.testing.assert_allclose(scores, 0.5)


def regression(targets, train, test, k):
    """The vote as scikit-learn's regression on one column for each class, with the same bits."""

    def weigh(squares):
        return np.exp((squares.min(axis=1, keepdims=True) - squares) / (2 * TEMPERATURE))

    model = KNeighborsRegressor(n_neighbors=k, weights=weigh, metric="sqeuclidean", algorithm="brute")
    return model.fit(normalize(train), targets).predict(normalize(test))


@pytest.mark.parametrize("queries", [16_384, 256], ids=["whole", "chunks"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["classes", "labels", "number"])
def test_scores_equal_a_regression_on_class_indicators_bit_for_bit(kind, dtype, queries, monkeypatch):
    monkeypatch.setattr(module, "QUERIES", queries)
    rng = np.random.default_rng(3)
    train, test = rng.normal(size=(900, 24)).astype(dtype), rng.normal(size=(700, 24)).astype(dtype)
    if kind == "classes":
        task, labels = (
            Task("classes", 37, "accuracy"),
            rng.integers(30, size=900),
        )  # seven classes are not in the training data
        targets = np.eye(37, dtype=np.float32)[labels]
    elif kind == "labels":
        task, labels = Task("labels", 5, "accuracy"), rng.integers(2, size=(900, 5))
        targets = labels.astype(np.float64)
    else:
        task, labels = Task("number", 1, "pearson"), rng.normal(size=900)
        targets = labels
    votes = regression(targets, train, test, 20)
    np.testing.assert_array_equal(knn(task, train, labels, test, 20)[0], votes - 0.5 if kind == "labels" else votes)


def test_memory_is_less_than_training_rows_times_classes():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20_000, 4)).astype(np.float32), rng.normal(size=(10, 4)).astype(np.float32)
    tracemalloc.start()
    scores, _ = knn(Task("classes", 2000, "accuracy"), train, rng.integers(2000, size=20_000), test, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scores.shape == (10, 2000)
    assert peak < 20_000 * 2000  # bytes; float32 indicators would need four times as many
