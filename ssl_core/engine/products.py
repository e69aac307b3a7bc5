"""Matrix products in single precision through oneDNN, where the library that torch takes for them is slow.

torch multiplies fp32 matrices on the CPU with MKL. On processors of other makers than Intel MKL does not use AVX-512,
and so reaches half of what oneDNN does, which torch has on board for other number formats. torch has no switch for it
that keeps full precision; so the compiler is told to put oneDNN's products in place of MKL's. They round differently
in the last bits, as another order of a sum does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node

LEAST_WORK = 2**20  # multiplications from which a product is worth a call from Python


def mkl_is_slow() -> bool:
    """Whether torch's own products in single precision use half of this processor."""
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return capable and torch.backends.mkl.is_available() and _has_onednn() and not _is_intel()


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
    """What is changed in a compiled graph: nothing, but for single-precision products where MKL is slow.

    code: digests of the code that the graph was made from. They are part of what the compiler knows a graph by, since
    it does not look into operations that are ours, and would otherwise take up what it compiled when they were others.
    """

    def __init__(self, code: Sequence[str]) -> None:
        self.code, self.slow = code, mkl_is_slow()

    def __call__(self, graph: Graph) -> None:
        """Change the graph in place."""
        if self.slow:
            for node in list(graph.nodes):
                _replace(graph, node)

    def uuid(self) -> str:
        """A name for what is done here."""
        return repr([self.slow, *self.code])


def _replace(graph: Graph, node: Node) -> None:
    """Put `sslx::product` in the place of a product."""
    if node.target == torch.ops.aten.mm.default:
        bias, (a, b) = None, node.args
    elif node.target == torch.ops.aten.addmm.default and not node.kwargs:
        bias, a, b = node.args
    else:
        return
    values = [part.meta["val"] for part in (a, b, node)]  # type: ignore[union-attr]
    if any(value.dtype != torch.float32 or value.device.type != "cpu" for value in values):
        return
    (rows, inner), columns = values[0].shape, values[1].shape[1]
    if rows * inner * columns < LEAST_WORK:
        return
    flat = bias is None or bias.meta["val"].shape == (columns,)  # type: ignore[union-attr]
    with graph.inserting_before(node):
        product = _call(graph, torch.ops.sslx.product.default, a, b, bias if flat else None)
        if not flat:
            product = _call(graph, torch.ops.aten.add.Tensor, product, bias)
    node.replace_all_uses_with(product)
    graph.erase_node(node)


def _call(graph: Graph, operation: Any, *args: Any) -> Node:
    """A node with what the compiler wants to know of its value."""
    node = graph.call_function(operation, args)
    node.meta["val"] = operation(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node
