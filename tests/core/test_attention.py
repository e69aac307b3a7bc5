"""Attention: every kernel computes the same, and the one with two derivatives is taken where two are needed."""

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
from tests.core.conftest import Plainly

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query by itself: a weighted mean of the values."""
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for asking in range(q.shape[2]):
                scores = torch.stack([q[row, head, asking] @ key for key in k[row, head]]) / math.sqrt(q.shape[-1])
                weights = scores.exp() / scores.exp().sum()
                out[row, head, asking] = sum(w * value for w, value in zip(weights, v[row, head], strict=True))
    return out


def qkv(dtype: torch.dtype = torch.float64, queries: int = 5, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, 3, n, width, dtype=dtype, requires_grad=True) for n in (queries, 5, 5))  # type: ignore[return-value]


@pytest.mark.parametrize("queries", [5, 2])
@pytest.mark.parametrize("kernel", ["math", "sdpa"])
def test_each_kernel_is_softmax_attention(kernel: module.Kernel, queries: int) -> None:
    q, k, v = qkv(queries=queries)
    torch.testing.assert_close(attend(q, k, v, kernel), by_hand(q, k, v), rtol=1e-12, atol=1e-14)


@pytest.mark.skipif(
    not torch.cuda.is_available() or attention_xformers.xformers_ops() is None, reason="needs CUDA and xformers"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_xformers_is_softmax_attention(dtype: torch.dtype) -> None:
    parts = [torch.randn(2, 4, 70, 32, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    start = torch.randn(2, 4, 70, 32, device="cuda", dtype=dtype)
    out, exact = attend(*parts, "xformers"), attend(*(part.double() for part in parts), "math")
    torch.testing.assert_close(out.double(), exact, rtol=0.02, atol=0.01)
    found = torch.autograd.grad(out, parts, start)
    expected = torch.autograd.grad(exact, parts, start.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_xformers_without_xformers_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: None)
    with pytest.raises(RuntimeError, match=r"encoder\.attention=sdpa"):
        attend(*qkv(), "xformers")


@pytest.mark.parametrize("key_mask", [None, torch.tensor([[True, True, False, True, True], [True] * 5])])
def test_math_with_keys_that_only_fill_up_is_the_same(monkeypatch: pytest.MonkeyPatch, key_mask: Tensor | None) -> None:
    """As in half precision."""
    q, k, v = qkv(queries=2)
    expected = attend(q, k, v, "math", key_mask)
    asked = []
    monkeypatch.setattr(module, "filling", lambda k: asked.append(k) or 3)
    torch.testing.assert_close(attend(q, k, v, "math", key_mask), expected, rtol=1e-12, atol=1e-14)
    assert asked
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
def test_a_fused_kernel_is_never_taken_where_two_derivatives_are_needed(backend: module.Backend) -> None:
    """130 tokens in fp32: with one derivative "auto" and "sdpa" do take the fused kernel, which has no second."""
    layer = Attention(8, 2, backend=backend, double_backward=True)
    assert layer.kernel_for(torch.zeros(1, requires_grad=True), 130) in ("math", "double_backward")
    assert second_derivative(layer, torch.float32).isfinite().all()


def test_the_fused_kernel_has_no_second_derivative() -> None:
    """The reason for the rule above; if torch gains one some day, the rule can go."""
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
        (CPU, torch.float32, 30, 1, "math"),  # too short to pay
        (CPU, torch.bfloat16, 30, 1, "math"),
        (CPU, torch.bfloat16, 197, 1, "double_backward"),  # the fused backward is slow in bf16
        (CPU, torch.float64, 197, 1, "double_backward"),
        (CPU, torch.float32, 197, 2, "double_backward"),
        (CPU, torch.float32, 65, 2, "math"),
        (CUDA, torch.float32, 197, 0, "sdpa"),
        (CUDA, torch.float32, 197, 1, "math"),  # slower fused, whatever the length
        (CUDA, torch.float32, 513, 1, "sdpa"),  # for its memory
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
def test_the_table_of_kernels(
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
def test_xformers_is_for_cuda_up_to_one_derivative(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, derivatives: int
) -> None:
    """It has no float64, no second derivative and nothing for the CPU."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    expected = "double_backward" if derivatives == 2 else "sdpa" if dtype == torch.float64 else "xformers"
    assert choose_kernel(CUDA, dtype, 600, derivatives) == expected
    assert choose_kernel(CPU, dtype, 197, derivatives) != "xformers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("derivatives", [1, 2])
