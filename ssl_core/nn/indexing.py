"""Gather, scatter and split rows of tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def gather_rows(x: Tensor, at: Tensor) -> Tensor:
    """The tokens at given places. x: (B, N, D), at: (B, n) long. Returns (B, n, D)."""
    return x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


# One operation to the compiler, which would otherwise cut the patches out of the raw sample, and normalise them, one
# number at a time, for each loss anew.
@torch.library.custom_op("sslx::take_rows", mutates_args=())
def take_rows(x: Tensor, at: Tensor) -> Tensor:
    """The same as `gather_rows` for what no gradient goes to."""
    first = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    return x.reshape(-1, x.shape[-1]).index_select(0, (at + first).flatten()).view(*at.shape, x.shape[-1])


@take_rows.register_fake
def _(x: Tensor, at: Tensor) -> Tensor:
    return x.new_empty(*at.shape, x.shape[-1])


def look_up(table: Tensor, at: Tensor) -> Tensor:
    """Rows of a table (V, D) that is learned: at (...) long, returns (..., D). Differentiable once.

    On the CPU its gradient is the same each time, compiled or not. To compile what calls it, call
    `torch.compiler.allow_in_graph(look_up)` first, as the engine does.
    """
    if table.is_cuda:
        return F.embedding(at, table)
    out: Tensor = _LookUp.apply(table, at)
    return out


class _LookUp(Function):
    """The compiler's own code for the gradient adds the rows from several threads, in an order that is chance."""

    @staticmethod
    def forward(table: Tensor, at: Tensor) -> Tensor:
        return F.embedding(at, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, at = inputs
        ctx.save_for_backward(at)
        ctx.count = table.shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (at,) = ctx.saved_tensors
        return sum_rows(gradient, at, ctx.count), None


@torch.library.custom_op("sslx::sum_rows", mutates_args=())
def sum_rows(x: Tensor, at: Tensor, count: int) -> Tensor:
    """(count, D): the sum of the rows of x (..., D) at each place."""
    summed: Tensor = torch.ops.aten.embedding_dense_backward(x.contiguous(), at, count, -1, False)
    return summed


@sum_rows.register_fake
def _(x: Tensor, at: Tensor, count: int) -> Tensor:
    return x.new_empty(count, x.shape[-1])


def pick(flags: Tensor | None, at: Tensor) -> Tensor | None:
    """The same for flags (B, N), such as which tokens are present; None stays None."""
    return None if flags is None else flags.gather(1, at)


def with_summary(flags: Tensor | None) -> Tensor | None:
    """Flags (B, n) with one for the summary token in front, which is always there: (B, 1 + n). None stays None."""
    return None if flags is None else torch.nn.functional.pad(flags, (1, 0), value=True)


def mean_rows(x: Tensor, present: Tensor | None = None) -> Tensor:
    """The mean over the tokens that are present: (B, n, D) to (B, D); zero for a row without any."""
    if present is None:
        return x.mean(dim=1)
    weights = present.to(x.dtype).unsqueeze(-1)
    return (weights * x).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def scatter_rows(x: Tensor, at: Tensor, length: int) -> Tensor:
    """The inverse: (B, n, D) put at places `at` of rows of zeros (B, length, D)."""
    out = x.new_zeros(x.shape[0], length, x.shape[-1])
    return out.scatter(1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]), x)


def split_summary(x: Tensor) -> tuple[Tensor, Tensor]:
    """An encoder's output (B, 1 + n, D) as its summary (B, D) and its tokens (B, n, D)."""
    return x[:, 0], x[:, 1:]


def inverse(order: Tensor) -> Tensor:
    """The inverse of permutations of places, (B, L) long each: `gather_rows(x, inverse(order))` puts rows in place."""
    return torch.empty_like(order).scatter(1, order, places(order.shape[0], order.shape[1], order.device))


def places(rows: int, length: int, device: torch.device) -> Tensor:
    """(rows, length) long: every place of a row, in order."""
    return torch.arange(length, device=device).expand(rows, length)
