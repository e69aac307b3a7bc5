"""e-Mix: mix the embeddings of two samples and recognise both (Tamkin et al., DABS, NeurIPS 2021).

An application of i-Mix (Lee et al., ICLR 2021) to embeddings. See docs/methods/emix.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import Encoder, batch_rows, batch_total, gather_batch, process_count


class EMix(Objective):
    """e-Mix: mix the embeddings of two samples and identify both from the mixture."""

    name = "emix"
    min_batch_size = 2
    cross_sample_loss = True

    class Options(Objective.Options):
        """Options of e-Mix. In the published code the pooled feature includes the cls token: encoder.pool=all."""

        beta: float = Field(1.0, gt=0, description="mixing weights are drawn from Beta(beta, beta)")
        temperature: float = Field(0.2, gt=0, description="temperature of the logits")
        out: int = Field(128, ge=1, description="output width of the head")
        coefficient: Literal["sample", "batch-mean"] = Field(
            "sample",
            description="weight of the two cross-entropies: sample = each sample's own; batch-mean = the mean over the "
            "batch, which results from broadcasting in the published code",
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, options.out))

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "weight" (B,) in [0.5, 1] and "partner" (B,), a permutation of the batch."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        weight = torch.from_numpy(rng.beta(self.options.beta, self.options.beta, batch)).float()
        return {"weight": torch.maximum(weight, 1 - weight), "partner": torch.randperm(batch, generator=generator)}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """mean_i of w_i CE(logits_i, i) + (1 - w_i) CE(logits_i, partner_i)."""
        partner = draws["partner"]
        weight = draws["weight"].to(torch.promote_types(tokens.embeddings.dtype, torch.float32))  # of the loss
        share = weight.to(tokens.embeddings.dtype)[:, None, None]
        embeddings, valid = tokens.embeddings, tokens.valid
        if valid is not None:
            embeddings = embeddings * valid.unsqueeze(-1)  # padding must not enter the mixture
        mixed = share * embeddings + (1 - share) * gather_batch(embeddings.detach())[partner]
        either = None if valid is None else valid | gather_batch(valid)[partner]
        queries = self.represent(mixed, encoder, replace(tokens.geometry, valid=either))
        keys = gather_batch(self.represent(embeddings, encoder, tokens.geometry))
        with torch.autocast(queries.device.type, enabled=False):
            logits = queries @ keys.T / self.options.temperature
            if self.options.coefficient == "batch-mean":
                weight = (batch_total(weight.mean()) / process_count()).expand_as(weight)
            own = batch_rows(len(logits), logits.device)
            first = F.cross_entropy(logits, own, reduction="none")
            second = F.cross_entropy(logits, partner, reduction="none")
            loss = (weight * first + (1 - weight) * second).mean()
        accuracy = (logits.argmax(dim=1) == own).float().mean()
        return Outcome(loss, {"accuracy": accuracy.detach()})

    def represent(self, embeddings: Tensor, encoder: Encoder, geometry: Geometry) -> Tensor:
        """(B, L, D) to unit vectors (B, out)."""
        features = self.head(encoder.pool(encoder(embeddings, geometry=geometry), geometry.valid))
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [EMix]
