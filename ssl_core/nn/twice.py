"""Attention in little memory that can be differentiated twice.

The fused kernels (flash, memory-efficient, xformers) have a first derivative only. Here the forward pass and the first
backward pass are the fused kernel's, and the derivative of that backward pass is written out, a chunk of queries at a
time, so that no matrix of all queries by all keys is ever held.

With S = scale Q K', P = softmax(S), O = P V and a gradient G of O, the first backward pass gives

    dV = P' G,  dQ = scale dS K,  dK = scale dS' Q,  where dP = G V',  D = rowsum(P dP),  dS = P (dP - D).

For gradients a, b, c of dQ, dK, dV let X = scale (a K' + Q b'), Y = G c', m = rowsum(P X). Then L = <a, dQ> + <b, dK> +
<c, dV> = sum P (dP (X - m) + Y), and with U = P (X - m), W = dP (X - m) + Y - D X, T = P (W - rowsum(P W)):

    dL/dQ = scale (T K + dS b),  dL/dK = scale (T' Q + dS' a),  dL/dV = U' G,  dL/dG = U V + P c.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

CHUNK_NUMBERS = 2**22
"""Most numbers of one matrix of a chunk, (B, h, chunk, N): 16 MiB in fp32."""


def attend_twice(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Softmax attention with a first and a second derivative, none with a third.

    q: (B, h, M, e); k, v: (B, h, N, e); keep: (B, N) bool, the keys that count; each row needs one.
    Returns (B, h, M, e).
    """
    out: Tensor = _Attend.apply(q, k, v, keep)
    return out


def _mask(keep: Tensor | None) -> Tensor | None:
    return None if keep is None else keep[:, None, None, :]


class _Attend(Function):
    """The fused forward pass."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(keep))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        q, k, v, keep = inputs
        ctx.save_for_backward(q, k, v, keep)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keep = ctx.saved_tensors
        return (*_AttendBackward.apply(q, k, v, gradient, keep), None)


class _AttendBackward(Function):
    """The fused backward pass; its own derivative is written out."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, keep: Tensor | None) -> tuple[Tensor, ...]:
        with torch.enable_grad():  # the kernel wants its own forward pass: it keeps the sums of its softmax
            q, k, v = (part.detach().requires_grad_() for part in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(keep))
            return torch.autograd.grad(out, (q, k, v), gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        q, k, v, gradient, keep = inputs
        ctx.save_for_backward(q, k, v, gradient, keep)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gradient, keep = ctx.saved_tensors
        return (*second(q, k, v, gradient, a, b, c, keep), None)


def second(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, a: Tensor, b: Tensor, c: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dL/dQ, dL/dK, dL/dV and dL/dG of this module's first page; at least fp32 inside, results in the type of q."""
    wide = torch.promote_types(q.dtype, torch.float32)
    given = [part.to(wide) for part in (q, k, v, gradient, a, b, c)]
    q_, k_, v_, g_, a_, b_, c_ = given
    scale = 1 / math.sqrt(q.shape[-1])
    mask = _mask(keep)
    dq, dg = torch.empty_like(q_), torch.empty_like(g_)
    dk, dv = torch.zeros_like(k_), torch.zeros_like(v_)
    rows, heads, queries, _ = q.shape
    step = max(1, CHUNK_NUMBERS // (rows * heads * k.shape[2]))
    for start in range(0, queries, step):
        part = slice(start, start + step)
        qi, gi, ai = q_[:, :, part], g_[:, :, part], a_[:, :, part]
        scores = scale * (qi @ k_.mT)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        p = scores.softmax(dim=-1)
        dp = gi @ v_.mT
        centred = dp - (p * dp).sum(dim=-1, keepdim=True)
        x = scale * (ai @ k_.mT + qi @ b_.mT)
        x_centred = x - (p * x).sum(dim=-1, keepdim=True)
        u, ds = p * x_centred, p * centred
        # W differs from dP (X - m) + Y - D X by D m, which is the same along a row and drops out of T
        w = centred * x_centred + gi @ c_.mT
        t = p * (w - (p * w).sum(dim=-1, keepdim=True))
        dq[:, :, part] = scale * (t @ k_ + ds @ b_)
        dk += scale * (t.mT @ qi + ds.mT @ ai)
        dv += u.mT @ gi
        dg[:, :, part] = u @ v_ + p @ c_
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dg.to(gradient.dtype)
