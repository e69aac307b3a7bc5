"""A stack of timm's pre-norm transformer blocks with our attention, and its final norm."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_core.nn.attention import Attention, Backend
from ssl_core.nn.dropout import Dropout

LAYER_NORM_EPS = 1e-5  # MetaMAE's and DABS' blocks; timm's own default is 1e-6


class TransformerBlock(Block):
    """timm's block, which can also answer for a slice of its tokens only, with our dropout in its MLP."""

    def __init__(self, dim: int, num_heads: int, *, proj_drop: float = 0.0, **values: Any) -> None:
        super().__init__(dim, num_heads, proj_drop=proj_drop, **values)
        self.mlp.drop1, self.mlp.drop2 = Dropout(proj_drop), Dropout(proj_drop)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        output_slice: slice | None = None,
        key_mask: Tensor | None = None,
        needs_double_backward: bool = True,
    ) -> Tensor:
        """x: (B, N, D) to (B, N, D), or to (B, M, D) for the M tokens of `output_slice`: the same values, less work.

        key_mask: (B, N) bool, the tokens that are attended to. needs_double_backward: as in `Attention.forward`.
        """
        kept = x if output_slice is None else x[:, output_slice]
        kept = kept + self.attn(
            self.norm1(x), queries=output_slice, key_mask=key_mask, needs_double_backward=needs_double_backward
        )
        return kept + self.mlp(self.norm2(kept))


class Transformer(nn.Module):
    """`depth` blocks (LayerNorm, attention, LayerNorm, GELU MLP) and a final LayerNorm (paper: Table 7)."""

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
    ) -> None:
        super().__init__()
        norm: Any = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)

        class Layer(Attention):  # timm wants a class, and hands it only what it knows of
            def __init__(self, *args: Any, **values: Any) -> None:
                values |= {"head_dim": head_dim, "backend": attention, "double_backward": double_backward}
                super().__init__(*args, **values)

        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads, mlp_ratio=mlp_ratio, proj_drop=dropout, norm_layer=norm, attn_layer=Layer)
            for _ in range(depth)
        )
        self.norm = norm(dim) if final_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        output_slice: slice | None = None,
        key_mask: Tensor | None = None,
        needs_double_backward: bool = True,
    ) -> Tensor:
        """x: (B, N, D) to (B, N, D), or to (B, M, D) for the `output_slice` tokens: the last block computes only those.

        key_mask: (B, N) bool, the tokens that are attended to; all by default.
        needs_double_backward: as in `Attention.forward`.
        """
        *first, last = self.blocks
        for block in first:
            x = block(x, None, key_mask, needs_double_backward)
        return self.norm(last(x, output_slice, key_mask, needs_double_backward))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linear weights with bias 0, LayerNorm 1 and 0 (MetaMAE; protocol of the paper's code)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
