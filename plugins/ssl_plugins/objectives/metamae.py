"""MetaMAE: MAE as meta-learning (Jang et al., NeurIPS 2023). See docs/methods/metamae.md.

The visible tokens of a sample are the support set of a task, its hidden tokens the query set.

1. encode the visible tokens:              Z   = f(S)
2. adapt the latent to the support set:    Z*  = Z - alpha dL_in/dZ    (second order, through the decoder)
3. reconstruct hidden tokens from Z*:       L_grad                      (eq. 2)
4. contrast Z and Z* within the batch:      L_con                       (eqs. 3, 4)
   loss = L_grad + lambda L_con                                        (eq. 5)
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import Choice, Draws, Geometry, Layout, Masking, Maskings, Objective, Outcome, Tokens, hookimpl
from ssl_core.nn import (
    Decoder,
    Encoder,
    ReconstructionHead,
    gather_batch,
    gather_mask,
    gather_tokens,
    invert_permutation,
    masked_mean,
    mean_pool,
)


class MetaMAE(Objective):
    """Meta-learned masked autoencoder: adapt the latent to visible tokens, reconstruct hidden ones, contrast tasks."""

    name = "metamae"
    default_masking = Choice("random", {"ratio": 0.85})
    min_batch_size = 2
    cross_sample_loss = True

    class Options(Objective.Options):
        """Options of MetaMAE. Equations and tables are those of the paper."""

        alpha: float = Field(0.5, gt=0, description="inner step size alpha (eq. 2; Tables 8, 11)")
        contrast_weight: float = Field(
            0.1, ge=0, description="weight lambda of the task contrast (eq. 5; Tables 8, 12)"
        )
        temperature: float = Field(0.5, gt=0, description="temperature tau of the task contrast (eq. 4; appendix A)")
        nearby_ratio: float = Field(0.1, ge=0, le=1, description="nearby ratio r: share of nearby tokens (Table 6)")
        nearby_count: Literal["near", "hidden"] = Field(
            "near",
            description="near = choose each hidden token next to a visible one with probability r, as in the published "
            "code; hidden = choose r times the number of hidden tokens, as in the paper's text",
        )
        inner_steps: int = Field(1, ge=1, description="gradient steps on the latent (Table 15)")
        inner_mean: Literal["batch", "sample"] = Field(
            "batch",
            description="inner loss: batch = B times the weighted mean over the batch, as in the published code; "
            "sample = the sum of each sample's weighted mean",
        )
        first_order: bool = Field(False, description="ignore the second derivative of the inner step")
        depth: int = Field(4, ge=1, description="decoder blocks n (Tables 7, 8, 13)")
        width: int = Field(128, ge=8, description="decoder width (Table 7: d_model 128)")
        heads: int = Field(4, ge=1, description="decoder attention heads (Table 7: h 4)")
        projector_hidden: int = Field(
            1024, ge=1, description="hidden width of the projector (value of the published code)"
        )
        projector_out: int = Field(128, ge=1, description="output width of the projector (Table 7)")

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.decoder = Decoder(
            layout, options.width, dim, options.depth, options.heads, double_backward=not options.first_order
        )
        self.head = ReconstructionHead(layout, dim, options.width)
        self.max_nearby, self.max_nearby_dense = (0, 0) if self.masking is None else self._nearby_limits(self.masking)
        self.projector = nn.Sequential(  # PyTorch's default initialisation, as in the published code
            nn.Linear(dim, options.projector_hidden, bias=False),
            nn.BatchNorm1d(options.projector_hidden),
            nn.ReLU(),
            nn.Linear(options.projector_hidden, options.projector_out, bias=False),
        )

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """ "order" (B, L), position ids of visible, then chosen nearby, then other hidden tokens.

        "visible" (B, V) are the first V of them. "support" (B, V + K) has weight 1 for visible and chosen nearby tokens
        and 0 otherwise. K is fixed, so that shapes are. If a row has more than K nearby tokens, "support" is (B, L).
        """
        assert self.masking is not None, "MetaMAE needs a masking"
        mask = self.masking(batch, generator, geometry)
        shown, hidden = ~mask.hidden, mask.hidden
        if geometry.valid is not None:  # padding is no neighbour of what is hidden, and is not hidden
            shown, hidden = shown & geometry.valid, hidden & geometry.valid
        near = geometry.dilate(shown, self.layout) & hidden
        noise = torch.rand(mask.hidden.shape, generator=generator)
        if self.options.nearby_count == "near":
            chosen = near & (noise < self.options.nearby_ratio)
        else:
            count = (self.options.nearby_ratio * hidden.sum(dim=1, keepdim=True).double()).round()
            rank = torch.where(near, noise, 2.0).argsort(dim=1).argsort(dim=1)
            chosen = near & (rank < count)
        group = torch.where(mask.hidden, torch.where(chosen, 1, 2), 0)
        order = group.argsort(dim=1, stable=True)
        support = (group.gather(1, order) < 2).float()
        limit = self.max_nearby if geometry.neighbours is None else self.max_nearby_dense
        overflows = int(chosen.sum(dim=1).max()) > limit
        size = self.layout.length if overflows else mask.visible.shape[1] + limit
        return {"visible": order[:, : mask.visible.shape[1]], "order": order, "support": support[:, :size].contiguous()}

    def _nearby_limits(self, masking: Masking) -> tuple[int, int]:
        """Counts of nearby tokens that one row in ten million exceeds: on the grid, and with any neighbours."""
        from scipy.stats import binom  # imported here because it takes a second

        mask = masking(256, torch.Generator().manual_seed(0))
        hidden = int(mask.hidden[0].sum())
        if self.options.nearby_count == "hidden":
            limit = round(self.options.nearby_ratio * hidden)
            return limit, limit
        near = self.layout.dilate(~mask.hidden) & mask.hidden
        most = min(hidden, math.ceil(1.25 * int(near.sum(dim=1).max())))  # with a margin: 256 rows are a sample
        grid, dense = (int(binom.ppf(1 - 1e-7, count, self.options.nearby_ratio)) for count in (most, hidden))
        return grid, dense

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """The loss of eq. 5 and its two terms."""
        visible, order = draws["visible"], draws["order"]
        hidden = slice(visible.shape[1], None)
        valid = gather_mask(tokens.valid, visible)
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        adapted = self.adapt(latent, tokens, order, draws["support"])
        decoded = self.decoder(adapted, order, hidden, tokens.geometry, needs_double_backward=False)
        errors = self.head.errors(decoded, tokens.targets, order[:, hidden])
        counted = gather_mask(tokens.valid, order[:, hidden])
        where = torch.ones_like(errors) if counted is None else counted
        reconstruction = masked_mean(errors, where, self.layout, order[:, hidden])
        if self.options.contrast_weight == 0:
            return Outcome(reconstruction, {"reconstruction": reconstruction.detach()})
        contrast = self.contrast(latent, adapted, valid)
        loss = reconstruction + self.options.contrast_weight * contrast
        return Outcome(loss, {"reconstruction": reconstruction.detach(), "contrast": contrast.detach()})

    def adapt(self, latent: Tensor, tokens: Tokens, order: Tensor, support: Tensor) -> Tensor:
        """Z* of eq. 2: gradient steps on the latent (B, 1 + V, D), including the cls token."""
        gradient = torch.func.grad(lambda z: self.inner_loss(z, tokens, order, support))
        adapted = latent
        for _ in range(self.options.inner_steps):
            step = gradient(adapted)
            adapted = adapted - self.options.alpha * (step.detach() if self.options.first_order else step)
        return adapted

    def inner_loss(self, latent: Tensor, tokens: Tokens, order: Tensor, support: Tensor) -> Tensor:
        """Reconstruction error of the support set, the visible and chosen nearby tokens (eq. 2)."""
        rows = slice(0, support.shape[1])
        position_ids = order[:, rows]
        errors = self.head.errors(self.decoder(latent, order, rows, tokens.geometry), tokens.targets, position_ids)
        counted = gather_mask(tokens.valid, position_ids)
        support = support if counted is None else support * counted
        if self.options.inner_mean == "batch":
            return len(errors) * masked_mean(errors, support, self.layout, position_ids)
        each = [
            masked_mean(errors[i : i + 1], support[i : i + 1], self.layout, position_ids[i : i + 1], whole_batch=False)
            for i in range(len(position_ids))
        ]
        return torch.stack(each).sum()

    def contrast(self, latent: Tensor, adapted: Tensor, valid: Tensor | None = None) -> Tensor:
        """Eqs. 3 and 4, a contrastive loss: each latent against its adapted latent among 2B - 1 candidates."""
        # the whole batch in each process: the projector's BatchNorm and the contrast need it
        before, after = (self.projector(gather_batch(mean_pool(z[:, 1:], valid))) for z in (latent, adapted))
        with torch.autocast(before.device.type, enabled=False):  # logits at least in fp32
            both = torch.cat([before, after]).to(torch.promote_types(before.dtype, torch.float32))
            both = F.normalize(both, dim=1)
            logits = both @ both.T / self.options.temperature
        diagonal = torch.eye(len(both), dtype=torch.bool, device=both.device)
        positive = torch.arange(len(both), device=both.device).roll(len(both) // 2)
        return F.cross_entropy(logits.masked_fill(diagonal, -torch.inf), positive)

    def reconstruct(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> list[Tensor]:
        """Predictions for whole rows from the adapted latent."""
        visible, order = draws["visible"], draws["order"]
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        adapted = self.adapt(latent, tokens, order, draws["support"])
        decoded = self.decoder(adapted, order, geometry=tokens.geometry)
        return self.head.predict(gather_tokens(decoded, invert_permutation(order)), tokens.targets)


@hookimpl
def register_objectives() -> list[type[Objective]]:
    return [MetaMAE]
