"""MetaMAE: MAE as meta-learning (Jang et al., NeurIPS 2023; protocol sections 3.5 and 4.3).

The visible tokens are a task's support set, the hidden ones its query set. Four steps:

1. encode the visible tokens:              Z   = f(S)
2. adapt the latent to its own support:    Z*  = Z - alpha dL_in/dZ    (second order; only the decoder is involved)
3. rebuild the hidden tokens from Z*:      L_grad                      (eq. 2)
4. contrast Z with Z* against the batch:   L_con                       (eqs. 3, 4)
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
    gather_mask,
    gather_tokens,
    invert_permutation,
    masked_mean,
    mean_pool,
)


class MetaMAE(Objective):
    """Meta-learned masked autoencoder: adapt the latent to the visible tokens, rebuild the hidden, contrast tasks."""

    name = "metamae"
    default_masking = Choice("random", {"ratio": 0.85})
    min_batch_size = 2
    cross_sample_loss = True

    class Options(Objective.Options):
        """Options of MetaMAE, with the paper's symbols."""

        alpha: float = Field(0.5, gt=0, description="inner step size alpha (eq. 2; Tables 8, 11)")
        contrast_weight: float = Field(
            0.1, ge=0, description="weight lambda of the task contrast (eq. 5; Tables 8, 12)"
        )
        temperature: float = Field(0.5, gt=0, description="temperature tau of the task contrast (eq. 4; D27)")
        nearby_ratio: float = Field(0.1, ge=0, le=1, description="nearby ratio r: share of near tokens (Table 6)")
        nearby_count: Literal["near", "hidden"] = Field(
            "near",
            description="what r is a share of (D32): near = each hidden token next to a visible one with probability "
            "r, as the published code; hidden = r x the number of hidden tokens, as the paper's text",
        )
        inner_steps: int = Field(1, ge=1, description="gradient steps on the latent (Table 15)")
        inner_mean: Literal["batch", "sample"] = Field(
            "batch",
            description="inner loss (D34): batch = B x weighted mean over the batch, as the published code; "
            "sample = each sample's own weighted mean",
        )
        first_order: bool = Field(False, description="leave out the second derivative of the inner step")
        depth: int = Field(4, ge=1, description="decoder blocks n (Tables 7, 8, 13)")
        width: int = Field(128, ge=8, description="decoder width (Table 7: d_model 128)")
        heads: int = Field(4, ge=1, description="decoder attention heads (Table 7: h 4)")
        projector_hidden: int = Field(1024, ge=1, description="hidden width of the projector (D23)")
        projector_out: int = Field(128, ge=1, description="output width of the projector (Table 7)")

    def __init__(self, options: Options, layout: Layout, dim: int, maskings: Maskings) -> None:
        super().__init__(options, layout, dim, maskings)
        self.decoder = Decoder(
            layout, options.width, dim, options.depth, options.heads, double_backward=not options.first_order
        )
        self.head = ReconstructionHead(layout, dim, options.width)
        self.room, self.dense_room = (0, 0) if self.masking is None else self._rooms(self.masking)
        self.projector = nn.Sequential(  # torch's default initialisation (D24)
            nn.Linear(dim, options.projector_hidden, bias=False),
            nn.BatchNorm1d(options.projector_hidden),
            nn.ReLU(),
            nn.Linear(options.projector_hidden, options.projector_out, bias=False),
        )

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry) -> Draws:
        """The mask and the nearby tokens, as an order of places: visible | chosen nearby | other hidden.

        "visible" (B, V), "order" (B, L), "support" (B, V + K) weights 1 or 0 of the first places. K is the room for
        nearby tokens: fixed, so that shapes are, but for a batch that overflows it, which gets all the room there is.
        """
        assert self.masking is not None, "MetaMAE needs a masking"
        mask = self.masking(batch, generator, geometry)
        near = geometry.dilate(~mask.hidden, self.layout) & mask.hidden
        if geometry.valid is not None:
            near &= geometry.valid
        lot = torch.rand(mask.hidden.shape, generator=generator)
        if self.options.nearby_count == "near":
            chosen = near & (lot < self.options.nearby_ratio)
        else:
            wanted = round(self.options.nearby_ratio * (mask.hidden.shape[1] - mask.visible.shape[1]))
            rank = torch.where(near, lot, 2.0).argsort(dim=1).argsort(dim=1)
            chosen = near & (rank < wanted)
        group = torch.where(mask.hidden, torch.where(chosen, 1, 2), 0)
        order = group.argsort(dim=1, stable=True)
        support = (group.gather(1, order) < 2).float()
        room = self.room if geometry.neighbours is None else self.dense_room
        overflows = int(chosen.sum(dim=1).max()) > room
        size = self.layout.length if overflows else mask.visible.shape[1] + room
        return {"visible": order[:, : mask.visible.shape[1]], "order": order, "support": support[:, :size].contiguous()}

    def _rooms(self, masking: Masking) -> tuple[int, int]:
        """Counts of nearby tokens that one row in ten million exceeds: on the grid, and for any neighbours."""
        from scipy.stats import binom  # takes a second to import

        mask = masking(256, torch.Generator().manual_seed(0))
        hidden = int(mask.hidden[0].sum())
        if self.options.nearby_count == "hidden":
            most = round(self.options.nearby_ratio * hidden)
            return most, most
        near = self.layout.dilate(~mask.hidden) & mask.hidden
        most = min(hidden, math.ceil(1.25 * int(near.sum(dim=1).max())))  # a margin for rows that are yet to come
        room, dense = (int(binom.ppf(1 - 1e-7, count, self.options.nearby_ratio)) for count in (most, hidden))
        return room, dense

    def forward(self, tokens: Tokens, encoder: Encoder, draws: Draws) -> Outcome:
        """The loss of eq. 5 and its two parts."""
        visible, order = draws["visible"], draws["order"]
        hidden = slice(visible.shape[1], None)
        valid = gather_mask(tokens.valid, visible)
        latent = encoder(gather_tokens(tokens.embeddings, visible), visible, tokens.geometry)
        adapted = self.adapt(latent, tokens, order, draws["support"])
        decoded = self.decoder(adapted, order, hidden, tokens.geometry, needs_double_backward=False)
        errors = self.head.errors(decoded, tokens.targets, order[:, hidden])
        counted = gather_mask(tokens.valid, order[:, hidden])
        where = torch.ones_like(errors) if counted is None else counted
        rebuilt = masked_mean(errors, where, self.layout, order[:, hidden])
        if self.options.contrast_weight == 0:
            return Outcome(rebuilt, {"reconstruction": rebuilt.detach()})
        contrast = self.contrast(latent, adapted, valid)
        loss = rebuilt + self.options.contrast_weight * contrast
        return Outcome(loss, {"reconstruction": rebuilt.detach(), "contrast": contrast.detach()})

    def adapt(self, latent: Tensor, tokens: Tokens, order: Tensor, support: Tensor) -> Tensor:
        """Z* of eq. 2: gradient steps on the latent (B, 1 + V, D), cls token included (D30)."""
        descent = torch.func.grad(lambda z: self.inner_loss(z, tokens, order, support))
        adapted = latent
        for _ in range(self.options.inner_steps):
            step = descent(adapted)
            adapted = adapted - self.options.alpha * (step.detach() if self.options.first_order else step)
        return adapted

    def inner_loss(self, latent: Tensor, tokens: Tokens, order: Tensor, support: Tensor) -> Tensor:
        """How badly the latent rebuilds its support set: visible and chosen nearby tokens (D31, D34)."""
        rows = slice(0, support.shape[1])
        position_ids = order[:, rows]
        errors = self.head.errors(self.decoder(latent, order, rows, tokens.geometry), tokens.targets, position_ids)
        counted = gather_mask(tokens.valid, position_ids)
        support = support if counted is None else support * counted
        if self.options.inner_mean == "batch":
            return len(errors) * masked_mean(errors, support, self.layout, position_ids)
        each = [
            masked_mean(errors[i : i + 1], support[i : i + 1], self.layout, position_ids[i : i + 1])
            for i in range(len(position_ids))
        ]
        return torch.stack(each).sum()

    def contrast(self, latent: Tensor, adapted: Tensor, valid: Tensor | None = None) -> Tensor:
        """Eqs. 3, 4: each pooled latent finds its adapted twin among the 2B - 1 others (D25, D26, D28, D29)."""
        before, after = (self.projector(mean_pool(z[:, 1:], valid)) for z in (latent, adapted))
        with torch.autocast(before.device.type, enabled=False):  # the logits stay in fp32
            both = torch.cat([before, after]).to(torch.promote_types(before.dtype, torch.float32))
            both = F.normalize(both, dim=1)
            similar = both @ both.T / self.options.temperature
        itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
        twin = torch.arange(len(both), device=both.device).roll(len(both) // 2)
        return F.cross_entropy(similar.masked_fill(itself, -torch.inf), twin)

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
