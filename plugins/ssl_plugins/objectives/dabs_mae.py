"""DABS's masked autoencoder without a decoder (Tamkin et al., DABS 2.0, NeurIPS 2022). See docs/methods/dabs-mae.md."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import (
    Choice,
    ContinuousTarget,
    Draws,
    Geometry,
    Layout,
    Maskings,
    Objective,
    Outcome,
    Target,
    Tokens,
    hookimpl,
)
from ssl_core.nn import Encoder, gather_tokens, masked_mean, scatter_tokens


class DabsMAE(Objective):
    """DABS's MAE: blank some tokens, encode the whole row, and reconstruct the blanked tokens by a linear layer."""

    name = "dabs-mae"
    default_masking = Choice("random", {"ratio": 0.15})

    class Options(Objective.Options):
        """Options of DABS's MAE."""

        squared: bool = Field(
            False, description="score a patch by the mean square instead of the Euclidean norm of the published code"
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        # ids need no map: the encoder's output is multiplied by the embedding table, as in the published code
        self.maps = nn.ModuleDict(
            {str(i): nn.Linear(dim, s.size) for i, s in enumerate(layout.segments) if s.target == "continuous"}
        )

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "visible" (B, V) and "hidden" (B, L)."""
        assert self.masking is not None, "DABS's MAE needs a masking"
        mask = self.masking(batch, generator, geometry)
        return {"visible": mask.visible, "hidden": mask.hidden}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Mean error over the hidden tokens of each segment, then over segments."""
        encoded = self.encode(tokens, encoder, draws["visible"])
        parts = []
        for number, (_, span) in enumerate(self.layout.spans):
            parts.append(self.errors(number, encoded[:, span], tokens.targets[number]))
        hidden = draws["hidden"] if tokens.valid is None else draws["hidden"] & tokens.valid
        return Outcome(masked_mean(torch.cat(parts, dim=1), hidden, self.layout))

    def encode(self, tokens: Tokens, encoder: Encoder, visible: Tensor) -> Tensor:
        """Encode the whole row with zeros at hidden positions: (B, L, D)."""
        blanked = scatter_tokens(gather_tokens(tokens.embeddings, visible), visible, self.layout.length)
        return encoder(blanked, geometry=tokens.geometry)[:, 1:]

    def predict(self, number: int, encoded: Tensor, target: Target) -> Tensor:
        """Patches, or logits over the vocabulary: (B, Ls, size), at least in fp32."""
        out = (
            self.maps[str(number)](F.relu(encoded))
            if isinstance(target, ContinuousTarget)
            else encoded @ target.table.T
        )
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def errors(self, number: int, encoded: Tensor, target: Target) -> Tensor:
        """(B, Ls): Euclidean norm or mean square of the residual, or cross-entropy."""
        predicted = self.predict(number, encoded, target)
        if isinstance(target, ContinuousTarget):
            residual = predicted - target.patches
            return residual.square().mean(dim=-1) if self.options.squared else residual.norm(dim=-1)
        return F.cross_entropy(predicted.flatten(0, 1), target.ids.flatten(), reduction="none").view(target.ids.shape)

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor]:
        """Predictions for whole rows."""
        encoded = self.encode(tokens, encoder, draws["visible"])
        return [self.predict(i, encoded[:, s], tokens.targets[i]) for i, (_, s) in enumerate(self.layout.spans)]


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [DabsMAE]
