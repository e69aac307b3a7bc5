"""Memory-efficient attention that supports double backward.

The fused kernels (flash, memory-efficient, xformers) have a first derivative only. This module implements both
derivatives explicitly. For scaled queries Q, S = Q K', P = softmax(S), O = P V and the gradient G of O, the first
backward pass computes

    dV = P' G,  dQ = dS K,  dK = dS' Q,  where dP = G V',  D = rowsum(P dP) = rowsum(G O),  dS = P (dP - D).

For gradients a, b, c of dQ, dK, dV let X = a K' + Q b', Y = G c', m = rowsum(P X). Then L = <a, dQ> + <b, dK> +
<c, dV> = sum P (dP (X - m) + Y), and with U = P (X - m), H = (dP - D) U + P Y, T = H - P rowsum(H):

    dL/dQ = T K + dS b,  dL/dK = T' Q + dS' a,  dL/dV = U' G,  dL/dG = U V + P c.

On the CPU the computation runs in chunks, of several rows or of some queries of one row, so that the chunk of a matrix
of queries by keys fits in the cache. P is stored for the derivatives if rows are short, and recomputed otherwise.
Scaling the queries, making heads contiguous and padding the keys are separate operations before the custom operators:
autograd differentiates them, and a compiler fuses them with their neighbours. On CUDA the forward pass and the first
backward pass use a fused kernel.
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
"""Largest number of elements of a matrix (rows, h, queries, N) of a chunk on the CPU: 2 MiB in bf16."""
CUDA_CHUNK_NUMBERS = 2**24
CUDA_ALIGNMENT = 8
"""Row lengths of half-precision matrices that CUDA's fast matrix products need are multiples of this."""
SOFTMAX_VECTOR = 32
"""Vector width of the CPU's softmax in half precision. It computes the remainder of a row one element at a time."""
HALF = (torch.float16, torch.bfloat16)
RECOMPUTE_TOKENS = 512
"""Rows of this length and longer recompute P in the backward passes instead of storing it."""


