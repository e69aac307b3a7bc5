"""Products that a compiled graph has in another form: the same numbers, in the places where they are quicker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from ssl_core.training.accel import cpu_matmul
from ssl_core.training.accel.cpu_matmul import Rewrite, mkl_is_slow

pytestmark = pytest.mark.skipif(not cpu_matmul._has_onednn(), reason="needs torch with oneDNN")


@pytest.fixture
def rewrite(monkeypatch: pytest.MonkeyPatch) -> Rewrite:
    monkeypatch.setattr(cpu_matmul, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(cpu_matmul, "prefers_split_weight_grad", lambda: False)
    return Rewrite(["a", "b"])


def matrix(rows: int, columns: int, turned: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    made = torch.randn(*((columns, rows) if turned else (rows, columns)), generator=generator).to(dtype)
    return made.T if turned else made


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("sizes", [(70, 40, 20), (20, 40, 70), (30, 300, 30)])
def test_a_product_is_that_of_any_two_matrices(sizes: tuple[int, int, int], left: bool, right: bool) -> None:
    rows, inner, columns = sizes
    a, b = matrix(rows, inner, left), matrix(inner, columns, right)
    found = torch.ops.sslx.product(a, b, None)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)
    bias = torch.arange(float(columns))
    torch.testing.assert_close(torch.ops.sslx.product(a, b, bias), found + bias)
    torch.library.opcheck(torch.ops.sslx.product.default, (a, b, bias), test_utils=("test_schema", "test_faketensor"))


def layer(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """A linear map of two uses and its gradients, with a gradient that adds to another."""

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        once = torch.nn.functional.linear(x, weight, bias).sin()
        return torch.addmm(once, x, weight.T).square().sum()

    return torch.func.grad(loss, argnums=(0, 1, 2))(x, weight, bias)


def traced(*inputs: Tensor) -> GraphModule:
    return make_fx(layer, tracing_mode="fake")(*inputs)


def operations(graph: GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_a_graph_is_the_same_with_products_replaced(rewrite: Rewrite) -> None:
    inputs = matrix(300, 80), matrix(64, 80), torch.ones(64)
    graph = traced(*inputs)
    before = [name for name in operations(graph) if name in ("aten.mm.default", "aten.addmm.default")]
    assert {"aten.mm.default", "aten.addmm.default"} == set(before)
    rewrite(graph.graph)
    graph.recompile()
    after = operations(graph)
    assert after.count("sslx.product.default") == len(before)
    assert not {"aten.mm.default", "aten.addmm.default"} & set(after)
    for found, expected in zip(graph(*inputs), layer(*(x.double() for x in inputs)), strict=True):
        assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats_stay(rewrite: Rewrite, dtype: torch.dtype) -> None:
    graph = traced(*(x.to(dtype) for x in (matrix(300, 80), matrix(64, 80), torch.ones(64))))
    before = operations(graph)
    rewrite(graph.graph)
    assert operations(graph) == before


def test_small_products_stay(rewrite: Rewrite) -> None:
    graph = traced(matrix(3, 8), matrix(4, 8), torch.ones(4))
    before = operations(graph)
    rewrite(graph.graph)
    assert operations(graph) == before


def test_sums_that_are_weighted_stay(rewrite: Rewrite) -> None:
    graph = make_fx(lambda c, a, b: torch.addmm(c, a, b, beta=0.5), tracing_mode="fake")(
        matrix(300, 64), matrix(300, 80), matrix(80, 64)
    )
    before = operations(graph)
    rewrite(graph.graph)
    assert operations(graph) == before


def test_nothing_is_changed_where_mkl_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_matmul, "mkl_is_slow", lambda: False)
    monkeypatch.setattr(cpu_matmul, "prefers_split_weight_grad", lambda: True)
    graph = traced(matrix(300, 80), matrix(64, 80), torch.ones(64))
    before = operations(graph)
    Rewrite([])(graph.graph)
    assert operations(graph) == before


@pytest.mark.parametrize(
    ("capability", "maker", "slow"),
    [("AVX512", "AuthenticAMD", True), ("AVX512", "GenuineIntel", False), ("AVX2", "AuthenticAMD", False)],
)
def test_mkl_is_slow_on_wide_processors_of_others(
    monkeypatch: pytest.MonkeyPatch, capability: str, maker: str, slow: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(Path, "read_text", lambda path: f"vendor_id\t: {maker}\n")
    assert mkl_is_slow() is slow


def test_the_name_of_the_rewrite_tells_code_and_processors_apart(rewrite: Rewrite) -> None:
    name = rewrite.uuid()
    assert name == Rewrite(["a", "b"]).uuid()
    assert Rewrite(["a", "c"]).uuid() != name
    rewrite.slow = False
    assert rewrite.uuid() != name


def divided(
    monkeypatch: pytest.MonkeyPatch, g: Tensor, x: Tensor, parts: int = 2, places: tuple[int, int] = (1, 0)
) -> GraphModule:
    """The graph of G' X with so many threads, where 50 rows are worth a thread."""
    monkeypatch.setattr(cpu_matmul, "mkl_is_slow", lambda: False)
    monkeypatch.setattr(cpu_matmul, "prefers_split_weight_grad", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: parts)
    monkeypatch.setattr(cpu_matmul, "MIN_ROWS", 50)
    graph = make_fx(lambda g, x: torch.ops.aten.mm(torch.ops.aten.permute(g, places), x), tracing_mode="fake")(g, x)
    Rewrite([])(graph.graph)
    graph.recompile()
    return graph


