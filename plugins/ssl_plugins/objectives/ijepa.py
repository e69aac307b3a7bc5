"""I-JEPA: predict a teacher's encoding of blocks of tokens from the visible context (Assran et al., CVPR 2023).

1. encode the context tokens:                     Z = f(C)
2. a teacher, an average of f, encodes the row:   H = LayerNorm(f_teacher(X))
3. predict each target block from the context:    P_t = g(Z, positions of block t)
   loss = mean over blocks, tokens and features of the error between P_t and H_t
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import (
    Choice,
    ConfigError,
    Draws,
    Ema,
    Geometry,
    Layout,
    Maskings,
    Objective,
    Outcome,
    Teacher,
    Tokens,
    hookimpl,
)
from ssl_core.nn import Decoder, Encoder, gather_mask, gather_tokens, weighted_mean


class IJEPA(Objective):
    """Joint-embedding prediction: predict a teacher's encoding of several blocks from the tokens around them."""

    name = "ijepa"
    default_maskings: ClassVar = {
        "context": Choice("box", {"ratio": 0.9, "aspect": (1.0, 1.0)}),
        "target": Choice("box", {"ratio": 0.175, "aspect": (0.75, 1.5)}),
    }

    class Options(Objective.Options):
        """Options of I-JEPA."""

        targets: int = Field(4, ge=1, description="number of target blocks M (I-JEPA, section 3: 4)")
        depth: int = Field(4, ge=1, description="blocks of the predictor (paper: 6 for ViT-B, 12 for larger encoders)")
        width: int = Field(128, ge=8, description="width of the predictor (paper: 384)")
        heads: int = Field(4, ge=1, description="attention heads of the predictor")
        momentum: float = Field(0.996, ge=0, le=1, description="momentum of the teacher at the first step")
        momentum_end: float = Field(1.0, ge=0, le=1, description="momentum at the last step; it rises linearly")
        loss: Literal["smooth-l1", "l2"] = Field(
            "smooth-l1", description="error: smooth L1, as the published code, or the squared error of the paper"
        )
        evaluate: Literal["teacher", "student"] = Field(
            "teacher", description="encoder that computes features (I-JEPA, section 5: the target encoder)"
        )

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        """Raises:
        ConfigError: If the target blocks leave no token for the context.
        """
        super().__init__(options, layout, dim, maskings)
        self.teacher = Ema(options.momentum, options.momentum_end, evaluate=options.evaluate == "teacher")
        block = maskings["target"](1, torch.Generator().manual_seed(0)).hidden_position_ids.shape[1]
        self.visible = layout.length - options.targets * block
        if self.visible < 1:
            raise ConfigError(
                f"{options.targets} target blocks of {block} of {layout.length} tokens leave no context; lower "
                f"objective.targets or masking.target.ratio"
            )
        self.predictor = Decoder(layout, options.width, dim, options.depth, options.heads)
        self.project = nn.Linear(options.width, dim)

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "visible" (B, V), position ids of the context; "targets" (B, T, M), position ids of the target blocks.

        The context is a large block without the target tokens. It has a fixed size V = L - T M, the number of tokens
        that remain if no two targets overlap.
        """
        length = self.layout.length
        target, context = self.maskings["target"], self.maskings["context"]
        blocks = [target(batch, generator, geometry).hidden_position_ids for _ in range(self.options.targets)]
        targets = torch.stack(blocks, dim=1)
        is_target = torch.zeros(batch, length, dtype=torch.bool).scatter(1, targets.flatten(1), True)
        rank = torch.where(context(batch, generator, geometry).hidden, 0.0, 1.0)
        if geometry.valid is not None:
            rank = torch.where(geometry.valid, rank, 2.0)
        rank = torch.where(is_target, 3.0, rank) + 0.5 * torch.rand(batch, length, generator=generator)
        return {"visible": rank.argsort(dim=1)[:, : self.visible].sort(dim=1).values, "targets": targets}

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws, teacher: Teacher | None = None) -> Outcome:
        """Mean error over the valid tokens of all target blocks."""
        assert teacher is not None, "I-JEPA needs a teacher"
        visible, targets = draws["visible"], draws["targets"]
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        with torch.no_grad():
            encoded = teacher.encoder(teacher.tokens.embeddings, geometry=teacher.tokens.geometry)[:, 1:]
            wide = torch.promote_types(encoded.dtype, torch.float32)
            encoded = F.layer_norm(encoded.to(wide), encoded.shape[-1:])
        # each block is a row of its own: first the first blocks of all samples, then the second blocks, and so on
        count = targets.shape[1]
        blocks = targets.transpose(0, 1).flatten(0, 1)
        order = torch.cat([visible.repeat(count, 1), blocks], dim=1)
        geometry = tokens.geometry.repeat(count)
        hidden = slice(visible.shape[1], None)
        predicted = self.project(self.predictor(latent.repeat(count, 1, 1), order, hidden, geometry))
        errors = self.error(predicted.to(wide), gather_tokens(encoded.repeat(count, 1, 1), blocks)).mean(dim=-1)
        counted = gather_mask(geometry.valid, blocks)
        weights = torch.ones_like(errors) if counted is None else counted.to(errors.dtype)
        return Outcome(
            weighted_mean(errors, weights), {"target_deviation": self.deviation(encoded, teacher.tokens.valid)}
        )

    @staticmethod
    def deviation(encoded: Tensor, valid: Tensor | None) -> Tensor:
        """Standard deviation over the batch, (B, L, D), averaged over features and positions with two valid tokens."""
        if valid is None:
            return encoded.std(dim=0, correction=min(1, len(encoded) - 1)).mean()  # 0 of a batch of one
        weights = valid.unsqueeze(-1).to(encoded.dtype)
        count = weights.sum(dim=0)
        mean = (weights * encoded).sum(dim=0) / count.clamp(min=1)
        variance = (weights * (encoded - mean).square()).sum(dim=0) / (count - 1).clamp(min=1)
        known = (count > 1).to(encoded.dtype)
        return (variance.sqrt().mean(dim=-1, keepdim=True) * known).sum() / known.sum().clamp(min=1)

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The error of each feature, of the same shape."""
        if self.options.loss == "l2":
            return (predicted - target).square()
        return F.smooth_l1_loss(predicted, target, reduction="none")


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [IJEPA]
