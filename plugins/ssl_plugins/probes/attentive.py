"""Attentive probe: tokens pooled by cross-attention of one learned query, then a linear layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import Predictor, Probe, Task, hookimpl

ABSENT_CLASS_SCORE = -1e9  # of a class without training rows, which is never predicted
PREDICT_BATCH = 256
LOSSES: dict[str, Callable[..., Tensor]] = {
    "classes": F.cross_entropy, "labels": F.binary_cross_entropy_with_logits, "number": F.mse_loss,
}  # fmt: skip


class AttentivePool(nn.Module):
    """Cross-attention of one learned query over the tokens of a row, then a linear layer.

    Let q be the query of a head and W its key projection, (D, d). The logit of a token x is (W q)·x / sqrt(d), and the
    value projection applies to the weighted mean of the tokens. So keys and values of single tokens are not computed.
    Keys have no bias, since it cancels in the softmax. Tokens are standardised first.

    Args:
        mean: (D,) mean of the training tokens.
        std: (D,) their standard deviation.
        heads: Number of heads H.
        head_dim: Width d of a head.
        outputs: Width of the prediction.
        generator: Source of the initial weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Tensor, std: Tensor, heads: int, head_dim: int, outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        shape = (heads, len(mean), head_dim)
        self.query = nn.Parameter(torch.randn(heads, head_dim, generator=generator))
        self.key = nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(len(mean)))
        self.value = nn.Parameter(torch.randn(shape, generator=generator) / math.sqrt(len(mean)))
        self.value_bias = nn.Parameter(torch.zeros(heads, head_dim))
        self.weight = nn.Parameter(torch.zeros(outputs, heads * head_dim))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, L, D) to predictions (n, outputs)."""
        valid = valid_tokens(tokens)
        tokens = (tokens - self.mean) / self.std
        query = torch.einsum("hwd,hd->hw", self.key, self.query) / math.sqrt(self.query.shape[1])
        logits = (tokens @ query.T).masked_fill(~valid.unsqueeze(-1), -torch.inf)
        pooled = logits.softmax(dim=1).transpose(1, 2) @ tokens  # (n, H, D)
        values = torch.einsum("nhw,hwd->nhd", pooled, self.value) + self.value_bias
        return F.linear(values.flatten(1), self.weight, self.bias)


def valid_tokens(tokens: Tensor) -> Tensor:
    """Which tokens hold data, (n, L) bool: features of padding are zero. A row of zeros counts with all its tokens."""
    valid = (tokens != 0).any(dim=-1)
    return valid | ~valid.any(dim=1, keepdim=True)


class AttentiveProbe(Probe):
    """Cross-attention of a learned query over frozen tokens, then a linear layer, trained with AdamW.

    Attentive probing is used by Context Autoencoders (Chen et al., 2022) and V-JEPA (Bardes et al., 2024). This head
    is smaller than theirs: `heads` queries of width `head_dim`, and no MLP.
    """

    name = "attentive"
    per_token = True
    evaluate_options = ("seed",)

    class Options(Probe.Options):
        """Options of the attentive probe: `--set 'evaluate.probe_options.attentive.epochs=20'`."""

        layers: tuple[int, ...] | None = Field(
            None, min_length=1, description="encoder blocks to read, counted from 1; none = the encoder's output"
        )
        heads: int = Field(4, ge=1, description="attention heads")
        head_dim: int = Field(16, ge=1, description="width of a head")
        epochs: int = Field(30, ge=1, description="most passes over the training rows")
        patience: int = Field(5, ge=1, description="epochs without a lower held-out loss before training stops")
        held_out: float = Field(0.1, gt=0, lt=1, description="share of the training samples for early stopping")
        batch_size: int = Field(32, ge=1, description="rows in a batch")
        lr: float = Field(3e-3, gt=0, description="learning rate of AdamW")
        weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
        seed: int = Field(0, description="seed of weights, batches and held-out rows; a run passes evaluate.seed")

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.layers = options.layers

    def fit(self, features: np.ndarray, labels: np.ndarray, task: Task) -> Predictor:
        """Fit to rows of which each is a sample."""
        return self.fit_groups(features, labels, task, np.arange(len(features)))

    def fit_groups(self, features: np.ndarray, labels: np.ndarray, task: Task, groups: np.ndarray) -> Predictor:
        """Fit to rows (n, L, D), or (n, D) of a per-token task, where each row is a single token.

        All rows of a sample are held out together. With a single sample nothing is held out, and training does not stop
        early.
        """
        options = self.options
        generator = torch.Generator().manual_seed(options.seed)
        rows = as_tokens(features)
        fit_rows, held_out = hold_out(groups, options.held_out, options.seed)
        mean, std = statistics(rows, fit_rows)
        model = AttentivePool(mean, std, options.heads, options.head_dim, task.size, generator)
        shift, scale = 0.0, 1.0
        if task.kind == "number":
            shift, scale = float(labels[fit_rows].mean()), float(labels[fit_rows].std()) or 1.0
            labels = (labels - shift) / scale
        targets = torch.from_numpy(labels)
        targets = targets.long() if task.kind == "classes" else targets.float().reshape(len(rows), -1)
        best_epoch = train(model, rows, targets, LOSSES[task.kind], fit_rows, held_out, options, generator)
        seen = labels[fit_rows] if task.kind == "classes" else np.arange(task.size)
        absent: np.ndarray = np.setdiff1d(np.arange(task.size), seen)

        def predict_scores(test: np.ndarray) -> np.ndarray:
            scores = predict(model, as_tokens(test)).double().numpy()
            if task.kind == "number":
                return scores[:, 0] * scale + shift
            scores[:, absent] = ABSENT_CLASS_SCORE
            return scores

        from ssl_core.evaluation import FunctionPredictor  # scikit-learn takes a second to import

        details = {"epochs": best_epoch, "held_out": len(held_out)}
        return FunctionPredictor(predict_scores, details, n_train=len(fit_rows))


def as_tokens(features: np.ndarray) -> Tensor:
    """Features (n, L, D) or (n, D) as float32 tokens (n, L, D) or (n, 1, D)."""
    rows = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    return rows if rows.ndim == 3 else rows.unsqueeze(1)


def hold_out(groups: np.ndarray, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers for training and for early stopping: a share of the groups, but at least one, drawn by the seed."""
    names = np.unique(groups)
    count = 0 if len(names) < 2 else min(max(1, round(share * len(names))), len(names) - 1)
    is_held_out = np.isin(groups, np.random.default_rng(seed).permutation(names)[:count])
    return torch.from_numpy(np.flatnonzero(~is_held_out)), torch.from_numpy(np.flatnonzero(is_held_out))


