"""Post-processing of features, fitted on training rows alone, and the choice of the best on validation samples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ssl_core import Probe, Task
from ssl_core.evaluation import selection
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.postprocess import POSTPROCESSES, fit_postprocess
from ssl_core.evaluation.protocols import Postprocess, score
from ssl_core.evaluation.selection import Candidate, candidates, held_out, select

pytestmark = pytest.mark.fast
CLASSES = Task("classes", 3, "accuracy")


def features(rows=200, width=10, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + 5).astype(np.float32)


def test_standardise_has_training_mean_and_deviation():
    train, test = features(), features(30, seed=1)
    train[:, 3] = test[:, 3] = 2.0
    transform = fit_postprocess("standardise", train)
    std = train.astype(np.float64).std(axis=0)
    std[3] = 1
    np.testing.assert_allclose(transform(test), (test - train.astype(np.float64).mean(0)) / std, rtol=1e-4, atol=1e-4)
    assert not transform(test)[:, 3].any()


@pytest.mark.parametrize("components", [4, 64])
def test_whitened_training_features_are_uncorrelated_of_variance_one(components):
    train = features()
    white = fit_postprocess("whiten", train, components)(train).astype(np.float64)
    assert white.shape == (200, min(components, 10))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T), np.eye(white.shape[1]), atol=1e-3)


def test_whitening_takes_the_largest_components():
    """Against the eigenvectors of the covariance; the sign of a component is free."""
    train, test = features(), features(20, seed=1)
    values, vectors = np.linalg.eigh(np.cov(train.astype(np.float64).T))
    expected = (test - train.mean(axis=0, dtype=np.float64)) @ vectors[:, ::-1][:, :3] / np.sqrt(values[::-1][:3])
    white = fit_postprocess("whiten", train, 3)(test)
    np.testing.assert_allclose(np.abs(white), np.abs(expected), rtol=1e-3, atol=1e-3)


def test_directions_without_variance_are_left_out_and_not_scaled_up():
    rng = np.random.default_rng(0)
    train = (rng.normal(size=(100, 3)) @ rng.normal(size=(3, 8))).astype(np.float32)
    white = fit_postprocess("whiten", train, 8)
    assert white(train).shape == (100, 3)
    assert np.abs(white(train)).max() < 10
    constant = fit_postprocess("whiten", np.ones((5, 4), np.float32))
    assert constant(np.ones((2, 4), np.float32)).tolist() == [[0], [0]]


@pytest.mark.parametrize("name", POSTPROCESSES)
def test_test_rows_change_neither_training_features_nor_each_other(name):
    """What is fitted is fitted on the training split: other test rows leave everything else as it is."""
    train, test = features(), features(40, seed=1)
    seen = []

    class Recorder(Probe):
        name = "recorder"

        def __init__(self):
            self.max_test_rows = None

        def fit(self, x, y, task):
            seen.append(x.copy())
            return SimpleNamespace(predict_scores=lambda x: seen.append(x.copy()) or np.zeros((len(x), 3)))

    changed = test.copy()
    changed[20:] = 1e4
    labels = np.arange(200) % 3
    for split in (test, changed):
        score(CLASSES, (train, labels), (split, labels[:40]), {"r": Recorder()}, postprocess=Postprocess(name, 4))
    assert np.array_equal(seen[0], seen[2])
    assert np.array_equal(seen[1][:20], seen[3][:20])
    assert not np.array_equal(seen[1][20:], seen[3][20:])


def test_rows_say_what_was_done():
    x, y = features(), np.arange(200) % 3

    class Zero(Probe):
        name = "zero"

        def __init__(self, per_token):
            self.max_test_rows, self.per_token = None, per_token

        def fit(self, x, y, task):
            return SimpleNamespace(predict_scores=lambda x: np.zeros((len(x), 3)))

    white = Postprocess("whiten", 4)
    (row,) = score(CLASSES, (x, y), (x, y), {"zero": Zero(False)}, postprocess=white)
    assert row["postprocess"] == "whiten"
    tokens = np.repeat(x[:, None], 2, axis=1)
    (row,) = score(CLASSES, (tokens, y), (tokens, y), {"zero": Zero(True)}, postprocess=white)
    assert row["postprocess"] == "none"
    task = Task("classes", 3, "accuracy", per_token=True)
    labels = np.repeat(y[:, None], 2, axis=1)
    (row,) = score(task, (tokens, labels), (tokens, labels), {"zero": Zero(False)}, postprocess=white)
    assert (row["postprocess"], row["n_train"]) == ("whiten", 400)


# --- the choice ------------------------------------------------------------------------------------------------------


def test_logistic_regression_is_not_fitted_twice():
    probes = {"linear": None, "knn": None}
    names = [str(candidate) for candidate in candidates(probes, EvaluateOptions())]
    assert names == ["linear", "linear, whiten", "knn", "knn, standardise", "knn, whiten"]
    assert len(list(candidates(probes, EvaluateOptions(linear="adam")))) == 6


def test_the_best_on_validation_is_chosen():
    """Directions of the classes have a small variance: neighbours find them once the others are scaled down."""
    from ssl_core.evaluation.protocols import make_probes
    from ssl_plugins.probes.knn import KNNProbe

    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = np.concatenate([0.1 * (np.eye(3)[y] + 0.2 * rng.normal(size=(300, 3))), 50 * rng.normal(size=(300, 4))], axis=1)
    x = x.astype(np.float32)
    options = EvaluateOptions(probes=("knn",))
    probes = make_probes({"knn": KNNProbe}, options, 0)
    chosen = select(CLASSES, (x[:200], y[:200]), (x[200:], y[200:]), probes, options, 0)
    assert chosen.best.postprocess in ("standardise", "whiten")
    values = {str(candidate): value for candidate, value in chosen.values.items()}
    assert values[str(chosen.best)] == max(values.values()) > values["knn"] + 0.3
    assert chosen.details("here")["validation"] == values


def test_a_metric_of_which_less_is_better_and_undefined_values():
    class Fixed(Probe):
        def __init__(self, value):
            self.max_test_rows, self.value = None, value

        def fit(self, x, y, task):
            return SimpleNamespace(predict_scores=lambda x: np.full(len(x), self.value))

    x, y = features(50), np.ones(50)
    task = Task("number", 1, "mae")
    probes = {"far": Fixed(5.0), "near": Fixed(1.5)}
    assert select(task, (x, y), (x, y), probes, EvaluateOptions(), 0).best == Candidate("near", "none")
    undefined = select(Task("number", 1, "r2"), (x, y), (x, y), probes, EvaluateOptions(), 0)
    assert undefined.best == Candidate("far", "none")
    assert set(undefined.values.values()) == {None}


def test_the_cost_of_the_choice_is_bounded(monkeypatch):
    monkeypatch.setattr(selection, "MOST_ROWS", 30)
    sizes = []

    class Recorder(Probe):
        def __init__(self):
            self.max_test_rows = None

        def fit(self, x, y, task):
            return SimpleNamespace(predict_scores=lambda t: sizes.append((len(x), len(t))) or np.zeros((len(t), 3)))

    x, y = features(), np.arange(200) % 3
    select(CLASSES, (x, y), (x, y), {"r": Recorder()}, EvaluateOptions(), 0)
    assert sizes == [(30, 30)] * 3


def test_held_out_samples_are_a_share_drawn_by_the_seed():
    fit, compared = held_out(50, 0.2, 3)
    assert sorted([*fit, *compared]) == list(range(50))
    assert len(compared) == 10
    assert np.array_equal(held_out(50, 0.2, 3)[1], compared)
    assert not np.array_equal(held_out(50, 0.2, 4)[1], compared)
    assert [len(part) for part in held_out(2, 0.2, 0)] == [1, 1]
