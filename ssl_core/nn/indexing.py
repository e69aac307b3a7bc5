"""Gather and scatter tokens, masks and embeddings by position."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ssl_core.nn.exporting import is_exporting


def gather_tokens(x: Tensor, position_ids: Tensor) -> Tensor:
    """The tokens at given positions. x: (B, N, D), position_ids: (B, n) long. Returns (B, n, D)."""
    return x.gather(1, position_ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


# One operation for the compiler, which would otherwise cut and normalise the patches of the input one element at a
# time, and again for each loss.
@torch.library.custom_op("sslx::gather_targets", mutates_args=())
def gather_targets(x: Tensor, position_ids: Tensor) -> Tensor:
    """`gather_tokens` without a gradient, for targets."""
    first = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    flat = x.reshape(-1, x.shape[-1]).index_select(0, (position_ids + first).flatten())
    return flat.view(*position_ids.shape, x.shape[-1])


@gather_targets.register_fake
def _(x: Tensor, position_ids: Tensor) -> Tensor:
    return x.new_empty(*position_ids.shape, x.shape[-1])


def embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a learned table (V, D) by ids (...) long: (..., D). Differentiable once.

    Embedding gradients are deterministic on the CPU, compiled or not. A caller that is compiled must first call
    `torch.compiler.allow_in_graph(embedding_lookup)`, as the training step does.
    """
    if table.is_cuda or is_exporting():
        return F.embedding(ids, table)
    out: Tensor = _EmbeddingLookup.apply(table, ids)
    return out


class _EmbeddingLookup(Function):
    """The compiler's own backward adds rows from several threads in an order that changes from run to run."""

    @staticmethod
    def forward(table: Tensor, ids: Tensor) -> Tensor:
        return F.embedding(ids, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, ids = inputs
        ctx.save_for_backward(ids)
        ctx.count = table.shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        return embedding_grad(gradient, ids, ctx.count), None


@torch.library.custom_op("sslx::embedding_grad", mutates_args=())
def embedding_grad(x: Tensor, ids: Tensor, count: int) -> Tensor:
    """(count, D): for each id the sum of the rows of x (..., D) that have it."""
    summed: Tensor = torch.ops.aten.embedding_dense_backward(x.contiguous(), ids, count, -1, False)
    return summed


@embedding_grad.register_fake
def _(x: Tensor, ids: Tensor, count: int) -> Tensor:
    return x.new_empty(count, x.shape[-1])


def gather_mask(mask: Tensor | None, position_ids: Tensor) -> Tensor | None:
    """The entries of a mask (B, N) at position_ids (B, n), such as which tokens are valid; None stays None."""
    return None if mask is None else mask.gather(1, position_ids)


def prepend_cls(mask: Tensor | None) -> Tensor | None:
    """A mask (B, n) with True for the cls token in front, which is always valid: (B, 1 + n). None stays None."""
    return None if mask is None else F.pad(mask, (1, 0), value=True)


def mean_pool(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mean over the valid tokens: (B, n, D) to (B, D); zero for a row without any. valid: (B, n) bool."""
    if valid is None:
        return x.mean(dim=1)
    weights = valid.to(x.dtype).unsqueeze(-1)
    return (weights * x).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def scatter_tokens(x: Tensor, position_ids: Tensor, length: int) -> Tensor:
    """The inverse of `gather_tokens`: (B, n, D) at position_ids of rows of zeros (B, length, D)."""
    out = x.new_zeros(x.shape[0], length, x.shape[-1])
    return out.scatter(1, position_ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]), x)


def invert_permutation(order: Tensor) -> Tensor:
    """The inverse of each permutation, (B, L) long; gathering by it restores the order of a row."""
    return torch.empty_like(order).scatter(1, order, all_position_ids(order.shape[0], order.shape[1], order.device))


def all_position_ids(rows: int, length: int, device: torch.device) -> Tensor:
    """(rows, length) long: every position of a row, in order."""
    return torch.arange(length, device=device).expand(rows, length)
