"""Linear probes on frozen features.

Rows are samples, or the tokens of a per-token task. Labels: (n,) int64 classes, (n, size) of 0 and 1, (n,) numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from ssl_core.data import Task
from ssl_core.errors import ConfigError
from ssl_core.evaluation.lars import Lars
from ssl_core.evaluation.logistic import LogisticFit, fit
from ssl_core.evaluation.protocols import FunctionPredictor

LayerOptimizer = Literal["adam", "adamw", "lars"]

ABSENT_CLASS_SCORE = -1e9  # score of a class that the training data lacks; finite, so that rankings stay defined
BATCH_NORM_EPS = 1e-6  # MAE's published code


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread.

    The products here are small: waiting for a second thread costs more than it saves, a hundredfold on a busy machine,
    and the order of sums, thus the last digits of a score, would depend on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def fit_logistic(
    task: Task, features: np.ndarray, labels: np.ndarray, c: float = 1.0, max_iter: int = 2000
) -> FunctionPredictor:  # fmt: skip
    """Logistic regression (L-BFGS) for classes, one for each of several labels, ridge regression for a number.

    Features (n, D) are standardised with the training mean and standard deviation. Class scores are
    log-probabilities, label scores log-odds. Details where the solver iterates: "iterations"; "gradient", the largest
    entry of the preconditioned gradient, about the distance from the optimum; "converged", whether it is within
    the tolerance of `logistic.py`.

    Args:
        task: Task of the labels.
        features: (n, D) training features.
        labels: Training labels.
        c: Inverse strength of the L2 penalty, with the losses summed over samples; ridge uses the strength 1 / c.
        max_iter: Most iterations of L-BFGS.
    """
    scaler = StandardScaler().fit(features)
    x = scaler.transform(features)
    if task.kind == "number":
        ridge = Ridge(alpha=1 / c, copy_X=False).fit(x.astype(np.float64), labels)  # astype has made a copy

        def predict_numbers(test: np.ndarray) -> np.ndarray:
            return ridge.predict(scaler.transform(test).astype(np.float64))

        return FunctionPredictor(one_thread()(predict_numbers), {"solver": "ridge", "c": c})
    if task.kind == "classes":
        predict, found = _fit_classes(x, labels, task.size, c, max_iter)
        fits = [found]
    else:
        columns = [_fit_classes(x, labels[:, j], 2, c, max_iter) for j in range(task.size)]
        fits = [column[1] for column in columns]

        def predict(test: np.ndarray) -> np.ndarray:
            scores = [column(test) for column, _ in columns]
            return np.stack([score[:, 1] - score[:, 0] for score in scores], axis=1)

    details = {
        "solver": "logistic", "c": c, "converged": all(one.converged for one in fits),
        "iterations": max(one.iterations for one in fits), "gradient": max(one.gradient for one in fits),
    }  # fmt: skip
    return FunctionPredictor(one_thread()(lambda test: predict(scaler.transform(test))), details)


def _fit_classes(
    x: np.ndarray, labels: np.ndarray, size: int, c: float, max_iter: int
) -> tuple[Callable[[np.ndarray], np.ndarray], LogisticFit]:
    """A function to log-probabilities (n, size), and the fit."""
    present, numbers = np.unique(labels, return_inverse=True)
    found = LogisticFit(np.zeros((x.shape[1], 1)), np.zeros(1), 0, 0.0)
    if len(present) > 1:
        found = fit(x, numbers, len(present), c, max_iter)

    def predict(test: np.ndarray) -> np.ndarray:
        scores = np.full((len(test), size), ABSENT_CLASS_SCORE)
        logits = test.astype(np.float64) @ found.weights + found.offsets
        if len(present) == 2:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        scores[:, present] = log_softmax(logits, axis=1)
        return scores

    return predict, found


def fit_adam(
    task: Task,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    decoupled: bool = False,
) -> FunctionPredictor:
    """`fit_layer` by Adam, or with `decoupled` by AdamW: MetaMAE's and DABS's linear probes."""
    return fit_layer(
        task, features, labels, optimizer="adamw" if decoupled else "adam", epochs=epochs, batch_size=batch_size, lr=lr,
        weight_decay=weight_decay, seed=seed,
    )  # fmt: skip


@one_thread()
def fit_layer(
    task: Task,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    optimizer: LayerOptimizer,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    groups: np.ndarray | None = None,
    batch_norm: bool = False,
    schedule: Literal["constant", "cosine"] = "constant",
    warmup_epochs: int = 0,
) -> FunctionPredictor:
    """One linear layer with bias, trained by gradient steps, docs/methods/protocol-differences.md.

    Weights are initialised as torch does; for LARS they are N(0, 0.01) and the bias 0, as in MAE's code. Batches are
    reshuffled each epoch and the last incomplete one is dropped; the weights are those of the last epoch. Features are
    used as they are, not standardised. The loss is cross-entropy for classes; binary cross-entropy on one logit for two
    classes, and for labels; mean square error for a number. A batch larger than the training data is lowered to its
    size. Details: "last_loss", the mean loss of the last epoch.

    Args:
        task: Task of the labels.
        features: (n, D) training features.
        labels: Training labels.
        optimizer: "adam" with a coupled L2 penalty (MetaMAE), "adamw" (DABS), or "lars" (MAE, M3AE).
        epochs: Passes over the training data.
        batch_size: Rows in a batch; with `groups`, groups in a batch.
        lr: Learning rate.
        weight_decay: Coupled L2 penalty of Adam and LARS, or weight decay of AdamW.
        seed: Seed of the initial weights and of the order of batches.
        groups: (n,) int, the sample of each row; a batch then has all rows of its samples.
        batch_norm: Normalise each feature by its mean and deviation in the batch, without scale and offset; predictions
            use running means.
        schedule: Rate after the warm-up: constant, or a cosine to zero at the last step.
        warmup_epochs: Epochs in which the rate rises linearly from zero.

    Raises:
        ConfigError: With `batch_norm`, if a batch has a single row.
    """
    outputs = 1 if task.kind == "number" or (task.size == 2 and task.kind == "classes") else task.size
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(features.shape[1], outputs)
        if optimizer == "lars":
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    norm = nn.BatchNorm1d(features.shape[1], eps=BATCH_NORM_EPS, affine=False) if batch_norm else nn.Identity()
    head = nn.Sequential(norm, layer)
    binary = outputs == 1 or task.kind == "labels"
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    y = torch.from_numpy(np.asarray(labels))
    y = y.float().reshape(len(y), -1) if binary else y.long()
    loss_of = nn.MSELoss() if task.kind == "number" else nn.BCEWithLogitsLoss() if binary else nn.CrossEntropyLoss()
    batches = _Batches(len(x), groups, batch_size)
    solver = _optimizer(optimizer, layer, lr, weight_decay)
    total, step = 0.0, 0
    with torch.enable_grad():
        for _ in range(epochs):
            total = 0.0
            for index in batches.of_an_epoch(generator):
                if schedule != "constant" or warmup_epochs:
                    solver.param_groups[0]["lr"] = lr * _rate(step / batches.count, epochs, warmup_epochs, schedule)
                if batch_norm and len(index) < 2:
                    raise ConfigError(
                        "evaluate.batch_norm needs batches of two rows or more; raise evaluate.batch_size"
                    )
                loss = loss_of(head(x[index]), y[index])
                solver.zero_grad()
                loss.backward()
                solver.step()
                total += float(loss.detach())
                step += 1
    head.eval()
    present = np.unique(labels)

    def predict_scores(test: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits = head(torch.from_numpy(np.ascontiguousarray(test, dtype=np.float32))).double().numpy()
        return _scores_of_logits(task, logits, present)

    details = {
        "solver": optimizer, "epochs": epochs, "batch_size": batches.size, "lr": lr,
        "last_loss": total / batches.count,
    }  # fmt: skip
    return FunctionPredictor(one_thread()(predict_scores), details)


class _Batches:
    """Batches of rows, or of all rows of some groups; `count` of them in an epoch."""

    def __init__(self, rows: int, groups: np.ndarray | None, size: int) -> None:
        self.members: tuple[torch.Tensor, ...] | None = None
        total = rows
        if groups is not None:
            order = np.argsort(groups, kind="stable")
            counts = np.unique(groups, return_counts=True)[1]
            self.members = torch.from_numpy(order).split(counts.tolist())
            total = len(counts)
        self.total, self.size = total, min(size, total)
        self.count = total // self.size

    def of_an_epoch(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The row numbers of each batch, in random order."""
        order = torch.randperm(self.total, generator=generator)[: self.count * self.size]
        for chosen in order.split(self.size):
            yield chosen if self.members is None else torch.cat([self.members[i] for i in chosen.tolist()])


def _optimizer(name: LayerOptimizer, layer: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    if name == "lars":
        return Lars(layer.parameters(), lr, weight_decay)
    cls = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return cls(layer.parameters(), lr=lr, weight_decay=weight_decay, fused=True)


def _rate(epoch: float, epochs: int, warmup: int, schedule: str) -> float:
    """The share of the peak rate at a moment, in epochs."""
    if epoch < warmup:
        return epoch / warmup
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup))) / 2


def _scores_of_logits(task: Task, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Outputs of the layer as scores of metrics.py; `present` are the classes in the training data."""
    if task.kind == "number":
        return logits[:, 0]
    if task.kind == "labels":
        return logits
    if task.size == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    scores = np.full(logits.shape, ABSENT_CLASS_SCORE)
    scores[:, present] = log_softmax(logits, axis=1)[:, present]
    return scores
