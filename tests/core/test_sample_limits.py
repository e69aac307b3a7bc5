"""An evaluation of any size stays inside its budget, says so, and leaves small sets and given numbers alone."""

import tracemalloc

import numpy as np
import pytest
import torch

from ssl_core.data import Batch, Task
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


class Many:
    """A split of `count` rows that holds none of them: each is made when it is taken."""

    def __init__(self, count, width=4):
        self.count, self.width = count, width

    def __len__(self):
        return self.count

    def take(self, index):
        index = torch.from_numpy(np.asarray(index))
        x = np.repeat((index.numpy() % 97).astype(np.float32)[:, None], self.width, axis=1)  # memory that is traced
        return Batch({"x": torch.from_numpy(x)}, index % 10)

    def sweep(self, size, chosen=None):
        chosen = np.arange(self.count) if chosen is None else chosen
        yield from (self.take(chosen[start : start + size]) for start in range(0, len(chosen), size))


def score(task, train, test, options):
    """Rows of the shipped probes with these options and seed 0."""
    shipped = {"linear": LinearProbe, "knn": KNNProbe}
    return protocols.score(task, train, test, make_probes({name: shipped[name] for name in options.probes}, options, 0))


def raw(inputs, per_token=False):
    return inputs["x"][:, None] if per_token else inputs["x"]


def choose(options, train, test, width, task=CLASSES, dim=2):
    """The options of the raw input, and the lines."""
    chosen, lines = limit_samples(
        options, task, {"train": Many(train, width), "test": Many(test, width)}, raw, dim, CPU
    )
    return chosen["raw_input"], lines


def test_a_published_protocol_keeps_the_encoded_rows_that_fit():
    task = Task("classes", 1000, "accuracy")
    data = {"train": Many(1_281_167, 150_528), "test": Many(50_000, 150_528)}
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
def test_what_fits_is_untouched(linear, train, test, width):
    task = Task("classes", 10, "accuracy")
    options = EvaluateOptions(linear=linear)
    assert choose(options, train, test, width, task) == (options, [])


@pytest.mark.parametrize(
    ("name", "train", "test", "width", "size"),
    [("pfam", 32_200_000, 1_500_000, 3328, 623), ("imagenet", 1_281_167, 50_000, 150_528, 1000),
     ("higgs", 9_900_000, 990_000, 256, 2)],
)  # fmt: skip
@pytest.mark.parametrize("linear", ["logistic", "adam"])
def test_what_does_not_fit_is_bounded_and_said(name, train, test, width, size, linear):
    task = Task("classes", size, "accuracy")
    chosen, (*_, line) = choose(EvaluateOptions(linear=linear), train, test, width, task, dim=256)
    rows, queries = min(train, chosen.max_train or train), min(test, chosen.max_test or test)
    assert TRAIN_BYTES / 20 < rows * width * 4 <= TRAIN_BYTES
    assert queries * (width * 4 + size * 8) <= TEST_BYTES
    assert min(rows, chosen.knn_train or rows) * min(queries, chosen.knn_test or queries) * width <= WORK
    assert f"{chosen.max_train:,} of {train:,} training samples" in line
    for key in ("max_train", "max_test", "knn_train", "knn_test"):
        assert (f"evaluate.{key}" in line) == (getattr(chosen, key) is not None)
    assert "\n" not in line


def test_numbers_that_are_given_hold():
    given = EvaluateOptions(max_train=30_000_000, max_test=2_000_000)
    assert choose(given, 32_200_000, 5_000_000, 3328) == (given, [])
    knn = EvaluateOptions(max_train=4_000_000, max_test=10_000, knn_train=3_999_999, knn_test=9_999)
    assert choose(knn, 9_000_000, 990_000, 256) == (knn, [])
    half, (line,) = choose(EvaluateOptions(max_train=1000), 9_000_000, 990_000, 3328)
    assert half.max_train == 1000
    assert half.max_test is not None
    assert "training samples" not in line


def test_neighbours_are_left_out_before_queries():
    rows, _ = limits(ADAM, CLASSES, 4_000_000, 200_000, 1, 256)
    assert (rows.knn_train, rows.knn_test) == (WORK // 256 // 200_000, None)
    both, _ = limits(ADAM, CLASSES, 200_000, 10**6 * 2, 1, 1024 // 4)
    assert both.knn_train == sample_limits.MIN_KNN_TRAIN
    assert both.knn_test == WORK // 256 // sample_limits.MIN_KNN_TRAIN
    none, said = limits(EvaluateOptions(probes=("linear",)), CLASSES, 900_000, 900_000, 1, 64)
    assert (none.knn_train, none.knn_test, said) == (None, None, [])


def test_tokens_count_as_rows():
    task = Task("classes", 4, "accuracy", per_token=True)
    chosen, (line,) = limits(ADAM, task, 1_000_000, 1_000_000, 128, 1024)
    assert chosen.max_train == TRAIN_BYTES // (128 * 4 * 1024)
    assert chosen.max_test == TEST_BYTES // (128 * (4 * 1024 + 8 * 4))
    assert chosen.knn_train is None  # knn_tokens bounds them
    assert "tokens" in line or chosen.knn_test is None


def test_without_labels_nothing_is_bounded():
    options = EvaluateOptions()
    assert choose(options, 10**9, 10**9, 10**6, task=None) == (options, [])


def test_peak_memory_of_a_wide_raw_input(monkeypatch):
    """20,000 rows of 32 KB are 655 MB; the budget is 16 MiB, and the peak must be near it, not near the data."""
    monkeypatch.setattr(sample_limits, "TRAIN_BYTES", 16 * 2**20)
    monkeypatch.setattr(sample_limits, "TEST_BYTES", 4 * 2**20)
    splits = {"train": Many(20_000, 8192), "test": Many(5_000, 8192)}
    readings, said = limit_samples(EvaluateOptions(linear="adam", epochs=1), CLASSES, splits, raw, 16, CPU)
    options = readings["raw_input"]
    assert said
    x, y = features(raw, Many(64, 8).sweep(64))
    score(CLASSES, (x, y), (x, y), options)  # what is imported at the first use is no part of the peak
    tracemalloc.start()
    taken = []
    for split, most in (("train", options.max_train), ("test", options.max_test)):
        taken.append(features(raw, splits[split].sweep(64, random_subset(len(splits[split]), most, 0))))
    held = sum(x.nbytes for x, _ in taken)
    rows = score(CLASSES, *taken, options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 15 * 2**20 < held <= 20 * 2**20
    assert peak < 2.5 * 20 * 2**20  # the features, and one normalised copy
    assert {(row["n_train"], row["n_test"]) for row in rows} == {(options.max_train, options.max_test)}


def test_knn_is_fitted_and_scored_on_its_own_rows_only():
    x, y = features(raw, Many(300).sweep(64), 300)
    options = EvaluateOptions(linear="adam", epochs=1, knn_train=50, knn_test=20)
    whole, part = score(CLASSES, (x, y), (x, y), options)
    assert (whole["n_train"], whole["n_test"]) == (300, 300)
    assert (part["n_train"], part["n_test"]) == (50, 20)
    few, asked = random_subset(300, 50, 0), random_subset(300, 20, 0)
    plain = EvaluateOptions(probes=("knn",))
    assert part["value"] == score(CLASSES, (x[few], y[few]), (x[asked], y[asked]), plain)[0]["value"]
