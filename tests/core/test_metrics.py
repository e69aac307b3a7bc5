"""Metrics over a whole evaluation set: values by hand, agreement with the libraries, standard errors."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from ssl_core.data import Task
from ssl_core.errors import ConfigError, PluginError
from ssl_core.evaluation.metrics import (
    METRICS,
    _auroc_error,
    _f1_of_confusions,
    check,
    decide,
    measure,
    tasks_by_metric,
)


def task(kind, size, metric, **more):
    return Task(kind, size, metric, **more)


def one_hot(classes, size):
    return np.eye(size)[classes]


def spread(results):
    """Standard deviation of the values of many test sets."""
    return np.std([result.value for result in results])


def mean_error(results):
    """Mean of the standard errors of many test sets."""
    return np.mean([result.standard_error for result in results])


def test_accuracy_of_classes_by_hand():
    scores = np.array([[3, 1, 0], [0, 2, 1], [0, 0, 1], [5, 4, 0]])
    result = measure(task("classes", 3, "accuracy"), scores, np.array([0, 1, 1, 0]))
    assert result.value == 0.75
    assert result.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 4))


def test_accuracy_of_labels_is_a_mean_over_labels_and_rows():
    scores = np.array([[0.1, -0.1], [0.0, 3.0]])  # a score of exactly zero is "no"
    labels = np.array([[1, 1], [0, 1]])
    result = measure(task("labels", 2, "accuracy"), scores, labels)
    assert result.value == 0.75
    assert result.standard_error == pytest.approx(np.std([0.5, 1.0]) / np.sqrt(2))


def test_tokens_of_a_sample_are_one_draw_in_the_error_of_accuracy():
    rng = np.random.default_rng(0)
    correct = rng.integers(2, size=50).repeat(20)  # the tokens of a sample are all right or all wrong
    samples = np.arange(50).repeat(20)
    scores = one_hot(correct, 2)
    per_token = task("classes", 2, "accuracy", per_token=True)
    grouped = measure(per_token, scores, np.ones(1000, dtype=int), samples)
    alone = measure(per_token, scores[::20], np.ones(50, dtype=int))
    assert grouped.value == alone.value
    assert grouped.standard_error == pytest.approx(alone.standard_error)


def test_standard_error_of_accuracy_is_the_spread_over_test_sets():
    rng = np.random.default_rng(0)
    kind = task("classes", 2, "accuracy")
    results = [
        measure(kind, one_hot((rng.random(200) < 0.7).astype(int), 2), np.ones(200, dtype=int)) for _ in range(2000)
    ]
    assert mean_error(results) == pytest.approx(spread(results), rel=0.1)


def f1_of(confusion, average):
    """F1 of one confusion matrix, all of whose entries may be drawn."""
    pairs = np.indices(confusion.shape).reshape(2, -1)
    return _f1_of_confusions(confusion.reshape(1, -1), pairs, average)[0]


@pytest.mark.parametrize("metric", ["macro_f1", "weighted_f1"])
def test_f1_of_one_label_is_that_of_the_label(metric):
    rng = np.random.default_rng(3)
    labels = (rng.random((200, 1)) < 0.1).astype(int)
    scores = labels + rng.normal(size=(200, 1)) - 0.5
    expected = sk.f1_score(labels[:, 0], scores[:, 0] > 0)
    assert measure(task("labels", 1, metric), scores, labels).value == pytest.approx(expected)


def test_the_error_of_f1_of_many_classes_takes_little_memory():
    rng = np.random.default_rng(4)
    labels = rng.integers(2000, size=3000)
    tracemalloc.start()
    result = measure(task("classes", 2000, "macro_f1"), one_hot(labels[::-1], 2000), labels)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    assert 0 < result.standard_error < 0.1


def test_weighted_f1_agrees_with_the_library_and_so_do_bootstrapped_matrices():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(4, size=300), rng.integers(4, size=300)
    predicted[:150] = labels[:150]
    predicted[predicted == 2] = 1  # one class is never predicted
    expected = sk.f1_score(labels, predicted, average="weighted", zero_division=0)
    assert measure(task("classes", 4, "weighted_f1"), one_hot(predicted, 4), labels).value == pytest.approx(expected)
    assert f1_of(sk.confusion_matrix(labels, predicted), "weighted") == pytest.approx(expected)


def test_standard_error_of_weighted_f1_is_the_spread_over_test_sets():
    rng = np.random.default_rng(2)

    def draw():
        labels = rng.choice(3, size=400, p=[0.6, 0.3, 0.1])
        predicted = np.where(rng.random(400) < 0.6, labels, rng.integers(3, size=400))
        return measure(task("classes", 3, "weighted_f1"), one_hot(predicted, 3), labels)

    results = [draw() for _ in range(300)]
    assert np.mean([one.standard_error for one in results]) == pytest.approx(
        np.std([r.value for r in results]), rel=0.15
    )


def test_weighted_f1_of_labels_is_weighted_by_count():
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

    results = [draw() for _ in range(300)]
    assert np.mean([one.standard_error for one in results]) == pytest.approx(
        np.std([r.value for r in results]), rel=0.15
    )


def test_auroc_standard_error_of_hanley_and_mcneil_by_hand():
    # area 0.893 with 51 positive and 58 negative: A / (2 - A) = 0.80668, 2 A^2 / (1 + A) = 0.84253, A^2 = 0.79745, so
    # (0.09555 + 50 x 0.00923 + 57 x 0.04508) / (51 x 58) = 0.0010570
    truth = np.arange(109) < 51
    assert _auroc_error(0.893, truth) == pytest.approx(np.sqrt(0.0010570), abs=2e-5)


def test_auroc_of_labels_is_a_mean_without_labels_of_one_value():
    scores = np.array([[0.9, 1, 0.2], [0.1, 2, 0.7], [0.8, 3, 0.1]])
    labels = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]])
    result = measure(task("labels", 3, "auroc"), scores, labels)
    assert result.value == pytest.approx((1.0 + 0.0) / 2)
    assert "labels 1" in result.notes[0]


def test_auroc_of_several_classes_is_one_against_the_rest():
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=60)
    raw = rng.random((60, 3)) + one_hot(labels, 3)
    shares = raw / raw.sum(axis=1, keepdims=True)
    expected = sk.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
    assert measure(task("classes", 3, "auroc"), shares, labels).value == pytest.approx(expected)


def test_auroc_is_undefined_if_the_test_split_has_one_value():
    result = measure(task("classes", 2, "auroc"), np.random.default_rng(0).random((5, 2)), np.zeros(5, dtype=int))
    assert result.value is None
    assert "undefined" in result.notes[0]


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_agree_with_the_library(metric):
    rng = np.random.default_rng(5)
    labels = rng.normal(size=80)
    predicted = np.exp(labels) + rng.normal(size=80)
    expected = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric](predicted, labels).statistic
    result = measure(task("number", 1, metric), predicted, labels)
    assert result.value == pytest.approx(expected)
    assert 0 < result.standard_error < 0.2


@pytest.mark.parametrize(("metric", "degrees"), [("pearson", 0.6), ("spearman", 0.6)])
def test_standard_error_of_a_correlation_is_the_spread_over_test_sets(metric, degrees):
    rng = np.random.default_rng(6)

    def draw():
        x, y = rng.multivariate_normal([0, 0], [[1, degrees], [degrees, 1]], size=100).T
        return measure(task("number", 1, metric), x, y)

    results = [draw() for _ in range(300)]
    assert np.mean([one.standard_error for one in results]) == pytest.approx(
        np.std([r.value for r in results]), rel=0.15
    )


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_predictions_correlate_zero_with_a_note(metric):
    result = measure(task("number", 1, metric), np.full(9, 2.5), np.arange(9.0))
    assert result.value == 0.0
    assert "constant" in result.notes[0]


def test_constant_labels_have_no_correlation():
    assert measure(task("number", 1, "spearman"), np.arange(9.0), np.ones(9)).value is None


def test_correlation_of_two_classes_is_with_the_score_of_the_second():
    rng = np.random.default_rng(7)
    labels = rng.integers(2, size=40)
    margin = labels + rng.normal(size=40)
    scores = np.stack([-margin / 2, margin / 2], axis=1)
    expected = stats.pearsonr(margin, labels).statistic
    assert measure(task("classes", 2, "pearson"), scores, labels).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "size", "metric"), [("number", 1, "accuracy"), ("labels", 3, "pearson"), ("classes", 3, "spearman")]
)
def test_metric_that_does_not_fit_is_refused_with_those_that_do(kind, size, metric):
    with pytest.raises(PluginError, match=rf"metric '{metric}' does not fit kind '{kind}'.*use one of"):
        check(task(kind, size, metric))


def test_value_is_not_a_mean_over_batches():
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


# --- R2, MAE, mean average precision, macro F1, balanced accuracy -----------------------------------------------------


def test_r2_and_mae_by_hand():
    labels, predicted = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 4.0, 4.0])
    # squared errors 1 + 0 + 1 + 4 = 6; deviations from the mean 3: 4 + 1 + 0 + 9 = 14
    assert measure(task("number", 1, "r2"), predicted, labels).value == pytest.approx(1 - 6 / 14)
    mae = measure(task("number", 1, "mae"), predicted, labels)
    assert mae.value == pytest.approx(1.0)
    assert mae.standard_error == pytest.approx(np.std([1, 0, 1, 2]) / np.sqrt(4))


def test_r2_of_constant_labels_is_undefined_with_a_note():
    result = measure(task("number", 1, "r2"), np.arange(5.0), np.ones(5))
    assert result.value is None
    assert "R2 is undefined" in result.notes[0]


def test_mean_average_precision_by_hand():
    # ranked by score the labels are 1, 0, 1: precision 1 at the first positive and 2/3 at the second
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.7, 0.3]])
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    result = measure(task("labels", 2, "map"), scores, labels)
    first = (1 + 2 / 3) / 2
    assert result.value == pytest.approx((first + 1.0) / 2)
    assert result.standard_error == pytest.approx(np.sqrt(first * (1 - first) / 2) / 2)


def test_mean_average_precision_leaves_out_classes_without_a_positive():
    scores = np.random.default_rng(0).random((6, 3))
    result = measure(task("classes", 3, "map"), scores, np.array([0, 0, 1, 1, 0, 1]))
    expected = [sk.average_precision_score(np.array([0, 0, 1, 1, 0, 1]) == j, scores[:, j]) for j in (0, 1)]
    assert result.value == pytest.approx(np.mean(expected))
    assert result.notes == ("mean average precision leaves out classes 2: no positive in the test split",)
    empty = measure(task("labels", 2, "map"), scores[:, :2], np.zeros((6, 2), dtype=int))
    assert empty.value is None
    assert "no positive label" in empty.notes[0]


def test_mean_average_precision_of_two_classes_is_that_of_the_second():
    rng = np.random.default_rng(1)
    labels, margin = rng.integers(2, size=40), rng.normal(size=40)
    scores = np.stack([np.zeros(40), margin], axis=1)
    expected = sk.average_precision_score(labels, margin)
    assert measure(task("classes", 2, "map"), scores, labels).value == pytest.approx(expected)


def test_macro_f1_agrees_with_the_library_and_so_do_bootstrapped_matrices():
    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(3, size=200), rng.integers(4, size=200)  # class 3 is in predictions only
    expected = sk.f1_score(labels, predicted, average="macro", zero_division=0)
    assert measure(task("classes", 5, "macro_f1"), one_hot(predicted, 5), labels).value == pytest.approx(expected)
    assert f1_of(sk.confusion_matrix(labels, predicted), "macro") == pytest.approx(expected)
    absent = np.pad(sk.confusion_matrix(labels, predicted), (0, 1))  # a class that a draw lacks does not count
    assert f1_of(absent, "macro") == pytest.approx(expected)
    several = rng.integers(2, size=(50, 3))
    result = measure(task("labels", 3, "macro_f1"), several - 0.5, several)
    assert (result.value, result.standard_error) == (1.0, None)


def test_balanced_accuracy_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, 2])
    result = measure(task("classes", 4, "balanced_accuracy"), one_hot(predicted, 4), labels)
    assert result.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert result.standard_error == pytest.approx(np.sqrt(3 / 16 / 4 + 1 / 4 / 2) / 2)
    assert result.notes == ("balanced accuracy leaves out classes 2, 3: not in the test split",)


def draw_numbers(rng):
    labels = rng.normal(size=200)
    return "number", 1, labels + 0.8 * rng.normal(size=200), labels


def draw_classes(rng):
    labels = np.arange(300) % 3
    margins = 1.2 * one_hot(labels, 3) + rng.normal(size=(300, 3))
    return "classes", 3, margins, labels


@pytest.mark.parametrize(
    ("metric", "draw", "tolerance"),
    [("r2", draw_numbers, 0.15), ("mae", draw_numbers, 0.15), ("macro_f1", draw_classes, 0.15),
     ("balanced_accuracy", draw_classes, 0.15)],
)  # fmt: skip
def test_standard_errors_are_the_spread_over_test_sets(metric, draw, tolerance):
    rng = np.random.default_rng(4)
    results = []
    for _ in range(300):
        kind, size, scores, labels = draw(rng)
        results.append(measure(task(kind, size, metric), scores, labels))
    assert mean_error(results) == pytest.approx(spread(results), rel=tolerance)


def test_standard_error_of_average_precision_is_of_the_size_of_the_spread():
    """The binomial interval is an approximation."""
    rng = np.random.default_rng(5)
    results = []
    for _ in range(300):
        labels = (np.arange(200) % 4 == 0).astype(int)[:, None]
        results.append(measure(task("labels", 1, "map"), labels + rng.normal(size=(200, 1)), labels))
    assert 0.7 < mean_error(results) / spread(results) < 2


def test_errors_of_tokens_are_known_for_means_only():
    rng = np.random.default_rng(6)
    labels = rng.normal(size=60)
    groups = np.arange(20).repeat(3)
    per_token = {"per_token": True}
    assert measure(task("number", 1, "mae", **per_token), labels + 1, labels, groups).standard_error is not None
    assert measure(task("number", 1, "r2", **per_token), labels + 1, labels, groups).standard_error is None


def test_only_errors_are_better_if_lower():
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["mae"]


def test_an_unknown_metric_of_a_task_is_refused_with_the_known_ones():
    with pytest.raises(PluginError, match=r"task 'age': unknown metric 'rmse'; known metrics: accuracy, auroc, .*r2"):
        check(Task("number", 1, "rmse", title="age"))


def test_metrics_of_the_options_follow_the_tasks_own_once():
    tasks = tasks_by_metric(task("classes", 3, "accuracy"), ("macro_f1", "accuracy", "map"))
    assert [one.metric for one in tasks] == ["accuracy", "macro_f1", "map"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [(("macro_f2",), "unknown metric 'macro_f2'; did you mean 'macro_f1'"), (("r2",), "metric 'r2' does not fit kind")],
)
def test_metrics_of_the_options_that_cannot_be_used_are_refused(metrics, message):
    with pytest.raises(ConfigError, match=f"evaluate.metrics: .*{message}"):
        tasks_by_metric(task("classes", 3, "accuracy"), metrics)


def test_one_draw_has_no_standard_error():
    """One row, or the tokens of one sample, say nothing of the spread over samples."""
    two = task("classes", 2, "accuracy")
    scores = np.log([[0.9, 0.1]] * 5)
    tokens = measure(two, scores, np.array([0, 0, 0, 1, 1]), np.zeros(5, int))
    assert (tokens.value, tokens.standard_error) == (0.6, None)
    for metric in ("accuracy", "balanced_accuracy", "weighted_f1", "macro_f1"):
        assert measure(task("classes", 2, metric), scores[:1], np.array([0])).standard_error is None
    assert measure(task("number", 1, "mae"), np.array([3.0]), np.array([1.0])).standard_error is None
    for metric in ("pearson", "spearman"):
        assert measure(task("number", 1, metric), np.array([1.0, 2]), np.array([2.0, 1])).standard_error is None
