"""Penalised logistic regression to the optimum: L-BFGS on preconditioned weights, in float64.

With p = softmax(x w + b) and n rows, the mean loss plus lam / 2 |w|^2 is minimised, lam = 1 / (c n), where b is not
penalised. Features of encoders hold most of their variance in a few directions, and L-BFGS on the weights themselves
stops far from the optimum, or takes hundreds of iterations. The curvature is about k S + lam, with S = x^T x / n and
k the mean of p (1 - p). So weights are written as w = T v with T = (k S + lam)^(-1/2), in which the curvature is about
1 in every direction: few iterations suffice, and the gradient is about the distance from the optimum.

Shapes: n rows, D features, C columns of weights: one for two classes, else one for each class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, qr
from scipy.optimize import minimize

TOLERANCE = 1e-5  # largest entry of the preconditioned gradient at the optimum
BLOCK_NUMBERS = 2**22  # numbers that are converted to float64 at a time
KEPT_NUMBERS = 2**24  # up to which the features are converted once and kept
EXACT_DIMENSIONS = 1024  # up to which all eigenvalues of S are computed, else the SKETCH largest ones
SKETCH = 128
STAGES = (20, 40, 80)  # iterations after which k is measured again


class LogisticFit(NamedTuple):
    """Weights (D, C) and offsets (C,), iterations, and the largest entry of the preconditioned gradient."""

    weights: np.ndarray
    offsets: np.ndarray
    iterations: int
    gradient: float

    @property
    def converged(self) -> bool:
        """Whether the gradient is within the tolerance."""
        return self.gradient <= TOLERANCE


class _Spectrum(NamedTuple):
    """Eigenvectors (D, k) of S and their eigenvalues (k,); all other directions count as of eigenvalue `floor`."""

    vectors: np.ndarray
    values: np.ndarray
    floor: float

    def preconditioner(self, curvature: float, lam: float) -> Callable[[np.ndarray], np.ndarray]:
        """v to T v, for v (D, C). T is symmetric."""
        rest = 1 / np.sqrt(curvature * self.floor + lam)
        factors = 1 / np.sqrt(curvature * self.values + lam) - rest
        return lambda v: rest * v + self.vectors @ (factors[:, None] * (self.vectors.T @ v))


def fit(x: np.ndarray, labels: np.ndarray, size: int, c: float, max_iter: int) -> LogisticFit:
    """The weights that minimise the penalised loss.

    Args:
        x: (n, D) standardised features, float32 or float64.
        labels: (n,) int, classes from 0 to size - 1.
        size: Number of classes.
        c: Inverse strength of the penalty, with the losses summed over rows.
        max_iter: Most iterations.
    """
    count, width = x.shape
    columns = 1 if size == 2 else size
    lam = 1 / (c * count)
    spectrum = _spectrum(x)
    blocks = _blocks(x)
    w, b = np.zeros((width, columns)), np.zeros(columns)
    curvature, iterations = (size - 1) / size**2, 0
    for length in (*STAGES, max_iter):
        precondition, unit = spectrum.preconditioner(curvature, lam), 1 / np.sqrt(curvature)
        start_w, start_b = w, b

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            """Loss and gradient as functions of the change of the weights since the start of the stage."""
            own_w = start_w + precondition(flat[:-columns].reshape(width, columns))  # noqa: B023
            own_b = start_b + unit * flat[-columns:]  # noqa: B023
            value, grad_w, grad_b, _ = _loss(blocks, labels, own_w, own_b)
            value += lam / 2 * float((own_w**2).sum())
            gradient = precondition(grad_w + lam * own_w)  # noqa: B023
            return value, np.concatenate([gradient.ravel(), unit * grad_b])  # noqa: B023

        found = minimize(
            objective, np.zeros((width + 1) * columns), jac=True, method="L-BFGS-B",
            options={"maxiter": min(length, max_iter - iterations), "maxfun": 10**9, "gtol": TOLERANCE, "ftol": 0.0,
                     "maxcor": 20},
        )  # fmt: skip
        w = start_w + precondition(found.x[:-columns].reshape(width, columns))
        b = start_b + unit * found.x[-columns:]
        iterations += int(found.nit)
        gradient = float(np.abs(found.jac).max())
        if gradient <= TOLERANCE or iterations >= max_iter:
            break
        curvature = max(_loss(blocks, labels, w, b)[3], 1e-8)
    return LogisticFit(w, b, iterations, gradient)


def _blocks(x: np.ndarray) -> list[np.ndarray]:
    if x.size <= KEPT_NUMBERS:
        x = x.astype(np.float64, copy=False)
    rows = max(1, BLOCK_NUMBERS // x.shape[1])
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def _loss(
    blocks: list[np.ndarray], labels: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Mean loss, its gradients by w and b, and the mean of p (1 - p), over all rows, in float64."""
    total, curvature, start = 0.0, 0.0, 0
    grad_w, grad_b = np.zeros_like(w), np.zeros_like(b)
    columns = len(b)
    for block in blocks:
        x = block.astype(np.float64, copy=False)
        scores = x @ w + b
        if columns == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        rows, own = np.arange(len(x)), labels[start : start + len(x)]
        start += len(x)
        scores -= scores.max(axis=1, keepdims=True)
        p = np.exp(scores)
        sums = p.sum(axis=1, keepdims=True)
        total += float(np.log(sums).sum() - scores[rows, own].sum())
        p /= sums
        curvature += float((p * (1 - p)).mean(axis=1).sum())
        p[rows, own] -= 1
        residual = p[:, -columns:]
        grad_w += x.T @ residual
        grad_b += residual.sum(axis=0)
    return total / start, grad_w / start, grad_b / start, curvature / start


def _spectrum(x: np.ndarray) -> _Spectrum:
    """Eigenvectors and eigenvalues of S: all, or the largest ones by a random projection with a fixed seed."""
    count, width = x.shape
    if width <= min(count, EXACT_DIMENSIONS):
        values, vectors = eigh((x.T @ x).astype(np.float64) / count)
        return _Spectrum(vectors, values.clip(min=0), 0.0)
    if count <= EXACT_DIMENSIONS:  # fewer rows than features: the rows span all that has curvature
        values, left = eigh((x @ x.T).astype(np.float64) / count)
        kept = values > 1e-7 * max(values[-1], 1e-30)
        values = values[kept]
        return _Spectrum(x.T @ left[:, kept].astype(x.dtype) / np.sqrt(count * values), values, 0.0)
    basis = np.random.default_rng(0).standard_normal((width, SKETCH)).astype(x.dtype)
    for _ in range(2):
        basis = qr((x.T @ (x @ basis)) / count, mode="economic")[0]
    projected = x @ basis
    values, vectors = eigh((projected.T @ projected).astype(np.float64) / count)
    values = values.clip(min=0)
    return _Spectrum(basis @ vectors, values, float(values[0]))
