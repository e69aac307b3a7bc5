"""Multi-head self-attention with several kernels, and the rule that selects one.

Fused kernels (xformers, flash and memory-efficient SDPA, also on the CPU) have no second derivative. Two kernels
support double backward: "math", an explicit softmax, and "double_backward", a chunked kernel with explicit derivatives.
Shapes: B rows, N tokens, M queries, h heads, head width e.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core.errors import ConfigError
from ssl_core.nn.attention_xformers import attend_xformers, xformers_fits
from ssl_core.nn.double_backward import double_backward_attention, pad_keys, padding_length
from ssl_core.nn.dropout import Dropout
from ssl_core.nn.exporting import is_exporting

Backend = Literal["auto", "xformers", "sdpa", "math"]
Kernel = Literal["xformers", "sdpa", "math", "double_backward"]
# Row lengths from which another kernel than "math" is used (benchmarks/README.md, attention). In a compiled CPU step
# the compiler fuses the explicit softmax with its neighbours; from COMPILED_TOKENS on the other kernels save memory at
# about equal speed. CUDA: one value for each number of derivatives. In single precision with a derivative "math" is
# the fastest at every measured length; the limits of 512 only bound its memory.
LONG_TOKENS = {"cpu": 100}
COMPILED_TOKENS = {"cpu": 160}
CUDA_HALF_TOKENS, CUDA_SINGLE_TOKENS = (0, 48, 160), (100, 512, 512)


def choose_kernel(
    device: torch.device, dtype: torch.dtype, tokens: int, derivatives: int, width: int = 64, compiled: bool = False
) -> Kernel:
    """The kernel for a device, a dtype, a number of tokens, and a number of derivatives (0, 1 or 2).

    The rule follows measurements (benchmarks/README.md, attention). On the CPU in fp32 PyTorch's fused kernel is faster
    from about 100 tokens on. In bf16 it is slower than "math", with a derivative by a factor of 2 to 10. From 512
    tokens on "double_backward" takes up to 1.6 times the time of "math" with one derivative, and a fraction of its
    memory. In a compiled step "math" is used up to about 160 tokens. On CUDA "math" is the fastest for short rows, and
    in single precision with a derivative for rows of all measured lengths. Otherwise xformers is used where it has a
    kernel. The project prefers it although it is up to a quarter slower than PyTorch's own call of the same kernel.

    Args:
        device: Device of the inputs.
        dtype: Dtype of the inputs.
        tokens: Number of keys N.
        derivatives: How many times the result is differentiated.
        width: Width e of a head.
        compiled: Whether the call is part of a compiled step.
    """
    if device.type == "cuda":
        shortest = (CUDA_HALF_TOKENS if dtype in (torch.float16, torch.bfloat16) else CUDA_SINGLE_TOKENS)[derivatives]
        if tokens < shortest:
            return "math"
        if derivatives == 2:
            return "double_backward"
        return "xformers" if xformers_fits(dtype, width) else "sdpa"
    long = tokens >= (COMPILED_TOKENS if compiled else LONG_TOKENS)[device.type]
    if derivatives == 2:
        return "double_backward" if long else "math"
    if dtype == torch.float32 and (long or derivatives == 0):
        return "sdpa"
    return "double_backward" if long else "math"


def attend(
    q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, key_mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention. q: (B, h, M, e); k, v: (B, h, N, e). Returns (B, h, M, e).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        kernel: The kernel. With `bias` every kernel other than "sdpa" and "xformers" is "math", and both of these are
            "sdpa".
        key_mask: (B, N) bool, the keys that are attended to; at least one in each row.
        bias: (B, M, N), added to the logits of every head; -inf excludes a pair. Each query needs at least one key.
    """
    if bias is not None:
        return _attend_biased(q, k, v, kernel, key_mask, bias)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    if kernel == "xformers" and mask is None:
        return attend_xformers(q, k, v)
    if kernel == "double_backward":
        return double_backward_attention(q, k, v, key_mask)
    if kernel != "math":  # with a mask SDPA runs the same memory-efficient kernel as xformers
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.is_cuda or not torch.compiler.is_compiling():  # compiled code for the CPU is fast at every length
        key_mask, k, v = pad_keys(padding_length(k), key_mask, k, v)
        mask = None if key_mask is None else key_mask[:, None, None, :]
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(
            ~mask, -torch.inf
        )  # cheaper backward than masked_fill
    return scores.softmax(dim=-1) @ v


