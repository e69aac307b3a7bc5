"""Linear probes: accuracy on separable data, agreement with published protocols, and unusual labels."""

import time
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from ssl_core.data import Task
from ssl_core.errors import DataError, PluginError
from ssl_core.evaluation import protocols
from ssl_core.evaluation.linear import fit_adam, fit_logistic
from ssl_core.evaluation.metrics import measure
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import make_probes, random_subset
from ssl_plugins.probes.knn import KNNProbe
from ssl_plugins.probes.linear import LinearProbe

CLASSES = Task("classes", 3, "accuracy", title="word")
NUMBER = Task("number", 1, "pearson", title="age")
ADAM = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "weight_decay": 1e-3, "seed": 5}


def blobs(count, size=3, seed=0, spread=1.0, dim=6):
    centres = 2.0 * np.random.default_rng(99).normal(size=(size, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(size, size=count)
    return (centres[labels] + spread * rng.normal(size=(count, dim))).astype(np.float32), labels


def logistic(task, x, y, test_x, c, max_iter):
    """Scores of the test rows and details."""
    predictor = fit_logistic(task, x, y, c, max_iter)
    return predictor.predict_scores(test_x), predictor.details


def adam(task, x, y, test_x, **options):
    """Scores of the test rows and details."""
    predictor = fit_adam(task, x, y, **options)
    return predictor.predict_scores(test_x), predictor.details


def score(task, x, y, test_x, test_y, options, seed):
    """Rows of the shipped probes with these options."""
    shipped = {"linear": LinearProbe, "knn": KNNProbe}
    probes = make_probes({name: shipped[name] for name in options.probes}, options, seed)
    return protocols.score(task, (x, y), (test_x, test_y), probes, options.metrics, protocols.probe_seed(options, seed))


def accuracy(task, scores, labels):
    return measure(task, scores, labels).value


@pytest.mark.parametrize("size", [2, 3])
def test_logistic_separates_blobs_of_any_scale(size):
    task = Task("classes", size, "accuracy")
    x, y = blobs(200, size)
    test_x, test_y = blobs(200, size, seed=1)
    scale = np.array([1e-3, 1, 1e4, 1, 1, 1e-2], dtype=np.float32)
    scores, details = logistic(task, x * scale + 100 * scale, y, test_x * scale + 100 * scale, 1.0, 2000)
    assert accuracy(task, scores, test_y) > 0.9
    assert details["converged"]
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1.0, rtol=1e-6)  # log-probabilities


def test_logistic_standardises_with_the_training_split():
    x, y = blobs(200)
    shifted, _ = logistic(CLASSES, x, y, x[:50] + 3.0, 1.0, 2000)
    alone, _ = logistic(CLASSES, x, y, x[:50], 1.0, 2000)
    assert np.abs(shifted - alone).max() > 0.1  # statistics of the test split would have undone the shift


def test_unconverged_fit_is_in_details_and_gives_no_warning(recwarn):
    x, y = blobs(200, spread=3)
    _, details = logistic(CLASSES, x, y, x, 1.0, 1)
    assert details["converged"] is False
    assert not recwarn.list


@pytest.mark.parametrize("fit", ["logistic", "adam"])
def test_class_absent_from_training_is_never_predicted(fit):
    x, y = blobs(300, 3)
    known = y != 1
    if fit == "logistic":
        scores, _ = logistic(CLASSES, x[known], y[known], x, 1.0, 500)
    else:
        scores, _ = adam(CLASSES, x[known], y[known], x, **ADAM)
    assert np.isfinite(scores).all()
    assert set(scores.argmax(axis=1)) == {0, 2}
    assert measure(Task("classes", 3, "auroc"), scores, y).value > 0.6


def test_training_data_of_one_class():
    x, _ = blobs(50)
    scores, _ = logistic(CLASSES, x, np.full(50, 2), x, 1.0, 100)
    assert set(scores.argmax(axis=1)) == {2}


@pytest.mark.parametrize("linear", ["logistic", "adam"])
def test_each_label_has_its_own_classifier(linear):
    task = Task("labels", 3, "accuracy")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)).astype(np.float32)
    y = (x > np.array([0.0, 0.5, 9.0])).astype(int)  # the last one is never yes
    options = EvaluateOptions(probes=("linear",), linear=linear, lr=1e-2)
    (row,) = score(task, x[:400], y[:400], x[400:], y[400:], options, 0)
    assert row["value"] > 0.95


def test_ridge_predicts_numbers_in_units_of_the_label():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = 1000 + x @ np.array([30.0, -20.0, 0.0, 10.0])
    scores, details = logistic(Task("number", 1, "pearson"), x[:200], y[:200], x[200:], 1.0, 100)
    assert details["solver"] == "ridge"
    np.testing.assert_allclose(scores, y[200:], atol=2.0)


