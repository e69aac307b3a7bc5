"""Tokenizer `tabular`: HIGGS as published, vocabularies of categories, missing values end to end."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from ssl_core import (
    BadSample,
    ConfigError,
    Continuous,
    ContinuousTarget,
    Discrete,
    DiscreteTarget,
    Fields,
    Geometry,
    Text,
    Tokens,
)
from ssl_core.nn import Encoder
from ssl_core.nn.encoder import EncoderOptions, TransformerEncoder
from ssl_plugins.maskings.random import RandomMasking
from ssl_plugins.objectives.metamae import MetaMAE
from ssl_plugins.tokenizers.tabular import TabularTokenizer

DIM = 16
MIXED: Fields = {
    "numeric": Continuous((3,)), "missing": Discrete(3, 2), "colour": Discrete(1, 4), "days": Discrete(2, 7),
}  # fmt: skip


def make(fields: Fields, **options: object) -> TabularTokenizer:
    torch.manual_seed(0)
    return TabularTokenizer(TabularTokenizer.Options(**options), fields, DIM)


def batch_of(tokenizer: TabularTokenizer, rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    prepared = [tokenizer.preprocess(row) for row in rows]
    return {name: np.stack([each[name] for each in prepared]) for name in prepared[0]}


def tokens(tokenizer: TabularTokenizer, rows: list[dict[str, np.ndarray]]) -> Tokens:
    return tokenizer({name: torch.from_numpy(x) for name, x in batch_of(tokenizer, rows).items()})


def mixed_rows(count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        numbers = rng.normal((0, 100, -5), (1, 10, 0.1)).astype(np.float32)
        missing = np.array([i % 3 == 0, i % 4 == 1, False])
        as_nan = i % 2 == 0  # else by the field "missing"
        rows.append(
            {
                "numeric": np.where(missing & as_nan, np.nan, numbers).astype(np.float32),
                "missing": (missing & (not as_nan)).astype(np.int64),
                "colour": np.array([i % 4]),
                "days": np.array([i % 7, (3 * i) % 7]),
            }
        )
    return rows


def test_higgs_is_embedded_as_published():
    """28 tokens of one number each, through one linear map for all columns, not normalised."""
    for shape in ((28,), (1, 28)):
        tokenizer = make({"numeric": Continuous(shape)}, normalise="none")
        (segment,) = tokenizer.layout.segments
        assert (segment.grid, segment.size, segment.target) == ((28,), 1, "continuous")
        assert sum(p.numel() for p in tokenizer.parameters()) == 2 * DIM
        row = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        output = tokens(tokenizer, [{"numeric": row}])
        assert output.valid is None
        assert isinstance(output.targets[0], ContinuousTarget)
        np.testing.assert_array_equal(output.targets[0].patches[0, :, 0], row.ravel())
        weight, bias = tokenizer.parts[0].weight[0], tokenizer.parts[0].bias[0]
        for column in range(28):
            expected = row.ravel()[column] * weight + bias
            assert torch.allclose(output.embeddings[0, column], expected, atol=1e-6)


def test_weights_column_gives_each_column_its_own_map():
    tokenizer = make({"numeric": Continuous((5,))}, normalise="none", weights="column")
    embeddings = tokens(tokenizer, [{"numeric": np.ones(5)}]).embeddings[0]
    assert len({tuple(row.tolist()) for row in embeddings}) == 5
    shared = tokens(make({"numeric": Continuous((5,))}, normalise="none"), [{"numeric": np.ones(5)}]).embeddings[0]
    assert len({tuple(row.tolist()) for row in shared}) == 1


def test_segments_of_a_mixed_table():
    segments = make(MIXED).layout.segments
    assert [(s.name, s.grid, s.target, s.size) for s in segments] == [
        ("numeric", (3,), "continuous", 1),
        ("missing", (3,), "discrete", 1),
        ("colour", (1,), "discrete", 4),
        ("days", (2,), "discrete", 7),
    ]
    only_ids = make({"colour": Discrete(1, 4)}).layout.segments
    assert [s.name for s in only_ids] == ["colour"]


def test_categories_are_scored_within_their_own_vocabulary():
    tokenizer, rows = make(MIXED), mixed_rows()
    targets = tokens(tokenizer, rows).targets
    for segment, name in ((2, "colour"), (3, "days")):
        target = targets[segment]
        assert isinstance(target, DiscreteTarget)
        np.testing.assert_array_equal(target.ids, np.stack([row[name] for row in rows]))
        assert target.table.shape == (MIXED[name].vocab, DIM)  # type: ignore[union-attr]
        assert any(target.table is parameter for parameter in tokenizer.parameters())


def test_constants_are_measured_on_valid_numbers_only():
    tokenizer, rows = make(MIXED), mixed_rows(40)
    arrays = batch_of(tokenizer, rows)
    tokenizer.fit_normalization(iter([{k: v[:7] for k, v in arrays.items()}, {k: v[7:] for k, v in arrays.items()}]))
    numbers = np.stack([np.where(row["missing"] == 1, np.nan, row["numeric"]) for row in rows]).astype(np.float64)
    assert np.isnan(numbers).sum() == arrays["missing"].sum() > 0
    part = tokenizer.parts[0]
    np.testing.assert_allclose(part.mean, np.nanmean(numbers, axis=0), rtol=1e-5)
    np.testing.assert_allclose(part.std, np.nanstd(numbers, axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (Continuous(()), "no field 'age' of real numbers; put it into 'numeric', or give whole numbers for a category"),
        (Continuous((2,)), "no field 'age' of real numbers"),
        (Text(), "no field 'age' of text; give whole numbers for a category"),
    ],
)
def test_a_field_that_nobody_reads_is_refused(further, words):
    fields = {"numeric": Continuous((4,)), "age": further}
    tokenizer = TabularTokenizer(TabularTokenizer.Options(), fields, 8)  # as when a trained encoder is loaded
    with pytest.raises(ConfigError, match=words):
        tokenizer.fit([])


@pytest.mark.parametrize("bad", [[0.7, 1.0], [float("nan"), 1.0], [np.inf, 1.0], ["0", "1"], [None, 1]])
def test_ids_of_categories_are_whole_numbers(bad):
    tokenizer = TabularTokenizer(TabularTokenizer.Options(), {"codes": Discrete(2, 3)}, 8)
    with pytest.raises(BadSample, match="'codes' holds .*; give whole numbers from 0"):
        tokenizer.preprocess({"codes": np.array(bad)})
    assert tokenizer.preprocess({"codes": np.array([2.0, 0.0])})["codes"].tolist() == [2, 0]


def test_columns_of_any_unit_are_normalised_alike():
    x = np.random.default_rng(0).standard_normal((50, 1)) * np.ones(4)
    x = (x * [1, 1e-13, 1e-30, 0] + [0, 0, 0, 1e-13]).astype(np.float32)
    tokenizer = TabularTokenizer(TabularTokenizer.Options(), {"numeric": Continuous((4,))}, 8)
    tokenizer.fit_normalization([{"numeric": x[:20]}, {"numeric": x[20:]}])
    tokens = tokenizer({"numeric": torch.from_numpy(x)}).embeddings
    torch.testing.assert_close(tokens[:, 1:3], tokens[:, :1].expand(-1, 2, -1), atol=1e-4, rtol=1e-4)
    assert tokenizer.parts[0].std[3] == 1  # constant


def test_missing_numbers_are_not_valid_and_have_a_token_of_their_own():
    tokenizer, rows = make(MIXED), mixed_rows()
    arrays = batch_of(tokenizer, rows)
    assert all(np.isfinite(x).all() for x in arrays.values())
    missing = torch.from_numpy(arrays["missing"])
    output = tokens(tokenizer, rows)
    assert output.valid is not None
    assert torch.equal(output.valid[:, :3], ~missing)
    assert torch.equal(output.valid[:, 3:6], missing)
    assert output.valid[:, 6:].all()
    marks = output.embeddings[:, 3:6][missing]
    assert torch.equal(marks, marks[:1].expand_as(marks))
    assert torch.isfinite(output.embeddings).all()


def test_missing_numbers_without_a_token_or_refused():
    fields = {"numeric": Continuous((2,))}
    row = {"numeric": np.array([1.0, np.nan])}
    absent = make(fields, missing="absent")
    assert len(absent.layout.segments) == 1
    assert tokens(absent, [row]).valid.tolist() == [[True, False]]
    with pytest.raises(BadSample, match="column 1; set tokenizer.missing=token"):
        make(fields).preprocess(row)
    assert make(fields, missing="token").layout.length == 4


def build_metamae(ratio: float = 0.5) -> tuple[TabularTokenizer, Encoder, MetaMAE]:
    tokenizer = make(MIXED)
    rows = mixed_rows(40)
    tokenizer.fit_normalization(iter([batch_of(tokenizer, rows)]))
    encoder = TransformerEncoder(EncoderOptions(dim=DIM, depth=1, heads=2), tokenizer.layout)
    masking = RandomMasking(RandomMasking.Options(ratio=ratio), tokenizer.layout)
    objective = MetaMAE(
        MetaMAE.Options(width=16, heads=2, depth=1), tokenizer.layout, DIM, {} if masking is None else {"mask": masking}
    )
    return tokenizer, encoder.eval(), objective


def test_gradient_of_metamae_reaches_every_parameter_of_the_tokenizer():
    """On a mixed table with missing values."""
    tokenizer, encoder, objective = build_metamae()
    draws = objective.draw(12, torch.Generator().manual_seed(0), Geometry())
    loss = objective(tokens(tokenizer, mixed_rows()), encoder, draws).loss
    assert math.isfinite(loss.item())
    loss.backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_missing_numbers_do_not_change_the_loss():
    """Neither the target nor the embedding of a missing number does; a valid number does."""
    tokenizer, encoder, objective = build_metamae()
    draws = objective.draw(12, torch.Generator().manual_seed(1), Geometry())
    inputs = {name: torch.from_numpy(x) for name, x in batch_of(tokenizer, mixed_rows()).items()}
    missing = inputs["missing"]
    output = tokenizer(inputs)
    target = output.targets[0]
    assert isinstance(target, ContinuousTarget)
    far = ContinuousTarget(torch.where(missing.unsqueeze(-1), torch.tensor(1e3), target.patches))
    embeddings = output.embeddings.clone()
    embeddings[:, :3][missing] = 7.0
    changed = Tokens(embeddings, (far, *output.targets[1:]), output.layout, output.geometry)
    losses = [objective(each, encoder, draws).loss.item() for each in (output, changed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    shifted = ContinuousTarget(torch.where(missing.unsqueeze(-1), target.patches, target.patches + 1))
    moved = Tokens(output.embeddings, (shifted, *output.targets[1:]), output.layout, output.geometry)
    assert objective(moved, encoder, draws).loss.item() != pytest.approx(losses[0], rel=1e-3)


def test_token_of_a_missing_number_changes_the_other_features():
    """Two rows that differ in one missing number only."""
    tokenizer, encoder, _ = build_metamae()
    row = mixed_rows(3)[2]
    row["numeric"] = np.zeros(3, dtype=np.float32)
    other = copy.deepcopy(row)
    other["missing"] = np.array([1, 0, 0])
    output = tokens(tokenizer, [row, other])
    encoded = encoder(output.embeddings, geometry=output.geometry)[:, 1:]
    assert not torch.allclose(encoded[0, 1], encoded[1, 1], atol=1e-4)


def test_preprocess_is_pure():
    tokenizer, rows = make(MIXED), mixed_rows()
    before = copy.deepcopy(rows)
    first, second = batch_of(tokenizer, rows), batch_of(tokenizer, rows)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    for one, other in zip(rows, before, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_to_image_is_in_the_units_of_the_columns():
    tokenizer, rows = make({"numeric": Continuous((3,))}), [{"numeric": r["numeric"]} for r in mixed_rows()[2:3] * 4]
    rows = [{"numeric": row["numeric"] + i} for i, row in enumerate(rows)]
    tokenizer.fit_normalization(iter([batch_of(tokenizer, rows)]))
    target = tokens(tokenizer, rows).targets[0]
    assert isinstance(target, ContinuousTarget)
    np.testing.assert_allclose(
        tokenizer.to_image(0, target.patches)[:, 0], np.stack([row["numeric"] for row in rows]), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (ConfigError, lambda: make({"table": Continuous((3,))}), ("'numeric'", "'table'")),
        (ConfigError, lambda: make({"numeric": Continuous((2, 3))}), ("(2, 3)",)),
        (ConfigError, lambda: make({"numeric": Continuous((None,))}), ("(None,)",)),
        (
            ConfigError,
            lambda: make({"numeric": Continuous((3,))}, normalise="given", mean=(0,), std=(1, 1)),
            ("tokenizer.std", "2 numbers", "1 or 3"),
        ),
        (
            ConfigError,
            lambda: make({"numeric": Continuous((3,))}, normalise="given", mean=(0,), std=(0,)),
            ("positive",),
        ),
        (
            BadSample,
            lambda: make({"numeric": Continuous((3,))}).preprocess({"numeric": np.ones(4)}),
            ("4 columns", "3"),
        ),
        (
            BadSample,
            lambda: make({"numeric": Continuous((3,))}).preprocess({"numeric": np.array([0, 1, np.inf])}),
            ("infinity", "column 2"),
        ),
        (BadSample, lambda: make({"c": Discrete(1, 4)}).preprocess({"c": np.array([4])}), ("'c'", "below 4")),
        (BadSample, lambda: make({"c": Discrete(1, 4)}).preprocess({"c": np.array([-1])}), ("'c'", "[-1]")),
    ],
)
def test_invalid_options_and_samples_are_refused_in_one_line(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
