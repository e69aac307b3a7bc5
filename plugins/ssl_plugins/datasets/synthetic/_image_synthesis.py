"""Building blocks of synthetic images: coordinates, smooth noise, soft edges. Shapes: H rows, W columns."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=16)
def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixel centres, each (H, W). The shorter side spans -1 to 1."""
    short = min(height, width) / 2
    y = (np.arange(height) + 0.5 - height / 2) / short
    x = (np.arange(width) + 0.5 - width / 2) / short
    grid_x = np.ascontiguousarray(np.broadcast_to(x[None, :], (height, width)))
    grid_y = np.ascontiguousarray(np.broadcast_to(y[:, None], (height, width)))
    grid_x.flags.writeable = grid_y.flags.writeable = False  # the cache shares them between callers
    return grid_x, grid_y


@functools.lru_cache(maxsize=64)
def _interpolation(size: int, knots: int) -> np.ndarray:
    """(size, knots): weight of each knot at each pixel, by cosine interpolation."""
    position = np.linspace(0, knots - 1, size)
    left = np.minimum(position.astype(int), knots - 2)
    right_weight = (1 - np.cos(np.pi * (position - left))) / 2
    weights = np.zeros((size, knots))
    weights[np.arange(size), left] = 1 - right_weight
    weights[np.arange(size), left + 1] = right_weight
    return weights


def smooth_noise(height: int, width: int, knots: int, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """(count, H, W): Gaussian noise on a grid of knots x knots, interpolated. Its standard deviation is about 1."""
    values = rng.standard_normal((count, knots, knots))
    return 1.4 * (_interpolation(height, knots) @ values @ _interpolation(width, knots).T)


def soft_step(distance: np.ndarray, width: float) -> np.ndarray:
    """1 for negative distances, 0 for positive ones, linear over an edge of the given width."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a frame rotated by `angle` radians."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values of 0 to 1, clipped, as uint8 of 0 to 255."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
