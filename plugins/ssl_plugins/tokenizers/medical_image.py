"""Tokenizer `medical-image`: patches of grey or colour scans of any size and bit depth.

DABS takes RGB X-rays of 224 x 224 in patches of 16 x 16, 196 tokens of 768 numbers. Here grey scans keep one channel
unless `channels=3` copies it. `window` stretches each scan's own range, since exposure carries no diagnosis.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, Fields, Inputs, Preprocessing, Tokenizer, hookimpl
from ssl_plugins.tokenizers._image import BaseImageTokenizer, to_image_array

TINY = float(np.finfo(np.float32).tiny)


class MedicalImageTokenizer(BaseImageTokenizer):
    """Patches of medical scans of any size and depth (8 or 16 bits, floats).

    Reads the field "image", (channels, H, W): unsigned integers, or floats in 0..1 (any range with `window`).
    """

    name = "medical-image"

    class Options(BaseImageTokenizer.Options):
        """Options of the medical image tokenizer. Scans that differ in size are resized to 64 x 64 by default."""

        window: tuple[float, float] | None = Field(
            None, description="percentiles of each scan that become black and white, e.g. 1,99; none = no stretching"
        )

        @field_validator("window")
        @classmethod
        def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
            if value is not None and not 0 <= value[0] < value[1] <= 100:
                raise ValueError("needs two ascending percentiles in 0..100")
            return value

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="image", default_size=64, default_channels=1)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Stretch one scan between the percentiles of `window`, if set, and resize it to (C, *size).

        Raises:
            BadSample: As for all images, or the scan holds NaN or infinity.
        """
        if self.options.window is None:
            return super().preprocess(inputs)
        x = to_image_array(inputs[self.field], self.field).astype(np.float32)
        if not np.isfinite(x).all():
            raise BadSample(f"'{self.field}' holds NaN or infinity")
        low, high = np.percentile(x, self.options.window)
        stretched = np.clip((x - low) / max(float(high - low), TINY), 0, 1)
        return super().preprocess({self.field: stretched})

    def describe_preprocessing(self) -> Preprocessing:
        """As of all images, after the stretching of `window`."""
        described = super().describe_preprocessing()
        if self.options.window is None:
            return described
        stretch = {
            "do": "stretch each scan: (x - low) / (high - low), clipped to 0..1, where low and high are its "
            "percentiles over all pixels and channels, interpolated linearly",
            "percentiles": list(self.options.window), "dtype": "float32",
        }  # fmt: skip
        return Preprocessing([stretch, *described.steps], described.inside)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [MedicalImageTokenizer]
