"""ShED: detect embeddings that were moved (Tamkin et al., DABS, NeurIPS 2021). See docs/methods/shed.md."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import Encoder, all_position_ids, gather_tokens, weighted_mean


class ShED(Objective):
    """Shuffled embedding detection: permute the embeddings of some tokens and detect which tokens moved."""

    name = "shed"

    class Options(Objective.Options):
        """Options of ShED."""

        ratio: float = Field(0.15, gt=0, le=1, description="share of the tokens that are moved")
        min_moved: int = Field(
            2,
            ge=1,
            description="smallest number of moved tokens: 2, since one alone cannot move; 1 as in the published code, "
            "which leaves the token in place and labels it as moved",
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.moved = min(max(math.ceil(layout.length * options.ratio - 1e-9), options.min_moved), layout.length)
        self.head = nn.Linear(dim, 2)

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "source" (B, L), position id that each embedding comes from; "moved" (B, L), 1 if it moved."""
        length = self.layout.length
        noise = torch.rand(batch, length, generator=generator)
        if geometry.valid is None:
            chosen = noise.argsort(dim=1)[:, : self.moved]
            source = torch.arange(length).repeat(batch, 1).scatter(1, chosen, chosen.roll(1, dims=1))
            moved = torch.zeros(batch, length, dtype=torch.long).scatter(1, chosen, 1)
            return {"source": source, "moved": moved}
        order = torch.where(geometry.valid, noise, 2.0).argsort(dim=1)  # valid tokens first
        count = geometry.valid.sum(dim=1, keepdim=True)
        total = torch.ceil(count.double() * self.options.ratio - 1e-9).long().clamp(min=self.options.min_moved)
        total = torch.where(count < self.options.min_moved, 0, total)  # one token alone cannot move
        rank = torch.arange(length).expand(batch, -1)
        previous = torch.where(rank < total, (rank - 1) % total.clamp(min=1), rank)
        source = torch.empty_like(order).scatter(1, order, order.gather(1, previous))
        return {"source": source, "moved": torch.zeros_like(order).scatter(1, order, (rank < total).long())}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Mean cross-entropy over all valid tokens. The gradient flows into the moved embeddings."""
        source, moved = self.restrict(draws["source"], draws["moved"], tokens.valid)
        encoded = encoder(gather_tokens(tokens.embeddings, source), geometry=tokens.geometry)[:, 1:]
        logits = self.head(encoded).flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        errors = F.cross_entropy(logits, moved.flatten(), reduction="none")
        correct = (logits.argmax(dim=1) == moved.flatten()).float()
        counted = torch.ones_like(errors) if tokens.valid is None else tokens.valid.flatten().to(errors.dtype)
        loss, accuracy = (weighted_mean(part, counted) for part in (errors, correct))
        return Outcome(loss, {"accuracy": accuracy.detach()})

    @staticmethod
    def restrict(source: Tensor, moved: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Undo moves from or to tokens that are not valid."""
        if valid is None:
            return source, moved
        both = valid & valid.gather(1, source)
        return torch.where(both, source, all_position_ids(len(source), source.shape[1], source.device)), moved * both


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [ShED]
