"""Double backward attention compared with the kernel "math"."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ssl_core.nn import attention, attention_xformers, double_backward
from ssl_core.nn.attention import attend
from ssl_core.nn.double_backward import double_backward_attention
from ssl_plugins.objectives.metamae import MetaMAE
from tests.core.conftest import FakeXformers


def parts(queries: int = 5, keys: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4))
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)


KEY_MASK = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])


@pytest.fixture(params=[False, True], ids=["unpadded", "padded"])
def padding(request, monkeypatch):
    """Optionally pad five keys to eight, as in half precision."""
    if request.param:
        monkeypatch.setattr(double_backward, "HALF", (torch.float64,))
        monkeypatch.setattr(double_backward, "SOFTMAX_VECTOR", 8)
    assert double_backward.padding_length(parts()[1]) == (3 if request.param else 0)


@pytest.mark.parametrize("recompute_tokens", [double_backward.RECOMPUTE_TOKENS, 1], ids=["P stored", "P recomputed"])
@pytest.mark.parametrize("key_mask", [None, KEY_MASK], ids=["all", "some"])
@pytest.mark.parametrize("chunk", [1, 40, 75, 2**22], ids=["one query", "two queries", "one row", "all rows"])
def test_both_derivatives_equal_finite_differences(padding, monkeypatch, key_mask, chunk, recompute_tokens):
    monkeypatch.setattr(double_backward, "CHUNK_NUMBERS", chunk)
    monkeypatch.setattr(double_backward, "RECOMPUTE_TOKENS", recompute_tokens)
    fast = (
        chunk != 40 or recompute_tokens == 1
    )  # random projections of the Jacobian in place of all its entries, which take far longer
    assert gradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), parts(), fast_mode=fast)
    assert gradgradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), parts(), fast_mode=fast)


def outer(function, queries: int = 5, keys: int = 5, dtype: torch.dtype = torch.float64):
    """Gradients of a loss that contains an inner gradient step, as in MetaMAE."""
    q, k, v = (part.detach().to(dtype).requires_grad_() for part in parts(queries, keys))
    inner = torch.func.grad(lambda z: function(z, 0.5 * k, v).square().sum())(q)
    adapted = q - 0.3 * inner
    loss = (function(adapted, k, v) * torch.arange(4)).sum() + inner.pow(3).sum()
    return torch.autograd.grad(loss, (q, k, v))


@pytest.mark.parametrize("key_mask", [None, KEY_MASK], ids=["all", "some"])
@pytest.mark.parametrize("queries", [5, 2])
def test_gradient_through_inner_step_equals_math(padding, key_mask, queries):
    ours = outer(lambda q, k, v: double_backward_attention(q, k, v, key_mask), queries)
    plain = outer(lambda q, k, v: attend(q, k, v, "math", key_mask), queries)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_compiled_graph_keeps_the_second_derivative():
    """The step compiles without graph breaks, and its gradient equals that of the eager kernel "math"."""
    torch.compiler.allow_in_graph(double_backward_attention)

    def inner_step(q, k, v):
        return torch.func.grad(lambda z: double_backward_attention(z, k, v).square().sum())(q).pow(3).sum()

    compiled = torch.compile(inner_step, fullgraph=True, backend="aot_eager")
    grads = torch.autograd.grad(compiled(*(leaves := parts())), leaves)
    q, k, v = parts()
    inner = torch.func.grad(lambda z: attend(z, k, v, "math").square().sum())(q)
    for one, other in zip(grads, torch.autograd.grad(inner.pow(3).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key_mask", [None, KEY_MASK], ids=["all", "some"])
@pytest.mark.parametrize("recompute_tokens", [double_backward.RECOMPUTE_TOKENS, 1], ids=["P stored", "P recomputed"])
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
def test_custom_operators_pass_opcheck(monkeypatch, key_mask, recompute_tokens, padded):
    monkeypatch.setattr(double_backward, "RECOMPUTE_TOKENS", recompute_tokens)
    q, k, v = (part.detach() for part in parts(2, 8 if padded else 5))
    out, p = double_backward.attend_forward(q, k, v, key_mask, 5)
    torch.library.opcheck(double_backward.attend_forward, (q, k, v, key_mask, 5))
    torch.library.opcheck(double_backward.attend_backward, (q, k, v, out, key_mask, 5, p))
    torch.library.opcheck(double_backward.attend_double_backward, (q, k, v, out, q, k, v, key_mask, 5, out, p))


def test_padding_length_in_half_precision():
    def padding_length(length, dtype):
        return double_backward.padding_length(torch.empty(1, 1, length, 1, dtype=dtype))

    assert [padding_length(n, torch.bfloat16) for n in (29, 32, 65, 104, 109, 126, 197, 251)] == [
        3,
        0,
        0,
        24,
        19,
        2,
        0,
        5,
    ]
    assert padding_length(29, torch.float32) == padding_length(126, torch.float64) == 0


def test_bf16_error_is_comparable_to_math():
    """Both round products to bf16 and sum in fp32, so the rounding errors are of the same size."""

    def error(function):
        grads, exact = outer(function, 40, 40, torch.bfloat16), outer(lambda *x: attend(*x, "math"), 40, 40)
        return [float((one - other).norm() / other.norm()) for one, other in zip(grads, exact, strict=True)]

    def autocast(q, k, v):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return attend(q, k, v, "math").to(torch.bfloat16)

    for ours, plain in zip(error(double_backward_attention), error(autocast), strict=True):
        assert ours < 1.5 * plain


def test_bf16_error_does_not_grow_with_the_number_of_chunks(monkeypatch):
    """dK and dV are sums over 40 chunks of queries; a sum in bf16 would be rounded 40 times."""

    def error():
        grads, exact = (
            outer(double_backward_attention, 40, 40, torch.bfloat16),
            outer(lambda *x: attend(*x, "math"), 40, 40),
        )
        return [float((one - other).norm() / other.norm()) for one, other in zip(grads, exact, strict=True)]

    single_chunk = error()
    monkeypatch.setattr(double_backward, "CHUNK_NUMBERS", 1)
    for split, single in zip(error(), single_chunk, strict=True):
        assert split < 1.2 * single


def test_second_derivative_contributes():
    """A negative control: detaching the inner gradient changes the outer one."""
    q, k, v = parts()

    def outer(detach):
        (inner,) = torch.autograd.grad(double_backward_attention(q, k, v).square().sum(), q, create_graph=True)
        inner = inner.detach() if detach else inner
        return torch.autograd.grad(double_backward_attention(q - inner, k, v).pow(2).sum(), k)[0]

    assert not torch.allclose(outer(True), outer(False), rtol=1e-3)


def test_no_full_matrix_of_queries_by_keys_is_allocated(monkeypatch):
    """At 64 keys and chunks of 8 queries the second backward pass allocates no matrix larger than 8 x 64."""
    monkeypatch.setattr(double_backward, "RECOMPUTE_TOKENS", 64)
    sizes = []
    q, k, v = (part.detach() for part in parts(64, 64))
    out, p = double_backward.attend_forward(q, k, v, None, 64)
    assert p.numel() == 0

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (64,):
                sizes.append(out.shape[-2])
            return out

    with Spy():
        double_backward._second_backward(q, k, v, q, k, v, v, None, 64, out, p, 3 * 8 * 64)
    assert sizes
    assert max(sizes) <= 8


@pytest.fixture
def fused(monkeypatch):
    """The code path of CUDA, with xformers' operators replaced by plain PyTorch."""
    monkeypatch.setattr(double_backward, "_fused", lambda q: True)
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    monkeypatch.setattr(
        attention_xformers, "KERNELS", dict.fromkeys((torch.float64, torch.float32, torch.bfloat16), "flash")
    )


