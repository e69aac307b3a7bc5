"""Tokenizer, encoder and objective as one module: forward to train, embed to use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssl_core.contracts import Draws, Objective, Tokenizer
from ssl_core.errors import ConfigError, PluginError
from ssl_core.nn.encoder import Encoder
from ssl_core.nn.readout import read_out
from ssl_core.tokens import ContinuousTarget, Geometry, Outcome
from ssl_core.training.teacher import Distillation, TeacherCopy

ONE_HOT_LIMIT = 64  # ids of larger vocabularies are counted per row: 30k one-hot numbers a token fill memory in vain
VIEW = "view."  # prefix of the draws of the tokenizer's augmentations


class Learner(nn.Module):
    """What is trained. Its state dict holds everything that a checkpoint needs, teacher and distillation included."""

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.objective = objective
        self.teacher: TeacherCopy | None = None
        self.distillation: Distillation | None = None

    def forward(self, inputs: Mapping[str, Tensor], draws: Draws) -> Outcome:
        """The loss of a batch of preprocessed inputs."""
        views = self.objective.views
        if views > 1:
            inputs = {name: torch.cat([value] * views) for name, value in inputs.items()}
        if views > 1 or self.tokenizer.augments:
            own = {name.removeprefix(VIEW): value for name, value in draws.items() if name.startswith(VIEW)}
            inputs = self.tokenizer.view(inputs, own)
        tokens = self.tokenizer(inputs)
        outcome: Outcome
        if self.teacher is None:
            outcome = self.objective(tokens, self.encoder, draws)
        else:
            outcome = self.objective(tokens, self.encoder, draws, self.teacher.view(inputs, tokens, self.encoder))
        return outcome if self.distillation is None else self.distillation(outcome, inputs, tokens, self.encoder)

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> dict[str, Tensor]:
        """All randomness of a step for `batch` samples: that of the objective, and of the tokenizer's views.

        geometry: that of the samples, on the CPU.
        """
        views = self.objective.views
        geometry = geometry or Geometry()
        draws = dict(self.objective.draw(views * batch, generator, geometry.repeat(views)))
        if views > 1 or self.tokenizer.augments:
            draws |= {VIEW + name: value for name, value in self.tokenizer.draw_view(views * batch, generator).items()}
        return draws

    def start_teacher(self) -> None:
        """Copy the teacher's parts from the student, if the objective wants a teacher.

        Raises:
            PluginError: If the objective's `forward` has no parameter for it.
        """
        if self.objective.teacher is None:
            return
        if len(inspect.signature(self.objective.forward).parameters) < 4:
            raise PluginError(
                f"objective '{self.objective.name}' has a teacher, and its forward takes none; write "
                f"`def forward(self, tokens, encoder, draws, teacher=None)`"
            )
        self.teacher = TeacherCopy(self, self.objective.teacher)

    @torch.no_grad()
    def update_teacher(self, progress: Tensor, frozen: Tensor | None = None) -> None:
        """One step of the teacher's moving average, after an optimiser step.

        progress: 0-dim, as in the draws. frozen: 0-dim bool on the device; where it is true, the teacher stays.
        """
        if self.teacher is not None:
            self.teacher.update(self, progress, frozen)

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters of each part."""
        parts = {"tokenizer": self.tokenizer, "encoder": self.encoder, "objective": self.objective}
        return {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts.items()}

    def feature_parts(self) -> tuple[Tokenizer, Encoder]:
        """The tokenizer and the encoder that compute features: the teacher's where it has them and is evaluated."""
        if self.teacher is None or not self.teacher.ema.evaluate:
            return self.tokenizer, self.encoder
        parts = dict(self.teacher.parts.items())
        return parts.get("tokenizer", self.tokenizer), parts.get("encoder", self.encoder)  # type: ignore[return-value]

    @torch.no_grad()
    def embed(
        self,
        inputs: Mapping[str, Tensor],
        per_token: bool = False,
        layers: Sequence[int] | None = None,
        readout: str = "last",
    ) -> Tensor:
        """Features of whole rows: (B, D), or (B, L, D) with `per_token`. Call in eval mode.

        With `layers`, numbers of encoder layers from 1, the outputs of these layers side by side in place of the
        encoder's output. Without, the features of a read-out of `ssl_core.nn.readout`, which has its own width.

        Raises:
            ConfigError: If the encoder does not have one of the layers, or the read-out cannot be used.
        """
        tokenizer, encoder = self.feature_parts()
        tokens = tokenizer(inputs)
        if layers is None:
            try:
                return read_out(readout, encoder, tokens, per_token)
            except ValueError as error:
                raise ConfigError(f"evaluate.readout: {error}") from error
        try:
            outputs = encoder(tokens.embeddings, geometry=tokens.geometry, layers=layers)
        except ValueError as error:
            raise ConfigError(f"a probe reads layers that the encoder does not have: {error}") from error
        features = [part[:, 1:] if per_token else encoder.pool(part, tokens.valid) for part in outputs]
        return torch.cat(features, dim=-1)

    @torch.no_grad()
    def stages(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The tokenizer's output (B, L, D), the encoder's (B, L, D) and pooled features (B, D). Call in eval mode."""
        tokenizer, encoder = self.feature_parts()
        tokens = tokenizer(inputs)
        encoded = encoder(tokens.embeddings, geometry=tokens.geometry)
        return tokens.embeddings, encoded[:, 1:], encoder.pool(encoded, tokens.valid)

    @torch.no_grad()
    def halves(self, inputs: Mapping[str, Tensor], count: int, generator: torch.Generator) -> Tensor:
        """Pooled features of random halves of each row's valid tokens, (B, count, D). Call in eval mode.

        generator: one on the CPU.
        """
        tokenizer, encoder = self.feature_parts()
        tokens = tokenizer(inputs)
        shape, device = tokens.embeddings.shape[:2], tokens.embeddings.device
        valid = torch.ones(shape, dtype=torch.bool, device=device) if tokens.valid is None else tokens.valid
        kept = (valid.sum(dim=1, keepdim=True) + 1) // 2
        views = []
        for _ in range(count):
            order = torch.rand(shape, generator=generator).to(device).masked_fill(~valid, 2).argsort(dim=1)
            visible = order.argsort(dim=1) < kept
            encoded = encoder(tokens.embeddings, geometry=replace(tokens.geometry, valid=visible))
            views.append(encoder.pool(encoded, visible))
        return torch.stack(views, dim=1)

    @torch.no_grad()
    def raw(self, inputs: Mapping[str, Tensor], per_token: bool = False) -> Tensor:
        """The preprocessed, normalised input itself as features, (B, n), or (B, L, n): the baseline of a probe.

        The tokenizer's `raw` if it has one. Else patches as they are and ids one-hot, or counted per row if the
        vocabulary is larger than 64.
        """
        own = self.tokenizer.raw(inputs, per_token)
        if own is not None:
            return own
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
