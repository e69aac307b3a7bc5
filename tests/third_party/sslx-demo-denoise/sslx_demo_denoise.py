"""Denoising: add noise to the embeddings, rebuild what was there."""

import torch
from pydantic import Field

from ssl_core import Objective, Outcome, hookimpl
from ssl_core.nn import ReconstructionHead


class Denoise(Objective):
    """Rebuild every token from noisy embeddings."""

    name = "denoise"

    class Options(Objective.Options):
        sigma: float = Field(0.5, gt=0, description="noise scale")

    def __init__(self, options, layout, dim, masking):
        super().__init__(options, layout, dim, masking)
        self.head = ReconstructionHead(layout, dim, dim)

    def forward(self, tokens, encoder, draws):
        noisy = tokens.content + self.options.sigma * torch.randn_like(tokens.content)
        errors = self.head.errors(encoder(noisy)[:, 1:], tokens.targets)
        return Outcome(loss=errors.mean(), metrics={})


@hookimpl
def register_objectives():
    return [Denoise]
