"""Tokenizer `tabular` with several columns in a token: `tokenizer.patch`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import sslx
from ssl_core import Continuous, ContinuousTarget, Discrete, testing
from ssl_plugins.tokenizers.tabular import TabularTokenizer, known_error

DIM = 16


def make(columns: int, *, missing: bool = False, **options: object) -> TabularTokenizer:
    torch.manual_seed(0)
    fields = {"numeric": Continuous((columns,))} | ({"missing": Discrete(columns, 2)} if missing else {})
    return TabularTokenizer(TabularTokenizer.Options(**options), fields, DIM)


def rows(count: int, columns: int, share: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = rng.normal(rng.normal(0, 50, columns), rng.gamma(2, 3, columns), (count, columns)).astype(np.float32)
    x[rng.random(x.shape) < share] = np.nan
    return x


def tokens_of(tokenizer: TabularTokenizer, x: np.ndarray):
    prepared = [tokenizer.preprocess({"numeric": row}) for row in x]
    arrays = {name: np.stack([each[name] for each in prepared]) for name in prepared[0]}
    tokenizer.fit_normalization(iter([arrays]))
    return tokenizer({name: torch.from_numpy(array) for name, array in arrays.items()})


@pytest.mark.parametrize(("columns", "patch", "length"), [(3, 1, 3), (512, 1, 512), (513, 2, 257), (20_000, 40, 500)])
def test_wide_tables_have_at_most_512_tokens_of_numbers(columns, patch, length):
    tokenizer = make(columns)
    assert (tokenizer.patch, tokenizer.layout.length) == (patch, length)
    assert make(columns, patch=1).layout.length == columns


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("weights", ["auto", "shared"])
@pytest.mark.parametrize("columns", [12, 14])
def test_embeddings_and_targets_equal_a_plain_transcription(columns, weights, share):
    tokenizer, x = make(columns, missing=share > 0, patch=4, weights=weights), rows(30, columns, share)
    x[0, 4:8] = np.nan if share else x[0, 4:8]
    found = tokens_of(tokenizer, x)
    part = tokenizer.parts[0]
    marked = share > 0 or columns == 14
    assert part.weight.shape[0] == (1 if weights == "shared" else -(-columns // 4))
    mean, std = np.nanmean(x.astype(np.float64), axis=0), np.nanstd(x.astype(np.float64), axis=0)
    weight, bias = part.weight.detach().double().numpy(), part.bias.detach().double().numpy()
    for row in range(len(x)):
        for place in range(-(-columns // 4)):
            numbers, marks = [], []
            for column in range(4 * place, 4 * place + 4):
                absent = column >= columns or bool(np.isnan(x[row, column]))
                numbers.append(0.0 if absent else (x[row, column] - mean[column]) / std[column])
                marks.append(float(absent))
            vector = np.array(numbers + (marks if marked else []))
            own = 0 if weights == "shared" else place
            np.testing.assert_allclose(found.targets[0].patches[row, place], vector, rtol=1e-3, atol=1e-4)
            expected = vector @ weight[own] + bias[own]
            np.testing.assert_allclose(found.embeddings[row, place].detach(), expected, rtol=1e-3, atol=1e-4)
            if share:
                assert bool(found.valid[row, place]) == (sum(marks) < 4)
    assert (found.valid is None) == (share == 0)
    assert len(tokenizer.layout.segments) == 1


def test_the_error_of_a_patch_is_that_of_its_known_numbers():
    target = torch.tensor([[[1.0, 0.0, 3.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]])
    prediction = torch.tensor([[[2.0, 9.0, 5.0, 7.0, 7.0, 7.0], [4.0, 4.0, 4.0, 7.0, 7.0, 7.0]]], requires_grad=True)
    error = known_error(prediction, target)
    assert error.tolist() == [[2.5, 0.0]]  # (1 + 4) / 2
    error.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad[0, 0].tolist() == [1.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    assert not prediction.grad[0, 1].any()


@pytest.mark.parametrize("missing", [False, True])
def test_pictures_are_in_the_units_of_the_columns(missing):
    tokenizer, x = make(14, missing=missing, patch=4), rows(20, 14)
    target = tokens_of(tokenizer, x).targets[0]
    assert isinstance(target, ContinuousTarget)
    np.testing.assert_allclose(tokenizer.to_image(0, target.patches)[:, 0], x, rtol=1e-4, atol=1e-3)


@testing.parametrize(TabularTokenizer, options={"patch": 3})
def test_conforms(check):
    check()


def test_a_wide_table_with_gaps_is_learnt_from(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    frame = pd.DataFrame(rows(40, 600, 0.1), columns=[f"gene {number}" for number in range(600)])
    small = {
        "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1,
        "objective.heads": 1, "train.compile": "off",
    }  # fmt: skip
    run = sslx.pretrain(
        frame, y=np.arange(40) % 2, modality="tabular", objective="metamae", steps=2, batch_size=8, preset="none",
        set=small, out=tmp_path / "run",
    )  # fmt: skip
    assert run.encoder.tokenizer.layout.length == 300
    features = sslx.embed(tmp_path / "run", frame[frame.columns[::-1]])
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features, sslx.embed(run, frame), atol=1e-5)
    frame.to_csv(tmp_path / "wide.csv", index=False)
    assert "tokenizer.patch=2" in sslx.inspect(tmp_path / "wide.csv").command