def _attend_biased(q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, key_mask: Tensor | None, bias: Tensor) -> Tensor:
    attn_bias = bias[:, None].to(q.dtype)
    if key_mask is not None:
        attn_bias = attn_bias.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    if kernel in ("sdpa", "xformers"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_bias)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1) + attn_bias
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention.

    One joint projection for queries, keys and values, an output projection, and dropout on its output. There is no
    dropout on the attention weights.

    Args:
        dim: Width D.
        num_heads: Number of heads h.
        qkv_bias: Bias of the joint projection.
        proj_bias: Bias of the output projection.
        proj_drop: Dropout after the output projection.
        head_dim: Width of a head, by default dim / num_heads.
        backend: Attention kernel; "auto" calls `choose_kernel`.
        double_backward: Use kernels that have a second derivative.

    Raises:
        ConfigError: If `dim` is not a multiple of `num_heads` and `head_dim` is not given.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = False,
        proj_bias: bool = True,
        proj_drop: float = 0.0,
        head_dim: int | None = None,
        backend: Backend = "auto",
        double_backward: bool = False,
    ) -> None:
        super().__init__()
        if head_dim is None:
            if dim % num_heads:
                near = min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda n: abs(n - num_heads))
                raise ConfigError(
                    f"width {dim} is not a multiple of {num_heads} heads; set the option heads to {near} "
                    f"(encoder.heads, or objective.heads of a decoder)"
                )
            head_dim = dim // num_heads
        self.num_heads, self.head_dim = num_heads, head_dim
        self.backend: Backend = backend
        self.double_backward = double_backward
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=qkv_bias)
        self.proj = nn.Linear(num_heads * head_dim, dim, bias=proj_bias)
        self.proj_drop = Dropout(proj_drop)

    def kernel_for(self, q: Tensor, tokens: int, needs_double_backward: bool = True) -> Kernel:
        """The kernel for queries `q` and a number of keys."""
        # a compiled torch.func.grad does not set requires_grad, so a second derivative is assumed
        if is_exporting():
            return "sdpa"
        double = self.double_backward and needs_double_backward and torch.is_grad_enabled()
        derivatives = 2 if double else int(q.requires_grad)
        compiled = torch.compiler.is_compiling()
        automatic = choose_kernel(q.device, q.dtype, tokens, derivatives, self.head_dim, compiled)
        if self.backend == "math" or (self.backend == "sdpa" and derivatives < 2):
            return self.backend
        if self.backend == "xformers" and q.is_cuda and derivatives < 2 and xformers_fits(q.dtype, self.head_dim):
            return "xformers"
        return automatic

    def forward(
        self,
        x: Tensor,
        queries: slice | None = None,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
        needs_double_backward: bool = True,
    ) -> Tensor:
        """x: (B, N, D) to (B, M, D).

        Args:
            x: Tokens.
            queries: Slice of the M tokens that attend; all by default.
            key_mask: (B, N) bool, the tokens that are attended to; all by default.
            bias: (B, N, N), added to the attention logits of every head.
            needs_double_backward: False if this call is differentiated at most once, which allows a faster kernel even
                if `double_backward` is set.
        """
        rows, length, _ = x.shape
        inner = self.num_heads * self.head_dim
        # a split by width, not a view with an axis of three: its backward assembles the gradient in one pass
        if queries is None:
            parts = self.qkv(x).split(inner, dim=-1)
        else:
            weight, offset = self.qkv.weight, self.qkv.bias
            q_part = F.linear(x[:, queries], weight[:inner], None if offset is None else offset[:inner])
            kv = F.linear(x, weight[inner:], None if offset is None else offset[inner:])
            parts = (q_part, *kv.split(inner, dim=-1))
        q, k, v = (part.view(rows, -1, self.num_heads, self.head_dim).transpose(1, 2) for part in parts)
        if bias is not None and queries is not None:
            bias = bias[:, queries]
        out = attend(q, k, v, self.kernel_for(q, length, needs_double_backward), key_mask, bias)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(rows, -1, inner)))
