"""A stack of pre-norm transformer blocks and a final norm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_core.nn.attention import Attention, Backend
from ssl_core.nn.dropout import Dropout

Activation = Literal["gelu", "gelu_tanh"]
ACTIVATIONS: dict[Activation, Any] = {"gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh")}
LAYER_NORM_EPS = 1e-5  # that of MetaMAE's and DABS's blocks


class TransformerBlock(nn.Module):
    """Pre-norm block: x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x)) with GELU.

    Args:
        dim: Width D.
        attention: The attention module.
        mlp_ratio: Hidden width of the MLP as a multiple of `dim`.
        dropout: Rate of the dropout after each linear map of the MLP.
        drop_path: Rate of stochastic depth (Huang et al., ECCV 2016) of both residual branches.
        layer_scale: Initial value of LayerScale (Touvron et al., ICCV 2021) on both branches; None for none.
        act: Activation of the MLP: GELU, or its approximation by tanh.
        norm_eps: Epsilon of the LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        attention: Attention,
        mlp_ratio: float = 2.0,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        act: Activation = "gelu",
        norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        from timm.layers import DropPath, LayerScale, Mlp  # takes half of the time that most commands need to start

        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=ACTIVATIONS[act], drop=dropout)
        self.mlp.drop1, self.mlp.drop2 = Dropout(dropout), Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(
        self,
        x: Tensor,
        output_slice: slice | None = None,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
        needs_double_backward: bool = True,
    ) -> Tensor:
        """x: (B, N, D) to (B, N, D), or to (B, M, D) for the M tokens of `output_slice`: the same values, less work.

        The other arguments are those of `Attention.forward`.
        """
        residual = x if output_slice is None else x[:, output_slice]
        attended = self.attn(self.norm1(x), output_slice, key_mask, bias, needs_double_backward)
        residual = residual + self.drop_path(self.scale1(attended))
        return residual + self.drop_path(self.scale2(self.mlp(self.norm2(residual))))


class Transformer(nn.Module):
    """`depth` blocks (LayerNorm, attention, LayerNorm, GELU MLP) and a final LayerNorm (MetaMAE, Table 7).

    The rate of stochastic depth rises linearly from 0 in the first block to `drop_path` in the last. With
    `activation_checkpointing` set, training keeps the input of each block but the last, and computes the rest anew in
    the backward pass.
    """

    activation_checkpointing = False

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
        *,
        head_dim: int | None = None,
        attention: Backend = "auto",
        double_backward: bool = False,
        final_norm: bool = True,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        qkv_bias: bool = False,
        act: Activation = "gelu",
        norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for number in range(depth):
            layer = Attention(
                dim, heads, qkv_bias=qkv_bias, proj_drop=dropout, head_dim=head_dim, backend=attention,
                double_backward=double_backward,
            )  # fmt: skip
            rate = drop_path * number / max(depth - 1, 1)
            form: dict[str, Any] = {"layer_scale": layer_scale, "act": act, "norm_eps": norm_eps}
            self.blocks.append(TransformerBlock(dim, layer, mlp_ratio, dropout=dropout, drop_path=rate, **form))
        self.norm = nn.LayerNorm(dim, eps=norm_eps) if final_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        output_slice: slice | None = None,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        needs_double_backward: bool = True,
        layers: Sequence[int] | None = None,
    ) -> Tensor | list[Tensor]:
        """x: (B, N, D) to (B, N, D), or to (B, M, D) for `output_slice`: the last block computes only those tokens.

        key_mask: (B, N) bool, the tokens that are attended to; all by default. bias: (B, N, N), added to the attention
        logits. needs_double_backward: as in `Attention.forward`. layers: numbers from 1 to the depth; the outputs of
        these blocks are returned as a list, the last block's with the final norm.

        Raises:
            ValueError: For a layer that does not exist, or `layers` together with `output_slice`.
        """
        if layers is not None:
            return self._layers(x, layers, key_mask, bias, needs_double_backward, output_slice)
        *first, last = self.blocks
        for block in first:
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, None, key_mask, bias, needs_double_backward, use_reentrant=False)
            else:
                x = block(x, None, key_mask, bias, needs_double_backward)
        return self.norm(last(x, output_slice, key_mask, bias, needs_double_backward))

    def _layers(
        self,
        x: Tensor,
        layers: Sequence[int],
        key_mask: Tensor | None,
        bias: Tensor | None,
        needs_double_backward: bool,
        output_slice: slice | None,
    ) -> list[Tensor]:
        depth = len(self.blocks)
        if output_slice is not None:
            raise ValueError("layers and output_slice exclude each other")
        if not layers or not all(1 <= layer <= depth for layer in layers):
            raise ValueError(f"the encoder has layers 1 to {depth}")
        outputs: dict[int, Tensor] = {}
        for number in range(1, max(layers) + 1):
            x = self.blocks[number - 1](x, None, key_mask, bias, needs_double_backward)
            outputs[number] = self.norm(x) if number == depth else x
        return [outputs[layer] for layer in layers]


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linear weights with bias 0, LayerNorm 1 and 0 (MetaMAE's published code)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
