"""Linear probes on frozen features.

Rows are samples, or the tokens of a per-token task. Labels: (n,) int64 classes, (n, size) of 0 and 1, (n,) numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from ssl_core.data import Task
from ssl_core.evaluation.protocols import FunctionPredictor

ABSENT_CLASS_SCORE = -1e9  # score of a class that the training data lacks; finite, so that rankings stay defined


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
    log-probabilities, label scores log-odds. Details: "converged" and "iterations" where the solver iterates.

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
        predict, converged, iterations = _fit_classes(x, labels, task.size, c, max_iter)
    else:
        columns = [_fit_classes(x, labels[:, j], 2, c, max_iter) for j in range(task.size)]
        converged, iterations = all(column[1] for column in columns), max(column[2] for column in columns)

        def predict(test: np.ndarray) -> np.ndarray:
            scores = [column(test) for column, _, _ in columns]
            return np.stack([score[:, 1] - score[:, 0] for score in scores], axis=1)

    details = {"solver": "logistic", "c": c, "converged": converged, "iterations": iterations}
    return FunctionPredictor(one_thread()(lambda test: predict(scaler.transform(test))), details)


def _fit_classes(
    x: np.ndarray, labels: np.ndarray, size: int, c: float, max_iter: int
) -> tuple[Callable[[np.ndarray], np.ndarray], bool, int]:
    """A function to log-probabilities (n, size), whether the solver converged, and its iterations."""
    present = np.unique(labels)
    if len(present) == 1:

        def predict_one(test: np.ndarray) -> np.ndarray:
            scores = np.full((len(test), size), ABSENT_CLASS_SCORE)
            scores[:, present] = 0.0
            return scores

        return predict_one, True, 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c, max_iter=max_iter).fit(x, labels)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)

    def predict(test: np.ndarray) -> np.ndarray:
        scores = np.full((len(test), size), ABSENT_CLASS_SCORE)
        logits = model.decision_function(test).astype(np.float64)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        scores[:, present] = _log_softmax(logits)
        return scores

    return predict, converged, int(model.n_iter_.max())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@one_thread()
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
    """MetaMAE's and DABS's linear probe, docs/methods/protocol-differences.md: one linear layer with bias.

    Weights are initialised as torch does. Constant rate; batches are reshuffled each epoch and the last incomplete one
    is dropped; the weights are those of the last epoch. Features are used as they are, not standardised. The loss is
    cross-entropy for classes; binary cross-entropy on one logit for two classes, and for labels; mean square error for
    a number. A batch larger than the training data is lowered to its size. Details: "last_loss", the mean loss of the
    last epoch.

    Args:
        task: Task of the labels.
        features: (n, D) training features.
        labels: Training labels.
        epochs: Passes over the training data.
        batch_size: Rows in a batch.
        lr: Learning rate.
        weight_decay: Coupled L2 penalty of Adam, or weight decay of AdamW.
        seed: Seed of the initial weights and of the order of batches.
        decoupled: AdamW, as DABS uses, instead of Adam.
    """
    outputs = 1 if task.kind == "number" or (task.size == 2 and task.kind == "classes") else task.size
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(features.shape[1], outputs)
    binary = outputs == 1 or task.kind == "labels"
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    y = torch.from_numpy(np.asarray(labels))
    y = y.float().reshape(len(y), -1) if binary else y.long()
    loss_of = nn.MSELoss() if task.kind == "number" else nn.BCEWithLogitsLoss() if binary else nn.CrossEntropyLoss()
    batch_size = min(batch_size, len(x))
    optimizer_class = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = optimizer_class(head.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    total = 0.0
    steps = len(x) // batch_size
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)[: steps * batch_size]
            total = 0.0
            for index in order.split(batch_size):
                loss = loss_of(head(x[index]), y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach())
    present = np.unique(labels)

    def predict_scores(test: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits = head(torch.from_numpy(np.ascontiguousarray(test, dtype=np.float32))).double().numpy()
        return _scores_of_logits(task, logits, present)

    solver = "adamw" if decoupled else "adam"
    details = {"solver": solver, "epochs": epochs, "batch_size": batch_size, "lr": lr, "last_loss": total / steps}
    return FunctionPredictor(one_thread()(predict_scores), details)


def _scores_of_logits(task: Task, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Outputs of the layer as scores of metrics.py; `present` are the classes in the training data."""
    if task.kind == "number":
        return logits[:, 0]
    if task.kind == "labels":
        return logits
    if task.size == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    scores = np.full(logits.shape, ABSENT_CLASS_SCORE)
    scores[:, present] = _log_softmax(logits)[:, present]
    return scores
