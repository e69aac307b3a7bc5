"""Attention: all kernels agree, and the rule that selects one respects derivatives, devices and dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from ssl_core import ConfigError, plugins
from ssl_core.config.resolve import resolve
from ssl_core.nn import Attention, attend, attention_xformers, choose_kernel
from ssl_core.nn import attention as module
from ssl_core.runs.build import attention_kernel
from tests.core.conftest import FakeXformers

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def naive_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query at a time: the weighted mean of the values."""
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for query in range(q.shape[2]):
                scores = torch.stack([q[row, head, query] @ key for key in k[row, head]]) / math.sqrt(q.shape[-1])
                weights = scores.exp() / scores.exp().sum()
                out[row, head, query] = sum(w * value for w, value in zip(weights, v[row, head], strict=True))
    return out


def qkv(dtype: torch.dtype = torch.float64, queries: int = 5, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, 3, n, width, dtype=dtype, requires_grad=True) for n in (queries, 5, 5))  # type: ignore[return-value]


@pytest.mark.parametrize("queries", [5, 2])
@pytest.mark.parametrize("kernel", ["math", "sdpa"])
def test_kernels_equal_naive_attention(kernel: module.Kernel, queries: int) -> None:
    q, k, v = qkv(queries=queries)
    torch.testing.assert_close(attend(q, k, v, kernel), naive_attention(q, k, v), rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(
    not torch.cuda.is_available() or attention_xformers.xformers_ops() is None, reason="needs CUDA and xformers"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_xformers_equals_math_in_float64(dtype: torch.dtype) -> None:
    parts = [torch.randn(2, 4, 70, 32, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    out_grad = torch.randn(2, 4, 70, 32, device="cuda", dtype=dtype)
    out, exact = attend(*parts, "xformers"), attend(*(part.double() for part in parts), "math")
    torch.testing.assert_close(out.double(), exact, rtol=0.02, atol=0.01)
    grads = torch.autograd.grad(out, parts, out_grad)
    expected = torch.autograd.grad(exact, parts, out_grad.double())
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_missing_xformers_error_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: None)
    with pytest.raises(RuntimeError, match=r"encoder\.attention=sdpa"):
        attend(*qkv(), "xformers")


@pytest.mark.parametrize("key_mask", [None, torch.tensor([[True, True, False, True, True], [True] * 5])])
def test_math_is_unchanged_by_padding_keys(monkeypatch: pytest.MonkeyPatch, key_mask: Tensor | None) -> None:
    """Keys are padded in half precision; here padding is forced in float64."""
    q, k, v = qkv(queries=2)
    expected = attend(q, k, v, "math", key_mask)
    calls = []
    monkeypatch.setattr(module, "padding_length", lambda k: calls.append(k) or 3)
    torch.testing.assert_close(attend(q, k, v, "math", key_mask), expected, rtol=1e-12, atol=1e-14)
    assert calls
    assert torch.autograd.gradgradcheck(lambda *x: attend(*x, "math", key_mask), (q, k, v))


def test_math_has_two_derivatives() -> None:
    q, k, v = qkv(queries=2)
    assert torch.autograd.gradcheck(lambda *x: attend(*x, "math"), (q, k, v))
    assert torch.autograd.gradgradcheck(lambda *x: attend(*x, "math"), (q, k, v))


def second_derivative(layer: Attention, dtype: torch.dtype) -> Tensor:
    x = torch.randn(2, 130, 8, dtype=dtype, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return second


@pytest.mark.parametrize("backend", ["auto", "xformers", "sdpa", "math"])
def test_double_backward_never_selects_a_fused_kernel(backend: module.Backend) -> None:
    """130 tokens in fp32: with one derivative "auto" and "sdpa" select the fused kernel, which has no second one."""
    layer = Attention(8, 2, backend=backend, double_backward=True)
    assert layer.kernel_for(torch.zeros(1, requires_grad=True), 130) in ("math", "double_backward")
    assert second_derivative(layer, torch.float32).isfinite().all()


def test_the_fused_kernel_has_no_second_derivative() -> None:
    """The reason for the rule above. If PyTorch adds a second derivative, the rule can go."""
    layer = Attention(8, 2, backend="sdpa")
    assert layer.kernel_for(torch.zeros(1, requires_grad=True), 130) == "sdpa"
    with pytest.raises((RuntimeError, NotImplementedError), match=r"derivative|not implemented|double"):
        second_derivative(layer, torch.float32)


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "derivatives", "expected"),
    [
        (CPU, torch.float32, 197, 0, "sdpa"),
        (CPU, torch.float32, 30, 0, "sdpa"),
        (CPU, torch.bfloat16, 30, 0, "math"),
        (CPU, torch.bfloat16, 197, 0, "double_backward"),
        (CPU, torch.float32, 197, 1, "sdpa"),
        (CPU, torch.float32, 30, 1, "math"),  # too short for the fused kernel
        (CPU, torch.bfloat16, 30, 1, "math"),
        (CPU, torch.bfloat16, 197, 1, "double_backward"),  # the fused backward pass is slow in bf16
        (CPU, torch.float64, 197, 1, "double_backward"),
        (CPU, torch.float32, 197, 2, "double_backward"),
        (CPU, torch.float32, 65, 2, "math"),
        (CUDA, torch.float32, 197, 0, "sdpa"),
        (CUDA, torch.float32, 197, 1, "math"),  # the fused kernel is slower at this length
        (CUDA, torch.float32, 513, 1, "sdpa"),  # saves memory
        (CUDA, torch.bfloat16, 29, 1, "math"),
        (CUDA, torch.float16, 65, 1, "sdpa"),
        (CUDA, torch.float32, 65, 0, "math"),
        (CUDA, torch.bfloat16, 17, 0, "sdpa"),
        (CUDA, torch.bfloat16, 129, 2, "math"),
        (CUDA, torch.bfloat16, 197, 2, "double_backward"),
        (CUDA, torch.float32, 197, 2, "math"),
        (CPU, torch.float32, 2000, 2, "double_backward"),
        (CUDA, torch.bfloat16, 2000, 2, "double_backward"),
    ],
)
def test_choose_kernel_table(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    dtype: torch.dtype,
    tokens: int,
    derivatives: int,
    expected: str,
) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: None)
    assert choose_kernel(device, dtype, tokens, derivatives) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("derivatives", [0, 1, 2])
def test_xformers_is_selected_on_cuda_for_at_most_one_derivative(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, derivatives: int
) -> None:
    """xformers has no float64 kernel, no second derivative and no CPU kernel."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    expected = "double_backward" if derivatives == 2 else "sdpa" if dtype == torch.float64 else "xformers"
    assert choose_kernel(CUDA, dtype, 600, derivatives) == expected
    assert choose_kernel(CPU, dtype, 197, derivatives) != "xformers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("derivatives", [1, 2])
def test_compiled_step_uses_math_up_to_longer_rows(dtype: torch.dtype, derivatives: int) -> None:
    assert choose_kernel(CPU, dtype, 129, derivatives) != "math"
    assert choose_kernel(CPU, dtype, 129, derivatives, compiled=True) == "math"
    assert choose_kernel(CPU, dtype, 197, derivatives, compiled=True) == choose_kernel(CPU, dtype, 197, derivatives)
    assert choose_kernel(CUDA, dtype, 129, derivatives, compiled=True) == choose_kernel(CUDA, dtype, 129, derivatives)


def test_compiled_step_does_not_pad_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Attention(8, 2, double_backward=True)
    x = torch.randn(2, 130, 8, dtype=torch.bfloat16, requires_grad=True)
    assert layer.kernel_for(x, 130) == "double_backward"
    calls = []
    monkeypatch.setattr(module, "padding_length", lambda k: calls.append(k) or 3)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert layer.kernel_for(x, 130) == "math"
    attend(*qkv(), "math")
    assert not calls


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.bfloat16, 12), (torch.float32, 4), (torch.float64, 64), (torch.bfloat16, 264)]
)
def test_xformers_is_not_selected_for_unsupported_dtypes_and_widths(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, width: int
) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    assert choose_kernel(CUDA, torch.bfloat16, 600, 1, 64) == "xformers"
    assert choose_kernel(CUDA, dtype, 600, 1, width) == "sdpa"


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("within", [False, True])
def test_gradient_of_xformers_equals_gradient_of_math(monkeypatch: pytest.MonkeyPatch, mode: str, within: bool) -> None:
    """Also inside torch.func.grad, as in MetaMAE with objective.first_order."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    torch.compiler.allow_in_graph(attention_xformers.attend_xformers)
    q, k, v = (part.detach() for part in qkv(torch.float32, width=8))

    def loss(kernel: module.Kernel) -> Callable[[Tensor], Tensor]:
        return lambda q: attend(2 * q, k + q, v * q, kernel).square().sum()

    def derivative(kernel: module.Kernel) -> Tensor:
        x = q.clone().requires_grad_()
        inner = torch.func.grad(loss(kernel))
        outer = (lambda x: (x - 0.1 * inner(x).detach()).pow(3).sum()) if within else loss(kernel)
        outer = torch.compile(outer, backend="aot_eager", fullgraph=True) if mode == "compiled" else outer
        return torch.autograd.grad(outer(x), x)[0]

    torch.testing.assert_close(derivative("xformers"), derivative("math"), rtol=1e-4, atol=1e-5)


def test_custom_operators_pass_opcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    for queries in (5, 1):
        q, k, v = (part.detach() for part in qkv(torch.float32, queries=queries, width=8))
        out, sums = attention_xformers.efficient_forward(q, k, v)
        torch.library.opcheck(attention_xformers.efficient_forward, (q, k, v))
        torch.library.opcheck(attention_xformers.efficient_backward, (out, out, sums, q, k, v))


def test_explicit_backend_is_used_if_its_kernel_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for short rows, where "auto" selects "math"; but not if two derivatives are needed."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    q = SimpleNamespace(device=CUDA, is_cuda=True, dtype=torch.bfloat16, requires_grad=True)
    for backend, double_backward, expected in (
        ("auto", False, "math"), ("xformers", False, "xformers"), ("xformers", True, "math"), ("sdpa", False, "sdpa"),
    ):  # fmt: skip
        layer = Attention(64, 1, backend=backend, double_backward=double_backward)  # type: ignore[arg-type]
        assert layer.kernel_for(q, 30) == expected  # type: ignore[arg-type]
        assert layer.kernel_for(q, 30, needs_double_backward=False) == ("math" if backend == "auto" else backend)  # type: ignore[arg-type]


def test_second_derivative_of_xformers_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    q, k, v = qkv(torch.float32, width=8)
    (first,) = torch.autograd.grad(attend(q, k, v, "xformers").square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(("dtype", "kernels"), [(torch.bfloat16, "flash"), (torch.float32, "cutlass")])
@pytest.mark.parametrize("missing", ["FwOp", "BwOp"])
def test_xformers_is_not_selected_without_forward_or_backward_kernel(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, kernels: str, missing: str
) -> None:
    class Unavailable(FakeXformers.FwOp):
        is_available = staticmethod(lambda: False)

    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    assert choose_kernel(CUDA, dtype, 600, 1) == "xformers"
    monkeypatch.setattr(getattr(FakeXformers.fmha, kernels), missing, Unavailable)
    assert choose_kernel(CUDA, dtype, 600, 1) == "sdpa"


@pytest.mark.parametrize(("capability", "fits"), [((7, 5), {False}), ((9, 0), {True}), ((10, 0), {True, False})])
def test_xformers_kernels_depend_on_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fits: set[bool]
) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(FakeXformers.fmha.cutlass, "FwOp", FakeXformers.Older)
    assert {attention_xformers.xformers_fits(dtype, 32) for dtype in (torch.bfloat16, torch.float32)} == fits


@pytest.mark.parametrize("installed", [True, False])
def test_xformers_backend_falls_back_on_the_cpu(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """xformers has kernels for CUDA only, so on the CPU it makes no difference whether it is installed."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: FakeXformers if installed else None)
    layer, reference = Attention(8, 2, backend="xformers"), Attention(8, 2, backend="math")
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 8)
    assert layer.kernel_for(x, 6) == "sdpa"
    assert layer.kernel_for(x.clone().requires_grad_(), 6) == "math"
    torch.testing.assert_close(layer(x), reference(x))


def test_kernel_depends_on_the_derivatives_of_the_call() -> None:
    layer = Attention(8, 2, double_backward=True)
    q = torch.zeros(1, requires_grad=True)
    assert layer.kernel_for(q, 65) == "math"
    assert layer.kernel_for(q, 197) == "double_backward"
    with torch.no_grad():
        assert layer.kernel_for(q.detach(), 197) == "sdpa"  # evaluation needs no derivative


@pytest.mark.parametrize("backend", ["auto", "sdpa", "math"])
@pytest.mark.parametrize("head_dim", [None, 8])
def test_layer_equals_reference_implementation(
    plain: ModuleType, backend: module.Backend, head_dim: int | None
) -> None:
    layer = Attention(16, 2, head_dim=head_dim, backend=backend).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    params = {f"layer.{name}": parameter for name, parameter in layer.named_parameters()}
    torch.testing.assert_close(layer(x), plain.attention(x, params, "layer", 2, True), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("queries", [slice(2, 5), slice(0, 1), slice(4, None), slice(None)])
def test_slice_of_queries_equals_slice_of_output(backend: module.Backend, bias: bool, queries: slice) -> None:
    layer = Attention(16, 4, qkv_bias=bias, head_dim=6, backend=backend).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x, queries), layer(x)[:, queries], rtol=1e-11, atol=1e-13)


def test_head_width() -> None:
    assert Attention(256, 8, head_dim=64).qkv.weight.shape == (3 * 512, 256)  # DABS
    assert Attention(256, 8).qkv.bias is None
    with pytest.raises(ConfigError, match="not a multiple"):
        Attention(10, 3)


@pytest.mark.parametrize(("compile", "kernel"), [("off", "double_backward"), ("on", "math")])
def test_run_header_names_the_kernel_of_the_step(compile: str, kernel: str) -> None:
    """A compiled step uses "math" up to longer rows than an eager one."""
    options = {"objective.name": "mae", "modality": "speech", "train.compile": compile, "train.precision": "bf16"}
    config, _ = resolve(plugins.load(), options)
    learner = SimpleNamespace(tokenizer=SimpleNamespace(layout=SimpleNamespace(length=130)))
    assert attention_kernel(config, learner, CPU) == f"{kernel} (auto)"
    config, _ = resolve(plugins.load(), options | {"encoder.attention": "sdpa"})
    assert attention_kernel(config, learner, CPU) == "sdpa"
