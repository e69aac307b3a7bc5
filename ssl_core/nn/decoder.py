"""The decoder: fills the hidden places with a mask token and decodes the row (paper: Table 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_core.nn.attention import Backend
from ssl_core.nn.indexing import embedding_lookup, gather_mask, gather_tokens, invert_permutation, prepend_cls
from ssl_core.nn.positions import Positions
from ssl_core.nn.transformer import Transformer, initialise
from ssl_core.tokens import Layout


class Decoder(nn.Module):
    """Projects the latent to its own width, appends mask tokens, adds positions, and runs its blocks.

    The row stays in the order [cls | visible | hidden]: attention does not care, and a slice of that row is all
    that a loss needs, so nothing is put back in place and the last block computes nothing that is not wanted.
    Positions: fixed sine and cosine. `double_backward` keeps to attention with a second derivative.
    `mask_per_segment`: a mask token (S, d) for each of the layout's S segments (M3AE) instead of one (d,) for all.
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
    ) -> None:
        super().__init__()
        self.length = layout.length
        self.project = nn.Linear(dim, width)
        form = (len(layout.segments), width) if mask_per_segment else (width,)
        self.mask_token = nn.Parameter(0.02 * torch.randn(form))
        self.positions = Positions(layout, width)
        self.transformer = Transformer(
            width, depth, heads, mlp_ratio, attention=attention, double_backward=double_backward
        )
        initialise(self.project)
        initialise(self.transformer)

    def forward(
        self,
        latent: Tensor,
        order: Tensor,
        output_slice: slice | None = None,
        valid: Tensor | None = None,
        needs_double_backward: bool = True,
    ) -> Tensor:
        """Decode a row of which `latent` (B, 1 + V, D) is the summary and the visible tokens.

        order: (B, L) long, the places of all tokens, the V visible ones first, as in the latent. Returns (B, L, d) in
        that order, or only its `wanted` slice (B, M, d). present: (B, L) bool by place, the tokens that hold data.
        needs_double_backward: False if this call is differentiated at most once, so that a faster kernel is used.
        """
        visible = latent.shape[1] - 1
        with torch.autocast(latent.device.type, enabled=False):
            # in bf16, what an inner gradient step adds to the latent would be rounded away here
            known = self.project(latent.to(torch.promote_types(latent.dtype, torch.float32)))
        table = self.positions()
        position_ids = embedding_lookup(table, 1 + order)
        mask: Tensor = self.mask_token
        if mask.dim() == 2:
            mask = embedding_lookup(mask, self.positions.segment_of[order[:, visible:]])  # type: ignore[index]
        hidden = position_ids[:, visible:] + mask
        row = torch.cat([known[:, :1] + table[0], known[:, 1:] + position_ids[:, :visible], hidden], dim=1)
        begin, end = _bounds(output_slice or slice(None), self.length)
        return self.transformer(
            row, slice(1 + begin, 1 + end), prepend_cls(gather_mask(valid, order)), needs_double_backward
        )

    def rows(self, latent: Tensor, visible: Tensor) -> Tensor:
        """The same with the tokens put back in place: visible (B, V) long, returns (B, L, d)."""
        hidden = torch.ones(visible.shape[0], self.length, dtype=torch.uint8, device=visible.device)
        hidden = hidden.scatter(1, visible, 0).argsort(dim=1, stable=True)[:, visible.shape[1] :]
        order = torch.cat([visible, hidden], dim=1)
        return gather_tokens(self(latent, order), invert_permutation(order))


def _bounds(part: slice, length: int) -> tuple[int, int]:
    """What slice.indices says of a slice in steps of one, which the compiler knows in no older torch."""
    begin, end = 0 if part.start is None else part.start, length if part.stop is None else part.stop
    begin, end = (
        min(max(position_ids + length if position_ids < 0 else position_ids, 0), length)
        for position_ids in (begin, end)
    )
    return begin, end