def test_in_a_compiled_step_only_long_rows_are_not_written_out(dtype: torch.dtype, derivatives: int) -> None:
    assert choose_kernel(CPU, dtype, 129, derivatives) != "math"
    assert choose_kernel(CPU, dtype, 129, derivatives, compiled=True) == "math"
    assert choose_kernel(CPU, dtype, 197, derivatives, compiled=True) == choose_kernel(CPU, dtype, 197, derivatives)
    assert choose_kernel(CUDA, dtype, 129, derivatives, compiled=True) == choose_kernel(CUDA, dtype, 129, derivatives)


def test_a_compiled_step_has_short_rows_written_out_at_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Attention(8, 2, double_backward=True)
    x = torch.randn(2, 130, 8, dtype=torch.bfloat16, requires_grad=True)
    assert layer.kernel_for(x, 130) == "double_backward"
    filled = []
    monkeypatch.setattr(module, "filling", lambda k: filled.append(k) or 3)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert layer.kernel_for(x, 130) == "math"
    attend(*qkv(), "math")
    assert not filled


@pytest.mark.parametrize(
    ("dtype", "width"), [(torch.bfloat16, 12), (torch.float32, 4), (torch.float64, 64), (torch.bfloat16, 264)]
)
def test_xformers_is_not_taken_where_it_has_no_kernel(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, width: int
) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    assert choose_kernel(CUDA, torch.bfloat16, 600, 1, 64) == "xformers"
    assert choose_kernel(CUDA, dtype, 600, 1, width) == "sdpa"


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("within", [False, True])
def test_the_derivative_of_xformers_is_that_of_softmax_attention(
    monkeypatch: pytest.MonkeyPatch, how: str, within: bool
) -> None:
    """Also within torch.func.grad, as in MetaMAE with first_order."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    torch.compiler.allow_in_graph(attention_xformers.attend_xformers)
    q, k, v = (part.detach() for part in qkv(torch.float32, width=8))

    def loss(kernel: module.Kernel) -> Callable[[Tensor], Tensor]:
        return lambda q: attend(2 * q, k + q, v * q, kernel).square().sum()

    def derivative(kernel: module.Kernel) -> Tensor:
        x = q.clone().requires_grad_()
        inner = torch.func.grad(loss(kernel))
        outer = (lambda x: (x - 0.1 * inner(x).detach()).pow(3).sum()) if within else loss(kernel)
        outer = torch.compile(outer, backend="aot_eager", fullgraph=True) if how == "compiled" else outer
        return torch.autograd.grad(outer(x), x)[0]

    torch.testing.assert_close(derivative("xformers"), derivative("math"), rtol=1e-4, atol=1e-5)


def test_the_operations_are_what_the_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    for queries in (5, 1):
        q, k, v = (part.detach() for part in qkv(torch.float32, queries=queries, width=8))
        out, sums = attention_xformers.efficient_forward(q, k, v)
        torch.library.opcheck(attention_xformers.efficient_forward, (q, k, v))
        torch.library.opcheck(attention_xformers.efficient_backward, (out, out, sums, q, k, v))


def test_xformers_asked_for_is_had_where_it_has_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in short rows, where the table takes another; but not with two derivatives."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    q = SimpleNamespace(device=CUDA, is_cuda=True, dtype=torch.bfloat16, requires_grad=True)
    for backend, twice, expected in (
        ("auto", False, "math"), ("xformers", False, "xformers"), ("xformers", True, "math"), ("sdpa", False, "sdpa"),
    ):  # fmt: skip
        layer = Attention(64, 1, backend=backend, double_backward=twice)  # type: ignore[arg-type]
        assert layer.kernel_for(q, 30) == expected  # type: ignore[arg-type]
        assert layer.kernel_for(q, 30, needs_double_backward=False) == ("math" if backend == "auto" else backend)  # type: ignore[arg-type]


def test_xformers_refuses_a_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    q, k, v = qkv(torch.float32, width=8)
    (first,) = torch.autograd.grad(attend(q, k, v, "xformers").square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize(("dtype", "kernels"), [(torch.bfloat16, "flash"), (torch.float32, "cutlass")])
@pytest.mark.parametrize("missing", ["FwOp", "BwOp"])
def test_xformers_without_its_kernels_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, kernels: str, missing: str
) -> None:
    class Absent(Plainly.FwOp):
        is_available = staticmethod(lambda: False)

    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    assert choose_kernel(CUDA, dtype, 600, 1) == "xformers"
    monkeypatch.setattr(getattr(Plainly.fmha, kernels), missing, Absent)
    assert choose_kernel(CUDA, dtype, 600, 1) == "sdpa"


@pytest.mark.parametrize(("capability", "taken"), [((7, 5), {False}), ((9, 0), {True}), ((10, 0), {True, False})])
def test_xformers_is_asked_for_what_the_gpu_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], taken: set[bool]
) -> None:
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(Plainly.fmha.cutlass, "FwOp", Plainly.Older)
    assert {attention_xformers.xformers_fits(dtype, 32) for dtype in (torch.bfloat16, torch.float32)} == taken


@pytest.mark.parametrize("installed", [True, False])
def test_xformers_asked_for_on_the_cpu_falls_back(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    """Its kernels are for CUDA alone, so that it is installed does not matter here."""
    monkeypatch.setattr(attention_xformers, "xformers_ops", lambda: Plainly if installed else None)
    layer, plainly = Attention(8, 2, backend="xformers"), Attention(8, 2, backend="math")
    plainly.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 8)
    assert layer.kernel_for(x, 6) == "sdpa"
    assert layer.kernel_for(x.clone().requires_grad_(), 6) == "math"
    torch.testing.assert_close(layer(x), plainly(x))


def test_derivatives_are_counted_from_the_call() -> None:
    layer = Attention(8, 2, double_backward=True)
    q = torch.zeros(1, requires_grad=True)
    assert layer.kernel_for(q, 65) == "math"
    assert layer.kernel_for(q, 197) == "double_backward"
    with torch.no_grad():
        assert layer.kernel_for(q.detach(), 197) == "sdpa"  # evaluation needs none


@pytest.mark.parametrize("backend", ["auto", "sdpa", "math"])
@pytest.mark.parametrize("head_dim", [None, 8])
def test_the_layer_equals_the_transcription(plain: ModuleType, backend: module.Backend, head_dim: int | None) -> None:
    layer = Attention(16, 2, head_dim=head_dim, backend=backend).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    params = {f"it.{name}": parameter for name, parameter in layer.named_parameters()}
    torch.testing.assert_close(layer(x), plain.attention(x, params, "it", 2, True), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("queries", [slice(2, 5), slice(0, 1), slice(4, None), slice(None)])
def test_some_queries_are_a_slice_of_all(backend: module.Backend, bias: bool, queries: slice) -> None:
    layer = Attention(16, 4, qkv_bias=bias, head_dim=6, backend=backend).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x, queries), layer(x)[:, queries], rtol=1e-11, atol=1e-13)


def test_sizes_of_heads() -> None:
    assert Attention(256, 8, head_dim=64).qkv.weight.shape == (3 * 512, 256)  # DABS
    assert Attention(256, 8).qkv.bias is None
    with pytest.raises(ConfigError, match="not a multiple"):
        Attention(10, 3)


@pytest.mark.parametrize(("compile", "kernel"), [("off", "double_backward"), ("on", "math")])
def test_the_header_names_the_kernel_of_the_step_as_it_runs(compile: str, kernel: str) -> None:
    """A compiled step writes softmax out in longer rows than an eager one."""
    options = {"objective.name": "mae", "modality": "speech", "train.compile": compile, "train.precision": "bf16"}
    config, _ = resolve(plugins.load(), options)
    learner = SimpleNamespace(tokenizer=SimpleNamespace(layout=SimpleNamespace(length=130)))
    assert attention_kernel(config, learner, CPU) == f"{kernel} (auto)"
    config, _ = resolve(plugins.load(), options | {"encoder.attention": "sdpa"})
    assert attention_kernel(config, learner, CPU) == "sdpa"