@pytest.mark.parametrize("key_mask", [None, KEY_MASK], ids=["all", "some"])
@pytest.mark.parametrize("chunk", [1, 75, 2**22], ids=["one query", "one row", "all rows"])
@pytest.mark.parametrize("keys", [5, 8], ids=["padded", "aligned"])
def test_both_derivatives_with_a_fused_forward(fused, monkeypatch, key_mask, chunk, keys):
    monkeypatch.setattr(double_backward, "CUDA_CHUNK_NUMBERS", chunk)
    key_mask = key_mask if key_mask is None else torch.cat([key_mask, key_mask[:, : keys - 5]], dim=1)
    qkv = tuple(torch.cat([part, part], dim=-1) for part in parts(3, keys))  # xformers needs a head width of 8
    qkv = tuple(part.detach().requires_grad_() for part in qkv)
    torch.testing.assert_close(
        double_backward_attention(*qkv, key_mask), attend(*qkv, "math", key_mask), rtol=1e-12, atol=1e-14
    )
    fast = chunk != 75
    assert gradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), qkv, fast_mode=fast)
    assert gradgradcheck(lambda q, k, v: double_backward_attention(q, k, v, key_mask), qkv, fast_mode=fast)


@pytest.mark.parametrize("heads", [3, 1])
def test_second_derivative_with_create_graph_and_a_fused_forward(fused, heads):
    """With one head products could be written to the output directly, but not while autograd records."""

    def outer(function):
        q, k, v = (part[:, :heads].detach().requires_grad_() for part in parts())
        (inner,) = torch.autograd.grad(function(q, k, v).square().sum(), q, create_graph=True)
        return torch.autograd.grad(inner.pow(3).sum(), (q, k, v), create_graph=True)

    for one, other in zip(outer(double_backward_attention), outer(lambda *x: attend(*x, "math")), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_storing_p_depends_on_the_number_of_keys_without_padding(monkeypatch):
    monkeypatch.setattr(double_backward, "RECOMPUTE_TOKENS", 32)
    q, k, v = (torch.randn(1, 1, n, 4, dtype=torch.bfloat16) for n in (2, 32, 32))
    assert double_backward.attend_forward(q, k, v, None, 31)[1].shape == (1, 2, 32)
    assert double_backward.attend_forward(q, k, v, None, 32)[1].numel() == 0


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_mixed_precision_step_with_a_fused_forward(fused, monkeypatch, toy, mode):
    """The compiler traces the backward pass under the autocast of the forward pass."""
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

    # CUDA's autocast runs softmax in fp32 and the CPU's does not, so the test looks at whether autocast is on
    second_backward, autocast = double_backward._second_backward, []

    def spy(*args):
        autocast.append(torch.is_autocast_enabled("cpu"))
        return second_backward(*args)

    monkeypatch.setattr(double_backward, "_second_backward", spy)
    expected = gradient("math", learner)
    step = learner if mode == "eager" else torch.compile(learner.forward, fullgraph=True, backend="aot_eager")
    assert (gradient("double_backward", step) - expected).norm() < 0.03 * expected.norm()
    assert autocast
    assert not any(autocast)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("with_xformers", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_through_inner_step_on_cuda_equals_math(monkeypatch, with_xformers, dtype):
    if not with_xformers:
        monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: None)
    inputs = [torch.randn(2, 3, 37, 32, device="cuda", dtype=dtype) for _ in range(3)]

    def derivative(function, inputs):
        q, k, v = (part.requires_grad_() for part in inputs)
        inner = torch.func.grad(lambda z: function(z, 0.5 * k, v).square().sum())(q)
        return torch.autograd.grad(function(q - 0.3 * inner, k, v).pow(3).sum() + inner.pow(2).sum(), (q, k, v))

    exact = derivative(lambda *x: attend(*x, "math"), [part.double() for part in inputs])
    grads = derivative(double_backward_attention, inputs)
    for one, other in zip(grads, exact, strict=True):
        assert (one - other).norm() < (1e-4 if dtype == torch.float32 else 0.05) * other.norm()
