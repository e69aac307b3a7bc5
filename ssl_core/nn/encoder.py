"""The encoder: content in, summary and tokens out. It adds positions last and knows nothing of masking."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_core.nn.attention import Backend
from ssl_core.nn.dropout import Dropout
from ssl_core.nn.indexing import embedding_lookup, mean_pool, prepend_cls
from ssl_core.nn.positions import Positions
from ssl_core.nn.transformer import Transformer, initialise
from ssl_core.options import Options
from ssl_core.tokens import Layout


class EncoderOptions(Options):
    """The encoder's size and form. Defaults: MetaMAE, Table 7."""

    dim: int = Field(256, ge=8, description="width D of every token")
    depth: int = Field(12, ge=1, description="number of transformer blocks")
    heads: int = Field(8, ge=1, description="attention heads")
    head_dim: int | None = Field(None, ge=1, description="width of a head; by default dim / heads (DABS: 64)")
    mlp_ratio: float = Field(2.0, gt=0, description="hidden width of the MLP as a multiple of dim")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after embedding, attention and MLP (Table 8: p)")
    positions: Literal["sincos", "learned"] = Field("sincos", description="position vectors: fixed, or learned")
    final_norm: bool = Field(True, description="LayerNorm after the last block")
    pool: Literal["tokens", "all"] = Field("tokens", description="feature: mean of tokens, or with the cls token")
    attention: Backend = Field("auto", description="attention kernel: auto, xformers, sdpa or math")


class Encoder(nn.Module):
    """A pre-norm transformer with a learned cls token and positions from the layout (MetaMAE, Table 7)."""

    def __init__(self, options: EncoderOptions, layout: Layout) -> None:
        super().__init__()
        self.options = options
        self.dim = options.dim
        self.cls_token = nn.Parameter(0.02 * torch.randn(options.dim))
        self.positions = Positions(layout, options.dim, options.positions)
        self.dropout = Dropout(options.dropout)
        self.transformer = Transformer(
            options.dim, options.depth, options.heads, options.mlp_ratio, options.dropout,
            head_dim=options.head_dim, attention=options.attention, final_norm=options.final_norm,
        )  # fmt: skip
        initialise(self.transformer)

    def forward(self, embeddings: Tensor, position_ids: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Encode whole rows, content (B, L, D), or the tokens at places `at` (B, n) of them, content (B, n, D).

        present: (B, n) bool, which of these tokens the others may look at; all by default. Returns (B, 1 + n, D), the
        cls token first. With `at`, the order of the tokens does not matter.
        """
        table = self.positions()
        row = embeddings + (
            table[1:] if position_ids is None else embedding_lookup(table, 1 + position_ids)
        )  # fp32 from here on, also under autocast
        summary = (self.cls_token + table[0]).to(row.dtype).expand(row.shape[0], 1, -1)
        return self.transformer(self.dropout(torch.cat([summary, row], dim=1)), key_mask=prepend_cls(valid))

    def pool(self, encoded: Tensor, valid: Tensor | None = None) -> Tensor:
        """One feature vector for each row: (B, 1 + n, D) to (B, D). present: (B, n) bool, the tokens that count."""
        if self.options.pool == "all":
            return mean_pool(encoded, prepend_cls(valid))
        return mean_pool(encoded[:, 1:], valid)
