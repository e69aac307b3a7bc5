"""Tokenizer, encoder and objective as one module: forward to train, embed to use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssl_core.contracts import Draws, Objective, Tokenizer
from ssl_core.nn.encoder import Encoder
from ssl_core.tokens import ContinuousTarget, Outcome

ONE_HOT_LIMIT = 64  # larger vocabularies are counted per row instead: 128 x 30k one-hot numbers a row help nobody


class Learner(nn.Module):
    """What is trained. Its state dict holds everything that a checkpoint needs."""

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.objective = objective

    def forward(self, inputs: Mapping[str, Tensor], draws: Draws) -> Outcome:
        """The loss of a batch of prepared inputs."""
        return self.objective(self.tokenizer(inputs), self.encoder, draws)

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters of each part."""
        parts = {"tokenizer": self.tokenizer, "encoder": self.encoder, "objective": self.objective}
        return {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts.items()}

    @torch.no_grad()
    def embed(self, inputs: Mapping[str, Tensor], per_token: bool = False) -> Tensor:
        """Features of whole rows: (B, D), or (B, L, D) with `per_token`. Call in eval mode."""
        tokens = self.tokenizer(inputs)
        encoded = self.encoder(tokens.embeddings, valid=tokens.valid)
        return encoded[:, 1:] if per_token else self.encoder.pool(encoded, tokens.valid)

    @torch.no_grad()
    def stages(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The tokenizer's output (B, L, D), the encoder's (B, L, D) and pooled features (B, D). Call in eval mode."""
        tokens = self.tokenizer(inputs)
        encoded = self.encoder(tokens.embeddings, valid=tokens.valid)
        return tokens.embeddings, encoded[:, 1:], self.encoder.pool(encoded, tokens.valid)

    @torch.no_grad()
    def raw(self, inputs: Mapping[str, Tensor], per_token: bool = False) -> Tensor:
        """The prepared, normalised input itself as features: what a probe gets without any encoder.

        ContinuousTarget as they are; ids one-hot, or counted per row for vocabularies over 64. (B, n), or (B, L, n).
        """
        parts: list[Tensor] = []
        for target, segment in zip(self.tokenizer(inputs).targets, self.tokenizer.layout.segments, strict=True):
            if isinstance(target, ContinuousTarget):
                parts.append(target.patches.float())
            elif segment.size <= ONE_HOT_LIMIT or per_token:
                parts.append(nn.functional.one_hot(target.ids, segment.size).float())
            else:
                rows = target.ids.shape[0]
                counts = torch.zeros(rows, segment.size, device=target.ids.device)
                parts.append(counts.scatter_add_(1, target.ids, torch.ones_like(target.ids, dtype=counts.dtype)))
        if per_token:
            return _per_token(parts)
        return torch.cat([part.flatten(1) for part in parts], dim=1)


def _per_token(parts: list[Tensor]) -> Tensor:
    """Segments of different widths one after the other along the row, padded with zeros to the widest."""
    width = max(part.shape[-1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts], dim=1)
