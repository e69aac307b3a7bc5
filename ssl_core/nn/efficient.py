"""xformers' memory-efficient attention, as operations that the compiler and CUDA graphs can take whole.

xformers picks a kernel in Python that torch.compile cannot look into; here that is hidden in two custom operations,
the forward pass and its derivative. There is no second derivative.
"""

from __future__ import annotations

import functools
import logging
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


@functools.cache
def xformers_ops() -> ModuleType | None:
    """xformers.ops if it is installed, else None. Imported on first use only.

    Its kernels of attention are PyTorch's own since xformers 0.0.35, so that a library of its own built for another
    torch, which it warns of, matters nothing here.
    """
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
    ops: Any = xformers_ops()
    kinds = {torch.float16: "flash", torch.bfloat16: "flash", torch.float32: "cutlass"}
    if ops is None or dtype not in kinds or width % 8:
        return False
    here = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    kernels = getattr(ops.fmha, kinds[dtype])
    return all(
        op.is_available()
        and width <= op.SUPPORTED_MAX_K
        and op.CUDA_MINIMUM_COMPUTE_CAPABILITY <= here <= (op.CUDA_MAXIMUM_COMPUTE_CAPABILITY or here)
        for op in (kernels.FwOp, kernels.BwOp)
    )


def attend_xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with one derivative. q: (B, h, M, e); k, v: (B, h, N, e). Returns (B, h, M, e).

    To compile what calls it, call `torch.compiler.allow_in_graph(attend_xformers)` first, as the engine does: the
    compiler does not see through a derivative that has none itself. Errors: RuntimeError where xformers cannot be
    loaded.
    """
    if xformers_ops() is None:
        raise RuntimeError("xformers was asked for but cannot be loaded; use encoder.attention=sdpa")
    out: Tensor = _Attend.apply(*(part.transpose(1, 2).contiguous() for part in (q, k, v)))[0]
    return out.transpose(1, 2)


class _Attend(Function):
    """What xformers' own function does, in the form that torch.func.grad takes, too."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return forward(q, k, v)

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
        return backward(*given)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError("xformers' attention has no second derivative; set twice_differentiable")


# Each one operation to the compiler. xformers has (B, n, h, e).


@torch.library.custom_op("sslx::xformers_forward", mutates_args=())
def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output (B, M, h, e), and the logarithm of the sum of each query's softmax (B, h, M)."""
    ops: Any = xformers_ops()
    out, sums = ops.memory_efficient_attention_forward_requires_grad(q, k, v)
    return out.contiguous(), sums[..., : q.shape[1]].contiguous()  # the kernel for single precision pads the sums


@torch.library.custom_op("sslx::xformers_backward", mutates_args=())
def backward(
    gradient: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    ops: Any = xformers_ops()
    dq, dk, dv = ops.memory_efficient_attention_backward(gradient.contiguous(), out, sums, q, k, v)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


@forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    rows, queries, heads, _ = q.shape
    return torch.empty_like(q), q.new_empty(rows, heads, queries, dtype=torch.float32)


@backward.register_fake
def _(gradient: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
