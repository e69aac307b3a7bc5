"""Tokenizer `wafer`: patches of wafer maps, the state of each die, of any size.

As in the published code of DABS and MetaMAE, the states 0 (no die), 1 (good) and 2 (bad) become the grey levels 0, 127
and 255, are copied to three channels and resized by PIL (bilinear, aspect ratio not kept) to 32 x 32 in patches of
4 x 4: 64 tokens of 48 numbers (MetaMAE, Table 16). With `channels=states` each state has its own channel, so that a bad
die beside empty space does not average to a good one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, Fields, Inputs, Preprocessing, Tokenizer, hookimpl
from ssl_plugins.tokenizers._augment import AugmentedTokenizer
from ssl_plugins.tokenizers._handmade import image_statistics
from ssl_plugins.tokenizers._image import (
    SizeOptions,
    image_shape,
    resize,
    resize_step,
    resolve_patch,
    resolve_size,
    to_image_array,
)

STATES = 3
GREY_LEVELS = np.array([0, 127, 255], dtype=np.uint8)  # 127.5 times the state, truncated
ONE_HOT = 255 * np.eye(STATES, dtype=np.uint8)


class WaferTokenizer(AugmentedTokenizer):
    """Patches of wafer maps of any size, as grey levels or with a channel for each state of a die.

    Reads the field "map", (1, H, W): 0 for no die, 1 for a good one, 2 for a bad one.
    """

    name = "wafer"
    fits_sizes = True

    class Options(SizeOptions):
        """Options of the wafer map tokenizer."""

        size: tuple[int, int] | int = Field(32, description="height and width, or one number for both")
        channels: Literal["grey", "states"] | Annotated[int, Field(ge=1)] = Field(
            3, description="number of copies of the grey map; grey = one; states = one channel for each state"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        image_shape(self.name, fields, "map")
        self.one_hot = options.channels == "states"
        channels = {"grey": 1, "states": STATES}.get(str(options.channels), options.channels)
        size = resolve_size(self.name, options.size, (None, None), 32)
        patch = resolve_patch(self.name, options.patch, size)
        assert isinstance(channels, int)
        super().__init__(options, fields, dim, field="map", channels=channels, shape=size, patch=patch, unit=1 / 255)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Convert one map, (1, H, W) of 0, 1 and 2, to (C, *size) uint8.

        Raises:
            BadSample: The map has several channels or holds another state.
        """
        x = to_image_array(inputs["map"], "map")
        if len(x) != 1:
            raise BadSample(f"'map' has {len(x)} channels; a wafer map has one, of 0, 1 and 2")
        invalid = x[~np.isin(x, (0, 1, 2))]
        if invalid.size:
            raise BadSample(f"'map' holds {invalid[0]}; a die is 0 (none), 1 (good) or 2 (bad)")
        states = x[0].astype(np.intp)
        if self.one_hot:
            return {"map": resize(np.moveaxis(ONE_HOT[states], -1, 0), self.shape, "bilinear", self.options.fit)}
        grey = resize(GREY_LEVELS[states][np.newaxis], self.shape, "bilinear", self.options.fit)
        return {"map": np.repeat(grey, self.channels, axis=0)}

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Histograms of gradients and of values of the prepared image."""
        return image_statistics(np.asarray(self.preprocess(inputs)["map"]))

    def describe_preprocessing(self) -> Preprocessing:
        """States as bytes, and the size; the rest is inside."""
        size = resize_step(self.shape, self.options.fit)
        if self.one_hot:
            channels = "make a channel of bytes for each of the states 0, 1 and 2: `value` where a die has it, else 0"
            steps = [{"do": channels, "value": 255}, size]
        else:
            states = "replace the states 0 (no die), 1 (good) and 2 (bad) by these bytes"
            copies = {"do": "copy the map to `channels` channels", "channels": self.channels}
            steps = [{"do": states, "bytes": GREY_LEVELS.tolist()}, size, copies]
        return Preprocessing(steps, super().describe_preprocessing().inside)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [WaferTokenizer]
