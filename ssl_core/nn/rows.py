"""Gather, scatter and split rows of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(x: Tensor, at: Tensor) -> Tensor:
    """The tokens at given places. x: (B, N, D), at: (B, n) long. Returns (B, n, D)."""
    return x.gather(1, at.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


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
