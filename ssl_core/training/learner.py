"""Tokenizer, encoder and objective as one module: forward to train, embed to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssl_core.contracts import Draws, Objective, Tokenizer
from ssl_core.errors import ConfigError
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
    def embed(
        self, inputs: Mapping[str, Tensor], per_token: bool = False, layers: Sequence[int] | None = None
    ) -> Tensor:  # fmt: skip
        """Features of whole rows: (B, D), or (B, L, D) with `per_token`. Call in eval mode.

        With `layers`, numbers of encoder blocks from 1, the outputs of these blocks side by side in place of the
        encoder's output.

        Raises:
            ConfigError: If the encoder has no such block.
        """
        tokens = self.tokenizer(inputs)
        with _outputs_of(self.encoder, layers or ()) as outputs:
            encoded = self.encoder(tokens.embeddings, valid=tokens.valid)
        parts = [encoded] if layers is None else outputs
        features = [part[:, 1:] if per_token else self.encoder.pool(part, tokens.valid) for part in parts]
        return torch.cat(features, dim=-1)

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


@contextmanager
def _outputs_of(encoder: Encoder, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the outputs of encoder blocks, numbered from 1, in the order of `layers` while the context lasts."""
    blocks = encoder.transformer.blocks
    for layer in layers:
        if not 1 <= layer <= len(blocks):
            raise ConfigError(f"a probe reads layer {layer}, but the encoder has layers 1 to {len(blocks)}")
    outputs: list[Tensor] = [torch.empty(0)] * len(layers)

    def keep(place: int, output: Tensor) -> None:
        outputs[place] = output

    handles = [
        blocks[layer - 1].register_forward_hook(lambda module, args, output, place=place: keep(place, output))
        for place, layer in enumerate(layers)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _per_token(parts: list[Tensor]) -> Tensor:
    """Segments of different widths one after the other along the row, padded with zeros to the widest."""
    width = max(part.shape[-1] for part in parts)
    return torch.cat([nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts], dim=1)
