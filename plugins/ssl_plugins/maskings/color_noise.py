"""Hide tokens where filtered white noise is high (ColorMAE: Hinojosa, Liu and Ghanem, ECCV 2024)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssl_core import Geometry, Layout, Mask, Masking, hookimpl

REACH = 4  # Gaussians are truncated at this number of standard deviations

# Coefficients of each colour: of white noise W, of the narrow blur G1*W, and of the wide blur G2*W.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (0, 1, 0),
    "blue": (1, -1, 0),
    "green": (0, 1, -1),
    "purple": (1, -1, 1),
}


class ColorNoiseMasking(Masking):
    """Hide the fixed share of tokens where red, blue, green or purple noise is highest (ColorMAE), on any grid.

    The colours are Gaussian filters of white noise along every axis of a segment's grid: red is low-pass, blue is
    high-pass, green is band-pass and purple is band-stop. The paper crops windows from large noise images. Here the
    noise is drawn larger than the grid by the reach of the filter, so that there are no border effects either. The
    noise of each segment has variance 1, so that one threshold serves the whole row. The paper gives no widths in
    tokens; the defaults are sslx's own.
    """

    name = "color-noise"

    class Options(Masking.Options):
        """Options of the colour-noise masking."""

        ratio: float = Field(0.75, gt=0, lt=1, description="share of tokens hidden (paper: 0.75)")
        color: Literal["red", "blue", "green", "purple"] = Field(
            "green", description="low-pass, high-pass, band-pass (the paper's best) or band-stop"
        )
        sigma: float = Field(0.7, gt=0.1, le=10, description="standard deviation of the narrow Gaussian, in tokens")
        sigma_wide: float = Field(
            2.0,
            gt=0.1,
            le=10,
            description="standard deviation of the wide Gaussian, in tokens; above sigma for green and purple",
        )

        @model_validator(mode="after")
        def _check_sigmas(self) -> ColorNoiseMasking.Options:
            if COLORS[self.color][2] and self.sigma >= self.sigma_wide:
                raise ValueError(f"sigma_wide must be above sigma for {self.color} noise; it is {self.sigma_wide}")
            return self

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        self.hidden = min(math.ceil(layout.length * options.ratio - 1e-9), layout.length - 1)
        self.shares = COLORS[options.color]
        sigmas = (0.0, options.sigma, options.sigma_wide)
        used = [sigma for sigma, share in zip(sigmas, self.shares, strict=True) if share]
        self.reach = math.ceil(REACH * max(used))
        self.kernels = [_gaussian(sigma, self.reach) for sigma in sigmas]

    def __call__(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> Mask:
        """Hide the tokens with the highest noise."""
        noise = [self._noise(batch, segment.grid, generator) for segment in self.layout.segments]
        order = torch.cat(noise, dim=1).argsort(dim=1, descending=True)
        return Mask.from_order(order, self.hidden, geometry, self.options.ratio)

    def _noise(self, batch: int, grid: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """(B, Ls): filtered noise of variance 1. Axes of length 1 are not filtered."""
        axes = [axis for axis, size in enumerate(grid, start=1) if size > 1]
        white = torch.randn(batch, *(size + 2 * self.reach if size > 1 else 1 for size in grid), generator=generator)
        if not axes:
            return white.flatten(1)
        parts = zip(self.shares, self.kernels, strict=True)
        colored = sum((share * _blur(white, axes, kernel) for share, kernel in parts if share), torch.tensor(0.0))
        return colored.flatten(1) / self._deviation(len(axes))

    def _deviation(self, axes: int) -> float:
        """Standard deviation of the filtered noise: the norm of the combined kernel."""
        pairs = [(a, b) for a in range(3) for b in range(3)]
        inner = (self.shares[a] * self.shares[b] * float(self.kernels[a] @ self.kernels[b]) ** axes for a, b in pairs)
        return math.sqrt(sum(inner))


def _gaussian(sigma: float, reach: int) -> Tensor:
    """(2 reach + 1,): a sampled Gaussian that sums to 1, or for sigma 0 the unit impulse."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2) if sigma else (steps == 0).float()
    return kernel / kernel.sum()


def _blur(noise: Tensor, axes: list[int], kernel: Tensor) -> Tensor:
    """Convolve along each axis, without padding: each end of the axis is shortened by the kernel's reach."""
    for axis in axes:
        lines = noise.movedim(axis, -1)
        blurred = torch.nn.functional.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel.view(1, 1, -1))
        noise = blurred.view(*lines.shape[:-1], -1).movedim(-1, axis)
    return noise


@hookimpl
def register_maskings() -> list[type[Masking]]:
    return [ColorNoiseMasking]
