"""The encoder: embeddings in, cls token and tokens out. It adds positions last and knows nothing of masking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, overload

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import options as _options
from ssl_core.nn.attention import Backend
from ssl_core.nn.dropout import Dropout
from ssl_core.nn.indexing import embedding_lookup, mean_pool, prepend_cls
from ssl_core.nn.positions import Positions
from ssl_core.nn.transformer import LAYER_NORM_EPS, Activation, Transformer, initialise
from ssl_core.tokens import Geometry, Layout


class Encoder(nn.Module):
    """Base of all encoders: maps embeddings of tokens to a cls token and encoded tokens.

    A subclass has a `name`, nested `Options` with at least `dim`, and writes `__init__` and `forward`.
    """

    name: ClassVar[str]

    class Options(_options.Options):
        """Options common to all encoders."""

        dim: int = Field(256, ge=8, description="width D of every token")

    def __init__(self, options: Any, layout: Layout) -> None:
        super().__init__()
        self.options = options
        self.layout = layout
        self.dim: int = options.dim

    @overload
    def forward(
        self, embeddings: Tensor, position_ids: Tensor | None = None, geometry: Geometry | None = None
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        embeddings: Tensor,
        position_ids: Tensor | None = None,
        geometry: Geometry | None = None,
        *,
        layers: Sequence[int],
    ) -> list[Tensor]: ...

    def forward(
        self,
        embeddings: Tensor,
        position_ids: Tensor | None = None,
        geometry: Geometry | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Tensor | list[Tensor]:
        """Encode whole rows, or some tokens of each row.

        Args:
            embeddings: (B, L, D) for whole rows, or (B, n, D) for the tokens at `position_ids`.
            position_ids: (B, n) long. The order of the tokens does not matter.
            geometry: That of the whole rows, as in `Tokens.geometry`; the encoder gathers what belongs to
                `position_ids`. Invalid tokens are not attended to.
            layers: Numbers of layers, from 1 to the depth, whose outputs are returned instead of the last one's.

        Returns:
            (B, 1 + n, D), the cls token first; with `layers` a list of such tensors.
        """
        raise NotImplementedError

    def pool(self, encoded: Tensor, valid: Tensor | None = None) -> Tensor:
        """One feature vector for each row: (B, 1 + n, D) to (B, D), by default the mean of the valid tokens.

        valid: (B, n) bool, the tokens that count; all by default.
        """
        return mean_pool(encoded[:, 1:], valid)


class EncoderOptions(Encoder.Options):
    """Size and form of the transformer encoder. Defaults: MetaMAE, Table 7."""

    depth: int = Field(12, ge=1, description="number of transformer blocks")
    heads: int = Field(8, ge=1, description="attention heads")
    head_dim: int | None = Field(None, ge=1, description="width of a head; by default dim / heads (DABS: 64)")
    mlp_ratio: float = Field(2.0, gt=0, description="hidden width of the MLP as a multiple of dim")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after embedding, attention and MLP (Table 8: p)")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth: rate of the last block, rising linearly")
    layer_scale: float | None = Field(None, gt=0, description="initial value of LayerScale; none = no LayerScale")
    positions: Literal["sincos", "learned"] = Field("sincos", description="position vectors: fixed, or learned")
    final_norm: bool = Field(True, description="LayerNorm after the last block")
    norm_eps: float = Field(LAYER_NORM_EPS, gt=0, description="epsilon of the LayerNorms (MAE, M3AE: 1e-6)")
    qkv_bias: bool = Field(False, description="bias of the queries, keys and values (MAE, M3AE: true)")
    act: Activation = Field("gelu", description="activation of the MLP: GELU, or its tanh approximation (M3AE)")
    init: Literal["xavier", "torch"] = Field(
        "xavier",
        description="initial weights: xavier = Xavier uniform, biases 0, cls token N(0, 0.02), as in MetaMAE's and "
        "MAE's code; torch = PyTorch's defaults of linear maps, cls token N(0, 1), as in DABS's code",
    )
    pool: Literal["tokens", "all", "cls"] = Field(
        "tokens", description="feature: mean of the tokens, of the tokens and the cls token (all), or the cls token"
    )
    attention: Backend = Field("auto", description="attention kernel: auto, xformers, sdpa or math")
    activation_checkpointing: bool = Field(
        False, description="compute the blocks anew in the backward pass: less memory, and one more forward pass"
    )


class TransformerEncoder(Encoder):
    """A pre-norm transformer with a learned cls token and positions from the layout (MetaMAE, Table 7)."""

    name = "transformer"
    Options = EncoderOptions

    def __init__(self, options: EncoderOptions, layout: Layout) -> None:
        super().__init__(options, layout)
        self.cls_token = nn.Parameter((1.0 if options.init == "torch" else 0.02) * torch.randn(options.dim))
        self.positions = Positions(layout, options.dim, options.positions)
        self.dropout = Dropout(options.dropout)
        self.transformer = Transformer(
            options.dim, options.depth, options.heads, options.mlp_ratio, options.dropout,
            head_dim=options.head_dim, attention=options.attention, final_norm=options.final_norm,
            drop_path=options.drop_path, layer_scale=options.layer_scale, qkv_bias=options.qkv_bias,
            act=options.act, norm_eps=options.norm_eps,
        )  # fmt: skip
        self.transformer.activation_checkpointing = options.activation_checkpointing
        if options.init == "xavier":
            initialise(self.transformer)

    def forward(  # type: ignore[override]
        self,
        embeddings: Tensor,
        position_ids: Tensor | None = None,
        geometry: Geometry | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Tensor | list[Tensor]:
        """As `Encoder.forward`. The last layer's output has the final norm, those of other layers have none."""
        local = geometry or Geometry()
        if position_ids is not None:
            local = local.gather(position_ids)
        table = self.positions()
        if local.coords is not None:
            positions = self.positions.from_coords(local.coords, position_ids)
        else:
            positions = table[1:] if position_ids is None else embedding_lookup(table, 1 + position_ids)
        row = embeddings + positions  # fp32 from here on, also under autocast
        cls = (self.cls_token + table[0]).to(row.dtype).expand(row.shape[0], 1, -1)
        bias = None if local.bias is None else F.pad(local.bias, (1, 0, 1, 0))  # the cls token attends to every token
        return self.transformer(
            self.dropout(torch.cat([cls, row], dim=1)), key_mask=prepend_cls(local.valid), bias=bias, layers=layers
        )

    def pool(self, encoded: Tensor, valid: Tensor | None = None) -> Tensor:
        """As `Encoder.pool`; with `encoder.pool=all` the cls token counts as one of the tokens, with "cls" alone."""
        if self.options.pool == "cls":
            return encoded[:, 0]
        if self.options.pool == "all":
            return mean_pool(encoded, prepend_cls(valid))
        return super().pool(encoded, valid)
