"""Faster matrix products for compiled steps on the CPU.

fp32: torch multiplies matrices with MKL. On processors that are not made by Intel, MKL does not use AVX-512 and is half
as fast as oneDNN, which torch ships for other dtypes. torch has no option for oneDNN in full precision, so this pass of
the compiler replaces the products. The results differ in the last bits, as with another order of summation.

bf16: the gradient of a weight is a product of two tall matrices, G' X. oneDNN transposes the left matrix first and
splits the small result among threads. It takes 5 % to 20 % less time to give each thread some rows of both matrices,
and to transpose the narrower matrix. The partial results, each rounded to bf16, are then added.
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

MIN_WORK = 2**20  # multiplications; for smaller products the call from Python costs more than it saves
MIN_ROWS = 2000  # rows per thread; with 960, the split product took a tenth longer than the whole one


def mkl_is_slow() -> bool:
    """Whether torch's own fp32 products run at half speed on this processor."""
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return capable and torch.backends.mkl.is_available() and _has_onednn() and not _is_intel()


def prefers_split_weight_grad() -> bool:
    """Whether bf16 products use AVX-512, for which the split was measured, and not a matrix unit (AMX)."""
    return cpu_has("avx512_bf16") and not cpu_has("amx_tile")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: change nothing
        return True


torch.library.define("sslx::product", "(Tensor a, Tensor b, Tensor? bias) -> Tensor", tags=(torch.Tag.flexible_layout,))


@torch.library.impl("sslx::product", "CPU")
def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """a (m, k) @ b (k, n) + bias (n,), contiguous.

    If the left matrix is transposed in memory, as in the gradient of a weight, the product is fastest with the smaller
    matrix on the left.
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
    """Compiler pass that replaces matrix products on the CPU where another form is faster.

    Args:
        code: digests of the source of the graph. They become part of the compiler's cache key, which does not cover the
            source of custom operators.
    """

    def __init__(self, code: Sequence[str]) -> None:
        self.code, self.slow = code, mkl_is_slow()
        self.parts = torch.get_num_threads() if prefers_split_weight_grad() else 0

    def __call__(self, graph: Graph) -> None:
        """Rewrite the graph in place."""
        for node in list(graph.nodes):
            if self.slow:
                _replace(graph, node)
            if self.parts:
                _split(graph, node, self.parts)

    def uuid(self) -> str:
        """The part of the compiler's cache key that identifies this pass."""
        return repr([self.slow, self.parts, *self.code])


def _replace(graph: Graph, node: Node) -> None:
    """Replace a fp32 product by `sslx::product`."""
    if node.target == torch.ops.aten.mm.default:
        bias, (a, b) = None, node.args
    elif node.target == torch.ops.aten.addmm.default and not node.kwargs:
        bias, a, b = node.args
    else:
        return
    if any(not _is(part, torch.float32) for part in (a, b, node)):
        return
    (rows, inner), columns = _value(a).shape, _value(b).shape[1]
    if rows * inner * columns < MIN_WORK:
        return
    flat = bias is None or _value(bias).shape == (columns,)
    with graph.inserting_before(node):
        product = _call(graph, torch.ops.sslx.product.default, a, b, bias if flat else None)
        if not flat:
            product = _call(graph, torch.ops.aten.add.Tensor, product, bias)
    _substitute(graph, node, product)


def _split(graph: Graph, node: Node, parts: int) -> None:
    """Replace a bf16 product G' X by a sum of products of row blocks, with the narrower matrix transposed."""
    if node.target != torch.ops.aten.mm.default or not _is(node, torch.bfloat16):
        return
    transposed, x = node.args
    if not isinstance(transposed, Node) or transposed.target != torch.ops.aten.permute.default:
        return
    g, axes = transposed.args
    if [axis % 2 for axis in axes] != [1, 0]:  # type: ignore[operator,union-attr]
        return
    values = _value(g), _value(x)
    rows = len(values[1])
    if rows % parts or rows < parts * MIN_ROWS or not all(value.is_contiguous() for value in values):
        return
    ops = torch.ops.aten
    swap = values[0].shape[1] > values[1].shape[1]
    if parts == 1 and not swap:
        return
    with graph.inserting_before(node):
        left, right = (x, g) if swap else (g, x)
        if parts == 1:
            result = _call(graph, ops.mm.default, _call(graph, ops.permute.default, left, [1, 0]), right)
        else:
            left, right = (
                _call(graph, ops.view.default, part, [parts, rows // parts, _value(part).shape[1]])
                for part in (left, right)
            )
            result = _call(graph, ops.bmm.default, _call(graph, ops.permute.default, left, [0, 2, 1]), right)
            result = _call(graph, ops.sum.dim_IntList, result, [0])
        if swap:
            result = _call(graph, ops.permute.default, result, [1, 0])
    _substitute(graph, node, result)
    if not transposed.users:
        graph.erase_node(transposed)


def _value(node: Any) -> Any:
    """The fake tensor of a node's result: shape, strides, dtype and device."""
    return node.meta["val"]


def _is(node: Any, dtype: torch.dtype) -> bool:
    return bool(_value(node).dtype == dtype and _value(node).device.type == "cpu")


def _substitute(graph: Graph, node: Node, other: Node) -> None:
    """Replace one node by another."""
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def _call(graph: Graph, operation: Any, *args: Any) -> Node:
    """A new node, with the fake tensor of its result that the compiler needs."""
    node = graph.call_function(operation, args)
    node.meta["val"] = operation(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node
