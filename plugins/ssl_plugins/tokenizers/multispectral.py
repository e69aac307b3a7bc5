"""Tokenizer `multispectral`: patches of images of any number of bands, in the bands' own units.

DABS and MetaMAE take EuroSAT as 13 x 64 x 64 in patches of 8 x 8, 64 tokens of 832 numbers (MetaMAE, Table 16), each
band normalised by its own mean and deviation. Bands differ in scale by a factor of two hundred, so each one is
normalised by default, and pixels stay floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from ssl_core import BadSample, ConfigError, Fields, Inputs, PictureStyle, Preprocessing, Tokenizer, hookimpl
from ssl_plugins.tokenizers._augment import AugmentedTokenizer
from ssl_plugins.tokenizers._handmade import image_statistics
from ssl_plugins.tokenizers._image import (
    SizeOptions,
    doubts_of_size,
    image_shape,
    resize,
    resize_step,
    resolve_patch,
    resolve_size,
    to_image_array,
    warnings_of_size,
)

SENTINEL_2_BANDS = (12, 13)  # B01 to B12 with B8A, without or with B10
SENTINEL_2_RGB = (3, 2, 1)  # B04, B03, B02


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

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Histograms of gradients and of values of the prepared image."""
        return image_statistics(np.asarray(self.preprocess(inputs)["image"]))

    def describe_preprocessing(self) -> Preprocessing:
        """Bands, logarithm and size; the rest is inside."""
        take: dict[str, Any] = {
            "do": "take the bands of these indices, counted from 0, in this order, as float32 in their own units",
            "bands_of_a_sample": self.count, "bands": list(self.options.bands or range(self.count)), "dtype": "float32",
        }  # fmt: skip
        log: list[dict[str, Any]] = [{"do": "apply log(1 + x)"}] if self.options.log else []
        steps = [take, *log, resize_step(self.shape, self.options.fit)]
        return Preprocessing(steps, super().describe_preprocessing().inside)

    def picture_style(self, segment: int) -> PictureStyle:
        """The bands of red, green and blue of Sentinel-2, if there are 12 or 13 bands, else the first three."""
        used = list(self.options.bands or range(self.count))
        first = SENTINEL_2_RGB if self.count in SENTINEL_2_BANDS else (0, 1, 2)
        if all(band in used for band in first):
            return PictureStyle(rgb=(used.index(first[0]), used.index(first[1]), used.index(first[2])))
        return PictureStyle(rgb=(0, 1, 2)) if len(used) >= 3 else PictureStyle()


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [MultispectralTokenizer]
