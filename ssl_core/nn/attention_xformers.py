"""xformers' memory-efficient attention as custom operators for torch.compile and CUDA graphs.

xformers selects a kernel in Python code that torch.compile cannot trace. Two custom operators, for the forward and the
backward pass, hide that code from the compiler. There is no second derivative.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

LSE_MULTIPLE = 32  # PyTorch's backward kernel needs log-sum-exps whose row length is a multiple of this
KERNELS = {torch.float16: "flash", torch.bfloat16: "flash", torch.float32: "cutlass"}
"""Modules of xformers.ops.fmha."""


@functools.cache
def xformers_ops() -> Any:
    """The module xformers.ops, or None if it cannot be imported. Imported at the first call."""
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import xformers.ops as ops
    except Exception:  # a build for another torch or CUDA raises other errors than ImportError
        return None
    finally:
        logger.setLevel(level)
    return ops


def xformers_fits(dtype: torch.dtype, width: int) -> bool:
    """Whether xformers is installed and has a differentiable kernel for this dtype and head width on this GPU."""
    ops = xformers_ops()
    if ops is None or dtype not in KERNELS or width % 8:
        return False
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    kernels = getattr(ops.fmha, KERNELS[dtype])
    return all(
        op.is_available()
        and width <= op.SUPPORTED_MAX_K
        and capability >= op.CUDA_MINIMUM_COMPUTE_CAPABILITY
        and capability <= (getattr(op, "CUDA_MAXIMUM_COMPUTE_CAPABILITY", None) or capability)
        for op in (kernels.FwOp, kernels.BwOp)
    )


def fits(q: Tensor) -> bool:
    """Whether xformers or PyTorch has a memory-efficient kernel for `q` on this device."""
    width = q.shape[-1]
    if xformers_fits(q.dtype, width):
        return True
    native = torch.cuda.is_bf16_supported(including_emulation=False) if q.dtype == torch.bfloat16 else True
    return q.is_cuda and q.dtype in KERNELS and width % 8 == 0 and native


def attend_xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with one derivative. q: (B, h, M, e); k, v: (B, h, N, e). Returns (B, h, M, e).

    A caller that is compiled must first call `torch.compiler.allow_in_graph(attend_xformers)`, as the training step
    does: the compiler cannot trace a backward pass that is not differentiable itself.

    Raises:
        RuntimeError: If xformers cannot be imported.
    """
    if xformers_ops() is None:
        raise RuntimeError("xformers cannot be imported; use encoder.attention=sdpa")
    out: Tensor = _Attend.apply(q, k, v)[0]
    return out


class _Attend(Function):
    """xformers' autograd function in the form that torch.func.grad supports."""

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
    """The backward pass. torch.func.grad needs a differentiable Function here but never calls its backward."""

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return efficient_backward(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError("xformers' attention has no second derivative; set double_backward")


# Custom operators are opaque to the compiler. xformers' operators are called by name: since 0.0.35 they run PyTorch's
# kernels, but its automatic choice rejects them all if its own library, built for one version of torch and CUDA, cannot
# be loaded. Without xformers PyTorch's memory-efficient kernel runs.


@torch.library.custom_op("sslx::efficient_forward", mutates_args=())
def efficient_forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output (B, h, M, e) of queries (B, h, M, e) and keys (B, h, N, e), and the log-sum-exps (B, h, M)."""
    if xformers_fits(q.dtype, q.shape[-1]):
        fmha = xformers_ops().fmha
        out, context = getattr(fmha, KERNELS[q.dtype]).FwOp.apply(_inputs(q, k, v), needs_gradient=True)
        out, sums = out.transpose(1, 2), context.lse
    else:
        out, sums, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)
    return _token_major(out), sums[..., : q.shape[2]].contiguous()  # kernels pad the log-sum-exps


@torch.library.custom_op("sslx::efficient_backward", mutates_args=())
def efficient_backward(
    gradient: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    if xformers_fits(q.dtype, q.shape[-1]):
        fmha = xformers_ops().fmha
        context = fmha.common.Context(lse=sums, out=out.transpose(1, 2))
        out_grad = gradient.transpose(1, 2).contiguous()
        grads = getattr(fmha, KERNELS[q.dtype]).BwOp.apply(context, _inputs(q, k, v), out_grad)
        parts = [part.transpose(1, 2) for part in (grads.dq, grads.dk, grads.dv)]
    else:
        padded = torch.nn.functional.pad(sums, (0, -sums.shape[-1] % LSE_MULTIPLE), value=torch.inf)
        rng_state = q.new_zeros((), dtype=torch.int64)  # unused: no dropout
        parts = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            gradient, q, k, v, None, out, padded, rng_state, rng_state, 0.0, [True, True, True, False]
        )[:3]
    dq, dk, dv = map(_token_major, parts)
    return dq, dk, dv


def _inputs(q: Tensor, k: Tensor, v: Tensor) -> Any:
    """The inputs in the layout of xformers, (B, n, h, e)."""
    swapped = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, k, v))
    return xformers_ops().fmha.Inputs(*(part.transpose(1, 2) for part in swapped))


def _token_major(x: Tensor) -> Tensor:
    """A tensor (B, h, n, e) with the memory layout of (B, n, h, e)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def empty_token_major(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty (B, h, n, e) with the memory layout (B, n, h, e), which the projections before and after it use."""
    rows, heads, length, width = like.shape
    return like.new_empty(rows, length, heads, width, dtype=dtype or like.dtype).transpose(1, 2)


@efficient_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return empty_token_major(q), q.new_empty(q.shape[:-1], dtype=torch.float32)


@efficient_backward.register_fake
def _(gradient: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return empty_token_major(q), empty_token_major(k), empty_token_major(v)
