"""Samples and reconstructions of an objective as arrays for pictures: originals, their visible part, predictions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ssl_core.contracts import Tokenizer
from ssl_core.data import Batch
from ssl_core.report.reconstruction import Reconstruction, SegmentValues, Sound
from ssl_core.tokens import ContinuousTarget, Tokens
from ssl_core.training.learner import Learner
from ssl_core.utils.seeds import generator


@torch.no_grad()
def rebuild(learner: Learner, batch: Batch, seed: int, sounds: int = 0) -> list[Reconstruction]:
    """Reconstructions of a few samples; an empty list for an objective that reconstructs nothing.

    Args:
        learner: tokenizer, encoder and objective.
        batch: the samples.
        seed: seed of the masks.
        sounds: number of samples, the first ones, whose reconstruction is turned into sound where that is possible.
    """
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
    return list(_segments(learner.tokenizer, tokens, predictions, hidden, sounds))


def _segments(
    tokenizer: Tokenizer, tokens: Tokens, predictions: list[Tensor], hidden: Tensor, sounds: int
) -> Iterator[Reconstruction]:  # fmt: skip
    for number, (segment, span) in enumerate(tokenizer.layout.spans):
        is_hidden = hidden[:, span]
        target = tokens.targets[number]
        rebuilt: dict[int, Sound] = {}
        if isinstance(target, ContinuousTarget):
            target_values = target.patches.float()
            parts = [
                target_values,
                target_values.masked_fill(is_hidden.unsqueeze(-1), torch.nan),
                torch.where(is_hidden.unsqueeze(-1), predictions[number].float(), target_values),
            ]
            pictures = [tokenizer.to_image(number, part) for part in parts]
            original, masked, reconstruction = (
                _numpy(part if picture is None else picture) for part, picture in zip(parts, pictures, strict=True)
            )
            rebuilt = sounds_of(tokenizer, number, parts[2][:sounds])
        else:
            ids = target.ids
            predicted = torch.where(is_hidden, predictions[number].argmax(-1), ids)
            original = texts_of(tokenizer, number, ids)
            masked = np.where(_numpy(is_hidden), "" if original.dtype.kind == "U" else -1, original)
            reconstruction = texts_of(tokenizer, number, predicted)
        yield Reconstruction(
            segment.name, segment.target, segment.grid, original, masked, reconstruction, _numpy(is_hidden),
            valid_of(tokens, span), tokenizer.picture_style(number), rebuilt=rebuilt,
        )  # fmt: skip


def sounds_of(tokenizer: Tokenizer, segment: int, patches: Tensor) -> dict[int, Sound]:
    """The sound of each row of patches, by row; empty where patches are no sound."""
    sound = tokenizer.to_audio(segment, patches) if len(patches) else None
    return {} if sound is None else {row: (wave, sound[1]) for row, wave in enumerate(sound[0])}


def texts_of(tokenizer: Tokenizer, segment: int, ids: Tensor) -> np.ndarray:
    """Ids (B, Ls) as an array of text, or as they are if the tokenizer has no text for them."""
    texts = tokenizer.to_text(segment, ids)
    return _numpy(ids) if texts is None else np.array(texts, dtype=np.str_)


def valid_of(tokens: Tokens, span: slice) -> np.ndarray | None:
    """(B, Ls) bool, the tokens of a segment that hold data; None if all do."""
    valid = tokens.geometry.valid
    return None if valid is None else _numpy(valid[:, span])


@torch.no_grad()
def sample_values(learner: Learner, batch: Batch) -> list[SegmentValues]:
    """Samples as they are, for pictures."""
    learner.eval()
    tokenizer = learner.tokenizer
    tokens: Tokens = tokenizer(batch.to(next(learner.parameters()).device).inputs)
    values = []
    for number, (segment, span) in enumerate(tokenizer.layout.spans):
        target = tokens.targets[number]
        if isinstance(target, ContinuousTarget):
            patches = target.patches.float()
            image = tokenizer.to_image(number, patches)
            array = _numpy(patches if image is None else image)
        else:
            array = texts_of(tokenizer, number, target.ids)
        style = tokenizer.picture_style(number)
        values.append(SegmentValues(segment.name, segment.target, segment.grid, array, valid_of(tokens, span), style))
    return values


def _numpy(value: Tensor) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().numpy()
    return array