def reference_adam(x, y, test_x, outputs, loss_of, options, decoupled=False):
    """The protocol by hand: Adam with the L2 penalty in the gradient, or with decoupled weight decay (AdamW)."""
    torch.manual_seed(options["seed"])
    head = nn.Linear(x.shape[1], outputs)
    weights = [head.weight.detach().clone(), head.bias.detach().clone()]
    first = [torch.zeros_like(w) for w in weights]
    second = [torch.zeros_like(w) for w in weights]
    generator = torch.Generator().manual_seed(options["seed"])
    step = 0
    for _ in range(options["epochs"]):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - options["batch_size"] + 1, options["batch_size"]):
            index = order[start : start + options["batch_size"]]
            for w in weights:
                w.requires_grad_(True)
            loss = loss_of(x[index] @ weights[0].T + weights[1], y[index])
            gradients = torch.autograd.grad(loss, weights)
            step += 1
            for i, gradient in enumerate(gradients):
                weights[i] = weights[i].detach()
                if decoupled:
                    weights[i] *= 1 - options["lr"] * options["weight_decay"]
                else:
                    gradient = gradient + options["weight_decay"] * weights[i]
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                rate = options["lr"] / (1 - 0.9**step)
                weights[i] -= rate * first[i] / ((second[i] / (1 - 0.999**step)).sqrt() + 1e-8)
    return (test_x @ weights[0].detach().T + weights[1].detach()).numpy()


def test_adam_follows_the_protocol_for_classes():
    x, y = blobs(45)  # 45 is not a multiple of 8: an epoch drops its last five rows
    scores, details = adam(CLASSES, x, y, x, **ADAM)
    expected = reference_adam(
        torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(x), 3, nn.CrossEntropyLoss(), ADAM
    )
    np.testing.assert_allclose(scores, log_softmax(expected, axis=1), atol=1e-4)
    assert details["epochs"] == 3


def test_adam_uses_one_logit_for_two_classes_and_square_error_for_numbers():
    x, y = blobs(40, 2)
    inputs = torch.from_numpy(x)
    target = torch.from_numpy(y).float()[:, None]
    scores, _ = adam(Task("classes", 2, "accuracy"), x, y, x, **ADAM)
    logit = reference_adam(inputs, target, inputs, 1, nn.BCEWithLogitsLoss(), ADAM)[:, 0]
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], logit, atol=1e-4)
    scores, _ = adam(Task("number", 1, "spearman"), x, y.astype(float), x, **ADAM)
    np.testing.assert_allclose(scores, reference_adam(inputs, target, inputs, 1, nn.MSELoss(), ADAM)[:, 0], atol=1e-4)


def test_adamw_has_decoupled_weight_decay():
    """DABS's probe: its scores differ from Adam's with the same penalty, and `evaluate.linear` selects it."""
    x, y = blobs(45)
    values = ADAM | {"weight_decay": 3.0}
    inputs = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(x)
    expected = reference_adam(*inputs, 3, nn.CrossEntropyLoss(), values, decoupled=True)
    scores, details = adam(CLASSES, x, y, x, **values, decoupled=True)
    np.testing.assert_allclose(scores, log_softmax(expected, axis=1), atol=1e-4)
    assert details["solver"] == "adamw"
    assert np.abs(scores - adam(CLASSES, x, y, x, **values)[0]).max() > 0.1
    for linear in ("adam", "adamw"):
        options = EvaluateOptions(probes=("linear",), linear=linear, **{k: values[k] for k in values if k != "seed"})
        (row,) = score(CLASSES, x, y, x, y, options, values["seed"])
        _, direct = adam(CLASSES, x, y, x, **values, decoupled=linear == "adamw")
        assert row["details"] == direct


def test_adam_depends_on_its_seed_only():
    x, y = blobs(40)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = adam(CLASSES, x, y, x, **ADAM)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.testing.assert_array_equal(one, adam(CLASSES, x, y, x, **ADAM)[0])
    assert np.abs(one - adam(CLASSES, x, y, x, **{**ADAM, "seed": 6})[0]).max() > 1e-3


def test_adam_with_less_data_than_a_batch_still_trains():
    x, y = blobs(5)
    _, details = adam(CLASSES, x, y, x, **{**ADAM, "batch_size": 64})
    assert details["batch_size"] == 5
    assert np.isfinite(details["last_loss"])


def test_logistic_with_more_features_than_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=600)
    x = (0.3 * rng.normal(size=(10, 2000))[y] + rng.normal(size=(600, 2000))).astype(np.float32)
    began = time.perf_counter()
    scores, details = logistic(Task("classes", 10, "accuracy"), x[:400], y[:400], x[400:], 1.0, 2000)
    assert details["converged"]
    assert accuracy(Task("classes", 10, "accuracy"), scores, y[400:]) > 0.9
    assert time.perf_counter() - began < 60  # a bound against a hang, not a measure of speed


