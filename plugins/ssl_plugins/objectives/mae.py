"""MAE: reconstruct hidden tokens by a transformer decoder (He et al., CVPR 2022). See docs/methods/mae.md."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ssl_core import Choice, ConfigError, Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import (
    Decoder,
    Encoder,
    ReconstructionHead,
    gather_mask,
    gather_tokens,
    invert_permutation,
    masked_mean,
    normalise_targets,
    restore_patches,
)


class MAE(Objective):
    """Masked autoencoder: reconstruct hidden tokens from the visible ones by a transformer decoder."""

    name = "mae"
    default_masking = Choice("random", {"ratio": 0.75})

    class Options(Objective.Options):
        """Options of MAE."""

        depth: int = Field(4, ge=1, description="decoder blocks n (MetaMAE, Table 7: 2, 4 or 6)")
        width: int = Field(128, ge=8, description="decoder width (MetaMAE, Table 7: d_model 128)")
        heads: int = Field(4, ge=1, description="decoder attention heads (MetaMAE, Table 7: h 4)")
        mlp_ratio: float = Field(2.0, gt=0, description="decoder MLP width as a multiple of width (He et al.: 4)")
        qkv_bias: bool = Field(False, description="bias of queries, keys and values in the decoder (He et al.: true)")
        norm_eps: float = Field(1e-5, gt=0, description="epsilon of the decoder's LayerNorms (He et al.: 1e-6)")
        norm_targets: bool = Field(
            False, description="normalise each target patch by its own mean and deviation (He et al., section 4.1)"
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        """Raises:
        ConfigError: If patches of a single number are to be normalised.
        """
        super().__init__(options, layout, dim, maskings)
        if options.norm_targets and any(s.size < 2 for s in layout.segments if s.target == "continuous"):
            raise ConfigError(
                "objective.norm_targets normalises each patch by its own deviation, and a token of this data is one "
                "number, which has none; set objective.norm_targets=false"
            )
        self.decoder = Decoder(
            layout, options.width, dim, options.depth, options.heads, options.mlp_ratio, qkv_bias=options.qkv_bias,
            norm_eps=options.norm_eps,
        )  # fmt: skip
        self.head = ReconstructionHead(layout, dim, options.width)

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "order" (B, L), position ids of visible, then hidden tokens; "visible" (B, V), the first V of them."""
        assert self.masking is not None, "MAE needs a masking"
        mask = self.masking(batch, generator, geometry)
        return {"visible": mask.visible, "order": torch.cat([mask.visible, mask.hidden_position_ids], dim=1)}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Mean squared error or cross-entropy over the hidden tokens (MetaMAE, eq. 1)."""
        visible, order = draws["visible"], draws["order"]
        hidden = slice(visible.shape[1], None)
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        decoded = self.decoder(latent, order, hidden, tokens.geometry)
        targets = normalise_targets(self.layout, tokens.targets) if self.options.norm_targets else tokens.targets
        errors = self.head.errors(decoded, targets, order[:, hidden])
        counted = gather_mask(tokens.valid, order[:, hidden])
        where = torch.ones_like(errors) if counted is None else counted
        return Outcome(masked_mean(errors, where, self.layout, order[:, hidden]))

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor]:
        """Predictions for whole rows, in the unit of the targets also if these are normalised for the loss."""
        visible, order = draws["visible"], draws["order"]
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        decoded = self.decoder(latent, order, geometry=tokens.geometry)
        predictions = self.head.predict(gather_tokens(decoded, invert_permutation(order)), tokens.targets)
        return restore_patches(self.layout, predictions, tokens.targets) if self.options.norm_targets else predictions


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [MAE]
