"""Predictions compared with targets: the only place that looks at the kind of a target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core.nn.indexing import all_position_ids, gather_targets, gather_tokens
from ssl_core.nn.transformer import initialise
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Layout, Target


class ReconstructionHead(nn.Module):
    """Predicts each token's target and scores it.

    A "continuous" segment: a linear map to the patch, scored by the mean square over the patch. A "discrete" segment: a
    linear map to the encoder's width and the inner product with the live embedding table, scored by cross-entropy; not
    `tied`: a linear map to the vocabulary, which leaves the table alone (M3AE).
    `dim` is the encoder's width, `width` that of the hidden vectors handed in.
    """

    def __init__(self, layout: Layout, dim: int, width: int, tied: bool = True) -> None:
        super().__init__()
        self.layout = layout
        self.tied = tied
        self.maps = nn.ModuleList(
            nn.Linear(width, dim if tied and segment.target == "discrete" else segment.size)
            for segment in layout.segments
        )
        initialise(self)

    def errors(self, hidden: Tensor, targets: Sequence[Target], position_ids: Tensor | None = None) -> Tensor:
        """One error per token, (B, n), in fp32 whatever the autocast.

        hidden: (B, n, width) for the places `at` (B, n) of the rows, in any order; by default for whole rows, n = L.
        """
        if position_ids is None:
            position_ids = all_position_ids(hidden.shape[0], self.layout.length, hidden.device)
        if len(targets) == 1:
            return self._score(0, hidden, self._pick(targets[0], position_ids))
        out = hidden.new_zeros(position_ids.shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
        for number, (segment, span) in enumerate(self.layout.spans):
            # how many of a row's places lie in a segment differs from row to row; so that shapes do not, each row gives
            # as many as there could be, its own first, and what fills it up counts nothing
            mine = (position_ids >= span.start) & (position_ids < span.stop)
            first = mine.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            first = first[:, : min(position_ids.shape[1], segment.length)]
            place = (position_ids.gather(1, first) - span.start).clamp(0, segment.length - 1)
            scored = self._score(number, gather_tokens(hidden, first), self._pick(targets[number], place)).to(out.dtype)
            out = out.scatter_add(1, first, torch.where(mine.gather(1, first), scored, 0.0))
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
        predicted = self._predict(number, hidden, target)
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        if isinstance(target, ContinuousTarget):
            return (predicted - target.patches).square().mean(dim=-1)
        return F.cross_entropy(predicted.flatten(0, -2), target.ids.flatten(), reduction="none").view(target.ids.shape)

    @staticmethod
    def _pick(target: Target, position_ids: Tensor) -> Target:
        if isinstance(target, ContinuousTarget):
            return ContinuousTarget(
                (gather_tokens if target.patches.requires_grad else gather_targets)(target.patches, position_ids)
            )
        return DiscreteTarget(target.ids.gather(1, position_ids), target.table)


def masked_mean(errors: Tensor, where: Tensor, layout: Layout, position_ids: Tensor | None = None) -> Tensor:
    """Weighted mean over the batch within each segment, then over the segments that have any weight. A scalar.

    errors: (B, n); where: (B, n), bool or weights; at: (B, n) places of the errors, by default whole rows.
    """
    weights = where.to(errors.dtype)
    if len(layout.segments) == 1:
        return _mean(weights, errors)
    if position_ids is None:
        position_ids = all_position_ids(errors.shape[0], errors.shape[1], errors.device)
    means, valid = [], []
    for _, span in layout.spans:
        mine = weights * ((position_ids >= span.start) & (position_ids < span.stop))
        means.append(_mean(mine, errors))
        valid.append((mine.sum() > 0).to(errors.dtype))
    return torch.stack(means).sum() / torch.stack(valid).sum().clamp(min=1)


def _mean(weights: Tensor, errors: Tensor) -> Tensor:
    """The weighted mean; 0 without any weight, with finite derivatives."""
    total = weights.sum()
    return (weights * errors).sum() / torch.where(total > 0, total, 1.0)
