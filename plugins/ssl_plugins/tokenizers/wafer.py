"""Wafer maps: the state of each die, of any map size, to patches (protocol section 2.10, WM-811K).

As published: 0 (no die), 1 (good), 2 (bad) times 127.5 cut to whole numbers (0, 127, 255), copied to three channels,
resized by PIL (bilinear, aspect not kept) to 32 x 32 in patches of 4 x 4: 64 tokens of 48. With `channels=states` each
state has a channel of its own instead, so that a bad die beside empty space does not average to a good one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, Fields, Inputs, Tokenizer, hookimpl
from ssl_core.tokenizers import GridTokenizer
from ssl_plugins.tokenizers._pictures import picture_field, pixels, resize, resolve_patch, resolve_size

STATES = 3
GREY = np.array([0, 127, 255], dtype=np.uint8)
PURE = 255 * np.eye(STATES, dtype=np.uint8)


class Wafer(GridTokenizer):
    """Patches of wafer maps of any size, as grey levels or with a channel for each state of a die.

    Reads the field "map", (1, H, W): 0 for no die, 1 for a good one, 2 for a bad one.
    """

    name = "wafer"

    class Options(GridTokenizer.Options):
        """Options of the wafer map tokenizer."""

        size: tuple[int, int] | int = Field(32, description="height and width, or one number for both")
        patch: tuple[int, int] | int | None = Field(
            None, description="patch as (height, width), or one number; by default about an eighth of each side"
        )
        channels: Literal["grey", "states"] | Annotated[int, Field(ge=1)] = Field(
            3, description="so many copies of the grey map, grey = one; or states = one channel for each state"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        picture_field(self.name, fields, "map")
        self.states = options.channels == "states"
        channels = {"grey": 1, "states": STATES}.get(str(options.channels), options.channels)
        size = resolve_size(self.name, options.size, (None, None), 32)
        patch = resolve_patch(self.name, options.patch, size)
        assert isinstance(channels, int)
        super().__init__(options, fields, dim, field="map", channels=channels, shape=size, patch=patch, unit=1 / 255)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """(1, H, W) of 0, 1, 2 to (C, *size) bytes. Errors: BadSample for other states."""
        x = pixels(inputs["map"], "map")
        if len(x) != 1:
            raise BadSample(f"'map' has {len(x)} channels; a wafer map has one, of 0, 1 and 2")
        wrong = x[~np.isin(x, (0, 1, 2))]
        if wrong.size:
            raise BadSample(f"'map' holds {wrong[0]}; a die is 0 (none), 1 (good) or 2 (bad)")
        states = x[0].astype(np.intp)
        if self.states:
            return {"map": resize(np.moveaxis(PURE[states], -1, 0), self.shape, "bilinear")}
        grey = resize(GREY[states][np.newaxis], self.shape, "bilinear")
        return {"map": np.repeat(grey, self.channels, axis=0)}


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Wafer]
