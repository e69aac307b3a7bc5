"""Attention in little memory and little time that can be differentiated twice.

The fused kernels (flash, memory-efficient, xformers) have a first derivative only. Here the derivatives are written
out. With queries Q that are scaled, S = Q K', P = softmax(S), O = P V and a gradient G of O, the first backward pass
gives

    dV = P' G,  dQ = dS K,  dK = dS' Q,  where dP = G V',  D = rowsum(P dP) = rowsum(G O),  dS = P (dP - D).

For gradients a, b, c of dQ, dK, dV let X = a K' + Q b', Y = G c', m = rowsum(P X). Then L = <a, dQ> + <b, dK> +
<c, dV> = sum P (dP (X - m) + Y), and with U = P (X - m), H = (dP - D) U + P Y, T = H - P rowsum(H):

    dL/dQ = T K + dS b,  dL/dK = T' Q + dS' a,  dL/dV = U' G,  dL/dG = U V + P c.

On the CPU all this is done a chunk at a time, some rows or some queries of one row, so that no matrix of queries by
keys leaves the cache; P alone is kept for the derivatives while rows are short, and made again where it would be large.
There queries are scaled, heads laid out one after the other and rows filled up before, as steps of their own that
autograd knows and a compiler fuses with what is around them. On CUDA the forward pass and the first backward pass are
the fused kernel's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ssl_core.nn import attention_xformers

CHUNK_NUMBERS = 2**20
"""Most numbers of one matrix of a chunk on the CPU, (rows, h, queries, N): 2 MiB in bf16."""
CUDA_CHUNK_NUMBERS = 2**24
ALIGNED = 8
"""Numbers that CUDA's kernels for matrix products in half precision read at once."""
LOT = 32
"""Numbers that the CPU's softmax in half precision takes at once; it goes one by one through what is left of a row."""
HALF = (torch.float16, torch.bfloat16)
KEPT_TOKENS = 512
"""Rows shorter than this keep P for the derivatives."""


