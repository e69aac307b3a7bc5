"""What an objective rebuilds, as arrays for pictures: originals, what was visible of them, reconstructions."""

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
    """Reconstructions of a few samples; an empty list for an objective that rebuilds nothing."""
    learner.eval()
    device = next(learner.parameters()).device
    drawn = learner.objective.draw(len(batch), generator(seed, "pictures"))
    draws = {name: value.to(device) for name, value in drawn.items()}
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
        gone = hidden[:, span]
        target = targets[number]
        if isinstance(target, ContinuousTarget):
            known = target.patches.float()
            parts = [
                known,
                known.masked_fill(gone.unsqueeze(-1), torch.nan),
                torch.where(gone.unsqueeze(-1), predictions[number].float(), known),
            ]
            depicted = [learner.tokenizer.to_image(number, part) for part in parts]
            shown = [part if picture is None else picture for part, picture in zip(parts, depicted, strict=True)]
        else:
            known = target.ids  # type: ignore[attr-defined]
            shown = [known, known.masked_fill(gone, -1), torch.where(gone, predictions[number].argmax(-1), known)]
        original, masked, reconstruction = (part.cpu().numpy() for part in shown)
        yield Reconstruction(
            segment.name, segment.target, segment.grid, original, masked, reconstruction, gone.cpu().numpy()
        )
