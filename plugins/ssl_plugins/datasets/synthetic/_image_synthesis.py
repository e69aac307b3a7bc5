"""Parts of made-up pictures: coordinates, smooth noise, soft edges. Shapes: H rows, W columns."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=16)
def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of pixel centres, each (H, W), the shorter side from -1 to 1."""
    short = min(height, width) / 2
    y = (np.arange(height) + 0.5 - height / 2) / short
    x = (np.arange(width) + 0.5 - width / 2) / short
    wide = np.ascontiguousarray(np.broadcast_to(x[None, :], (height, width)))
    high = np.ascontiguousarray(np.broadcast_to(y[:, None], (height, width)))
    wide.flags.writeable = high.flags.writeable = False
    return wide, high


@functools.lru_cache(maxsize=64)
def _interpolation(size: int, knots: int) -> np.ndarray:
    """(size, knots): cosine-shaped weights of the knots at each pixel."""
    place = np.linspace(0, knots - 1, size)
    left = np.minimum(place.astype(int), knots - 2)
    share = (1 - np.cos(np.pi * (place - left))) / 2
    weights = np.zeros((size, knots))
    weights[np.arange(size), left] = 1 - share
    weights[np.arange(size), left + 1] = share
    return weights


def smooth(height: int, width: int, knots: int, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """(count, H, W): Gaussian noise at knots x knots points, interpolated between them; deviation about 1."""
    values = rng.standard_normal((count, knots, knots))
    return 1.4 * (_interpolation(height, knots) @ values @ _interpolation(width, knots).T)


def soft(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where the distance is negative, 0 where positive, with an edge of the given width between."""
    return np.clip(0.5 - distance / width, 0.0, 1.0)


def turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates in a frame turned by an angle."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """0..1, cut there, to 0..255."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
