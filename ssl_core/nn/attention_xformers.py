"""xformers' memory-efficient attention, as operations that the compiler and CUDA graphs can take whole.

xformers picks a kernel in Python that torch.compile cannot look into; here that is hidden in two custom operations,
the forward pass and its derivative. There is no second derivative.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

PADDED = 32  # PyTorch's kernel wants sums of rows of a multiple of this
KERNELS = {torch.float16: "flash", torch.bfloat16: "flash", torch.float32: "cutlass"}
"""Modules of xformers.ops.fmha."""


@functools.cache
def xformers_ops() -> Any:
    """xformers.ops if it is installed, else None. Imported on first use only."""
    logger = logging.getLogger("xformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import xformers.ops as ops
    except Exception:  # a mismatch of builds raises more than ImportError
        return None
    finally:
        logger.setLevel(before)
    return ops


def xformers_fits(dtype: torch.dtype, width: int) -> bool:
    """Whether xformers is there and has a kernel with a derivative for heads of this width on this GPU."""
    ops = xformers_ops()
    if ops is None or dtype not in KERNELS or width % 8:
        return False
    here = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    kernels = getattr(ops.fmha, KERNELS[dtype])
    return all(
        op.is_available()
        and width <= op.SUPPORTED_MAX_K
        and here >= op.CUDA_MINIMUM_COMPUTE_CAPABILITY
        and here <= (getattr(op, "CUDA_MAXIMUM_COMPUTE_CAPABILITY", None) or here)
        for op in (kernels.FwOp, kernels.BwOp)
    )


def fits(q: Tensor) -> bool:
    """Whether there is a kernel for it here, xformers' or PyTorch's."""
    width = q.shape[-1]
    if xformers_fits(q.dtype, width):
        return True
    half = torch.cuda.is_bf16_supported(including_emulation=False) if q.dtype == torch.bfloat16 else True
    return q.is_cuda and q.dtype in KERNELS and width % 8 == 0 and half


def attend_xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with one derivative. q: (B, h, M, e); k, v: (B, h, N, e). Returns (B, h, M, e).

    To compile what calls it, call `torch.compiler.allow_in_graph(attend_xformers)` first, as the engine does: the
    compiler does not see through a derivative that has none itself. Errors: RuntimeError where xformers cannot be
    loaded.
    """
    if xformers_ops() is None:
        raise RuntimeError("xformers was asked for but cannot be loaded; use encoder.attention=sdpa")
    out: Tensor = _Attend.apply(q, k, v)[0]
    return out


class _Attend(Function):
    """What xformers' own function does, in the form that torch.func.grad takes, too."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return efficient_forward(q, k, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, ...]:
        q, k, v, out, sums = ctx.saved_tensors
        return _AttendBackward.apply(gradient, out, sums, q, k, v)


class _AttendBackward(Function):
    """The first derivative; torch.func.grad asks what its own would be, and never for it."""

    @staticmethod
    def forward(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return efficient_backward(*given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError("xformers' attention has no second derivative; set double_backward")


# Each is one operation to the compiler. xformers' operators are called by name: since 0.0.35 their kernels are those of
# PyTorch, while its choice among them refuses all where its own library, built for one torch and one CUDA, can't be
# loaded. Where xformers has none, it is PyTorch's memory-efficient kernel.


@torch.library.custom_op("sslx::efficient_forward", mutates_args=())
def efficient_forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of (B, h, M, e) to (B, h, N, e), and the logarithms of the sums of its softmaxes (B, h, M)."""
    if xformers_fits(q.dtype, q.shape[-1]):
        fmha = xformers_ops().fmha
        out, kept = getattr(fmha, KERNELS[q.dtype]).FwOp.apply(_inputs(q, k, v), needs_gradient=True)
        out, sums = out.transpose(1, 2), kept.lse
    else:
        out, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    return _laid_out(out), sums[..., : q.shape[2]].contiguous()  # kernels pad the sums


@torch.library.custom_op("sslx::efficient_backward", mutates_args=())
def efficient_backward(
    gradient: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    if xformers_fits(q.dtype, q.shape[-1]):
        fmha = xformers_ops().fmha
        kept = fmha.common.Context(lse=sums, out=out.transpose(1, 2))
        starts = gradient.transpose(1, 2).contiguous()
        found = getattr(fmha, KERNELS[q.dtype]).BwOp.apply(kept, _inputs(q, k, v), starts)
        parts = [part.transpose(1, 2) for part in (found.dq, found.dk, found.dv)]
    else:
        padded = torch.nn.functional.pad(sums, (0, -sums.shape[-1] % PADDED), value=torch.inf)
        chance = q.new_zeros((), dtype=torch.int64)  # of a dropout that there is not
        parts = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            gradient, q, k, v, None, out, padded, chance, chance, 0.0, [True, True, True, False]
        )[:3]
    dq, dk, dv = map(_laid_out, parts)
    return dq, dk, dv


def _inputs(q: Tensor, k: Tensor, v: Tensor) -> Any:
    """As xformers has them, (B, n, h, e)."""
    swapped = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, k, v))
    return xformers_ops().fmha.Inputs(*(part.transpose(1, 2) for part in swapped))


def _laid_out(x: Tensor) -> Tensor:
    """(B, h, n, e) laid out as (B, n, h, e)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def blank(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(B, h, n, e) laid out as (B, n, h, e), as the linear maps before and after want it."""
    rows, heads, length, width = like.shape
    return like.new_empty(rows, length, heads, width, dtype=dtype or like.dtype).transpose(1, 2)


@efficient_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return blank(q), q.new_empty(q.shape[:-1], dtype=torch.float32)


@efficient_backward.register_fake
def _(gradient: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return blank(q), blank(k), blank(v)
