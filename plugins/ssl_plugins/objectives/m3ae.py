"""M3AE: one masked autoencoder over all segments of a row (Geng et al., arXiv 2205.14204). See docs/methods/m3ae.md.

One encoder reads [cls | visible tokens of every segment]; one decoder, with a mask token and a type vector for each
segment, reconstructs the hidden tokens. With M(b, s) the hidden valid tokens of sample b in segment s:

    l(b, s) = mean of the token errors over M(b, s)
    L(s)    = mean of l(b, s) over the samples b for which M(b, s) is not empty
    loss    = sum over s of w(s) L(s)

With `unpaired_weight` a second pass on the discrete segments alone, with a mask of its own, adds w_u times the same
losses of these segments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from ssl_core import Choice, ConfigError, Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import (
    Decoder,
    Encoder,
    ReconstructionHead,
    batch_total,
    gather_mask,
    gather_tokens,
    invert_permutation,
    process_count,
)

UNPAIRED = "unpaired."  # prefix of the draws of the pass on discrete segments alone


class M3AE(Objective):
    """Multimodal masked autoencoder: reconstruct hidden tokens from the visible tokens of all segments."""

    name = "m3ae"
    default_masking = Choice("segments", {"ratio": 0.75})

    class Options(Objective.Options):
        """Options of M3AE. Default sizes are those of the objective `mae`, so that the two can be compared."""

        discrete_weight: float = Field(
            0.1, ge=0, description="weight of discrete segments; continuous ones have 1 (the published README: 0.5)"
        )
        weights: tuple[float, ...] = Field(
            (), description="weight of each segment in order; empty: 1 if continuous, discrete_weight if discrete"
        )
        all_tokens: bool = Field(False, description="score the visible tokens, too")
        absent: Literal["skip", "zero"] = Field(
            "skip",
            description="samples without a scored token of a segment: skip = excluded from its mean; "
            "zero = counted with a loss of 0, as in the published code",
        )
        tied: bool = Field(
            False,
            description="predict ids by the embedding table instead of a linear map of their own (published: false)",
        )
        depth: int = Field(4, ge=1, description="decoder blocks (published: 8)")
        width: int = Field(128, ge=8, description="decoder width (published: 512)")
        heads: int = Field(4, ge=1, description="decoder attention heads (published: 16)")
        mlp_ratio: float = Field(2.0, gt=0, description="decoder MLP width as a multiple of width (published: 4)")
        qkv_bias: bool = Field(False, description="bias of queries, keys and values in the decoder (published: true)")
        act: Literal["gelu", "gelu_tanh"] = Field(
            "gelu",
            description="activation in decoder and heads: GELU, or its tanh approximation (published: gelu_tanh)",
        )
        norm_eps: float = Field(1e-5, gt=0, description="epsilon of LayerNorms in decoder and heads (published: 1e-6)")
        head_depth: int = Field(0, ge=0, description="layers of an MLP before each output map (published: 0)")
        unpaired_weight: float = Field(
            0.0,
            ge=0,
            description="weight of a second pass on the discrete segments alone, e.g. captions without their images "
            "(published: on texts of their own, weight 0)",
        )

        @field_validator("weights")
        @classmethod
        def _not_negative(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
            if any(weight < 0 for weight in weights):
                raise ValueError("weights must not be negative")
            return weights

    segment_of: Tensor
    discrete: Tensor

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        """Raises:
        ConfigError: If the number of weights is not the number of segments, or `unpaired_weight` is set for rows
            that are not of both kinds.
        """
        super().__init__(options, layout, dim, maskings)
        weights = options.weights or [
            options.discrete_weight if s.target == "discrete" else 1.0 for s in layout.segments
        ]
        count = len(layout.segments)
        if len(weights) != count:
            raise ConfigError(
                f"objective.weights has {len(weights)} numbers for {count} segments; give one for each, or none"
            )
        self.weights = tuple(weights)
        self.register_buffer("segment_of", layout.segment_of, persistent=False)
        discrete = torch.tensor([segment.target == "discrete" for segment in layout.segments])
        if options.unpaired_weight and bool(discrete.all() == discrete.any()):
            raise ConfigError(
                "objective.unpaired_weight encodes the ids of a row without its other tokens, and the tokens of this "
                "data are all of one kind; set objective.unpaired_weight=0"
            )
        self.register_buffer("discrete", discrete, persistent=False)
        form: dict[str, Any] = {"act": options.act, "norm_eps": options.norm_eps}
        self.decoder = Decoder(
            layout, options.width, dim, options.depth, options.heads, options.mlp_ratio, mask_per_segment=True,
            qkv_bias=options.qkv_bias, **form,
        )  # fmt: skip
        self.head = ReconstructionHead(layout, dim, options.width, options.tied, depth=options.head_depth, **form)

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "order" (B, L), position ids of visible, then hidden tokens; "visible" (B, V), the first V of them.

        With `unpaired_weight` also "unpaired.order" and "unpaired.visible", of the second pass.
        """
        assert self.masking is not None, "M3AE needs a masking"
        draws: dict[str, Tensor] = {}
        for prefix in ("", UNPAIRED) if self.options.unpaired_weight else ("",):
            mask = self.masking(batch, generator, geometry)
            order = torch.cat([mask.visible, mask.hidden_position_ids], dim=1)
            draws |= {f"{prefix}visible": mask.visible, f"{prefix}order": order}
        return draws

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Weighted sum of the segments' losses. Unweighted losses are logged as "segment1", "segment2", ..."""
        losses = self.losses(tokens, encoder, draws["visible"], draws["order"])
        weighted = [weight * part for weight, part in zip(self.weights, losses, strict=True)]
        parts = {f"segment{i}": part for i, part in enumerate(losses.detach(), start=1)}
        loss = torch.stack(weighted).sum()
        if self.options.unpaired_weight:
            alone = self.losses(
                self._without_continuous(tokens), encoder, draws[f"{UNPAIRED}visible"], draws[f"{UNPAIRED}order"]
            )
            unpaired = (alone * self.discrete).sum()
            loss = loss + self.options.unpaired_weight * unpaired
            parts["unpaired"] = unpaired.detach()
        return Outcome(loss, parts)

    def losses(self, tokens: Tokens, encoder: Encoder, visible: Tensor, order: Tensor) -> Tensor:
        """(S,): the loss of each segment in one pass, without weights."""
        scored = slice(0 if self.options.all_tokens else visible.shape[1], None)
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        decoded = self.decoder(latent, order, scored, tokens.geometry)
        position_ids = order[:, scored]
        errors = self.head.errors(decoded, tokens.targets, position_ids)
        return self.segment_losses(errors, position_ids, gather_mask(tokens.valid, position_ids))

    def _without_continuous(self, tokens: Tokens) -> Tokens:
        """The same rows, of which only tokens of discrete segments are valid."""
        kept = self.discrete[self.segment_of].expand(tokens.embeddings.shape[:2])
        valid = kept if tokens.valid is None else kept & tokens.valid
        return replace(tokens, geometry=replace(tokens.geometry, valid=valid))

    def segment_losses(self, errors: Tensor, position_ids: Tensor, valid: Tensor | None) -> Tensor:
        """(S,): the loss of each segment, 0 if no sample has a scored token of it.

        errors, position_ids, valid: (B, n), of the scored tokens.
        """
        share = F.one_hot(self.segment_of[position_ids], len(self.layout.segments)).to(errors.dtype)
        if valid is not None:
            share = share * valid.unsqueeze(-1)
        count = share.sum(dim=1)  # (B, S)
        # an empty segment has a loss of 0, as in the published code, where the count has a floor of 1e-5
        means = (share * errors.unsqueeze(-1)).sum(dim=1) / count.clamp(min=1)
        if self.options.absent == "zero":
            return means.mean(dim=0)
        return process_count() * means.sum(dim=0) / batch_total((count > 0).sum(dim=0)).clamp(min=1)

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor]:
        """Predictions for whole rows."""
        visible, order = draws["visible"], draws["order"]
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        decoded = self.decoder(latent, order, geometry=tokens.geometry)
        return self.head.predict(gather_tokens(decoded, invert_permutation(order)), tokens.targets)


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [M3AE]
