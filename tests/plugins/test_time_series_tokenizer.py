"""Tokenizer `time-series`: PAMAP2 as published, lengths, gaps, padding, refusals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ssl_core import BadSample, ConfigError, Continuous, ContinuousTarget
from ssl_plugins.tokenizers.time_series import TimeSeriesTokenizer

RNG = np.random.default_rng(0)


def make(shape: tuple[int | None, ...], field: str = "series", **options: object) -> TimeSeriesTokenizer:
    return TimeSeriesTokenizer(TimeSeriesTokenizer.Options(**options), {field: Continuous(shape)}, 16)


def tokens(tokenizer: TimeSeriesTokenizer, *series: np.ndarray):
    prepared = [tokenizer.preprocess({"series": each}) for each in series]
    return tokenizer({name: torch.from_numpy(np.stack([one[name] for one in prepared])) for name in prepared[0]})


def test_pamap2_is_prepared_as_published():
    """52 channels x 320 steps: 64 tokens of 5 steps, 260 numbers each in the order step, channel, in raw units."""
    tokenizer = make((52, 320), normalise="none")
    segment = tokenizer.layout.segments[0]
    assert (segment.grid, segment.size) == ((64,), 260)
    series = RNG.normal(100, 30, (52, 320)).astype(np.float32)
    output = tokens(tokenizer, series)
    assert output.valid is None
    assert isinstance(output.targets[0], ContinuousTarget)
    for token in range(64):
        expected = [series[channel, 5 * token + step] for step in range(5) for channel in range(52)]
        np.testing.assert_array_equal(output.targets[0].patches[0, token], np.array(expected))


@pytest.mark.parametrize(("length", "count"), [(320, 64), (1000, 50), (128, 64), (8, 8), (3000, 60)])
def test_default_patch_gives_about_64_tokens(length, count):
    assert make((3, length)).layout.length == count


@pytest.mark.parametrize(
    ("longest", "length", "count"), [(None, 320, 64), (5000, 320, 64), (14, 14, 14), (100, 100, 50), (97, 98, 49)]
)
def test_series_of_different_lengths_take_the_longest(longest, length, count):
    fields = {"series": Continuous((2, None), longest=longest)}
    tokenizer = TimeSeriesTokenizer(TimeSeriesTokenizer.Options(), fields, 16)
    assert (tokenizer.length, tokenizer.layout.length) == (length, count)
    assert tokens(tokenizer, np.ones((2, 9))).valid.sum() == -(-9 // tokenizer.patch[0])


def test_crop_and_fill():
    series = np.arange(10, dtype=np.float32)[None]
    for crop, first in (("start", 0), ("center", 3), ("end", 6)):
        cropped = make((1, None), length=4, patch=2, crop=crop).preprocess({"series": series})["series"]
        np.testing.assert_array_equal(cropped[0], np.arange(first, first + 4))
    for fill, tail in (("zeros", [0, 0, 0]), ("edge", [9, 9, 9]), ("repeat", [0, 1, 2])):
        prepared = make((1, None), length=13, patch=1, fill=fill).preprocess({"series": series})
        assert set(prepared) == {"series", "length"}
        np.testing.assert_array_equal(prepared["series"][0, 10:], tail)


def test_padding_is_not_valid():
    tokenizer = make((2, None), length=12, patch=3)
    valid = tokens(tokenizer, np.ones((2, 12)), np.ones((2, 7)), np.ones((2, 6)), np.ones((2, 1))).valid
    assert valid is not None
    assert valid.tolist() == [[True] * 4, [True] * 3 + [False], [True, True] + [False] * 2, [True] + [False] * 3]
    assert tokens(make((2, 12), patch=3), np.ones((2, 12))).valid is None


def test_facts_are_shares_of_what_is_left_out_and_of_padding():
    for shape, lengths, cropped, padded in (
        ((1, None), (5, 10, 40), (0, 0, 0.75), (0.5, 0, 0)),
        ((1, 40), (40, 40), (0.75, 0.75), (0, 0)),
        ((1, 5), (5, 5), (0, 0), (0.5, 0.5)),
    ):
        tokenizer = make(shape, length=10, patch=1)
        rows = [tokenizer.preprocess({"series": np.ones((1, length))}) for length in lengths]
        facts = tokenizer.facts({name: np.stack([row[name] for row in rows]) for name in rows[0]})
        assert facts == pytest.approx({"cropped": np.mean(cropped), "padded": np.mean(padded)})
    assert make((1, 40), length=10, patch=1, crop="random").facts({})["cropped"] == 0


def test_gaps_are_interpolated_linearly():
    gap = np.nan
    series = np.array([[gap, 1, gap, gap, 4, gap], [0, 1, 2, 3, 4, 5]])
    before = copy.deepcopy(series)
    tokenizer = make((2, 6), patch=1)
    prepared = tokenizer.preprocess({"series": series})["series"]
    np.testing.assert_allclose(prepared, [[1, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(series, before)
    np.testing.assert_array_equal(prepared, tokenizer.preprocess({"series": series})["series"])


def test_constants_are_measured_on_the_chosen_channels():
    series = [RNG.normal((0, 50, -3), (1, 20, 0.1), (40, 3)).T for _ in range(6)]
    tokenizer = make((3, 40), channels=(2, 1), patch=4)
    prepared = np.stack([tokenizer.preprocess({"series": each})["series"] for each in series])
    tokenizer.fit_normalization(iter([{"series": prepared[:1]}, {"series": prepared[1:]}]))
    both = np.concatenate(series, axis=1)[[2, 1]]
    np.testing.assert_allclose(tokenizer.mean, both.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(tokenizer.std, both.std(axis=1), rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-13, 1e-30, 1e20])
def test_tokens_are_the_same_in_any_unit(unit):
    """Magnetic fields in tesla are of size 1e-13."""
    x = np.random.default_rng(0).standard_normal((20, 2, 64)) + np.array([[0.0], [5.0]])
    one, other = (make((2, 64)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    tokens = []
    for tokenizer, data in ((one, x), (other, x * unit)):
        prepared = np.stack([tokenizer.preprocess({"series": sample})["series"] for sample in data])
        tokenizer.fit_normalization([{"series": prepared}])
        tokens.append(tokenizer({"series": torch.from_numpy(prepared)}).embeddings)
    torch.testing.assert_close(tokens[1], tokens[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-13, 1e-42, 101325.3, 3e30])
def test_a_constant_channel_is_not_scaled(value):
    tokenizer = make((1, 64))
    tokenizer.fit_normalization([{"series": np.full((7, 1, 64), value, np.float32)} for _ in range(3)])
    assert tokenizer.std.tolist() == [1.0]
    assert tokenizer.mean.item() == np.float32(value)


def test_constants_leave_out_padding_that_is_absent():
    series = [np.array([[0.0] * 9 + [10.0]]), np.array([[4.0] * 40])]
    tokenizer = make((1, None), length=100, patch=4)
    prepared = [tokenizer.preprocess({"series": each}) for each in series]
    chunk = {name: np.stack([each[name] for each in prepared]) for name in prepared[0]}
    tokenizer.fit_normalization(iter([chunk]))
    known = np.concatenate(series, axis=1)
    np.testing.assert_allclose([tokenizer.mean.item(), tokenizer.std.item()], [known.mean(), known.std()], rtol=1e-5)


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (ConfigError, lambda: make((3, 320), patch=7), ("patch (7,)", "(320,)")),
        (ConfigError, lambda: make((3, 317)), ("317", "tokenizer.length", "320")),
        (ConfigError, lambda: make((3, 320), channels=(3,)), ("channel 3", "0 to 2")),
        (ConfigError, lambda: make((None, 320)), ("'series'",)),
        (ConfigError, lambda: make((1, 5), field="wave"), ("'wave'",)),
        (BadSample, lambda: make((2, 4), patch=1).preprocess({"series": np.ones((3, 4))}), ("(3, 4)", "(2, steps)")),
        (BadSample, lambda: make((2, None), length=4, patch=1).preprocess({"series": np.ones((2, 0))}), ("(2, 0)",)),
        (BadSample, lambda: make((1, 4), patch=1).preprocess({"series": np.full((1, 4), np.nan)}), ("channel 0",)),
        (BadSample, lambda: make((1, 4), patch=1).preprocess({"series": np.full((1, 4), np.inf)}), ("infinite",)),
        (
            BadSample,
            lambda: make((1, 4), patch=1, gaps="refuse").preprocess({"series": np.array([[1, np.nan, 1, 1]])}),
            ("1 NaN", "gaps=interpolate"),
        ),
    ],
)
def test_invalid_options_and_samples_are_refused_in_one_line(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)
