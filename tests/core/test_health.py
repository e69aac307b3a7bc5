"""Effective rank, variance of the stages, and the warning at a collapse."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import sslx
from ssl_core import Geometry
from ssl_core.data import Batch
from ssl_core.errors import SslxError
from ssl_core.evaluation.health import Variance, alpha_req, collapse, health, lidar, rankme
from ssl_core.nn import gather_tokens
from ssl_plugins.objectives.mae import MAE


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


def test_lidar_by_hand():
    """Means of samples of variances 18 and 2, views at distances 2 and sqrt(2): ratios 18 / 4 and 2 / 2 about."""
    means = np.array([[6.0, 0], [-6, 0], [0, 2], [0, -2]])
    offsets = np.array([[2.0, np.sqrt(2)], [-2, -np.sqrt(2)], [2, -np.sqrt(2)], [-2, np.sqrt(2)]])
    views = means[:, None] + offsets
    share = np.array([18 / 4, 2 / 2]) / (18 / 4 + 2 / 2)
    assert lidar(views, delta=0) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    share = np.array([18 / 5, 2 / 3]) / (18 / 5 + 2 / 3)
    assert lidar(views, delta=1) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    assert lidar(np.ones((5, 3, 2))) == 1.0


def test_lidar_leaves_out_directions_in_which_views_differ():
    """RankMe counts a direction of noise, LiDAR does not."""
    rng = np.random.default_rng(0)
    kept, noise = rng.normal(size=(400, 1, 3)), 3 * rng.normal(size=(400, 8, 5))
    views = np.concatenate([np.broadcast_to(kept, (400, 8, 3)) + 1e-2 * rng.normal(size=(400, 8, 3)), noise], axis=2)
    assert rankme(views[:, 0]) > 6
    assert lidar(views) == pytest.approx(3, abs=0.1)
    turn, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert lidar(views @ turn + 5) == pytest.approx(lidar(views), rel=1e-6)


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


def test_halves_are_encodings_of_half_of_the_valid_tokens(toy):
    """Each is what the encoder gives for these tokens alone; padding is never among them."""
    learner = toy.make_learner(MAE, encoder_depth=2).eval().double()
    inputs = {"x": torch.randn(6, 2, 16, dtype=torch.float64)}
    tokens = learner.tokenizer(inputs)
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    padded = dataclasses.replace(tokens, geometry=Geometry(valid=valid))
    learner.tokenizer.forward = lambda inputs: padded  # the toy has no padding
    found = learner.halves(inputs, 60, torch.Generator().manual_seed(0))
    assert found.shape == (6, 60, 16)
    seen = [set() for _ in range(6)]
    for row in range(6):
        positions = valid[row].nonzero().flatten()
        halves = list(itertools.combinations(positions.tolist(), (len(positions) + 1) // 2))
        expected = []
        for half in halves:
            index = torch.tensor([half])
            encoded = learner.encoder(gather_tokens(tokens.embeddings[row : row + 1], index), index)
            expected.append(learner.encoder.pool(encoded, None)[0])
        for view in found[row]:
            (match,) = [n for n, one in enumerate(expected) if torch.allclose(view, one, rtol=1e-9, atol=1e-12)]
            seen[row].add(match)
        assert len(seen[row]) == len(halves)  # of 60 draws from at most 6
    again = learner.halves(inputs, 60, torch.Generator().manual_seed(0))
    assert torch.equal(again, found)


def test_a_run_measures_lidar_where_it_is_asked_for(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path / "cache"))
    options = {
        "encoder": {"dim": 16, "depth": 1, "heads": 2}, "objective.width": 16, "objective.depth": 1,
        "objective.heads": 1, "dataset.n_train": 60, "dataset.n_test": 10, "evaluate.every": 2,
        "evaluate.figures": False, "evaluate.lidar_views": 3,
    }  # fmt: skip
    call = {"objective": "mae", "modality": "tabular", "steps": 4, "batch_size": 16, "device": "cpu"}
    report = sslx.pretrain(**call, set=options, out=tmp_path / "run").report
    assert {kind: 1 <= figures["lidar"] <= 16 for kind, figures in report.health.items()} == {
        "trained": True, "random_init": True,
    }  # fmt: skip
    assert [1 <= point.health["lidar"] <= 16 for point in report.curve] == [True] * len(report.curve)
    assert report.curve
    with pytest.raises(SslxError, match=r"lidar_views=1: LiDAR compares views .*give 2 or more, or 0"):
        sslx.pretrain(**call, set=options | {"evaluate.lidar_views": 1}, out=tmp_path / "other")