@pytest.mark.parametrize("widths", [(24, 8), (8, 24), (16, 16)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_gradient_of_a_weight_is_a_sum_over_threads(
    monkeypatch: pytest.MonkeyPatch, parts: int, widths: tuple[int, int]
) -> None:
    g, x = (matrix(400, width, dtype=torch.bfloat16) for width in widths)
    graph = divided(monkeypatch, g, x, parts)
    exact = g.double().T @ x.double()
    found = graph(g, x)
    assert found.shape == exact.shape
    plain = (g.T @ x - exact).norm()
    assert (found - exact).norm() < 3 * plain  # a rounding for each part, and one more
    names = operations(graph)
    assert names.count("aten.bmm.default") == int(parts > 1)
    if parts == 1 and widths[0] <= widths[1]:
        assert names == ["aten.permute.default", "aten.mm.default"]
    turned = next(node for node in graph.graph.nodes if str(node.target) == "aten.permute.default")
    assert turned.meta["val"].shape[-2] == min(widths)  # the narrower one


@pytest.mark.parametrize(
    ("g", "x"),
    [
        (matrix(401, 24, dtype=torch.bfloat16), matrix(401, 8, dtype=torch.bfloat16)),
        (matrix(98, 24, dtype=torch.bfloat16), matrix(98, 8, dtype=torch.bfloat16)),
        (matrix(400, 24), matrix(400, 8)),
        (matrix(400, 24, turned=True, dtype=torch.bfloat16), matrix(400, 8, dtype=torch.bfloat16)),
        (matrix(400, 24, dtype=torch.bfloat16), matrix(400, 8, turned=True, dtype=torch.bfloat16)),
    ],
    ids=["an odd number of rows", "few rows", "fp32", "the gradient lies otherwise", "the input lies otherwise"],
)
def test_other_gradients_of_weights_stay(monkeypatch: pytest.MonkeyPatch, g: Tensor, x: Tensor) -> None:
    assert operations(divided(monkeypatch, g, x)) == ["aten.permute.default", "aten.mm.default"]


def test_what_is_not_turned_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a square matrix only the order of the places tells."""
    g, x = matrix(200, 200, dtype=torch.bfloat16), matrix(200, 8, dtype=torch.bfloat16)
    names = operations(divided(monkeypatch, g, x, places=(0, 1)))
    assert names == ["aten.permute.default", "aten.mm.default"]
    assert "aten.bmm.default" in operations(divided(monkeypatch, g, x, places=(-1, -2)))


@pytest.mark.parametrize(
    ("vectors", "tiles", "slow"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_turning_is_slow_with_vectors_alone(
    monkeypatch: pytest.MonkeyPatch, vectors: bool, tiles: bool, slow: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    assert cpu_matmul.prefers_split_weight_grad() is slow
    if not slow:
        assert Rewrite([]).parts == 0


def test_the_name_of_the_change_tells_threads_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_matmul, "prefers_split_weight_grad", lambda: True)
    names = set()
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        names.add(Rewrite(["a"]).uuid())
    assert len(names) == 2
