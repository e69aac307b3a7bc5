"""Gather, scatter and split rows of tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def gather_tokens(x: Tensor, position_ids: Tensor) -> Tensor:
    """The tokens at given places. x: (B, N, D), at: (B, n) long. Returns (B, n, D)."""
    return x.gather(1, position_ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


# One operation to the compiler, which would otherwise cut the patches out of the raw sample, and normalise them, one
# number at a time, for each loss anew.
@torch.library.custom_op("sslx::gather_targets", mutates_args=())
def gather_targets(x: Tensor, position_ids: Tensor) -> Tensor:
    """The same as `gather_tokens` for what no gradient goes to."""
    first = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    return (
        x.reshape(-1, x.shape[-1])
        .index_select(0, (position_ids + first).flatten())
        .view(*position_ids.shape, x.shape[-1])
    )


@gather_targets.register_fake
def _(x: Tensor, position_ids: Tensor) -> Tensor:
    return x.new_empty(*position_ids.shape, x.shape[-1])


def embedding_lookup(table: Tensor, position_ids: Tensor) -> Tensor:
    """Rows of a table (V, D) that is learned: position_ids (...) long, returns (..., D). Differentiable once.

    On the CPU its gradient is the same each time, compiled or not. To compile what calls it, call
    `torch.compiler.allow_in_graph(embedding_lookup)` first, as the engine does.
    """
    if table.is_cuda:
        return F.embedding(position_ids, table)
    out: Tensor = _LookUp.apply(table, position_ids)
    return out


class _LookUp(Function):
    """The compiler's own code for the gradient adds the rows from several threads, in an order that is chance."""

    @staticmethod
    def forward(table: Tensor, position_ids: Tensor) -> Tensor:
        return F.embedding(position_ids, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, position_ids = inputs
        ctx.save_for_backward(position_ids)
        ctx.count = table.shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (position_ids,) = ctx.saved_tensors
        return embedding_grad(gradient, position_ids, ctx.count), None


@torch.library.custom_op("sslx::embedding_grad", mutates_args=())
def embedding_grad(x: Tensor, position_ids: Tensor, count: int) -> Tensor:
    """(count, D): the sum of the rows of x (..., D) at each place."""
    summed: Tensor = torch.ops.aten.embedding_dense_backward(x.contiguous(), position_ids, count, -1, False)
    return summed


@embedding_grad.register_fake
def _(x: Tensor, position_ids: Tensor, count: int) -> Tensor:
    return x.new_empty(count, x.shape[-1])


def gather_mask(flags: Tensor | None, position_ids: Tensor) -> Tensor | None:
    """The same for flags (B, N), such as which tokens are present; None stays None."""
    return None if flags is None else flags.gather(1, position_ids)


def prepend_cls(flags: Tensor | None) -> Tensor | None:
    """Flags (B, n) with one for the cls token in front, which is always there: (B, 1 + n). None stays None."""
    return None if flags is None else torch.nn.functional.pad(flags, (1, 0), value=True)


def mean_pool(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mean over the tokens that are present: (B, n, D) to (B, D); zero for a row without any."""
    if valid is None:
        return x.mean(dim=1)
    weights = valid.to(x.dtype).unsqueeze(-1)
    return (weights * x).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def scatter_tokens(x: Tensor, position_ids: Tensor, length: int) -> Tensor:
    """The inverse: (B, n, D) put at places `at` of rows of zeros (B, length, D)."""
    out = x.new_zeros(x.shape[0], length, x.shape[-1])
    return out.scatter(1, position_ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]), x)


def split_cls(x: Tensor) -> tuple[Tensor, Tensor]:
    """An encoder's output (B, 1 + n, D) as its summary (B, D) and its tokens (B, n, D)."""
    return x[:, 0], x[:, 1:]


def invert_permutation(order: Tensor) -> Tensor:
    """Return the inverse of each permutation, (B, L) long; gathering by it restores the order of a row."""
    return torch.empty_like(order).scatter(1, order, all_position_ids(order.shape[0], order.shape[1], order.device))


def all_position_ids(rows: int, length: int, device: torch.device) -> Tensor:
    """(rows, length) long: every place of a row, in order."""
    return torch.arange(length, device=device).expand(rows, length)
