"""Dropout: rate, scale, gradients, and the generator used on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_core.nn import Dropout


def apply_dropout(p: float, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p)(x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_elements_are_dropped_at_rate_p_or_scaled(p: float, dtype: torch.dtype) -> None:
    x = torch.ones(300, 1001, dtype=dtype)
    out = apply_dropout(p, x)
    assert out.dtype == dtype
    assert out.shape == x.shape
    scale = torch.tensor(65536 / (65536 - round(p * 65536)), dtype=dtype)
    assert set(out.unique().tolist()) == {0.0, float(scale)}
    spread = (p * (1 - p) / out.numel()) ** 0.5
    assert abs(float((out == 0).double().mean()) - p) < 5 * spread + 1 / 65536


def test_four_elements_of_one_64_bit_draw_are_independent() -> None:
    """All four groups of 16 bits are uniform and pairwise uncorrelated, including the one with the sign bit."""
    dropped = (apply_dropout(0.25, torch.ones(400_000)) == 0).double().view(-1, 4)
    spread = (0.25 * 0.75 / len(dropped)) ** 0.5
    assert (dropped.mean(dim=0) - 0.25).abs().max() < 5 * spread
    joint = (dropped.T @ dropped / len(dropped)).fill_diagonal_(0.0625)
    assert (joint - 0.0625).abs().max() < 5 * (0.0625 * 0.9375 / len(dropped)) ** 0.5


def test_dropped_elements_get_no_gradient() -> None:
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    out = apply_dropout(0.5, x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(out == 0, 0.0, 2.0).double())


def test_the_same_seed_gives_the_same_mask() -> None:
    x = torch.ones(1000)
    assert torch.equal(apply_dropout(0.3, x), apply_dropout(0.3, x))
    assert not torch.equal(apply_dropout(0.3, x), apply_dropout(0.3, x, seed=1))


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-9])
def test_degenerate_rates_match_torch(p: float) -> None:
    x = torch.randn(50, 50)
    torch.manual_seed(0)
    assert torch.equal(apply_dropout(p, x), nn.functional.dropout(x, p))


def test_evaluation_mode_is_the_identity() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_empty_input() -> None:
    assert apply_dropout(0.5, torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.slow
def test_compiled_dropout_equals_eager(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    import torch._inductor.config as inductor

    module = Dropout(0.3)
    x = torch.randn(33, 5)
    torch.manual_seed(3)
    eager = module(x)
    torch.manual_seed(3)
    with inductor.patch(fallback_random=True):  # monkeypatch would leave the entry hidden
        assert torch.equal(torch.compile(module, fullgraph=True)(x), eager)
