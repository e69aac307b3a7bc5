"""Capri: contrastive prediction of masked embeddings (DABS; protocol section 4.6)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import Choice, ConfigError, Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import Encoder, gather_mask, gather_tokens, scatter_tokens


class Capri(Objective):
    """Contrastive prediction: blank tokens, predict their embeddings, tell them from the others of the row."""

    name = "capri"
    default_masking = Choice("random", {"ratio": 0.15})

    class Options(Objective.Options):
        """Options of Capri.

        As published: positions all, direction predictions, normalise false; for negatives batch: direction targets,
        normalise false.
        """

        temperature: float = Field(0.07, gt=0, description="temperature of the logits")
        normalise: bool = Field(
            True, description="cosine instead of inner products; the published default is false, and diverges"
        )
        positions: Literal["masked", "all"] = Field(
            "masked", description="which tokens are predicted (P21): the masked, as intended; all, as published"
        )
        direction: Literal["targets", "predictions", "both"] = Field(
            "targets",
            description="the softmax runs over the targets for each prediction, as intended, or over the predictions "
            "for each target, as published (P21), or the mean of both",
        )
        negatives: Literal["sequence", "batch"] = Field(
            "sequence",
            description="others come from the same row, or from the whole batch (then masked tokens only, in any case)",
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.predictor = nn.Linear(dim, dim)
        self.cross_sample_loss = options.negatives == "batch"

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "visible" (B, V) and "masked" (B, H), the places of both."""
        assert self.masking is not None, "Capri needs a masking"
        mask = self.masking(batch, generator, geometry)
        alone = self.options.positions == "masked" and self.options.negatives == "sequence"
        if alone and self.layout.length - mask.visible.shape[1] < 2:
            raise ConfigError(
                f"capri tells the masked tokens of a row from each other, and one of {self.layout.length} is masked; "
                f"raise masking.ratio, or set objective.positions=all or objective.negatives=batch"
            )
        return {"visible": mask.visible, "masked": mask.hidden_position_ids}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Mean cross-entropy of finding each token's own embedding. Gradients flow into the targets, too."""
        visible = draws["visible"]
        blanked = scatter_tokens(gather_tokens(tokens.embeddings, visible), visible, self.layout.length)
        predicted, wanted = self.predictor(encoder(blanked, geometry=tokens.geometry)[:, 1:]), tokens.embeddings
        counted = tokens.valid
        if self.options.positions == "masked" or self.options.negatives == "batch":
            predicted, wanted = (gather_tokens(part, draws["masked"]) for part in (predicted, wanted))
            counted = gather_mask(counted, draws["masked"])
        if self.options.negatives == "batch":
            predicted, wanted = (part.flatten(0, 1).unsqueeze(0) for part in (predicted, wanted))
            counted = None if counted is None else counted.flatten().unsqueeze(0)
        wide = torch.promote_types(predicted.dtype, torch.float32)
        with torch.autocast(predicted.device.type, enabled=False):
            predicted, wanted = predicted.to(wide), wanted.to(wide)
            if self.options.normalise:
                predicted, wanted = F.normalize(predicted, dim=-1), F.normalize(wanted, dim=-1)
            logits = predicted @ wanted.transpose(1, 2) / self.options.temperature
            loss = self.score(logits, counted)
        own = torch.arange(logits.shape[1], device=logits.device)
        return Outcome(loss, {"accuracy": (logits.argmax(dim=2) == own).float().mean().detach()})

    def score(self, logits: Tensor, counted: Tensor | None = None) -> Tensor:
        """Cross-entropy of logits (B, predictions, targets) with the diagonal, along the chosen axis.

        counted: (B, n) bool, the tokens that are present; the others are neither scored nor told apart from.
        """
        if counted is not None:
            itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(~(counted[:, :, None] & counted[:, None, :] | itself), -torch.inf)
        own = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        over_targets = F.cross_entropy(logits.transpose(1, 2), own, reduction="none")  # classes are torch's axis 1
        over_predictions = F.cross_entropy(logits, own, reduction="none")
        weights = torch.ones_like(over_targets) if counted is None else counted.to(logits.dtype)
        over_targets, over_predictions = (
            (weights * errors).sum() / weights.sum().clamp(min=1) for errors in (over_targets, over_predictions)
        )
        if self.options.direction == "both":
            return (over_targets + over_predictions) / 2
        return over_targets if self.options.direction == "targets" else over_predictions


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [Capri]
