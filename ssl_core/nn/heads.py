"""Predictions compared with targets: the only module that depends on the kind of a target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core.nn.distributed import batch_total, weighted_mean
from ssl_core.nn.indexing import all_position_ids, gather_targets, gather_tokens
from ssl_core.nn.transformer import ACTIVATIONS, LAYER_NORM_EPS, Activation, initialise
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Layout, Target

PATCH_EPS = 1e-6  # added to the variance of a patch, as in MAE's published code


class OutputMLP(nn.Module):
    """LayerNorm, `depth` layers of linear map, activation and LayerNorm with a residual from the second on, linear map.

    As in M3AE's published code. (B, n, width) to (B, n, size).
    """

    def __init__(self, width: int, size: int, depth: int, act: Activation, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=norm_eps) for _ in range(depth))
        self.act: nn.Module = ACTIVATIONS[act]()
        self.out = nn.Linear(width, size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, n, width)."""
        x = self.norm(x)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            y = norm(self.act(layer(x)))
            x = x + y if number else y
        out: Tensor = self.out(x)
        return out


class ReconstructionHead(nn.Module):
    """Predicts each token's target and scores the prediction.

    A continuous segment: a linear map to the patch, scored by the mean squared error over the patch. A discrete
    segment: a linear map to the encoder's width and the inner product with the live embedding table, scored by
    cross-entropy. A segment with a `score` of its own is scored by that.

    Args:
        layout: The layout of whole rows.
        dim: Width of the encoder.
        width: Width of the hidden vectors that are passed in.
        tied: Predict ids with the embedding table. If False, a linear map to the vocabulary does (M3AE).
        depth: Layers of an MLP before each linear map, see `OutputMLP` (M3AE); 0 for none.
        act: Activation of these layers.
        norm_eps: Epsilon of their LayerNorms.
    """

    def __init__(
        self,
        layout: Layout,
        dim: int,
        width: int,
        tied: bool = True,
        *,
        depth: int = 0,
        act: Activation = "gelu",
        norm_eps: float = LAYER_NORM_EPS,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.tied = tied
        sizes = [dim if tied and s.target == "discrete" else s.size for s in layout.segments]
        self.maps = nn.ModuleList(
            OutputMLP(width, size, depth, act, norm_eps) if depth else nn.Linear(width, size) for size in sizes
        )
        initialise(self)

    def errors(self, hidden: Tensor, targets: Sequence[Target], position_ids: Tensor | None = None) -> Tensor:
        """One error per token, (B, n), in fp32 whatever the autocast.

        Args:
            hidden: (B, n, width), the vectors of the tokens at `position_ids`, in any order.
            targets: One for each segment.
            position_ids: (B, n) long; by default whole rows, n = L.
        """
        if position_ids is None:
            position_ids = all_position_ids(hidden.shape[0], self.layout.length, hidden.device)
        if len(targets) == 1:
            return self._score(0, hidden, _gather_target(targets[0], position_ids))
        out = hidden.new_zeros(position_ids.shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
        for number, (segment, span) in enumerate(self.layout.spans):
            # The number of tokens in a segment differs from row to row. Each row contributes the largest possible
            # number, its own tokens first, so that shapes are fixed; the rest count nothing.
            inside = (position_ids >= span.start) & (position_ids < span.stop)
            first = inside.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            first = first[:, : min(position_ids.shape[1], segment.length)]
            within = (position_ids.gather(1, first) - span.start).clamp(0, segment.length - 1)
            errors = self._score(number, gather_tokens(hidden, first), _gather_target(targets[number], within))
            counted = torch.where(inside.gather(1, first), errors.to(out.dtype), 0.0)
            out = out.scatter_add(1, first, counted)
        return out

    def predict(self, hidden: Tensor, targets: Sequence[Target]) -> list[Tensor]:
        """Predictions for whole rows (B, L, width): for each segment patches or logits (B, Ls, size)."""
        return [self._predict(i, hidden[:, span], targets[i]) for i, (_, span) in enumerate(self.layout.spans)]

    def _predict(self, number: int, hidden: Tensor, target: Target) -> Tensor:
        mapped = self.maps[number](hidden)
        if isinstance(target, ContinuousTarget) or not self.tied:
            return mapped
        return mapped @ target.table.to(mapped.dtype).T

    def _score(self, number: int, hidden: Tensor, target: Target) -> Tensor:
        return score_prediction(self.layout, number, self._predict(number, hidden, target), target)


def score_prediction(layout: Layout, number: int, prediction: Tensor, target: Target) -> Tensor:
    """The error of each token of segment `number`, (B, n), at least in fp32.

    The segment's own score if it has one; else the mean squared error over the patch, or the cross-entropy.
    prediction: (B, n, size).
    """
    score = layout.segments[number].score
    prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
    if score is not None:
        return score(prediction, target.patches if isinstance(target, ContinuousTarget) else target.ids)
    if isinstance(target, ContinuousTarget):
        return (prediction - target.patches).square().mean(dim=-1)
    errors = F.cross_entropy(prediction.flatten(0, -2), target.ids.flatten(), reduction="none")
    return errors.view(target.ids.shape)


def _gather_target(target: Target, position_ids: Tensor) -> Target:
    """The target of the tokens at positions within the segment."""
    if isinstance(target, ContinuousTarget):
        gather = gather_tokens if target.patches.requires_grad else gather_targets
        return ContinuousTarget(gather(target.patches, position_ids))
    return DiscreteTarget(target.ids.gather(1, position_ids), target.table)


def patch_moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch (..., size), each (..., 1): unbiased, with 1e-6 added to the variance (MAE)."""
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + PATCH_EPS).sqrt()


def normalise_targets(layout: Layout, targets: Sequence[Target]) -> list[Target]:
    """Targets with each continuous patch normalised by its own mean and deviation (MAE).

    Ids, and segments with a score of their own, stay as they are.
    """
    out: list[Target] = []
    for segment, target in zip(layout.segments, targets, strict=True):
        if isinstance(target, ContinuousTarget) and segment.score is None:
            mean, std = patch_moments(target.patches)
            target = ContinuousTarget((target.patches - mean) / std)
        out.append(target)
    return out


def restore_patches(layout: Layout, predictions: Sequence[Tensor], targets: Sequence[Target]) -> list[Tensor]:
    """Predictions (B, Ls, size) of normalised targets in the unit of the targets: the inverse of `normalise_targets`.

    Mean and deviation of each patch are those of the target, as in MAE's pictures.
    """
    out = []
    for segment, prediction, target in zip(layout.segments, predictions, targets, strict=True):
        if isinstance(target, ContinuousTarget) and segment.score is None:
            mean, std = patch_moments(target.patches)
            prediction = prediction * std + mean
        out.append(prediction)
    return out


def masked_mean(
    errors: Tensor, where: Tensor, layout: Layout, position_ids: Tensor | None = None, whole_batch: bool = True
) -> Tensor:
    """Weighted mean over the batch within each segment, then over the segments that have any weight. A scalar.

    errors: (B, n). where: (B, n), bool or weights. position_ids: (B, n) of the errors; by default whole rows.
    whole_batch: over the rows of all processes; False for these rows alone.
    """
    weights = where.to(errors.dtype)
    if len(layout.segments) == 1:
        return weighted_mean(errors, weights, whole_batch)
    if position_ids is None:
        position_ids = all_position_ids(errors.shape[0], errors.shape[1], errors.device)
    inside = [weights * ((position_ids >= span.start) & (position_ids < span.stop)) for _, span in layout.spans]
    means = torch.stack([weighted_mean(errors, part, whole_batch) for part in inside])
    totals = torch.stack([part.sum() for part in inside])
    segments = ((batch_total(totals) if whole_batch else totals) > 0).to(errors.dtype)
    return means.sum() / segments.sum().clamp(min=1)
