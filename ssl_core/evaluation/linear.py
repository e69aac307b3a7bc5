"""Linear probes on frozen features. Each returns the scores of metrics.py for the test rows, and details to report.

Rows are samples, or the tokens of a per-token task. Labels: (n,) int64 classes, (n, size) of 0 and 1, (n,) numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from ssl_core.data import Task

Scored: TypeAlias = tuple[np.ndarray, dict[str, Any]]
NEVER = -1e9  # the score of a class that was not in the training data; finite, so that rankings stay defined


@contextmanager
def one_thread() -> Iterator[None]:
    """No second thread for linear algebra.

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
def logistic(
    task: Task, train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, c: float, max_iter: int
) -> Scored:
    """Logistic regression (L-BFGS) for classes, one for each of several labels, ridge regression for a number.

    Features (n, D) are standardised with the training mean and standard deviation. `c` is the inverse strength of the
    L2 penalty, with the losses summed over samples; ridge uses the strength 1 / c. Class scores are log-probabilities,
    label scores log-odds. Details: "converged" and "iterations" where the solver iterates.
    """
    scaler = StandardScaler().fit(train_x)
    train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
    if task.kind == "number":
        model = Ridge(alpha=1 / c, copy_X=False).fit(train_x.astype(np.float64), train_y)  # that is a copy already
        return model.predict(test_x.astype(np.float64)), {"solver": "ridge", "c": c}
    if task.kind == "classes":
        scores, converged, iterations = _classes(train_x, train_y, test_x, task.size, c, max_iter)
    else:
        columns = [_classes(train_x, train_y[:, j], test_x, 2, c, max_iter) for j in range(task.size)]
        scores = np.stack([column[0][:, 1] - column[0][:, 0] for column in columns], axis=1)
        converged, iterations = all(column[1] for column in columns), max(column[2] for column in columns)
    return scores, {"solver": "logistic", "c": c, "converged": converged, "iterations": iterations}


def _classes(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, size: int, c: float, max_iter: int
) -> tuple[np.ndarray, bool, int]:
    """Log-probabilities (n, size), whether the solver converged, and its iterations."""
    present = np.unique(train_y)
    scores = np.full((len(test_x), size), NEVER)
    if len(present) == 1:
        scores[:, present] = 0.0
        return scores, True, 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c, max_iter=max_iter).fit(train_x, train_y)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    logits = model.decision_function(test_x).astype(np.float64)
    if logits.ndim == 1:
        logits = np.stack([np.zeros_like(logits), logits], axis=1)
    scores[:, present] = _log_softmax(logits)
    return scores, converged, int(model.n_iter_.max())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@one_thread()
def adam(
    task: Task,
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    decoupled: bool = False,
) -> Scored:
    """MetaMAE's linear probe (protocol section 5, column MM): one linear layer with bias, torch's default start.

    Adam with coupled L2, or AdamW with `decoupled` weight decay as in DABS (D53); constant rate, batches reshuffled
    each epoch, the last incomplete one dropped, the last epoch reported. Features as they are, not standardised.
    Cross-entropy for classes; with two classes one output and binary cross-entropy on the logit (D56), as for labels;
    mean square error for a number. Details: the loss of the last epoch. A batch larger than the training data is
    lowered to its size.
    """
    outputs = 1 if task.kind == "number" or (task.size == 2 and task.kind == "classes") else task.size
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(train_x.shape[1], outputs)
    binary = outputs == 1 or task.kind == "labels"
    x = torch.from_numpy(np.ascontiguousarray(train_x, dtype=np.float32))
    y = torch.from_numpy(np.asarray(train_y))
    y = y.float().reshape(len(y), -1) if binary else y.long()
    loss_of = nn.MSELoss() if task.kind == "number" else nn.BCEWithLogitsLoss() if binary else nn.CrossEntropyLoss()
    batch_size = min(batch_size, len(x))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(head.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
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
    with torch.no_grad():
        logits = head(torch.from_numpy(np.ascontiguousarray(test_x, dtype=np.float32))).double().numpy()
    solver = "adamw" if decoupled else "adam"
    details = {"solver": solver, "epochs": epochs, "batch_size": batch_size, "lr": lr, "last_loss": total / steps}
    return _adam_scores(task, logits, np.unique(train_y)), details


def _adam_scores(task: Task, logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Outputs of the layer as the scores of metrics.py."""
    if task.kind == "number":
        return logits[:, 0]
    if task.kind == "labels":
        return logits
    if task.size == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    scores = np.full(logits.shape, NEVER)
    scores[:, present] = _log_softmax(logits)[:, present]
    return scores
