"""Denoising: add noise to the embeddings, predict the content of the tokens."""

from __future__ import annotations

import torch
from pydantic import Field
from ssl_core import Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import Encoder, ReconstructionHead, masked_mean
from torch import Tensor

SSLX_API = ">=2.0,<3"


class Denoise(Objective):
    """Rebuild every token from noisy embeddings (Vincent et al. 2010, on tokens instead of pixels)."""

    name = "denoise"

    class Options(Objective.Options):
        """Options of the objective: `--set objective.sigma=0.3`."""

        sigma: float = Field(1.0, gt=0, description="standard deviation of the noise, in units of the embedding's")
        drop: float = Field(0.5, ge=0, lt=1, description="share of tokens whose embedding is replaced by noise")

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.head = ReconstructionHead(layout, dim, dim)

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """The random numbers of a step: "noise" (B, L, D), and "gate" (B, L), 0 for an embedding replaced by noise."""
        rows = (batch, self.layout.length)
        gate = torch.rand(rows, generator=generator) >= self.options.drop
        return {"noise": torch.randn(*rows, self.dim, generator=generator), "gate": gate.float()}

    def _encode(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Tensor:
        """Noisy embeddings encoded, (B, L, D), without the cls token."""
        # the noise scales with the embeddings; otherwise they would grow until the noise has no effect
        scale = self.options.sigma * tokens.embeddings.detach().std(dim=-1, keepdim=True)
        noisy = tokens.embeddings * draws["gate"].unsqueeze(-1) + scale * draws["noise"]
        return encoder(noisy, geometry=tokens.geometry)[:, 1:]

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Mean error of the predicted targets, over all valid tokens."""
        errors = self.head.errors(self._encode(tokens, encoder, draws), tokens.targets)
        valid = torch.ones_like(errors) if tokens.valid is None else tokens.valid
        return Outcome(masked_mean(errors, valid, self.layout))

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor]:
        """Predictions for whole rows, for the pictures of the report."""
        return self.head.predict(self._encode(tokens, encoder, draws), tokens.targets)


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [Denoise]
