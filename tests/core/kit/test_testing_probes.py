"""The conformance kit for probes: each check detects a broken probe."""

import numpy as np
import pytest
from pydantic import Field

from ssl_core import ConfigError, Probe, testing
from ssl_core.evaluation import FunctionPredictor
from ssl_core.plugins import load
from ssl_core.testing.probes import Setting


class Ridge(Probe):
    """Least squares with an L2 penalty."""

    name = "ridge"

    class Options(Probe.Options):
        penalty: float = Field(1.0, gt=0, description="L2 penalty")

    def features(self, x):
        return np.concatenate([x, np.ones((len(x), 1))], axis=1)

    def weights(self, x, y, task):
        targets = {
            "classes": lambda: 2.0 * np.eye(task.size)[y] - 1,
            "labels": lambda: 2.0 * y - 1,
            "number": lambda: y,
        }
        x = self.features(x)
        return np.linalg.solve(x.T @ x + self.options.penalty * np.eye(x.shape[1]), x.T @ targets[task.kind]())

    def fit(self, features, labels, task):
        weights = self.weights(features, labels, task)
        return FunctionPredictor(lambda x: self.features(x) @ weights)


class OfTokens(Ridge):
    """Reads the mean of token features of two layers."""

    per_token = True
    layers = (1, 2)

    def features(self, x):
        return super().features(x.mean(axis=1) if x.ndim == 3 else x)


class OnlyClasses(Ridge):
    """Refuses all tasks but classes."""

    def fit(self, features, labels, task):
        if task.kind != "classes":
            raise ConfigError("probe 'ridge' predicts classes")
        return super().fit(features, labels, task)


class Never(Ridge):
    """Refuses all tasks."""

    def fit(self, features, labels, task):
        raise ConfigError("no")


def scores(change):
    """A probe whose scores are changed by a function of (scores, features)."""

    class Changed(Ridge):
        """Changed."""

        def fit(self, features, labels, task):
            predict = super().fit(features, labels, task).predict_scores
            return FunctionPredictor(lambda x: change(predict(x), x))

    return Changed


class PooledOnly(Ridge):
    """Says that it reads tokens and takes pooled features."""

    per_token = True


class Unseeded(Ridge):
    """Fits to a random half."""

    def fit(self, features, labels, task):
        half = np.random.rand(len(features)) < 0.5
        return super().fit(features[half], labels[half], task)


class Scales(Ridge):
    """Standardises its input in place."""

    def fit(self, features, labels, task):
        features -= features.mean(axis=0)
        return super().fit(features, labels, task)


class Observed(Ridge):
    """Has one column for each class among the training labels."""

    def fit(self, features, labels, task):
        predict = super().fit(features, labels, task).predict_scores
        columns = np.unique(labels) if task.kind == "classes" else slice(None)
        return FunctionPredictor(lambda x: predict(x)[:, columns] if task.kind == "classes" else predict(x))


class Details(Ridge):
    """Has an array among the details."""

    def fit(self, features, labels, task):
        return FunctionPredictor(super().fit(features, labels, task).predict_scores, {"w": np.zeros(2)})


class Count(Ridge):
    """Counts more rows than it got."""

    def fit(self, features, labels, task):
        return FunctionPredictor(super().fit(features, labels, task).predict_scores, n_train=10_000)


class Layers(Ridge):
    """Counts layers from zero."""

    layers = (0, 1)


class Needy(Ridge):
    """Has an option without a default."""

    class Options(Probe.Options):
        penalty: float = Field(gt=0, description="L2 penalty")


BROKEN_PROBES = [
    ("builds", Layers, "layers is (0, 1)"),
    ("builds", Needy, "Needy.Options({}) is refused: penalty: Field required; pass options=..."),
    ("accepts_a_task", Never, "it refuses every kind of task"),
    ("scores_have_their_shape", scores(lambda y, x: y[:, :2]), "the scores of 60 rows have shape (60, 2), not (60, 3)"),
    ("scores_have_their_shape-number", scores(lambda y, x: y[:, np.newaxis]), "shape (60, 1), not (60,)"),
    ("scores_have_their_shape", scores(lambda y, x: y.tolist()), "the scores are list, not an array"),
    ("scores_have_their_shape", scores(lambda y, x: y / 0.0), "the scores of 60 rows are not finite"),
    ("scores_have_their_shape", scores(lambda y, x: y.squeeze()), "the scores of 1 rows have shape (3,), not (1, 3)"),
    ("scores_have_their_shape", PooledOnly, "got:      ValueError"),
    ("predictions_beat_chance", scores(lambda y, x: -y), "accuracy 0.000, expected at least 0.6"),
    ("predictions_beat_chance-labels", scores(lambda y, x: 1 / (1 + np.exp(-y))), "share of correct labels 0."),
    ("predictions_beat_chance-number", scores(lambda y, x: -y), "correlation -0.9"),
    ("predictions_beat_chance-token_classes", scores(lambda y, x: -y), "accuracy 0.000"),
    ("equal_input_gives_equal_scores", Unseeded, "the scores of a second, equal probe"),
    ("inputs_are_not_modified", Scales, "features, labels and groups: part 0: "),
    ("rows_are_scored_independently", scores(lambda y, x: y - y.mean(axis=0)), "the scores of 7 rows differ by up to"),
    ("missing_class_keeps_the_shape", Observed, "the scores have shape (60, 2), not (60, 3)"),
    ("details_are_json", Details, "is no mapping of JSON values"),
    ("details_are_json", Count, "n_train is 10000"),
]


@pytest.mark.parametrize(("name", "plugin", "got"), BROKEN_PROBES)
def test_broken_probe_fails(error_of, name, plugin, got):
    with np.errstate(divide="ignore", invalid="ignore"):
        assert got in error_of(plugin, name)


@pytest.mark.parametrize("plugin", [Ridge, OfTokens, OnlyClasses])
def test_correct_probe_passes(assert_all_pass, plugin):
    assert_all_pass(plugin)


@pytest.mark.parametrize("name", ["linear", "knn"])
def test_shipped_probe_passes(assert_all_pass, name):
    assert_all_pass(load().probe(name))


@pytest.mark.parametrize("linear", ["adam", "adamw"])
def test_trained_linear_probe_passes(assert_all_pass, linear):
    assert_all_pass(load().probe("linear"), options={"linear": linear, "epochs": 30, "lr": 0.01, "batch_size": 32})


def test_options_of_the_section_evaluate_have_its_defaults():
    (check,) = [one for one in testing.checks(load().probe("knn")) if one.name == "options_survive_json"]
    assert check.subject.values["k"] > 0
    assert check.subject.values["seed"] == 0


def test_probe_of_tokens_reads_token_features():
    train, test = Setting(OfTokens, {}, "classes").splits
    assert train.features.shape == (120, 5, 32)
    assert test.features.shape == (60, 5, 32)
    assert Setting(OfTokens, {}, "token_classes").splits[0].features.shape == (120, 32)
    assert Setting(Ridge, {}, "classes").splits[0].features.shape == (120, 16)
