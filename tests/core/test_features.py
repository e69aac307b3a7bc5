"""Features of a split: all rows in order, each once, all finite."""

import tracemalloc

import numpy as np
import pytest
import torch

from ssl_core.data import Batch
from ssl_core.errors import DataError
from ssl_core.evaluation.features import features


def batches(*sizes, labelled=True):
    start = 0
    for size in sizes:
        x = torch.arange(start, start + size, dtype=torch.float32)
        yield Batch({"x": x}, x.long() % 3 if labelled else None)
        start += size


def test_rows_and_labels_are_in_order():
    calls = []

    def embed(inputs):
        calls.append(len(inputs["x"]))
        return torch.stack([inputs["x"], -inputs["x"]], dim=1).to(torch.bfloat16)

    x, y = features(embed, batches(4, 4, 1))
    assert x.dtype == np.float32
    assert x.tolist() == [[i, -i] for i in range(9)]
    assert y.tolist() == [i % 3 for i in range(9)]
    assert calls == [4, 4, 1]


def test_token_features_without_labels():
    x, y = features(lambda inputs: inputs["x"].reshape(-1, 1, 1).expand(-1, 5, 2), batches(3, 2, labelled=False))
    assert x.shape == (5, 5, 2)
    assert y is None


def test_features_have_no_graph():
    weight = torch.ones(1, requires_grad=True)
    x, _ = features(lambda inputs: inputs["x"][:, None] * weight, batches(3))
    assert x.shape == (3, 1)


def test_feature_that_is_not_finite_is_refused_by_sample():
    def embed(inputs):
        return torch.where(inputs["x"] == 5, torch.nan, inputs["x"])[:, None]

    with pytest.raises(DataError, match=r"features of 1 samples are not finite \(the first: sample 5\).*train\.lr"):
        features(embed, batches(4, 4))


def test_empty_or_partly_labelled_split_is_refused():
    with pytest.raises(DataError, match="no sample"):
        features(lambda inputs: inputs["x"], [])
    half = [*batches(2), *batches(2, labelled=False)]
    with pytest.raises(DataError, match="1 of 2 batches have labels"):
        features(lambda inputs: inputs["x"][:, None], half)


def test_wrong_shape_is_refused():
    with pytest.raises(DataError, match=r"batch of 3 have the shape \(1, 3\)"):
        features(lambda inputs: inputs["x"][None], batches(3))


@pytest.mark.parametrize("has_count", [True, False], ids=["count", "no count"])
def test_memory_holds_the_features_once(has_count):
    """48 MB of features; a list of parts that is concatenated would hold them twice."""
    rows, width = 64 * 92, 2048

    def embed(inputs):
        return torch.from_numpy(np.repeat(inputs["x"].numpy()[:, None], width, axis=1))  # tracemalloc sees numpy only

    tracemalloc.start()
    x, y = features(embed, batches(*[64] * 92), rows if has_count else None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert x.shape == (rows, width)
    assert x[:, -1].tolist() == list(range(rows))
    assert y.tolist() == [i % 3 for i in range(rows)]
    assert peak < 1.25 * x.nbytes


def test_wrong_count_is_refused():
    embed = lambda inputs: inputs["x"][:, None]  # noqa: E731
    with pytest.raises(DataError, match="expected 7 samples to evaluate, but the split gives more"):
        features(embed, batches(4, 4), 7)
    with pytest.raises(DataError, match="expected 9 samples to evaluate, but the split gives 8"):
        features(embed, batches(4, 4), 9)
