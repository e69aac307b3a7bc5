"""Medical images: grey or colour scans of any size and depth to patches (protocol section 2.3).

The protocol's X-rays are RGB, 224 x 224 in patches of 16 x 16: 196 tokens of 768; here grey stays one channel unless
`channels=3` asks for copies. Percentiles, if asked for, stretch each scan's own range, since exposure is no finding.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, Fields, Inputs, Tokenizer, hookimpl
from ssl_plugins.tokenizers._pictures import PictureTokenizer, pixels


class MedicalImage(PictureTokenizer):
    """Patches of medical scans of any size and depth (8 or 16 bits, floats), resized where asked.

    Reads the field "image", (channels, H, W): unsigned integers, or floats in 0..1 (any range with `window`).
    """

    name = "medical-image"

    class Options(PictureTokenizer.Options):
        """Options of the medical image tokenizer. Scans of different sizes are made 64 x 64, unless a size is named."""

        window: tuple[float, float] | None = Field(
            None, description="percentiles of each scan that become black and white, e.g. 1,99; none = as it is"
        )

        @field_validator("window")
        @classmethod
        def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
            if value is not None and not 0 <= value[0] < value[1] <= 100:
                raise ValueError("needs two ascending percentiles in 0..100")
            return value

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="image", usual_size=64, usual_channels=1)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """The scan, stretched if asked, resized: (C, *size). Errors: BadSample."""
        if self.options.window is None:
            return super().preprocess(inputs)
        x = pixels(inputs[self.field], self.field).astype(np.float32)
        if not np.isfinite(x).all():
            raise BadSample(f"'{self.field}' holds NaN or infinity")
        low, high = np.percentile(x, self.options.window)
        stretched = np.clip((x - low) / max(float(high - low), 1e-12), 0, 1)
        return super().preprocess({self.field: stretched})


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [MedicalImage]
