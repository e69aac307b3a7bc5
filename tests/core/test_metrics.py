"""Metrics over a whole evaluation set: hand-worked values, agreement with the libraries, standard errors."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from ssl_core.data import Task
from ssl_core.errors import PluginError
from ssl_core.evaluation.metrics import _auroc_error, _f1_of_confusions, check, decide, measure


def task(kind, size, metric, **more):
    return Task(kind, size, metric, **more)


def one_hot(classes, size):
    return np.eye(size)[classes]


def test_accuracy_of_classes_by_hand():
    scores = np.array([[3, 1, 0], [0, 2, 1], [0, 0, 1], [5, 4, 0]])
    measured = measure(task("classes", 3, "accuracy"), scores, np.array([0, 1, 1, 0]))
    assert measured.value == 0.75
    assert measured.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 4))


def test_accuracy_of_labels_is_the_mean_over_labels_and_rows_at_one_half():
    scores = np.array([[0.1, -0.1], [0.0, 3.0]])  # a score of exactly zero is "no"
    labels = np.array([[1, 1], [0, 1]])
    measured = measure(task("labels", 2, "accuracy"), scores, labels)
    assert measured.value == 0.75
    assert measured.standard_error == pytest.approx(np.std([0.5, 1.0]) / np.sqrt(2))


def test_accuracy_of_tokens_counts_a_sample_as_one_draw():
    rng = np.random.default_rng(0)
    correct = rng.integers(2, size=50).repeat(20)  # the tokens of a sample are all right or all wrong
    samples = np.arange(50).repeat(20)
    scores = one_hot(correct, 2)
    per_token = task("classes", 2, "accuracy", per_token=True)
    grouped = measure(per_token, scores, np.ones(1000, dtype=int), samples)
    alone = measure(per_token, scores[::20], np.ones(50, dtype=int))
    assert grouped.value == alone.value
    assert grouped.standard_error == pytest.approx(alone.standard_error)


def test_standard_error_of_accuracy_is_the_spread_of_accuracies():
    rng = np.random.default_rng(0)
    kind = task("classes", 2, "accuracy")
    drawn = [
        measure(kind, one_hot((rng.random(200) < 0.7).astype(int), 2), np.ones(200, dtype=int)) for _ in range(2000)
    ]
    spread = np.std([one.value for one in drawn])
    assert np.mean([one.standard_error for one in drawn]) == pytest.approx(spread, rel=0.1)


def test_weighted_f1_agrees_with_the_library_and_so_do_bootstrapped_matrices():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(4, size=300), rng.integers(4, size=300)
    predicted[:150] = labels[:150]
    predicted[predicted == 2] = 1  # one class is never predicted
    wanted = sk.f1_score(labels, predicted, average="weighted", zero_division=0)
    assert measure(task("classes", 4, "weighted_f1"), one_hot(predicted, 4), labels).value == pytest.approx(wanted)
    assert _f1_of_confusions(sk.confusion_matrix(labels, predicted)[None], "weighted")[0] == pytest.approx(wanted)


def test_standard_error_of_weighted_f1_is_the_spread_over_test_sets():
    rng = np.random.default_rng(2)

    def draw():
        labels = rng.choice(3, size=400, p=[0.6, 0.3, 0.1])
        predicted = np.where(rng.random(400) < 0.6, labels, rng.integers(3, size=400))
        return measure(task("classes", 3, "weighted_f1"), one_hot(predicted, 3), labels)

    drawn = [draw() for _ in range(300)]
    assert np.mean([one.standard_error for one in drawn]) == pytest.approx(np.std([d.value for d in drawn]), rel=0.15)


def test_weighted_f1_of_labels_weighs_by_count():
    labels = np.array([[1, 1], [1, 0], [1, 0], [0, 0]])
    scores = np.array([[1, -1], [1, -1], [1, -1], [-1, -1]])  # label 0 perfect (3 of 4 positives), label 1 never
    assert measure(task("labels", 2, "weighted_f1"), scores, labels).value == pytest.approx(0.75)


def test_auroc_of_two_classes_is_the_share_of_ordered_pairs():
    margin = np.array([0.1, 0.4, 0.35, 0.8])
    labels = np.array([0, 0, 1, 1])
    scores = np.stack([np.zeros(4), margin], axis=1)
    assert measure(task("classes", 2, "auroc"), scores, labels).value == 0.75
    assert measure(task("classes", 2, "auroc"), scores[:, ::-1], labels).value == 0.25


def test_auroc_standard_error_is_the_spread_over_test_sets():
    rng = np.random.default_rng(3)

    def draw():
        labels = np.arange(200) % 2
        return measure(task("labels", 1, "auroc"), (labels + rng.normal(size=200))[:, None], labels[:, None])

    drawn = [draw() for _ in range(300)]
    assert np.mean([one.standard_error for one in drawn]) == pytest.approx(np.std([d.value for d in drawn]), rel=0.15)


def test_auroc_standard_error_of_hanley_and_mcneil_by_hand():
    # area 0.893 with 51 positive and 58 negative: A / (2 - A) = 0.80668, 2 A^2 / (1 + A) = 0.84253, A^2 = 0.79745, so
    # (0.09555 + 50 x 0.00923 + 57 x 0.04508) / (51 x 58) = 0.0010570
    truth = np.arange(109) < 51
    assert _auroc_error(0.893, truth) == pytest.approx(np.sqrt(0.0010570), abs=2e-5)


def test_auroc_of_labels_is_macro_and_leaves_out_what_has_one_value():
    scores = np.array([[0.9, 1, 0.2], [0.1, 2, 0.7], [0.8, 3, 0.1]])
    labels = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]])
    measured = measure(task("labels", 3, "auroc"), scores, labels)
    assert measured.value == pytest.approx((1.0 + 0.0) / 2)
    assert "labels 1" in measured.notes[0]


def test_auroc_of_many_classes_is_one_against_the_rest():
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=60)
    raw = rng.random((60, 3)) + one_hot(labels, 3)
    shares = raw / raw.sum(axis=1, keepdims=True)
    wanted = sk.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
    assert measure(task("classes", 3, "auroc"), shares, labels).value == pytest.approx(wanted)


def test_auroc_is_undefined_not_nan_when_the_test_split_has_one_value():
    measured = measure(task("classes", 2, "auroc"), np.random.default_rng(0).random((5, 2)), np.zeros(5, dtype=int))
    assert measured.value is None
    assert "undefined" in measured.notes[0]


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_agree_with_the_library(metric):
    rng = np.random.default_rng(5)
    labels = rng.normal(size=80)
    predicted = np.exp(labels) + rng.normal(size=80)
    wanted = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric](predicted, labels).statistic
    measured = measure(task("number", 1, metric), predicted, labels)
    assert measured.value == pytest.approx(wanted)
    assert 0 < measured.standard_error < 0.2


@pytest.mark.parametrize(("metric", "degrees"), [("pearson", 0.6), ("spearman", 0.6)])
def test_standard_error_of_a_correlation_is_the_spread_over_test_sets(metric, degrees):
    rng = np.random.default_rng(6)

    def draw():
        x, y = rng.multivariate_normal([0, 0], [[1, degrees], [degrees, 1]], size=100).T
        return measure(task("number", 1, metric), x, y)

    drawn = [draw() for _ in range(300)]
    assert np.mean([one.standard_error for one in drawn]) == pytest.approx(np.std([d.value for d in drawn]), rel=0.15)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_predictions_correlate_zero_with_a_note(metric):
    measured = measure(task("number", 1, metric), np.full(9, 2.5), np.arange(9.0))
    assert measured.value == 0.0
    assert "constant" in measured.notes[0]


def test_constant_labels_have_no_correlation():
    assert measure(task("number", 1, "spearman"), np.arange(9.0), np.ones(9)).value is None


def test_correlation_of_two_classes_is_with_the_score_of_the_second():
    rng = np.random.default_rng(7)
    labels = rng.integers(2, size=40)
    margin = labels + rng.normal(size=40)
    scores = np.stack([-margin / 2, margin / 2], axis=1)
    wanted = stats.pearsonr(margin, labels).statistic
    assert measure(task("classes", 2, "pearson"), scores, labels).value == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "size", "metric"), [("number", 1, "accuracy"), ("labels", 3, "pearson"), ("classes", 3, "spearman")]
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(kind, size, metric):
    with pytest.raises(PluginError, match=rf"metric '{metric}' does not fit kind '{kind}'.*use one of"):
        check(task(kind, size, metric))


def test_whole_set_differs_from_a_mean_over_batches():
    rng = np.random.default_rng(8)
    labels, predicted = rng.integers(3, size=40), rng.integers(3, size=40)
    kind = task("classes", 3, "weighted_f1")
    whole = measure(kind, one_hot(predicted, 3), labels).value
    halves = [measure(kind, one_hot(predicted[i::2], 3), labels[i::2]).value for i in (0, 1)]
    assert abs(whole - np.mean(halves)) > 1e-4


def test_decisions():
    assert decide(task("classes", 2, "accuracy"), np.array([[1, 2], [2, 1]])).tolist() == [1, 0]
    assert decide(task("labels", 2, "accuracy"), np.array([[0.1, -1.0]])).tolist() == [[1, 0]]
    assert decide(task("number", 1, "pearson"), np.array([1.5])).tolist() == [1.5]