def statistics(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of the valid tokens of some rows; 1 in place of a deviation of 0."""
    count, width = 0, rows.shape[-1]
    total, square = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for part in index.split(PREDICT_BATCH):
        tokens = rows[part]
        tokens = tokens[valid_tokens(tokens)].double()
        count, total, square = count + len(tokens), total + tokens.sum(0), square + tokens.square().sum(0)
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt()
    constant = std <= 1e-6 * (square / count).sqrt()  # the difference of squares is rounding there
    return mean.float(), torch.where(constant, 1.0, std).float()


def train(
    model: AttentivePool,
    rows: Tensor,
    targets: Tensor,
    loss_of: Callable[..., Tensor],
    fit_rows: Tensor,
    held_out: Tensor,
    options: AttentiveProbe.Options,
    generator: torch.Generator,
) -> int:
    """Train the model in place; its weights are then those of the epoch with the lowest held-out loss.

    Returns:
        The number of this epoch, counted from 1.
    """
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    lowest, best_epoch, best_state = math.inf, 0, model.state_dict()
    for epoch in range(1, options.epochs + 1):
        order = fit_rows[torch.randperm(len(fit_rows), generator=generator)]
        with torch.enable_grad():
            for part in order.split(options.batch_size):
                loss = loss_of(model(rows[part]), targets[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        if len(held_out) == 0:
            best_epoch = epoch
            continue
        held_out_loss = float(loss_of(predict(model, rows[held_out]), targets[held_out]))
        if held_out_loss < lowest:
            lowest, best_epoch, best_state = held_out_loss, epoch, copy.deepcopy(model.state_dict())
        elif epoch - best_epoch >= options.patience:
            break
    model.load_state_dict(best_state)
    return best_epoch


@torch.no_grad()
def predict(model: AttentivePool, rows: Tensor) -> Tensor:
    """Predictions (n, outputs) of tokens (n, L, D), a part at a time."""
    return torch.cat([model(part) for part in rows.split(PREDICT_BATCH)])


@hookimpl
def register_probes() -> list[type[Probe]]:
    return [AttentiveProbe]