def test_a_row_of_scores_for_each_probe():
    x, y = blobs(120)
    test_x, test_y = blobs(60, seed=1)
    rows = score(CLASSES, x, y, test_x, test_y, EvaluateOptions(), 0)
    assert [row["probe"] for row in rows] == ["linear", "knn"]
    for row in rows:
        assert (row["metric"], row["n_train"], row["n_test"]) == ("accuracy", 120, 60)
        assert row["value"] > 0.9
        assert row["standard_error"] is not None
    assert rows[0]["details"]["solver"] == "logistic"


def test_labels_of_the_test_split_do_not_change_the_fit(monkeypatch):
    x, y = blobs(120, spread=2)
    fits = []
    monkeypatch.setattr(
        "ssl_core.evaluation.linear.fit_logistic", lambda *args: (fits.append(args[1:3]), fit_logistic(*args))[1]
    )
    options = EvaluateOptions(probes=("linear",))
    values = [score(CLASSES, x, y, x[:30], labels, options, 0)[0]["value"] for labels in (y[:30], (y[:30] + 1) % 3)]
    assert values[0] > 0.7 > 0.3 > values[1]
    for first, second in zip(*fits, strict=True):
        np.testing.assert_array_equal(first, second)


def test_tokens_are_rows_without_ignored_ones():
    task = Task("classes", 3, "accuracy", per_token=True, ignore=-1)
    x, y = blobs(40 * 5)
    x, y = x.reshape(40, 5, -1), y.reshape(40, 5).copy()
    corrupted = x.copy()
    y[:, 4] = -1
    corrupted[:, 4] = 1e6  # padding that would change statistics, fit and metric
    rows = score(task, corrupted[:30], y[:30], corrupted[30:], y[30:], EvaluateOptions(), 0)
    for row in rows:
        assert (row["n_train"], row["n_test"]) == (120, 40)
        assert row["value"] > 0.9


def test_knn_tokens_limits_training_tokens():
    x, y = blobs(20 * 4)
    task = Task("classes", 3, "accuracy", per_token=True)
    tokens, labels = x.reshape(20, 4, -1), y.reshape(20, 4)
    rows = score(task, tokens, labels, tokens, labels, EvaluateOptions(knn_tokens=30), 0)
    assert [row["n_train"] for row in rows] == [80, 30]
    assert rows == score(task, tokens, labels, tokens, labels, EvaluateOptions(knn_tokens=30), 0)


def test_random_subset_is_sorted_unique_and_depends_on_the_seed():
    some = random_subset(1000, 50, 3)
    assert len(set(some)) == 50
    assert (np.diff(some) > 0).all()
    assert (some == random_subset(1000, 50, 3)).all()
    assert (some != random_subset(1000, 50, 4)).any()
    assert random_subset(50, 50, 0) is None
    assert random_subset(50, None, 0) is None


def test_evaluate_seed_replaces_the_seed_of_the_run():
    x, y = blobs(100, spread=3)
    task = Task("classes", 3, "accuracy", per_token=True)
    tokens, labels = x.reshape(25, 4, -1), y.reshape(25, 4)

    def value(own, seed):
        options = EvaluateOptions(probes=("knn",), knn_tokens=10, seed=own)
        return score(task, tokens, labels, tokens, labels, options, seed)[0]["value"]

    assert value(7, 0) == value(7, 1)
    assert value(7, 0) != value(8, 0)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (CLASSES, None, "training split has no labels"),
        (CLASSES, np.array([0, 1, 3]), "training labels must be whole numbers from 0 to 2, found 3"),
        (CLASSES, np.array([0, 1]), r"training labels have shape \(2,\), expected \(3,\)"),
        (Task("labels", 2, "accuracy"), np.array([[0, 1], [1, 2], [0, 0]]), "from 0 to 1, found 2"),
        (Task("number", 1, "pearson"), np.array([0.0, np.nan, 1.0]), "finite numbers, found nan"),
        (Task("classes", 3, "accuracy", per_token=True), np.zeros((3, 4), dtype=int), "expected 3 axes"),
        (Task("classes", 3, "accuracy", ignore=0), np.zeros(3, dtype=int), "no label to count"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(task, labels, message):
    x = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(DataError, match=message):
        score(task, x, labels, x, labels, EvaluateOptions(), 0)


def test_metric_that_does_not_fit_the_task_is_refused():
    x = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(PluginError, match="does not fit"):
        score(Task("number", 1, "accuracy"), x, np.zeros(3), x, np.zeros(3), EvaluateOptions(), 0)


def test_ridge_makes_one_copy_of_the_features_in_float64():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4000, 512)).astype(np.float32), rng.normal(size=4000)
    logistic(NUMBER, x[:600], y[:600], x[:10], 1.0, 10)  # the imports of the first call are not part of the peak
    tracemalloc.start()
    logistic(NUMBER, x, y, x[:10], 1.0, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * x.nbytes  # the standardised copy, and one in float64 of twice the size; one more copy would add 2
