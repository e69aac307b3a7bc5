"""Multispectral images: any number of bands in their own units to patches (protocol section 2.10, EuroSAT).

EuroSAT is 13 x 64 x 64 in patches of 8 x 8: 64 tokens of 832, each band with its own mean and standard deviation. Bands
differ in scale by a factor of two hundred, so that normalising each one is the default, and pixels stay floats.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import BadSample, ConfigError, Fields, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import GridTokenizer
from ssl_plugins.tokenizers._pictures import picture_field, pixels, resize, resolve_patch, resolve_size


class Multispectral(GridTokenizer):
    """Patches of images of any number of bands, in the bands' own units.

    Reads the field "image", (bands, H, W), numbers of any type; they are not scaled but by mean and deviation.
    """

    name = "multispectral"

    class Options(GridTokenizer.Options):
        """Options of the multispectral tokenizer. Images of different sizes are made 64 x 64, unless one is named."""

        size: tuple[int, int] | int | None = Field(
            None, description="height and width, or one number for both; by default as the data are, if all are alike"
        )
        patch: tuple[int, int] | int | None = Field(
            None, description="patch as (height, width), or one number; by default about an eighth of each side"
        )
        bands: tuple[int, ...] = Field((), description="bands to use, counted from 0, in this order; by default all")
        log: bool = Field(False, description="log(1 + x) first, for radar or counts; refuses numbers of -1 and less")

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        count, *space = picture_field(self.name, fields, "image")
        if count is None:
            raise ConfigError(f"tokenizer '{self.name}' needs images with one number of bands, and theirs differ")
        wrong = [band for band in options.bands if not 0 <= band < count]
        if wrong:
            raise ConfigError(f"tokenizer.bands: there is no band {wrong[0]}; the data has bands 0 to {count - 1}")
        size = resolve_size(self.name, options.size, space, 64)
        self.count = count
        channels = len(options.bands) or count
        patch = resolve_patch(self.name, options.patch, size)
        super().__init__(options, fields, dim, field="image", channels=channels, shape=size, patch=patch)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """(bands, H, W) of any size to (chosen bands, *size) float32. Errors: BadSample."""
        x = pixels(inputs["image"], "image")
        if len(x) != self.count:
            raise BadSample(f"the image has {len(x)} bands, not {self.count} as the others")
        x = (x[list(self.options.bands)] if self.options.bands else x).astype(np.float32)
        if not np.isfinite(x).all():
            raise BadSample("'image' holds NaN or infinity")
        if self.options.log:
            if x.min() <= -1:
                raise BadSample(
                    f"'image' holds {x.min():g}, and log(1 + x) needs more than -1; set tokenizer.log=false"
                )
            x = np.log1p(x)
        return {"image": resize(x, self.shape, "bilinear")}


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Multispectral]
