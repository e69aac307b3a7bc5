"""Effective rank, variance of the stages, and the warning at a collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_core.data import Batch
from ssl_core.evaluation.health import Variance, alpha_req, collapse, health, rankme


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_of_equal_singular_values_is_their_number(rank):
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(50, rank)))
    right, _ = np.linalg.qr(rng.normal(size=(8, rank)))
    assert rankme(left @ right.T) == pytest.approx(rank, rel=1e-4)


def test_rankme_by_hand():
    # singular values 3 and 1: p = 3/4, 1/4; exp(3/4 ln 4/3 + 1/4 ln 4) = 1.7547...
    assert rankme(np.diag([3.0, 1.0])) == pytest.approx(1.7547653506033138, rel=1e-5)
    assert rankme(np.zeros((5, 2))) == 1.0


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_req_is_the_exponent_of_a_power_law(alpha):
    """Orthogonal features of variances j^-alpha, with other numbers before the tail."""
    rng = np.random.default_rng(0)
    columns, _ = np.linalg.qr(np.c_[np.ones(300), rng.normal(size=(300, 120))])
    variances = np.arange(1, 121.0) ** -alpha
    variances[:10] = 7
    x = columns[:, 1:] * np.sqrt(variances) + 3
    assert alpha_req(x) == pytest.approx(alpha, rel=1e-6)
    assert alpha_req(1000 * x) == pytest.approx(alpha, rel=1e-6)


def test_alpha_req_by_hand_and_where_it_is_undefined():
    # variances 4, 1, 1/4 at j = 1, 2, 3: log2 of them 2, 0, -2 over log2 j = 0, 1, 1.585
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    j = np.log2([1, 2, 3])
    expected = -((j - j.mean()) * np.array([2, 0, -2])).sum() / np.square(j - j.mean()).sum()
    assert alpha_req(signs * [2, 1, 0.5], first=1) == pytest.approx(expected)
    assert alpha_req(signs * [2, 1, 0.5]) is None
    assert alpha_req(np.ones((50, 40))) is None


def test_variance_does_not_depend_on_the_batches():
    x = np.random.default_rng(1).normal(1e3, 2.0, size=(31, 4, 3))
    whole, parts = Variance(), Variance()
    whole.add(x)
    for part in np.array_split(x, 7):
        parts.add(part)
    assert whole.value() == pytest.approx(x.var(axis=0).mean())
    assert parts.value() == pytest.approx(whole.value())


def test_health_measures_each_stage():
    torch.manual_seed(0)
    x = torch.randn(64, 5, 8)
    figures = health(
        lambda inputs: (inputs["x"], 3 * inputs["x"], inputs["x"].mean(1)), [Batch({"x": x[:40]}), Batch({"x": x[40:]})]
    )
    assert figures["encoder_variance"] == pytest.approx(9 * figures["tokenizer_variance"], rel=1e-6)
    assert figures["tokenizer_variance"] == pytest.approx(float(x.var(0, unbiased=False).mean()), rel=1e-5)
    assert 4 < figures["rankme"] <= 8


def test_only_a_collapse_gives_a_warning():
    initial = {"rankme": 20.0, "tokenizer_variance": 1.0, "encoder_variance": 2.0}
    assert collapse(initial, initial) is None
    assert collapse(initial | {"encoder_variance": 0.5, "rankme": 9.0}, initial) is None
    assert "encoder" in (collapse(initial | {"encoder_variance": 0.001}, initial) or "")
    assert "tokenizer" in (collapse(initial | {"tokenizer_variance": 1e-5}, initial) or "")
    assert "rank" in (collapse(initial | {"rankme": 1.2}, initial) or "")
