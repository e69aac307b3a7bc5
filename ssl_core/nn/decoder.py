"""The decoder: fills hidden positions with a mask token and decodes the row (MetaMAE, Table 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_core.nn.attention import Backend
from ssl_core.nn.indexing import embedding_lookup, prepend_cls
from ssl_core.nn.positions import Positions
from ssl_core.nn.transformer import LAYER_NORM_EPS, Activation, Transformer, initialise
from ssl_core.tokens import Geometry, Layout


class Decoder(nn.Module):
    """Projects the latent to its own width, appends mask tokens, adds positions, and runs its blocks.

    The row stays in the order [cls | visible | hidden]: attention is permutation-equivariant and a loss needs only a
    slice of the row, so tokens are not put back in place, and the last block computes only that slice.

    Args:
        layout: The layout of whole rows.
        width: Width d of the decoder.
        dim: Width D of the latent.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of `width`.
        attention: Attention kernel.
        double_backward: Use attention kernels that have a second derivative.
        mask_per_segment: A mask token (S, d) for each of the layout's S segments (M3AE) instead of one (d,) for all.
        qkv_bias: Bias of the queries, keys and values.
        act: Activation of the MLP.
        norm_eps: Epsilon of the LayerNorms.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 2.0,
        attention: Backend = "auto",
        double_backward: bool = False,
        mask_per_segment: bool = False,
        *,
        qkv_bias: bool = False,
        act: Activation = "gelu",
        norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        form = (len(layout.segments), width) if mask_per_segment else (width,)
        self.mask_token = nn.Parameter(0.02 * torch.randn(form))
        self.positions = Positions(layout, width)
        self.transformer = Transformer(
            width, depth, heads, mlp_ratio, attention=attention, double_backward=double_backward, qkv_bias=qkv_bias,
            act=act, norm_eps=norm_eps,
        )  # fmt: skip
        initialise(self.project)
        initialise(self.transformer)

    def forward(
        self,
        latent: Tensor,
        order: Tensor,
        output_slice: slice | None = None,
        geometry: Geometry | None = None,
        needs_double_backward: bool = True,
    ) -> Tensor:
        """Decode a row of which `latent` (B, 1 + V, D) is the cls token and the visible tokens.

        Args:
            latent: (B, 1 + V, D).
            order: (B, n) long, position ids of the tokens to decode, the V visible ones first, as in the latent;
                usually all L of the row.
            output_slice: Which tokens of that order to return; all by default.
            geometry: That of the whole rows, as in `Tokens.geometry`. Valid tokens and coordinates are used.
            needs_double_backward: False if this call is differentiated at most once, so that a faster kernel is used.

        Returns:
            (B, n, d) in the given order, or (B, M, d) for the slice.
        """
        visible = latent.shape[1] - 1
        local = Geometry() if geometry is None else Geometry(geometry.valid, geometry.coords).gather(order)
        with torch.autocast(latent.device.type, enabled=False):
            # in bf16, what an inner gradient step adds to the latent would be rounded away here
            known = self.project(latent.to(torch.promote_types(latent.dtype, torch.float32)))
        table = self.positions()
        if local.coords is not None:
            positions = self.positions.from_coords(local.coords, order)
        else:
            positions = embedding_lookup(table, 1 + order)
        mask: Tensor = self.mask_token
        if mask.dim() == 2:
            mask = embedding_lookup(mask, self.positions.segment_of[order[:, visible:]])
        hidden = positions[:, visible:] + mask
        row = torch.cat([known[:, :1] + table[0], known[:, 1:] + positions[:, :visible], hidden], dim=1)
        begin, end = _bounds(output_slice or slice(None), order.shape[1])
        decoded: Tensor = self.transformer(
            row, slice(1 + begin, 1 + end), prepend_cls(local.valid), needs_double_backward=needs_double_backward
        )
        return decoded


def _bounds(part: slice, length: int) -> tuple[int, int]:
    """`slice.indices` for a step of 1, written out because older versions of torch cannot compile it."""
    begin, end = 0 if part.start is None else part.start, length if part.stop is None else part.stop
    begin, end = (min(max(index + length if index < 0 else index, 0), length) for index in (begin, end))
    return begin, end
