"""Reconstructions of an objective as arrays for pictures: the original, its visible part, the reconstruction."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ssl_core.data import Batch
from ssl_core.report.reconstruction import Reconstruction
from ssl_core.tokens import ContinuousTarget
from ssl_core.training.learner import Learner
from ssl_core.utils.seeds import generator


@torch.no_grad()
def rebuild(learner: Learner, batch: Batch, seed: int) -> list[Reconstruction]:
    """Reconstructions of a few samples; an empty list for an objective that reconstructs nothing."""
    learner.eval()
    device = next(learner.parameters()).device
    draws = learner.draw(len(batch), generator(seed, "pictures"), learner.tokenizer.geometry(batch.inputs))
    draws = {name: value.to(device) for name, value in draws.items()}
    tokens = learner.tokenizer(batch.to(device).inputs)
    predictions = learner.objective.reconstruct(tokens, learner.encoder, draws)
    if predictions is None or "visible" not in draws:
        return []
    shape = (len(batch), learner.tokenizer.layout.length)
    hidden = torch.ones(shape, dtype=torch.bool, device=device).scatter(1, draws["visible"], False)
    return list(_segments(learner, tokens.targets, predictions, hidden))


def _segments(
    learner: Learner, targets: tuple[object, ...], predictions: list[Tensor], hidden: Tensor
) -> Iterator[Reconstruction]:
    for number, (segment, span) in enumerate(learner.tokenizer.layout.spans):
        is_hidden = hidden[:, span]
        target = targets[number]
        if isinstance(target, ContinuousTarget):
            target_values = target.patches.float()
            parts = [
                target_values,
                target_values.masked_fill(is_hidden.unsqueeze(-1), torch.nan),
                torch.where(is_hidden.unsqueeze(-1), predictions[number].float(), target_values),
            ]
            pictures = [learner.tokenizer.to_image(number, part) for part in parts]
            arrays = [part if picture is None else picture for part, picture in zip(parts, pictures, strict=True)]
        else:
            target_values = target.ids  # type: ignore[attr-defined]
            arrays = [
                target_values,
                target_values.masked_fill(is_hidden, -1),
                torch.where(is_hidden, predictions[number].argmax(-1), target_values),
            ]
        original, masked, reconstruction = (part.cpu().numpy() for part in arrays)
        yield Reconstruction(
            segment.name, segment.target, segment.grid, original, masked, reconstruction, is_hidden.cpu().numpy()
        )
