"""Random resized crops and horizontal flips of prepared images, drawn in each training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ssl_core import Draws, Fields
from ssl_core.tokenizers import GridTokenizer

TRIES = 10  # boxes drawn for a crop, of which the first that fits is taken, as in torchvision
RATIO = (3 / 4, 4 / 3)  # of width to height, as in torchvision
CUBIC = -0.5  # parameter of the bicubic kernel, as in PIL


class AugmentedTokenizer(GridTokenizer):
    """Patches of images (C, H, W), of which training sees a random crop, a mirrored image, or both."""

    class Options(GridTokenizer.Options):
        """Options common to tokenizers of images."""

        augment: Literal["none", "crop", "flip", "crop-flip"] = Field(
            "none",
            description="what training sees of each prepared image, drawn anew in each step: a random crop resized to "
            "the whole (bicubic), its mirror image in half of the steps, or both (MAE); features use whole images",
        )
        crop_scale: tuple[float, float] = Field(
            (0.2, 1.0), description="augment=crop: smallest and largest share of the area (MAE: 0.2, 1)"
        )

        @field_validator("crop_scale")
        @classmethod
        def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
            if not 0 < value[0] <= value[1] <= 1:
                raise ValueError("needs two ascending shares above 0 and up to 1")
            return value

    def __init__(self, options: Any, fields: Fields, dim: int, **grid: Any) -> None:
        super().__init__(options, fields, dim, **grid)
        self.augments = options.augment != "none"

    def draw_view(self, batch: int, generator: torch.Generator) -> Draws:
        """ "crop" (B, 4) long: top, left, height and width; "flip" (B,) bool; each if `augment` has it."""
        draws: dict[str, Tensor] = {}
        if "crop" in self.options.augment:
            draws["crop"] = draw_crops(batch, self.shape[0], self.shape[1], self.options.crop_scale, generator)
        if "flip" in self.options.augment:
            draws["flip"] = torch.rand(batch, generator=generator) < 0.5
        return draws

    def view(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """The images, (B, C, H, W), cropped and mirrored as drawn; the type of the numbers stays."""
        x = inputs[self.field]
        if "crop" in draws:
            x = crop_and_resize(x, draws["crop"])
        if "flip" in draws:
            x = torch.where(draws["flip"].view(-1, 1, 1, 1), x.flip(-1), x)
        return {**inputs, self.field: x}


def draw_crops(
    batch: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> Tensor:  # fmt: skip
    """(batch, 4) long: boxes (top, left, height, width), distributed as in torchvision's RandomResizedCrop.

    The share of the area is uniform in `scale`, the logarithm of width / height uniform in that of RATIO. The first of
    ten boxes that lies in the image is taken, else the largest central one of a ratio in RATIO.
    """
    share, aspect, top, left = torch.rand(4, batch, TRIES, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
    low, high = map(math.log, RATIO)
    ratio = torch.exp(low + (high - low) * aspect)
    widths, heights = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    tops = (top * (height - heights + 1)).long()
    lefts = (left * (width - widths + 1)).long()
    boxes = torch.stack([tops, lefts, heights, widths], dim=-1)
    first = fits.long().argmax(dim=1)
    drawn = boxes[torch.arange(batch), first]
    central_height, central_width = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    central = torch.tensor(
        [(height - central_height) // 2, (width - central_width) // 2, central_height, central_width]
    )
    return torch.where(fits.any(dim=1, keepdim=True), drawn, central)


def crop_and_resize(x: Tensor, boxes: Tensor) -> Tensor:
    """Crop each image to its box and enlarge it to its old size, bicubic as in PIL.

    Args:
        x: (B, C, H, W), integers of eight bits or floats. Integers are rounded and limited to 0..255
            after each axis.
        boxes: (B, 4) long, (top, left, height, width).
    """
    height, width = x.shape[-2:]
    with torch.autocast(x.device.type, enabled=False):
        dtype = x.dtype if x.is_floating_point() else torch.float32
        rows = enlargement(boxes[:, 0], boxes[:, 2], height).to(dtype).unsqueeze(1)
        columns = enlargement(boxes[:, 1], boxes[:, 3], width).to(dtype).unsqueeze(1)
        if x.is_floating_point():
            return rows @ (x @ columns.mT)
        return _to_byte(rows @ _to_byte(x.to(dtype) @ columns.mT)).to(x.dtype)


def _to_byte(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255)


def enlargement(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size, size): the weights by which an axis of `size` pixels gives `size` pixels of its part.

    start, length: (B,) long, the part of each row of the batch. No weight lies outside the part.
    """
    pixels = torch.arange(size, device=start.device, dtype=torch.float32)
    centre = (pixels + 0.5) * (length / size).unsqueeze(1)  # (B, size), of each new pixel, within the part
    old = pixels - start.unsqueeze(1)  # (B, size), of each old pixel
    weight = _cubic(old.unsqueeze(1) + 0.5 - centre.unsqueeze(2))
    inside = (old >= 0) & (old < length.unsqueeze(1))
    weight = weight * inside.unsqueeze(1)
    return weight / weight.sum(dim=-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """The bicubic kernel, zero from a distance of 2 on."""
    x = distance.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * CUBIC - 4 * CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