def double_backward_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Softmax attention with a first and a second derivative, none with a third.

    q: (B, h, M, e); k, v: (B, h, N, e); key_mask: (B, N) bool, the keys that count; each row needs one.
    Returns (B, h, M, e).

    To compile what calls it within torch.func.grad, call
    `torch.compiler.allow_in_graph(double_backward_attention)` first, as the engine does. Traced
    into, the compiler takes the gradient for a constant and loses the second derivative.
    """
    keys = k.shape[2]
    if not _fused(q):
        q = (q * _scale(q)).contiguous()
        k, v = (part.contiguous() for part in _longer(filling(k), k, v))
    out: Tensor = _Attend.apply(q, k, v, key_mask, keys)[0]
    return out


class _Attend(Function):
    """The forward pass: the output and what is kept of P (all of it, or its sums), which nobody differentiates."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, keys: int) -> tuple[Tensor, Tensor]:
        if not _fused(q):
            return attend_zeroth(q, k, v, key_mask, keys)
        if key_mask is None and attention_xformers.fits(q):
            return attention_xformers.efficient_forward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(key_mask)), q.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, key_mask, ctx.keys = inputs
        out, p = output
        ctx.mark_non_differentiable(p)
        ctx.save_for_backward(q, k, v, key_mask, out, p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, out, p = ctx.saved_tensors
        gradient = gradient if _fused(q) else gradient.contiguous()
        return (*_AttendBackward.apply(q, k, v, gradient, key_mask, ctx.keys, out, p), None, None)


class _AttendBackward(Function):
    """The first backward pass. `out` and `p` are functions of q, k, v; its own backward pass accounts for that."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, key_mask: Tensor | None, keys: int, out: Tensor, p: Tensor
    ) -> tuple[Tensor, ...]:
        if not _fused(q):
            return attend_first(q, k, v, gradient, key_mask, keys, p)
        if p.numel():  # sums of the softmax
            return attention_xformers.efficient_backward(gradient, out, p, q, k, v)
        with torch.enable_grad():  # the kernel wants its own forward pass: it keeps the sums of its softmax
            q, k, v = (part.detach().requires_grad_() for part in (q, k, v))
            again = F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(key_mask))
            return torch.autograd.grad(again, (q, k, v), gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        q, k, v, gradient, key_mask, ctx.keys, out, p = inputs
        ctx.save_for_backward(q, k, v, gradient, key_mask, out, p)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gradient, key_mask, out, p = ctx.saved_tensors
        if _fused(q):
            found = _second_padded(q, k, v, gradient, a, b, c, key_mask, out)
        else:
            a, b, c = (part.contiguous() for part in (a, b, c))
            found = attend_second(q, k, v, gradient, a, b, c, key_mask, ctx.keys, out, p)
        return (*found, None, None, None, None)


# The compiler sees each of these as one operation, and does not unroll their loops. Queries come scaled, keys and
# values perhaps filled up from N to N': `keys` of them are real.


@torch.library.custom_op("sslx::attend_zeroth", mutates_args=())
def attend_zeroth(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, keys: int) -> tuple[Tensor, Tensor]:
    """The output (B, h, M, e), and P (B h, M, N') or nothing."""
    out, p = _room(q), _room_of_weights(q, k, keys)
    for rows, asked in _chunks(q, k, CHUNK_NUMBERS):
        scores = _scores(_flat(q[rows, :, asked]), _flat(k[rows]), _of(key_mask, rows), keys, q.shape[1])
        weights = torch.softmax(scores, -1, out=_kept(p, rows, asked, q.shape[1])) if p.numel() else scores.softmax(-1)
        _put(out[rows, :, asked], (weights, _flat(v[rows])))
    return out, p


@torch.library.custom_op("sslx::attend_first", mutates_args=())
def attend_first(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, key_mask: Tensor | None, keys: int, p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients dQ (B, h, M, e), dK and dV (B, h, N', e)."""
    dq, dk, dv = _room(q), *_totals(q, k, CHUNK_NUMBERS)
    for rows, asked in _chunks(q, k, CHUNK_NUMBERS):
        qi, gi, ki = _flat(q[rows, :, asked]), _flat(gradient[rows, :, asked]), _flat(k[rows])
        pi = _weights(p, qi, ki, key_mask, rows, asked, keys, q.shape[1])
        ds = _through(torch.bmm(gi, _flat(v[rows]).mT), pi)
        _put(dq[rows, :, asked], (ds, ki))
        _put(dk[rows], (ds.mT, qi), total=asked.start > 0)
        _put(dv[rows], (pi.mT, gi), total=asked.start > 0)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


@torch.library.custom_op("sslx::attend_second", mutates_args=())
def attend_second(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    key_mask: Tensor | None,
    keys: int,
    out: Tensor,
    p: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dL/dQ, dL/dK, dL/dV and dL/dG of this module's first page."""
    return _second(q, k, v, gradient, a, b, c, key_mask, keys, out, p, CHUNK_NUMBERS)


def _second(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, a: Tensor, b: Tensor, c: Tensor,
    key_mask: Tensor | None, keys: int, out: Tensor, p: Tensor, most: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dq, (dk, dv), dg = _room(q), _totals(q, k, most), _room(gradient)
    for rows, asked in _chunks(q, k, most):
        qi, gi, ai = (_flat(part[rows, :, asked]) for part in (q, gradient, a))
        ki, vi, bi, ci = (_flat(part[rows]) for part in (k, v, b, c))
        pi = _weights(p, qi, ki, key_mask, rows, asked, keys, q.shape[1])
        dp = torch.bmm(gi, vi.mT)
        total = (gi * _flat(out[rows, :, asked])).sum(dim=-1, keepdim=True)  # D
        u = _through(torch.bmm(torch.cat([ai, qi], dim=-1), torch.cat([ki, bi], dim=-1).mT), pi)
        ds = _through(dp, pi)
        h = dp.sub_(total).mul_(u).addcmul_(pi, torch.bmm(gi, ci.mT))
        t = h.addcmul_(pi, h.sum(dim=-1, keepdim=True), value=-1)
        _put(dq[rows, :, asked], (t, ki), (ds, bi))
        _put(dk[rows], (t.mT, qi), (ds.mT, ai), total=asked.start > 0)
        _put(dv[rows], (u.mT, gi), total=asked.start > 0)
        _put(dg[rows, :, asked], (u, vi), (pi, ci))
    return dq, dk.to(k.dtype), dv.to(v.dtype), dg


def filling(k: Tensor) -> int:
    """How many keys that count nothing make rows of scores of a quick length, for keys (B, h, N, e).

    On CUDA a multiple of ALIGNED in half precision. On the CPU a multiple of LOT, where a row leaves more than a few
    numbers: softmax took twice the time with 109 or 126 tokens and six times with 29, products about the same.
    """
    length = k.shape[2]
    if k.dtype not in HALF:
        return 0
    if k.is_cuda:
        return -length % ALIGNED
    return -length % LOT if length % LOT >= LOT // 4 else 0


def fill_up(more: int, key_mask: Tensor | None, *parts: Tensor) -> tuple[Any, ...]:
    """keep (B, N) and parts (B, h, N, e) of the keys, with so many more keys behind that count nothing."""
    rows, _, length, _ = parts[0].shape
    if not more:
        return key_mask, *parts
    key_mask = parts[0].new_ones(rows, length, dtype=torch.bool) if key_mask is None else key_mask
    return F.pad(key_mask, (0, more)), *_longer(more, *parts)


def _longer(more: int, *parts: Tensor) -> tuple[Tensor, ...]:
    """Parts (B, h, N, e) with so many zeros behind each."""
    return tuple(F.pad(part, (0, 0, 0, more)) if more else part for part in parts)


def _second_padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gradient: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    key_mask: Tensor | None,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`_second` on CUDA, for queries that are not scaled yet: scales Q and a before it, and dL/dQ after it.

    With keys that count nothing, so that rows of scores start where fast kernels want them.
    """
    scale, keys = _scale(q), k.shape[2]
    k, v, b, c = _longer(-keys % ALIGNED, k, v, b, c)
    with torch.autocast(q.device.type, enabled=False):  # compiled, the backward pass is traced within the forward's
        dq, dk, dv, dg = _second(
            q * scale, k, v, gradient, a * scale, b, c, key_mask, keys, out, q.new_empty(0), CUDA_CHUNK_NUMBERS
        )
    return dq * scale, dk[:, :, :keys], dv[:, :, :keys], dg


@attend_zeroth.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, keys: int) -> tuple[Tensor, Tensor]:
    return _room(q), _room_of_weights(q, k, keys)


@attend_first.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, key_mask: Tensor | None, keys: int, p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _room(q), _room(k), _room(v)


@attend_second.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, a: Tensor, b: Tensor, c: Tensor,
    key_mask: Tensor | None, keys: int, out: Tensor, p: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _room(q), _room(k), _room(v), _room(gradient)


def _fused(q: Tensor) -> bool:
    """Whether the forward pass and the first derivative are a fused kernel's."""
    return q.is_cuda


def _scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


def _mask(key_mask: Tensor | None) -> Tensor | None:
    return None if key_mask is None else key_mask[:, None, None, :]


def _room(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """For what has this shape: on the CPU heads lie one after the other, on CUDA as the fused kernels leave them."""
    if _fused(like):
        return attention_xformers.blank(like, dtype)
    return torch.empty(like.shape, dtype=dtype or like.dtype, device=like.device)


def _room_of_weights(q: Tensor, k: Tensor, keys: int) -> Tensor:
    """For P of short rows (B h, M, N')."""
    if keys >= KEPT_TOKENS:
        return q.new_empty(0)
    return q.new_empty(q.shape[0] * q.shape[1], q.shape[2], k.shape[2])


def _chunks(q: Tensor, k: Tensor, most: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of queries: as many rows as fit, or as many queries of one row."""
    count, heads, queries, _ = q.shape
    keys = heads * k.shape[2]
    rows, asked = max(1, most // (keys * queries)), max(1, min(queries, most // keys))
    for row in range(0, count, rows):
        for start in range(0, queries, asked):
            yield slice(row, row + rows), slice(start, start + asked)


def _totals(q: Tensor, k: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Room for what all keys get, twice (B, h, N, e): where it adds up over chunks of queries, in fp32 at least."""
    _, heads, queries, _ = q.shape
    at_once = heads * k.shape[2] * queries <= most
    dtype = k.dtype if at_once else torch.promote_types(k.dtype, torch.float32)
    return _room(k, dtype), _room(k, dtype)


def _flat(x: Tensor) -> Tensor:
    """(r, h, n, e) to (r h, n, e), contiguous."""
    return x.reshape(-1, *x.shape[2:])


def _kept(p: Tensor, rows: slice, asked: slice, heads: int) -> Tensor:
    """The chunk of P (B h, M, N')."""
    return p[rows.start * heads : rows.stop * heads, asked]


def _of(key_mask: Tensor | None, rows: slice) -> Tensor | None:
    return None if key_mask is None else key_mask[rows]


def _scores(q: Tensor, k: Tensor, key_mask: Tensor | None, keys: int, heads: int) -> Tensor:
    """S (r h, m, N') of q (r h, m, e) and k (r h, N', e), of whose keys so many are real."""
    scores = torch.bmm(q, k.mT)
    if keys < k.shape[1]:
        scores[..., keys:] = -torch.inf
    if key_mask is not None:
        scores[..., :keys].masked_fill_(~key_mask.repeat_interleave(heads, dim=0)[:, None, :], -torch.inf)
    return scores


def _weights(
    p: Tensor, q: Tensor, k: Tensor, key_mask: Tensor | None, rows: slice, asked: slice, keys: int, heads: int
) -> Tensor:  # fmt: skip
    """The chunk of P, as it was kept or made again."""
    if p.numel():
        return _kept(p, rows, asked, heads)
    return _scores(q, k, _of(key_mask, rows), keys, heads).softmax(-1)


def _through(x: Tensor, p: Tensor) -> Tensor:
    """The softmax's derivative: P (x - rowsum(P x)), summed in fp32 at least."""
    return torch.ops.aten._softmax_backward_data(x, p, -1, p.dtype)


def _put(room: Tensor, *factors: tuple[Tensor, Tensor], total: bool = False) -> None:
    """Write the sum of some products (r h, n, e) to room (r, h, n, e), or add it where that is a `total` already."""
    direct = room.is_contiguous() and room.dtype == factors[0][0].dtype and not total
    direct = direct and not torch.is_grad_enabled()  # on CUDA autograd may look on
    made = torch.bmm(*factors[0], out=_flat(room)) if direct else torch.bmm(*factors[0])
    for more in factors[1:]:
        made.baddbmm_(*more)
    if total:
        room.add_(made.view_as(room))
    elif not direct:
        room.copy_(made.view_as(room))
