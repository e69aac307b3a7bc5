"""The head of a fine-tuned model: features to scores of a task, and the loss of these scores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core.data import Task
from ssl_core.nn.dropout import Dropout
from ssl_core.nn.transformer import LAYER_NORM_EPS

INIT_STD = 0.02
MIN_SCALE = 0.05


class TaskHead(nn.Module):
    """LayerNorm, fixed centre and scale, dropout and a linear map from features to the scores of a task.

    Centre and scale, 0 and 1 at first, make a trained encoder's features comparable with each other: their spread over
    samples is often a hundredth of their common part.

    Scores are as in `evaluation.metrics`: logits (..., size) of classes or labels, or the number itself (...). Numbers
    are predicted in units of the training labels' deviation from their mean, which are buffers. The loss leaves out
    entries that equal `task.ignore`.

    Args:
        width: Width of the features.
        task: What is predicted.
        dropout: Rate of the dropout.
        label_smoothing: Share of each class label that is given to all classes.
    """

    centre: Tensor
    scale: Tensor
    mean: Tensor
    std: Tensor
    weights: Tensor

    def __init__(self, width: int, task: Task, dropout: float = 0.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.task, self.label_smoothing = task, label_smoothing
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(width, task.size)
        nn.init.trunc_normal_(self.linear.weight, std=INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("weights", torch.ones(task.size), persistent=False)

    def fit_labels(self, labels: np.ndarray, balanced: bool = False) -> None:
        """Take the mean and deviation of numbers, or the weights of classes, from the counted training labels."""
        if self.task.kind == "number":
            self.mean.fill_(float(labels.mean()))
            self.std.fill_(max(float(labels.std()), 1e-12))
        elif balanced:
            self.weights.copy_(torch.from_numpy(balanced_weights(self.task, labels)))

    def fit_features(self, normed: np.ndarray) -> None:
        """Take centre and scale from features (n, width) of training samples after the LayerNorm.

        A scale is at least `MIN_SCALE` of the root mean square of all, so that constant features stay small.
        """
        deviation = normed.std(axis=0, dtype=np.float64)
        least = max(MIN_SCALE * float(np.sqrt(np.square(deviation).mean())), 1e-6)
        self.centre.copy_(torch.from_numpy(normed.mean(axis=0, dtype=np.float64)))
        self.scale.copy_(torch.from_numpy(np.maximum(deviation, least)))

    def set_linear(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """Set the linear map so that scores are features after the LayerNorm times `weight`, plus `bias`.

        weight: (width, size), bias: (size,). A number's score is in its own unit.
        """
        centre, scale = self.centre.double().cpu().numpy(), self.scale.double().cpu().numpy()
        shift = (bias + centre @ weight - float(self.mean)) / float(self.std)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy((weight * scale[:, None]).T / float(self.std)))
            self.linear.bias.copy_(torch.from_numpy(shift))

    def forward(self, features: Tensor) -> Tensor:
        """features: (..., width) to scores (..., size), or (...) for a number."""
        scores: Tensor = self.linear(self.dropout((self.norm(features) - self.centre) / self.scale)).float()
        return scores.squeeze(-1) * self.std + self.mean if self.task.kind == "number" else scores

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of all counted entries: cross-entropy, binary cross-entropy, or squared error over variance.

        labels: (...) classes or numbers, or (..., size) of 0 and 1. Zero if no entry counts.
        """
        task = self.task
        if task.kind == "classes":
            flat, target = scores.reshape(-1, task.size), labels.reshape(-1).long()
            ignore = -100 if task.ignore is None else task.ignore
            loss = F.cross_entropy(
                flat, target, self.weights, ignore_index=ignore, label_smoothing=self.label_smoothing, reduction="sum"
            )
            counted = target != ignore
            total = self.weights[target[counted]].sum()
            return loss / total.clamp_min(1e-12)
        target = labels.reshape(scores.shape).to(scores.dtype)
        counted = torch.ones_like(target) if task.ignore is None else (target != task.ignore).to(scores.dtype)
        if task.kind == "labels":
            errors = F.binary_cross_entropy_with_logits(scores, target, pos_weight=self.weights, reduction="none")
        else:
            errors = ((scores - target) / self.std).square()
        return torch.where(counted > 0, errors, 0.0).sum() / counted.sum().clamp_min(1.0)


def balanced_weights(task: Task, labels: np.ndarray) -> np.ndarray:
    """float32 weights (size,) that give each class, or 0 and 1 of each label, the same part of the loss.

    Classes: n / (k n_c) for n rows, k classes that occur, and n_c rows of a class, as scikit-learn's "balanced"; 1 for
    a class that does not occur. Labels: the weight of 1 is the ratio of the counts of 0 and 1, and 1 if there is no 1.
    """
    if task.kind == "classes":
        counts = np.bincount(labels.reshape(-1), minlength=task.size).astype(np.float64)
        present = counts > 0
        weights = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 1.0)
    else:
        ones = labels.sum(axis=0).astype(np.float64)
        weights = np.where((ones > 0) & (ones < len(labels)), (len(labels) - ones) / np.maximum(ones, 1), 1.0)
    return weights.astype(np.float32)


def probabilities(task: Task, scores: np.ndarray) -> np.ndarray:
    """Scores (..., size) to probabilities: softmax over classes, or the logistic function of each label."""
    x = torch.from_numpy(np.asarray(scores, dtype=np.float64))
    return (x.softmax(dim=-1) if task.kind == "classes" else x.sigmoid()).numpy()


def task_to_json(task: Task) -> dict[str, object]:
    """The attributes of a task."""
    return {**vars(task), "names": list(task.names)}


def task_from_json(entry: Mapping[str, object]) -> Task:
    """The inverse of `task_to_json`."""
    return Task(**{**entry, "names": tuple(entry.get("names", ()))})  # type: ignore[arg-type]
