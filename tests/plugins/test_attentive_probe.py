"""The mathematics of the probe, its training, and a comparison with a linear probe on mean features."""

import numpy as np
import pytest
import torch

from ssl_core import Task
from ssl_core.evaluation import fit_logistic
from ssl_plugins.probes.attentive import AttentivePool, AttentiveProbe, hold_out, statistics

CLASSES = Task("classes", 4, "accuracy")
LABELS = Task("labels", 3, "auroc")
NUMBER = Task("number", 1, "pearson")


def make_probe(**options):
    return AttentiveProbe(AttentiveProbe.Options(**options))


# --- the model ---


def make_pool(width=6, heads=3, head_dim=5, outputs=2):
    """A model in float64 with weights away from their start."""
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(width, generator=generator), 1 + torch.rand(width, generator=generator)
    pool = AttentivePool(mean, std, heads, head_dim, outputs, generator).double()
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return pool


def plain_forward(pool, tokens):
    """One row (L, D) in numpy, with the keys and values of every token."""
    weights = {name: value.detach().numpy() for name, value in pool.state_dict().items()}
    tokens = (tokens - weights["mean"]) / weights["std"]
    heads = []
    for query, key, value, bias in zip(
        weights["query"], weights["key"], weights["value"], weights["value_bias"], strict=True
    ):
        logits = (tokens @ key) @ query / np.sqrt(len(query))
        shares = np.exp(logits) / np.exp(logits).sum()
        heads.append(shares @ (tokens @ value + bias))
    return weights["weight"] @ np.concatenate(heads) + weights["bias"]


def test_forward_equals_the_reference_implementation():
    pool = make_pool()
    tokens = np.random.default_rng(0).normal(size=(3, 7, 6))
    expected = np.stack([plain_forward(pool, row) for row in tokens])
    assert np.allclose(pool(torch.from_numpy(tokens)).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_padding_has_no_effect():
    """Features of padding are zero."""
    pool = make_pool()
    tokens = torch.randn(2, 7, 6, dtype=torch.float64)
    tokens[0, 4:] = 0
    predictions = pool(tokens)
    assert torch.allclose(predictions[:1], pool(tokens[:1, :4]), rtol=1e-10)
    assert torch.isfinite(pool(torch.zeros(1, 7, 6, dtype=torch.float64))).all()


def test_statistics_are_those_of_valid_tokens():
    rows = 5 + 3 * torch.randn(600, 4, 2, generator=torch.Generator().manual_seed(0))
    rows[..., 1] = 2.5
    rows[::3, 2:] = 0
    index = torch.arange(0, 600, 2)
    mean, std = statistics(rows, index)
    tokens = rows[index][(rows[index] != 0).any(-1)].numpy()
    assert np.allclose(mean, tokens.mean(axis=0), rtol=1e-5)
    assert np.allclose(std, [tokens[:, 0].std(), 1], rtol=1e-5)  # a constant is not divided by its deviation


# --- data in which one token carries the label ---


def marked_tokens(rows, seed, tokens=8, width=12):
    """Features (rows, tokens, width) and the class of the marked token of each row, one of 4.

    Every token has a random class. The last feature marks one token, at a random place.
    """
    rng = np.random.default_rng(seed)
    classes = rng.integers(4, size=(rows, tokens))
    marked = rng.integers(tokens, size=rows)
    features = 0.5 * rng.normal(size=(rows, tokens, width))
    features[..., :4] += 2 * np.eye(4)[classes]
    features[np.arange(rows), marked, -1] += 4
    return features.astype(np.float32), classes[np.arange(rows), marked]


def test_it_beats_a_linear_probe_on_mean_features():
    (train, labels), (test, expected) = marked_tokens(600, 0), marked_tokens(300, 1)
    attentive = make_probe().fit(train, labels, CLASSES).predict_scores(test)
    linear = fit_logistic(CLASSES, train.mean(axis=1), labels).predict_scores(test.mean(axis=1))
    accuracy = {"attentive": attentive.argmax(axis=1) == expected, "linear": linear.argmax(axis=1) == expected}
    assert np.mean(accuracy["attentive"]) > 0.9
    assert np.mean(accuracy["linear"]) < 0.6


def test_it_finds_several_labels_and_numbers():
    (train, classes), (test, expected) = marked_tokens(600, 0), marked_tokens(300, 1)
    bits = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]])
    scores = make_probe().fit(train, bits[classes], LABELS).predict_scores(test)
    assert scores.shape == (300, 3)
    assert np.mean((scores > 0) == bits[expected]) > 0.9
    numbers = np.array([100.0, 130.0, 150.0, 190.0])
    predicted = make_probe().fit(train, numbers[classes], NUMBER).predict_scores(test)
    assert predicted.shape == (300,)
    assert np.corrcoef(predicted, numbers[expected])[0, 1] > 0.9
    assert abs(np.mean(predicted) - np.mean(numbers[expected])) < 5


