"""The attention that can be differentiated twice, against softmax written out."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ssl_core.nn import attention, attention_xformers, double_backward
from ssl_core.nn.attention import attend
from ssl_core.nn.double_backward import double_backward_attention
from ssl_plugins.objectives.metamae import MetaMAE
from tests.core.conftest import Plainly


def parts(queries: int = 5, keys: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4))
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)


KEEP = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])


@pytest.fixture(params=[False, True], ids=["as it is", "filled up"])
def filled(request, monkeypatch):
    """Whether five keys are filled up to eight, as rows of scores of an awkward length are in half precision."""
    if request.param:
        monkeypatch.setattr(double_backward, "HALF", (torch.float64,))
        monkeypatch.setattr(double_backward, "LOT", 8)
    assert double_backward.filling(parts()[1]) == (3 if request.param else 0)


@pytest.mark.parametrize("kept", [double_backward.KEPT_TOKENS, 1], ids=["P kept", "P made again"])
@pytest.mark.parametrize("key_mask", [None, KEEP], ids=["all", "some"])
@pytest.mark.parametrize("chunk", [1, 40, 75, 2**22], ids=["a query", "two queries", "a row", "whole"])
def test_both_derivatives_are_those_of_finite_differences(filled, monkeypatch, key_mask, chunk, kept):
    monkeypatch.setattr(double_backward, "CHUNK_NUMBERS", chunk)
    monkeypatch.setattr(double_backward, "KEPT_TOKENS", kept)
    assert gradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), parts())
    assert gradgradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), parts())


def outer(function, queries: int = 5, keys: int = 5, dtype: torch.dtype = torch.float64):
    """Gradients of a loss with an inner gradient step in it, as in MetaMAE."""
    q, k, v = (part.detach().to(dtype).requires_grad_() for part in parts(queries, keys))
    inner = torch.func.grad(lambda z: function(z, 0.5 * k, v).square().sum())(q)
    moved = q - 0.3 * inner
    loss = (function(moved, k, v) * torch.arange(4)).sum() + inner.pow(3).sum()
    return torch.autograd.grad(loss, (q, k, v))


@pytest.mark.parametrize("key_mask", [None, KEEP], ids=["all", "some"])
@pytest.mark.parametrize("queries", [5, 2])
def test_an_inner_gradient_step_is_that_of_softmax_written_out(filled, key_mask, queries):
    ours = outer(lambda q, k, v: double_backward_attention(q, k, v, key_mask), queries)
    plain = outer(lambda q, k, v: attend(q, k, v, "math", key_mask), queries)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_one_graph_holds_it_all():
    """Traced whole, as the compiled step is; the second derivative is not lost on the way."""
    torch.compiler.allow_in_graph(double_backward_attention)

    def inner_step(q, k, v):
        return torch.func.grad(lambda z: double_backward_attention(z, k, v).square().sum())(q).pow(3).sum()

    whole = torch.compile(inner_step, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(whole(*(leaves := parts())), leaves)
    q, k, v = parts()
    inner = torch.func.grad(lambda z: attend(z, k, v, "math").square().sum())(q)
    for one, other in zip(found, torch.autograd.grad(inner.pow(3).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key_mask", [None, KEEP], ids=["all", "some"])
@pytest.mark.parametrize("kept", [double_backward.KEPT_TOKENS, 1], ids=["P kept", "P made again"])
@pytest.mark.parametrize("more", [False, True], ids=["as it is", "filled up"])
def test_the_operations_are_what_the_compiler_is_told(monkeypatch, key_mask, kept, more):
    monkeypatch.setattr(double_backward, "KEPT_TOKENS", kept)
    q, k, v = (part.detach() for part in parts(2, 8 if more else 5))
    out, p = double_backward.attend_zeroth(q, k, v, key_mask, 5)
    torch.library.opcheck(double_backward.attend_zeroth, (q, k, v, key_mask, 5))
    torch.library.opcheck(double_backward.attend_first, (q, k, v, out, key_mask, 5, p))
    torch.library.opcheck(double_backward.attend_second, (q, k, v, out, q, k, v, key_mask, 5, out, p))


def test_rows_of_scores_are_filled_up_where_little_is_left_over():
    def more(length, dtype):
        return double_backward.filling(torch.empty(1, 1, length, 1, dtype=dtype))

    assert [more(n, torch.bfloat16) for n in (29, 32, 65, 104, 109, 126, 197, 251)] == [3, 0, 0, 24, 19, 2, 0, 5]
    assert more(29, torch.float32) == more(126, torch.float64) == 0


def test_in_bf16_it_errs_as_softmax_written_out_does():
    """Both round products to bf16 and sum in fp32; ours must not round more."""

    def error(function):
        found, exact = outer(function, 40, 40, torch.bfloat16), outer(lambda *x: attend(*x, "math"), 40, 40)
        return [float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]

    def autocast(q, k, v):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return attend(q, k, v, "math").to(torch.bfloat16)

    for ours, plain in zip(error(double_backward_attention), error(autocast), strict=True):
        assert ours < 1.5 * plain


def test_in_bf16_many_chunks_of_queries_err_as_one_does(monkeypatch):
    """What all keys get is added up over 40 chunks: in bf16 it would be rounded 40 times."""

    def error():
        found, exact = (
            outer(double_backward_attention, 40, 40, torch.bfloat16),
            outer(lambda *x: attend(*x, "math"), 40, 40),
        )
        return [float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)]

    whole = error()
    monkeypatch.setattr(double_backward, "CHUNK_NUMBERS", 1)
    for split, once in zip(error(), whole, strict=True):
        assert split < 1.2 * once


def test_the_second_derivative_is_really_there():
    """A negative control: with the inner gradient cut off the outer one differs."""
    q, k, v = parts()

    def outer(cut):
        (inner,) = torch.autograd.grad(double_backward_attention(q, k, v).square().sum(), q, create_graph=True)
        inner = inner.detach() if cut else inner
        return torch.autograd.grad(double_backward_attention(q - inner, k, v).pow(2).sum(), k)[0]

    assert not torch.allclose(outer(True), outer(False), rtol=1e-3)


def test_no_matrix_of_all_queries_by_all_keys_is_held(monkeypatch):
    """At 64 keys and chunks of 8 queries nothing larger than 8 x 64 is made by the written-out derivative."""
    monkeypatch.setattr(double_backward, "KEPT_TOKENS", 64)
    sizes = []
    q, k, v = (part.detach() for part in parts(64, 64))
    out, p = double_backward.attend_zeroth(q, k, v, None, 64)
    assert p.numel() == 0

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (64,):
                sizes.append(out.shape[-2])
            return out

    with Spy():
        double_backward._second(q, k, v, q, k, v, v, None, 64, out, p, 3 * 8 * 64)
    assert sizes
    assert max(sizes) <= 8


@pytest.fixture
def fused(monkeypatch):
    """The way of CUDA, with xformers' operators written out."""
    monkeypatch.setattr(double_backward, "_fused", lambda q: True)
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    monkeypatch.setattr(
        attention_xformers, "KERNELS", dict.fromkeys((torch.float64, torch.float32, torch.bfloat16), "flash")
    )