def double_backward_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Softmax attention with a first and a second derivative, but no third. Returns (B, h, M, e).

    A caller that is compiled and uses torch.func.grad must first call
    `torch.compiler.allow_in_graph(double_backward_attention)`, as the training step does. Otherwise the compiler traces
    the gradient as a constant and the second derivative is lost.

    Args:
        q: (B, h, M, e).
        k: (B, h, N, e).
        v: (B, h, N, e).
        key_mask: (B, N) bool, the keys that are attended to; at least one in each row.
    """
    keys = k.shape[2]
    if not _fused(q):
        q = (q * _scale(q)).contiguous()
        k, v = (part.contiguous() for part in _pad(padding_length(k), k, v))
    out: Tensor = _Attend.apply(q, k, v, key_mask, keys)[0]
    return out


class _Attend(Function):
    """The forward pass: the output, and P, its log-sum-exps or nothing, which are not differentiable."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, keys: int) -> tuple[Tensor, Tensor]:
        if not _fused(q):
            return attend_forward(q, k, v, key_mask, keys)
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
    """The first backward pass. Its own backward pass accounts for `out` and `p` being functions of q, k and v."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, key_mask: Tensor | None, keys: int, out: Tensor, p: Tensor
    ) -> tuple[Tensor, ...]:
        if not _fused(q):
            return attend_backward(q, k, v, gradient, key_mask, keys, p)
        if p.numel():  # log-sum-exps of the softmax
            return attention_xformers.efficient_backward(gradient, out, p, q, k, v)
        with torch.enable_grad():  # SDPA's backward needs the log-sum-exps of its own forward pass
            q, k, v = (part.detach().requires_grad_() for part in (q, k, v))
            repeated = F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(key_mask))
            return torch.autograd.grad(repeated, (q, k, v), gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        q, k, v, gradient, key_mask, ctx.keys, out, p = inputs
        ctx.save_for_backward(q, k, v, gradient, key_mask, out, p)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gradient, key_mask, out, p = ctx.saved_tensors
        if _fused(q):
            grads = _second_backward_cuda(q, k, v, gradient, a, b, c, key_mask, out)
        else:
            a, b, c = (part.contiguous() for part in (a, b, c))
            grads = attend_double_backward(q, k, v, gradient, a, b, c, key_mask, ctx.keys, out, p)
        return (*grads, None, None, None, None)


# Custom operators are opaque to the compiler, which would unroll their loops. Queries are scaled. Keys and values may
# be padded from N to N'; the first `keys` of them are real.


@torch.library.custom_op("sslx::attend_forward", mutates_args=())
def attend_forward(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, keys: int) -> tuple[Tensor, Tensor]:
    """The output (B, h, M, e), and P (B h, M, N'), which is empty for long rows."""
    out, p = _empty(q), _empty_probabilities(q, k, keys)
    for rows, span in _chunks(q, k, CHUNK_NUMBERS):
        qi, ki = _merge_heads(q[rows, :, span]), _merge_heads(k[rows])
        scores = _scores(qi, ki, _mask_rows(key_mask, rows), keys, q.shape[1])
        stored = _stored_chunk(p, rows, span, q.shape[1]) if p.numel() else None
        _write(out[rows, :, span], (torch.softmax(scores, -1, out=stored), _merge_heads(v[rows])))
    return out, p


@torch.library.custom_op("sslx::attend_backward", mutates_args=())
def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, key_mask: Tensor | None, keys: int, p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients dQ (B, h, M, e), dK and dV (B, h, N', e)."""
    dq, dk, dv = _empty(q), *_accumulators(q, k, CHUNK_NUMBERS)
    for rows, span in _chunks(q, k, CHUNK_NUMBERS):
        qi, gi = (_merge_heads(part[rows, :, span]) for part in (q, gradient))
        ki = _merge_heads(k[rows])
        pi = _probabilities(p, qi, ki, key_mask, rows, span, keys, q.shape[1])
        ds = _softmax_backward(torch.bmm(gi, _merge_heads(v[rows]).mT), pi)
        _write(dq[rows, :, span], (ds, ki))
        _write(dk[rows], (ds.mT, qi), accumulate=span.start > 0)
        _write(dv[rows], (pi.mT, gi), accumulate=span.start > 0)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


@torch.library.custom_op("sslx::attend_double_backward", mutates_args=())
def attend_double_backward(
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
    """dL/dQ, dL/dK, dL/dV and dL/dG, as in the docstring of this module."""
    return _second_backward(q, k, v, gradient, a, b, c, key_mask, keys, out, p, CHUNK_NUMBERS)


def _second_backward(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, a: Tensor, b: Tensor, c: Tensor,
    key_mask: Tensor | None, keys: int, out: Tensor, p: Tensor, max_numbers: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dq, (dk, dv), dg = _empty(q), _accumulators(q, k, max_numbers), _empty(gradient)
    for rows, span in _chunks(q, k, max_numbers):
        qi, gi, ai = (_merge_heads(part[rows, :, span]) for part in (q, gradient, a))
        ki, vi, bi, ci = (_merge_heads(part[rows]) for part in (k, v, b, c))
        pi = _probabilities(p, qi, ki, key_mask, rows, span, keys, q.shape[1])
        dp = torch.bmm(gi, vi.mT)
        total = (gi * _merge_heads(out[rows, :, span])).sum(dim=-1, keepdim=True)  # D
        u = _softmax_backward(torch.bmm(torch.cat([ai, qi], dim=-1), torch.cat([ki, bi], dim=-1).mT), pi)
        ds = _softmax_backward(dp, pi)
        h = dp.sub_(total).mul_(u).addcmul_(pi, torch.bmm(gi, ci.mT))
        t = h.addcmul_(pi, h.sum(dim=-1, keepdim=True), value=-1)
        _write(dq[rows, :, span], (t, ki), (ds, bi))
        _write(dk[rows], (t.mT, qi), (ds.mT, ai), accumulate=span.start > 0)
        _write(dv[rows], (u.mT, gi), accumulate=span.start > 0)
        _write(dg[rows, :, span], (u, vi), (pi, ci))
    return dq, dk.to(k.dtype), dv.to(v.dtype), dg


def padding_length(k: Tensor) -> int:
    """Number of masked keys to append to keys (B, h, N, e), so that the length of score rows suits the kernels.

    In half precision: to a multiple of CUDA_ALIGNMENT on CUDA; on the CPU to a multiple of SOFTMAX_VECTOR, unless the
    remainder is small. Without padding, softmax takes twice the time for 109 or 126 tokens and six times for 29 tokens,
    while matrix products take about the same.
    """
    length = k.shape[2]
    if k.dtype not in HALF:
        return 0
    if k.is_cuda:
        return -length % CUDA_ALIGNMENT
    return -length % SOFTMAX_VECTOR if length % SOFTMAX_VECTOR >= SOFTMAX_VECTOR // 4 else 0


def pad_keys(count: int, key_mask: Tensor | None, *parts: Tensor) -> tuple[Any, ...]:
    """The mask (B, N) and tensors (B, h, N, e) of the keys, with `count` masked keys appended."""
    rows, _, length, _ = parts[0].shape
    if not count:
        return key_mask, *parts
    key_mask = parts[0].new_ones(rows, length, dtype=torch.bool) if key_mask is None else key_mask
    return F.pad(key_mask, (0, count)), *_pad(count, *parts)


def _pad(count: int, *parts: Tensor) -> tuple[Tensor, ...]:
    """Tensors (B, h, N, e) with `count` zero vectors appended to each."""
    return tuple(F.pad(part, (0, 0, 0, count)) if count else part for part in parts)


def _second_backward_cuda(
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
    """`_second_backward` on CUDA, for unscaled queries: scales Q and a before it and dL/dQ after it.

    Zero keys are appended so that rows of scores are aligned for fast kernels.
    """
    scale, keys = _scale(q), k.shape[2]
    k, v, b, c = _pad(-keys % CUDA_ALIGNMENT, k, v, b, c)
    # the compiler traces the backward pass under the autocast of the forward pass
    with torch.autocast(q.device.type, enabled=False):
        dq, dk, dv, dg = _second_backward(
            q * scale, k, v, gradient, a * scale, b, c, key_mask, keys, out, q.new_empty(0), CUDA_CHUNK_NUMBERS
        )
    return dq * scale, dk[:, :, :keys], dv[:, :, :keys], dg


@attend_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, keys: int) -> tuple[Tensor, Tensor]:
    return _empty(q), _empty_probabilities(q, k, keys)


@attend_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, key_mask: Tensor | None, keys: int, p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q), _empty(k), _empty(v)


@attend_double_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, gradient: Tensor, a: Tensor, b: Tensor, c: Tensor,
    key_mask: Tensor | None, keys: int, out: Tensor, p: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty(q), _empty(k), _empty(v), _empty(gradient)


def _fused(q: Tensor) -> bool:
    """Whether a fused kernel computes the forward pass and the first derivative."""
    return q.is_cuda


def _scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


def _mask(key_mask: Tensor | None) -> Tensor | None:
    return None if key_mask is None else key_mask[:, None, None, :]


def _empty(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor of this shape: contiguous on the CPU, in the layout of the fused kernels on CUDA."""
    if _fused(like):
        return attention_xformers.empty_token_major(like, dtype)
    return torch.empty(like.shape, dtype=dtype or like.dtype, device=like.device)


def _empty_probabilities(q: Tensor, k: Tensor, keys: int) -> Tensor:
    """An empty P (B h, M, N'), without elements for long rows."""
    if keys >= RECOMPUTE_TOKENS:
        return q.new_empty(0)
    return q.new_empty(q.shape[0] * q.shape[1], q.shape[2], k.shape[2])


def _chunks(q: Tensor, k: Tensor, max_numbers: int) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of queries: as many rows as fit, or as many queries of one row as fit."""
    count, heads, queries, _ = q.shape
    keys = heads * k.shape[2]
    rows, step = max(1, max_numbers // (keys * queries)), max(1, min(queries, max_numbers // keys))
    for row in range(0, count, rows):
        for start in range(0, queries, step):
            yield slice(row, row + rows), slice(start, start + step)


def _accumulators(q: Tensor, k: Tensor, max_numbers: int) -> tuple[Tensor, Tensor]:
    """Empty tensors (B, h, N, e) for dK and dV. Sums over several chunks of queries are at least in fp32."""
    _, heads, queries, _ = q.shape
    single_chunk = heads * k.shape[2] * queries <= max_numbers
    dtype = k.dtype if single_chunk else torch.promote_types(k.dtype, torch.float32)
    return _empty(k, dtype), _empty(k, dtype)


def _merge_heads(x: Tensor) -> Tensor:
    """(r, h, n, e) to (r h, n, e), contiguous."""
    return x.reshape(-1, *x.shape[2:])


def _stored_chunk(p: Tensor, rows: slice, span: slice, heads: int) -> Tensor:
    """The chunk of a stored P (B h, M, N')."""
    return p[rows.start * heads : rows.stop * heads, span]


def _mask_rows(key_mask: Tensor | None, rows: slice) -> Tensor | None:
    return None if key_mask is None else key_mask[rows]


def _scores(q: Tensor, k: Tensor, key_mask: Tensor | None, keys: int, heads: int) -> Tensor:
    """S (r h, m, N') of q (r h, m, e) and k (r h, N', e), whose first `keys` keys are real."""
    scores = torch.bmm(q, k.mT)
    if keys < k.shape[1]:
        scores[..., keys:] = -torch.inf
    if key_mask is not None:
        scores[..., :keys].masked_fill_(~key_mask.repeat_interleave(heads, dim=0)[:, None, :], -torch.inf)
    return scores


def _probabilities(
    p: Tensor, q: Tensor, k: Tensor, key_mask: Tensor | None, rows: slice, span: slice, keys: int, heads: int
) -> Tensor:  # fmt: skip
    """The chunk of P, stored or recomputed."""
    if p.numel():
        return _stored_chunk(p, rows, span, heads)
    return _scores(q, k, _mask_rows(key_mask, rows), keys, heads).softmax(-1)


def _softmax_backward(x: Tensor, p: Tensor) -> Tensor:
    """Backward of softmax: P (x - rowsum(P x)), with sums at least in fp32."""
    return torch.ops.aten._softmax_backward_data(x, p, -1, p.dtype)


def _write(target: Tensor, *factors: tuple[Tensor, Tensor], accumulate: bool = False) -> None:
    """Write the sum of matrix products (r h, n, e) to target (r, h, n, e), or add it if `accumulate`."""
    direct = target.is_contiguous() and target.dtype == factors[0][0].dtype and not accumulate
    direct = direct and not torch.is_grad_enabled()  # on CUDA autograd may record this
    product = torch.bmm(*factors[0], out=_merge_heads(target)) if direct else torch.bmm(*factors[0])
    for pair in factors[1:]:
        product.baddbmm_(*pair)
    if accumulate:
        target.add_(product.view_as(target))
    elif not direct:
        target.copy_(product.view_as(target))
