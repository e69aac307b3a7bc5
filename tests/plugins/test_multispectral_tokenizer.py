"""Tokenizer `multispectral`: EuroSAT as published, any bands and sizes, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_core import BadSample, ConfigError, Continuous, ContinuousTarget
from ssl_plugins.tokenizers.multispectral import MultispectralTokenizer

MEAN = (1354.3003, 1117.7579, 1042.2800, 947.6443, 1199.6334, 2001.9829, 2372.5579, 2299.6663, 731.0175, 12.0956,
        1822.4083, 1119.5759, 2598.4456)  # fmt: skip
STD = (244.0469, 323.4128, 385.0928, 584.1638, 566.0543, 858.5753, 1083.6704, 1103.0342, 402.9594, 4.7207, 1002.4071,
       759.6080, 1228.4104)  # fmt: skip


def make(shape: tuple[int | None, ...], **options: object) -> MultispectralTokenizer:
    return MultispectralTokenizer(MultispectralTokenizer.Options(**options), {"image": Continuous(shape)}, 16)


def test_eurosat_is_prepared_as_published():
    """13 x 64 x 64 in patches of 8 x 8: 64 tokens of 832 in the order row, column, band; (x - mean) / std per band."""
    tokenizer = make((13, 64, 64), normalise="given", mean=MEAN, std=STD)
    segment = tokenizer.layout.segments[0]
    assert (segment.grid, segment.size) == ((8, 8), 832)
    image = np.random.default_rng(0).integers(0, 5000, (13, 64, 64), dtype=np.uint16)
    prepared = tokenizer.preprocess({"image": image})["image"]
    target = tokenizer({"image": torch.from_numpy(prepared[None])}).targets[0]
    assert isinstance(target, ContinuousTarget)
    patches = target.patches[0]
    scaled = (image - np.reshape(MEAN, (13, 1, 1))) / np.reshape(STD, (13, 1, 1))
    for token, row, column, band in ((0, 0, 0, 0), (9, 3, 5, 12), (63, 7, 7, 9), (15, 0, 6, 1)):
        y, x = 8 * (token // 8) + row, 8 * (token % 8) + column
        assert float(patches[token, (8 * row + column) * 13 + band]) == pytest.approx(scaled[band, y, x], rel=1e-4)


def test_any_size_and_a_choice_of_bands():
    image = np.random.default_rng(1).normal(size=(5, 20, 36)).astype(np.float32)
    tokenizer = make((5, 20, 36), patch=(5, 4), bands=(4, 0))
    assert (tokenizer.layout.segments[0].grid, tokenizer.layout.segments[0].size) == ((4, 9), 40)
    np.testing.assert_array_equal(tokenizer.preprocess({"image": image})["image"], image[[4, 0]])
    resized = make((5, None, None), size=(10, 18)).preprocess({"image": image})["image"]
    assert resized.shape == (5, 10, 18)
    np.testing.assert_allclose(resized.mean(axis=(1, 2)), image.mean(axis=(1, 2)), atol=0.02)


def test_log_option():
    image = np.array([[[0.0, np.e - 1], [np.e**2 - 1, 0.0]]])
    prepared = make((1, 2, 2), patch=1, log=True).preprocess({"image": image})["image"]
    np.testing.assert_allclose(prepared, [[[0, 1], [2, 0]]], atol=1e-6)


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (ConfigError, lambda: make((3, 8, 8), bands=(3,)), ("band 3", "0 to 2")),
        (ConfigError, lambda: make((None, 8, 8)), ("number of bands",)),
        (ConfigError, lambda: make((3, 8, 8), patch=3), ("patch (3, 3)",)),
        (BadSample, lambda: make((3, 8, 8)).preprocess({"image": np.ones((4, 8, 8))}), ("4 bands", "3")),
        (BadSample, lambda: make((3, 8, 8)).preprocess({"image": np.full((3, 8, 8), np.nan)}), ("NaN",)),
        (BadSample, lambda: make((1, 8, 8), log=True).preprocess({"image": np.full((1, 8, 8), -2)}), ("log=false",)),
    ],
)
def test_invalid_options_and_samples_are_refused_in_one_line(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)
