"""Matrix products of compiled steps on the CPU, put in the form in which they are quick there.

Single precision: torch multiplies fp32 matrices on the CPU with MKL. On processors of other makers than Intel MKL does
not use AVX-512, and so reaches half of what oneDNN does, which torch has on board for other number formats. torch has
no switch for it that keeps full precision; so the compiler is told to put oneDNN's products in place of MKL's. They
round differently in the last bits, as another order of a sum does.

bf16: the gradient of a weight is a product of two tall matrices, G' X. oneDNN turns the left one around first, and its
threads share what is a small result. Where each thread gets some rows of both for itself, and the narrower matrix is
the one turned around, it takes 5 % to 20 % less time; the threads' parts, each rounded to bf16, are then added.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node

from ssl_core.training.device import cpu_has

LEAST_WORK = 2**20  # multiplications from which a product is worth a call from Python
LEAST_ROWS = 2000  # of a thread's part; with 960 it took a tenth longer than the product as it was


def mkl_is_slow() -> bool:
    """Whether torch's own products in single precision use half of this processor."""
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return capable and torch.backends.mkl.is_available() and _has_onednn() and not _is_intel()


def prefers_split_weight_grad() -> bool:
    """Whether bf16 is multiplied by AVX-512, on which this was measured, and not by a matrix unit."""
    return cpu_has("avx512_bf16") and not cpu_has("amx_tile")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux: leave all as it is
        return True


torch.library.define("sslx::product", "(Tensor a, Tensor b, Tensor? bias) -> Tensor", tags=(torch.Tag.flexible_layout,))


@torch.library.impl("sslx::product", "CPU")
def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """a (m, k) @ b (k, n) + bias (n,), contiguous.

    A product whose left matrix lies the other way round, as in the gradient of a weight, is quickest with the smaller
    side on the left.
    """
    if bias is None and a.stride(1) != 1 and a.shape[0] > b.shape[1]:
        return _linear(b.mT, a, None).mT.contiguous()
    return _linear(a, b.mT, bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@torch.library.register_fake("sslx::product")
def _(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


class Rewrite(CustomGraphPass):
    """What is changed in a compiled graph: products on the CPU, and nothing where they are quick as they are.

    code: digests of the code that the graph was made from. They are part of what the compiler knows a graph by, since
    it does not look into operations that are ours, and would otherwise take up what it compiled when they were others.
    """

    def __init__(self, code: Sequence[str]) -> None:
        self.code, self.slow = code, mkl_is_slow()
        self.parts = torch.get_num_threads() if prefers_split_weight_grad() else 0

    def __call__(self, graph: Graph) -> None:
        """Change the graph in place."""
        for node in list(graph.nodes):
            if self.slow:
                _replace(graph, node)
            if self.parts:
                _divide(graph, node, self.parts)

    def uuid(self) -> str:
        """A name for what is done here."""
        return repr([self.slow, self.parts, *self.code])


def _replace(graph: Graph, node: Node) -> None:
    """Put `sslx::product` in the place of a product."""
    if node.target == torch.ops.aten.mm.default:
        bias, (a, b) = None, node.args
    elif node.target == torch.ops.aten.addmm.default and not node.kwargs:
        bias, a, b = node.args
    else:
        return
    if any(not _is(part, torch.float32) for part in (a, b, node)):
        return
    (rows, inner), columns = _value(a).shape, _value(b).shape[1]
    if rows * inner * columns < LEAST_WORK:
        return
    flat = bias is None or _value(bias).shape == (columns,)
    with graph.inserting_before(node):
        product = _call(graph, torch.ops.sslx.product.default, a, b, bias if flat else None)
        if not flat:
            product = _call(graph, torch.ops.aten.add.Tensor, product, bias)
    _put(graph, node, product)


def _divide(graph: Graph, node: Node, parts: int) -> None:
    """Put a sum of products of some rows each in the place of G' X, in bf16, with the narrower of the two turned."""
    if node.target != torch.ops.aten.mm.default or not _is(node, torch.bfloat16):
        return
    turned, x = node.args
    if not isinstance(turned, Node) or turned.target != torch.ops.aten.permute.default:
        return
    g, places = turned.args
    if [place % 2 for place in places] != [1, 0]:  # type: ignore[operator,union-attr]
        return
    values = _value(g), _value(x)
    rows = len(values[1])
    if rows % parts or rows < parts * LEAST_ROWS or not all(value.is_contiguous() for value in values):
        return
    ops = torch.ops.aten
    swap = values[0].shape[1] > values[1].shape[1]
    if parts == 1 and not swap:
        return
    with graph.inserting_before(node):
        left, right = (x, g) if swap else (g, x)
        if parts == 1:
            made = _call(graph, ops.mm.default, _call(graph, ops.permute.default, left, [1, 0]), right)
        else:
            left, right = (
                _call(graph, ops.view.default, part, [parts, rows // parts, _value(part).shape[1]])
                for part in (left, right)
            )
            made = _call(graph, ops.bmm.default, _call(graph, ops.permute.default, left, [0, 2, 1]), right)
            made = _call(graph, ops.sum.dim_IntList, made, [0])
        if swap:
            made = _call(graph, ops.permute.default, made, [1, 0])
    _put(graph, node, made)
    if not turned.users:
        graph.erase_node(turned)


def _value(node: Any) -> Any:
    """The tensor without numbers that stands for what a node gives."""
    return node.meta["val"]


def _is(node: Any, dtype: torch.dtype) -> bool:
    return bool(_value(node).dtype == dtype and _value(node).device.type == "cpu")


def _put(graph: Graph, node: Node, other: Node) -> None:
    """One node in the place of another."""
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def _call(graph: Graph, operation: Any, *args: Any) -> Node:
    """A node with what the compiler wants to know of its value."""
    node = graph.call_function(operation, args)
    node.meta["val"] = operation(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node
