"""Limits of samples keep an evaluation inside its budget, and do not change small sets or options that are set."""

import tracemalloc

import numpy as np
import pytest
import torch

from ssl_core.data import Batch, Task
from ssl_core.errors import ConfigError, PluginError
from ssl_core.evaluation import protocols, sample_limits
from ssl_core.evaluation.features import features
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import make_probes, random_subset
from ssl_core.evaluation.sample_limits import TEST_BYTES, TRAIN_BYTES, WORK, limit_samples, limits
from ssl_plugins.probes.knn import KNNProbe
from ssl_plugins.probes.linear import LinearProbe

CLASSES = Task("classes", 10, "accuracy", title="digit")
ADAM = EvaluateOptions(linear="adam")
CPU = torch.device("cpu")


class LazySplit:
    """A split of `count` rows, each computed when it is feature_sets."""

    def __init__(self, count, width=4):
        self.count, self.width = count, width

    def __len__(self):
        return self.count

    def take(self, index):
        index = torch.from_numpy(np.asarray(index))
        x = np.repeat(
            (index.numpy() % 97).astype(np.float32)[:, None], self.width, axis=1
        )  # tracemalloc sees memory of numpy only
        return Batch({"x": torch.from_numpy(x)}, index % 10)

    def sweep(self, size, index=None):
        index = np.arange(self.count) if index is None else index
        yield from (self.take(index[start : start + size]) for start in range(0, len(index), size))


def score(task, train, test, options):
    """Rows of the shipped probes with these options and seed 0."""
    shipped = {"linear": LinearProbe, "knn": KNNProbe}
    return protocols.score(task, train, test, make_probes({name: shipped[name] for name in options.probes}, options, 0))


def raw(inputs, per_token=False):
    return inputs["x"][:, None] if per_token else inputs["x"]


def limits_of_raw_input(options, train, test, width, task=CLASSES, dim=2):
    """The options of the raw input, and the lines."""
    chosen, lines = limit_samples(
        options, task, {"train": LazySplit(train, width), "test": LazySplit(test, width)}, raw, dim, CPU
    )
    return chosen["raw_input"], lines


def test_published_protocol_keeps_the_rows_of_encoded_features_that_fit():
    task = Task("classes", 1000, "accuracy")
    data = {"train": LazySplit(1_281_167, 150_528), "test": LazySplit(50_000, 150_528)}
    chosen, (line,) = limit_samples(ADAM, task, data, raw, 256, CPU)
    assert chosen["trained"] == chosen["random_init"] == ADAM
    assert chosen["raw_input"].max_train == TRAIN_BYTES // (4 * 150_528)
    assert "raw_input alone, not those of the others" in line
    chosen, (line,) = limit_samples(EvaluateOptions(), task, data, raw, 256, CPU)
    assert chosen["trained"] == chosen["random_init"] == chosen["raw_input"] != EvaluateOptions()
    assert "the same for all features" in line


@pytest.mark.parametrize("linear", ["logistic", "adam", "adamw"])
@pytest.mark.parametrize(
    ("train", "test", "width"), [(2000, 500, 4096), (50_000, 10_000, 3072), (1_281_167, 50_000, 256)]
)
def test_no_limits_for_data_that_fits(linear, train, test, width):
    task = Task("classes", 10, "accuracy")
    options = EvaluateOptions(linear=linear)
    assert limits_of_raw_input(options, train, test, width, task) == (options, [])


@pytest.mark.parametrize(
    ("name", "train", "test", "width", "size"),
    [("pfam", 32_200_000, 1_500_000, 3328, 623), ("imagenet", 1_281_167, 50_000, 150_528, 1000),
     ("higgs", 9_900_000, 990_000, 256, 2)],
)  # fmt: skip
@pytest.mark.parametrize("linear", ["logistic", "adam"])
def test_limits_of_large_data_keep_the_budget_and_are_reported(name, train, test, width, size, linear):
    task = Task("classes", size, "accuracy")
    chosen, (*_, line) = limits_of_raw_input(EvaluateOptions(linear=linear), train, test, width, task, dim=256)
    rows, queries = min(train, chosen.max_train or train), min(test, chosen.max_test or test)
    assert TRAIN_BYTES / 20 < rows * width * 4 <= TRAIN_BYTES
    assert queries * (width * 4 + size * 8) <= TEST_BYTES
    assert min(rows, chosen.knn_train or rows) * min(queries, chosen.knn_test or queries) * width <= WORK
    assert f"{chosen.max_train:,} of {train:,} training samples" in line
    for key in ("max_train", "max_test", "knn_train", "knn_test"):
        assert (f"evaluate.{key}" in line) == (getattr(chosen, key) is not None)
    assert "\n" not in line


def test_options_that_are_set_are_not_changed():
    preset = EvaluateOptions(max_train=30_000_000, max_test=2_000_000)
    assert limits_of_raw_input(preset, 32_200_000, 5_000_000, 3328) == (preset, [])
    knn = EvaluateOptions(max_train=4_000_000, max_test=10_000, knn_train=3_999_999, knn_test=9_999)
    assert limits_of_raw_input(knn, 9_000_000, 990_000, 256) == (knn, [])
    half, (line,) = limits_of_raw_input(EvaluateOptions(max_train=1000), 9_000_000, 990_000, 3328)
    assert half.max_train == 1000
    assert half.max_test is not None
    assert "training samples" not in line


