"""Capri: contrastive prediction of masked embeddings (Tamkin et al., DABS 2.0, NeurIPS 2022).

See docs/methods/capri.md.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import Choice, ConfigError, Draws, Geometry, Layout, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import Encoder, gather_batch, gather_mask, gather_tokens, scatter_tokens, weighted_mean


class Capri(Objective):
    """Contrastive prediction: blank tokens and identify each one's embedding among the others of the row."""

    name = "capri"
    default_masking = Choice("random", {"ratio": 0.15})

    class Options(Objective.Options):
        """Options of Capri.

        The published code corresponds to positions=all, direction=predictions and normalise=false, or with
        negatives=batch to direction=targets and normalise=false.
        """

        temperature: float = Field(0.07, gt=0, description="temperature of the logits")
        normalise: bool = Field(
            True, description="cosine similarity instead of inner products; the published default, false, diverges"
        )
        positions: Literal["masked", "all"] = Field(
            "masked", description="tokens that are predicted: masked, or all as in the published code"
        )
        direction: Literal["targets", "predictions", "both"] = Field(
            "targets",
            description="axis of the softmax: the targets for each prediction; predictions for each target, as in the "
            "published code; or the mean of both losses",
        )
        negatives: Literal["sequence", "batch"] = Field(
            "sequence",
            description="negatives: tokens of the same row, or of the whole batch (then always masked tokens only)",
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.predictor = nn.Linear(dim, dim)
        self.cross_sample_loss = options.negatives == "batch"

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "visible" (B, V) and "masked" (B, H), position ids of the visible and masked tokens.

        Raises:
            ConfigError: If a row has no masked token as a negative.
        """
        assert self.masking is not None, "Capri needs a masking"
        mask = self.masking(batch, generator, geometry)
        needs_two = self.options.positions == "masked" and self.options.negatives == "sequence"
        if needs_two and self.layout.length - mask.visible.shape[1] < 2:
            raise ConfigError(
                f"capri contrasts the masked tokens of a row, but only one of {self.layout.length} is masked; "
                f"raise masking.ratio, or set objective.positions=all or objective.negatives=batch"
            )
        return {"visible": mask.visible, "masked": mask.hidden_position_ids}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """Mean cross-entropy of identifying each token's own embedding. The gradient flows into the targets, too."""
        visible = draws["visible"]
        blanked = scatter_tokens(gather_tokens(tokens.embeddings, visible), visible, self.layout.length)
        predicted, targets = self.predictor(encoder(blanked, geometry=tokens.geometry)[:, 1:]), tokens.embeddings
        valid = tokens.valid
        if self.options.positions == "masked" or self.options.negatives == "batch":
            predicted, targets = (gather_tokens(part, draws["masked"]) for part in (predicted, targets))
            valid = gather_mask(valid, draws["masked"])
        if self.options.negatives == "batch":
            predicted, targets = (gather_batch(part.flatten(0, 1)).unsqueeze(0) for part in (predicted, targets))
            valid = None if valid is None else gather_batch(valid.flatten()).unsqueeze(0)
        wide = torch.promote_types(predicted.dtype, torch.float32)
        with torch.autocast(predicted.device.type, enabled=False):
            predicted, targets = predicted.to(wide), targets.to(wide)
            if self.options.normalise:
                predicted, targets = F.normalize(predicted, dim=-1), F.normalize(targets, dim=-1)
            logits = predicted @ targets.transpose(1, 2) / self.options.temperature
            loss, accuracy = self.score(logits, valid)
        return Outcome(loss, {"accuracy": accuracy.detach()})

    def score(self, logits: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross-entropy of logits (B, predictions, targets) with the diagonal, along the chosen axis; and the share of
        predictions that are most like their own target.

        valid: (B, n) bool, the valid tokens. The others are neither scored nor negatives.
        """
        if valid is not None:
            diagonal = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(~(valid[:, :, None] & valid[:, None, :] | diagonal), -torch.inf)
        own = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        # F.cross_entropy expects classes at axis 1
        over_targets = F.cross_entropy(logits.transpose(1, 2), own, reduction="none")
        over_predictions = F.cross_entropy(logits, own, reduction="none")
        correct = (logits.argmax(dim=2) == own).to(over_targets.dtype)
        weights = torch.ones_like(over_targets) if valid is None else valid.to(logits.dtype)
        each = over_targets, over_predictions, correct
        if self.options.negatives == "batch":  # each process scores the whole batch
            means = [(weights * part).sum() / weights.sum().clamp(min=1) for part in each]
        else:
            means = [weighted_mean(part, weights) for part in each]
        over_targets, over_predictions, accuracy = means
        if self.options.direction == "both":
            return (over_targets + over_predictions) / 2, accuracy
        return over_targets if self.options.direction == "targets" else over_predictions, accuracy


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [Capri]