# --- training ---


def test_the_seed_decides_everything():
    train, labels = marked_tokens(100, 0)

    def scores(seed):
        torch.manual_seed(np.random.default_rng().integers(1000))  # of no effect
        return make_probe(epochs=2, seed=seed).fit(train, labels, CLASSES).predict_scores(train)

    first, second, other = scores(1), scores(1), scores(2)
    assert np.array_equal(first, second)
    assert not np.allclose(first, other, atol=1e-3)


def test_training_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    make_probe(epochs=1).fit(*marked_tokens(50, 0), CLASSES)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_that_cannot_be_predicted_stop_training():
    train, _ = marked_tokens(200, 0)
    labels = np.random.default_rng(1).integers(4, size=200)
    probe = make_probe(epochs=200, patience=3)
    predictor = probe.fit(train, labels, CLASSES)
    assert predictor.details["epochs"] < 50
    assert predictor.details["held_out"] == 20
    assert predictor.n_train == 180
    assert (predictor.predict_scores(train).argmax(axis=1) == labels).mean() < 0.8  # 200 epochs would fit them


def test_whole_samples_are_held_out():
    groups = np.arange(200) // 5
    fit_rows, held_out = hold_out(groups, 0.1, seed=0)
    assert len(held_out) == 20
    assert sorted([*fit_rows.tolist(), *held_out.tolist()]) == list(range(200))
    assert not set(groups[fit_rows]) & set(groups[held_out])
    assert hold_out(groups, 0.1, seed=1)[1].tolist() != held_out.tolist()
    assert [len(part) for part in hold_out(np.zeros(5, dtype=int), 0.1, seed=0)] == [5, 0]


def test_rows_of_a_per_token_task_are_single_tokens():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    features = (np.eye(4)[labels] + 0.2 * rng.normal(size=(400, 4))).astype(np.float32)
    task = Task("classes", 4, "accuracy", per_token=True)
    predictor = make_probe().fit_groups(features[:300], labels[:300], task, np.arange(300) // 5)
    assert np.mean(predictor.predict_scores(features[300:]).argmax(axis=1) == labels[300:]) > 0.95


def test_single_sample_trains_for_all_epochs():
    features, labels = marked_tokens(1, 0)
    predictor = make_probe(epochs=7).fit(features, labels, CLASSES)
    assert predictor.details == {"epochs": 7, "held_out": 0}
    assert predictor.predict_scores(features).argmax() == labels[0]


def test_absent_class_is_never_predicted():
    train, labels = marked_tokens(200, 0)
    predictor = make_probe(epochs=1).fit(train[labels != 2], labels[labels != 2], CLASSES)
    scores = predictor.predict_scores(train)
    assert np.isfinite(scores).all()
    assert scores[:, 2].max() < scores[:, [0, 1, 3]].min() - 1000  # out of reach after one epoch, too


@pytest.mark.parametrize("layers", [None, (1, 3)])
def test_option_chooses_the_layers(layers):
    assert make_probe(layers=layers).layers == layers