def test_knn_leaves_out_training_rows_before_test_rows():
    rows, _ = limits(ADAM, CLASSES, 4_000_000, 200_000, 1, 256)
    assert (rows.knn_train, rows.knn_test) == (WORK // 256 // 200_000, None)
    both, _ = limits(ADAM, CLASSES, 200_000, 10**6 * 2, 1, 1024 // 4)
    assert both.knn_train == sample_limits.MIN_KNN_TRAIN
    assert both.knn_test == WORK // 256 // sample_limits.MIN_KNN_TRAIN
    none, lines = limits(EvaluateOptions(probes=("linear",)), CLASSES, 900_000, 900_000, 1, 64)
    assert (none.knn_train, none.knn_test, lines) == (None, None, [])


def test_tokens_of_a_per_token_task_are_rows():
    task = Task("classes", 4, "accuracy", per_token=True)
    chosen, (line,) = limits(ADAM, task, 1_000_000, 1_000_000, 128, 1024)
    assert chosen.max_train == TRAIN_BYTES // (128 * 4 * 1024)
    assert chosen.max_test == TEST_BYTES // (128 * (4 * 1024 + 8 * 4))
    assert chosen.knn_train is None  # knn_tokens bounds them
    assert "tokens" in line or chosen.knn_test is None


def test_no_limits_without_labels():
    options = EvaluateOptions()
    assert limits_of_raw_input(options, 10**9, 10**9, 10**6, task=None) == (options, [])


def test_peak_memory_of_a_wide_raw_input(monkeypatch):
    """20,000 rows of 32 KB are 655 MB; the peak is near the budget of 16 MiB, not near the size of the data."""
    monkeypatch.setattr(sample_limits, "TRAIN_BYTES", 16 * 2**20)
    monkeypatch.setattr(sample_limits, "TEST_BYTES", 4 * 2**20)
    splits = {"train": LazySplit(20_000, 8192), "test": LazySplit(5_000, 8192)}
    limited, lines = limit_samples(EvaluateOptions(linear="adam", epochs=1), CLASSES, splits, raw, 16, CPU)
    options = limited["raw_input"]
    assert lines
    x, y = features(raw, LazySplit(64, 8).sweep(64))
    score(CLASSES, (x, y), (x, y), options)  # the imports of the first call are not part of the peak
    tracemalloc.start()
    feature_sets = []
    for split, most in (("train", options.max_train), ("test", options.max_test)):
        feature_sets.append(features(raw, splits[split].sweep(64, random_subset(len(splits[split]), most, 0))))
    feature_bytes = sum(x.nbytes for x, _ in feature_sets)
    rows = score(CLASSES, *feature_sets, options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 15 * 2**20 < feature_bytes <= 20 * 2**20
    assert peak < 2.5 * 20 * 2**20  # the features and one normalised copy
    assert {(row["n_train"], row["n_test"]) for row in rows} == {(options.max_train, options.max_test)}


def test_knn_uses_its_own_limits_of_rows():
    x, y = features(raw, LazySplit(300).sweep(64), 300)
    options = EvaluateOptions(linear="adam", epochs=1, knn_train=50, knn_test=20)
    whole, part = score(CLASSES, (x, y), (x, y), options)
    assert (whole["n_train"], whole["n_test"]) == (300, 300)
    assert (part["n_train"], part["n_test"]) == (50, 20)
    train_index, test_index = random_subset(300, 50, 0), random_subset(300, 20, 0)
    plain = EvaluateOptions(probes=("knn",))
    assert (
        part["value"]
        == score(CLASSES, (x[train_index], y[train_index]), (x[test_index], y[test_index]), plain)[0]["value"]
    )


class TokenProbe:
    """A probe that reads token features of two layers."""

    per_token, layers, max_test_rows = True, (3, 6), None


def test_a_probe_of_token_features_counts_tokens_and_layers():
    data = {"train": LazySplit(500_000), "test": LazySplit(100)}

    def raw_tokens(inputs, per_token=False):
        return inputs["x"][:, None, :].repeat(1, 64, 1) if per_token else inputs["x"].repeat(1, 64)

    options = EvaluateOptions(probes=("attentive",), linear="adam")
    limited, _ = limit_samples(options, CLASSES, data, raw_tokens, 128, CPU, [TokenProbe()])
    assert limited["trained"].max_train == TRAIN_BYTES // (4 * 64 * 128 * 2)
    unlimited, lines = limit_samples(options, CLASSES, data, raw_tokens, 128, CPU)
    assert (unlimited["trained"], lines) == (options, [])


def test_a_metric_that_cannot_be_used_is_refused_before_training():
    data = {"train": LazySplit(10), "test": LazySplit(10)}
    with pytest.raises(ConfigError, match=r"evaluate\.metrics: .*'r2' does not fit"):
        limit_samples(EvaluateOptions(metrics=("r2",)), CLASSES, data, raw, 2, CPU)
    with pytest.raises(PluginError, match="unknown metric 'f3'"):
        limit_samples(EvaluateOptions(), Task("classes", 10, "f3"), data, raw, 2, CPU)