@pytest.mark.parametrize("key_mask", [None, KEEP], ids=["all", "some"])
@pytest.mark.parametrize("chunk", [1, 75, 2**22], ids=["a query", "a row", "whole"])
@pytest.mark.parametrize("keys", [5, 8], ids=["filled up", "aligned"])
def test_both_derivatives_through_a_fused_kernel(fused, monkeypatch, key_mask, chunk, keys):
    monkeypatch.setattr(double_backward, "CUDA_CHUNK_NUMBERS", chunk)
    key_mask = key_mask if key_mask is None else torch.cat([key_mask, key_mask[:, : keys - 5]], dim=1)
    given = tuple(torch.cat([part, part], dim=-1) for part in parts(3, keys))  # heads as wide as xformers wants them
    given = tuple(part.detach().requires_grad_() for part in given)
    torch.testing.assert_close(
        double_backward_attention(*given, key_mask), attend(*given, "math", key_mask), rtol=1e-12, atol=1e-14
    )
    assert gradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), given)
    assert gradgradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), given)


@pytest.mark.parametrize("heads", [3, 1])
def test_a_second_derivative_that_is_itself_recorded_through_a_fused_kernel(fused, heads):
    """With one head what is made can be written where it belongs at once, but not while autograd records."""

    def outer(function):
        q, k, v = (part[:, :heads].detach().requires_grad_() for part in parts())
        (inner,) = torch.autograd.grad(function(q, k, v).square().sum(), q, create_graph=True)
        return torch.autograd.grad(inner.pow(3).sum(), (q, k, v), create_graph=True)

    for one, other in zip(outer(double_backward_attention), outer(lambda *x: attend(*x, "math")), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_how_long_rows_are_says_whether_weights_are_kept_not_how_they_are_filled_up(monkeypatch):
    monkeypatch.setattr(double_backward, "KEPT_TOKENS", 32)
    q, k, v = (torch.randn(1, 1, n, 4, dtype=torch.bfloat16) for n in (2, 32, 32))
    assert double_backward.attend_zeroth(q, k, v, None, 31)[1].shape == (1, 2, 32)
    assert double_backward.attend_zeroth(q, k, v, None, 32)[1].numel() == 0


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_a_step_in_mixed_precision_through_a_fused_kernel(fused, monkeypatch, toy, how):
    """The compiler traces the backward pass within the forward pass's autocast."""
    torch.compiler.allow_in_graph(double_backward_attention)
    learner = toy.make_learner(MetaMAE, width=32, heads=4).train()
    inputs = {"x": torch.randn(8, 2, 16, generator=torch.Generator().manual_seed(0))}
    draws = learner.draw(8, torch.Generator().manual_seed(1))

    def gradient(kernel, function):
        monkeypatch.setattr(attention, "choose_kernel", lambda *_: kernel)
        learner.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(inputs, draws).loss
        loss.backward()
        return torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])

    second, mixed = double_backward._second, []  # CUDA's autocast takes a softmax in fp32, which the CPU's does not
    monkeypatch.setattr(
        double_backward, "_second", lambda *given: mixed.append(torch.is_autocast_enabled("cpu")) or second(*given)
    )
    expected = gradient("math", learner)
    step = learner if how == "eager" else torch.compile(learner.forward, fullgraph=True, backend="aot_eager")
    assert (gradient("double_backward", step) - expected).norm() < 0.03 * expected.norm()
    assert mixed
    assert not any(mixed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("with_xformers", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_cuda_an_inner_gradient_step_is_that_of_softmax_written_out(monkeypatch, with_xformers, dtype):
    if not with_xformers:
        monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: None)
    given = [torch.randn(2, 3, 37, 32, device="cuda", dtype=dtype) for _ in range(3)]

    def derivative(function, given):
        q, k, v = (part.requires_grad_() for part in given)
        inner = torch.func.grad(lambda z: function(z, 0.5 * k, v).square().sum())(q)
        return torch.autograd.grad(function(q - 0.3 * inner, k, v).pow(3).sum() + inner.pow(2).sum(), (q, k, v))

    exact = derivative(lambda *x: attend(*x, "math"), [part.double() for part in given])
    found = derivative(double_backward_attention, given)
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() < (1e-4 if dtype == torch.float32 else 0.05) * other.norm()
