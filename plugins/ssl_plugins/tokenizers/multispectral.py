"""Tokenizer `multispectral`: patches of images of any number of bands, in the bands' own units.

DABS and MetaMAE take EuroSAT as 13 x 64 x 64 in patches of 8 x 8, 64 tokens of 832 numbers (MetaMAE, Table 16), each
band normalised by its own mean and deviation. Bands differ in scale by a factor of two hundred, so each one is
normalised by default, and pixels stay floats.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import BadSample, ConfigError, Fields, Inputs, Tokenizer, hookimpl
from ssl_plugins.tokenizers._augment import AugmentedTokenizer
from ssl_plugins.tokenizers._image import (
    SizeOptions,
    doubts_of_size,
    image_shape,
    resize,
    resolve_patch,
    resolve_size,
    to_image_array,
    warnings_of_size,
)


class MultispectralTokenizer(AugmentedTokenizer):
    """Patches of images of any number of bands, in the bands' own units.

    Reads the field "image", (bands, H, W), numbers of any type. Mean and deviation are the only scaling.
    """

    name = "multispectral"
    fits_sizes = True

    class Options(SizeOptions):
        """Options of the multispectral tokenizer. Images that differ in size are resized to 64 x 64 by default."""

        bands: tuple[int, ...] = Field((), description="bands to use, counted from 0, in this order; by default all")
        log: bool = Field(
            False, description="apply log(1 + x) first, for radar or counts; refuses numbers of -1 or less"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        count, *space = image_shape(self.name, fields, "image")
        if count is None:
            raise ConfigError(
                f"tokenizer '{self.name}' needs the same number of bands in all images, and this data set's differ; "
                f"keep images of one kind in dataset.root"
            )
        invalid = [band for band in options.bands if not 0 <= band < count]
        if invalid:
            raise ConfigError(f"tokenizer.bands: there is no band {invalid[0]}; the data has bands 0 to {count - 1}")
        size = resolve_size(self.name, options.size, space, 64)
        self.count = count
        channels = len(options.bands) or count
        patch = resolve_patch(self.name, options.patch, size)
        super().__init__(options, fields, dim, field="image", channels=channels, shape=size, patch=patch)
        self.doubts = doubts_of_size(options, size, patch, channels)
        self.warnings = warnings_of_size(options, space, size)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Select the bands of one image, (bands, H, W), and resize it to (chosen bands, *size) float32.

        Raises:
            BadSample: The image has another number of bands, is not finite, or has no logarithm where `log` is set.
        """
        x = to_image_array(inputs["image"], "image")
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
        return {"image": resize(x, self.shape, "bilinear", self.options.fit)}


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [MultispectralTokenizer]
