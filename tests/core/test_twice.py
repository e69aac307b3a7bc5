"""The attention that is fused and differentiated twice, against softmax written out."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ssl_core.nn import twice
from ssl_core.nn.attention import attend
from ssl_core.nn.twice import attend_twice


def parts(queries: int = 5, keys: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4))
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)


KEEP = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])


@pytest.mark.parametrize("keep", [None, KEEP], ids=["all", "some"])
@pytest.mark.parametrize("chunk", [1, 60, 2**22], ids=["a query", "two queries", "whole"])
def test_both_derivatives_are_those_of_finite_differences(monkeypatch, keep, chunk):
    monkeypatch.setattr(twice, "CHUNK_NUMBERS", chunk)
    assert gradcheck(lambda q, k, v: attend_twice(q, k, v, keep), parts())
    assert gradgradcheck(lambda q, k, v: attend_twice(q, k, v, keep), parts())


@pytest.mark.parametrize("keep", [None, KEEP], ids=["all", "some"])
@pytest.mark.parametrize("queries", [5, 2])
def test_an_inner_gradient_step_is_that_of_softmax_written_out(keep, queries):
    def outer(function):
        q, k, v = parts(queries)
        inner = torch.func.grad(lambda z: function(z, 0.5 * k, v).square().sum())(q)
        moved = q - 0.3 * inner
        loss = (function(moved, k, v) * torch.arange(4)).sum() + inner.pow(3).sum()
        return torch.autograd.grad(loss, (q, k, v))

    ours = outer(lambda q, k, v: attend_twice(q, k, v, keep))
    plain = outer(lambda q, k, v: attend(q, k, v, "math", keep))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_second_derivative_is_really_there():
    """A negative control: with the inner gradient cut off the outer one differs."""
    q, k, v = parts()

    def outer(cut):
        (inner,) = torch.autograd.grad(attend_twice(q, k, v).square().sum(), q, create_graph=True)
        inner = inner.detach() if cut else inner
        return torch.autograd.grad(attend_twice(q - inner, k, v).pow(2).sum(), k)[0]

    assert not torch.allclose(outer(True), outer(False), rtol=1e-3)


def test_no_matrix_of_all_queries_by_all_keys_is_held(monkeypatch):
    """At 64 keys and chunks of 8 queries nothing larger than 8 x 64 is made by the written-out derivative."""
    monkeypatch.setattr(twice, "CHUNK_NUMBERS", 2 * 3 * 8 * 64)
    sizes = []
    q, k, v = (part.detach() for part in parts(64, 64))

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (64,):
                sizes.append(out.shape[-2])
            return out

    with Spy():
        twice.second(q, k, v, q, k, v, v, None)
    assert sizes
    assert max(sizes) <= 8
