"""What the tokenizers of pictures share: the field's shape, sizes and patches, resizing, and how pixels are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from ssl_core import BadSample, ConfigError, Continuous, Fields, Inputs
from ssl_core.tokenizers import GridTokenizer

TOKENS_ALONG = 8  # tokens along a side where no patch is named: 32 x 32 in patches of 4 x 4, 64 x 64 in 8 x 8
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


class PictureTokenizer(GridTokenizer):
    """Patches of pictures (channels, H, W) of any size and number of channels, kept as bytes or as floats.

    Unsigned integers are scaled by their type's maximum, so that 0..1 is black to white whatever the file's depth;
    numbers of another type are taken as they are, and must lie in 0..1 to be kept as bytes.
    """

    class Options(GridTokenizer.Options):
        """Options of pictures."""

        size: tuple[int, int] | int | None = Field(
            None, description="height and width, or one number for both; by default as the data are, if all are alike"
        )
        patch: tuple[int, int] | int | None = Field(
            None, description="patch as (height, width), or one number; by default about an eighth of each side"
        )
        channels: int | None = Field(
            None, ge=1, description="channels: grey is copied to several, RGB becomes luminance; by default the data's"
        )
        pixel_dtype: Literal["auto", "uint8", "float32"] = Field(
            "auto",
            description="prepared pixels as bytes, a quarter of the room, or as 32-bit floats; auto = floats where the "
            "data are known to hold more than bytes",
        )

    def __init__(
        self, options: Options, fields: Fields, dim: int, *, field: str, usual_size: int, usual_channels: int
    ) -> None:
        channels, *space = picture_field(self.name, fields, field)
        size = resolve_size(self.name, options.size, space, usual_size)
        keep = keeping(options.pixel_dtype, getattr(fields[field], "dtype", None))
        super().__init__(
            options,
            fields,
            dim,
            field=field,
            channels=options.channels or channels or usual_channels,
            shape=size,
            patch=resolve_patch(self.name, options.patch, size),
            unit=1 / 255 if keep == "uint8" else 1.0,
        )
        self.pixel_dtype = keep

    def preprocess(self, inputs: Inputs) -> Inputs:
        """(channels, H, W), or (H, W) for one channel, to (C, *size), bytes or floats. Errors: BadSample."""
        x = pixels(inputs[self.field], self.field)
        if x.dtype != np.uint8 or self.pixel_dtype == "float32" or len(x) not in (1, self.channels):
            x = unit_range(x)
        x = as_channels(x, self.channels)
        if self.pixel_dtype == "uint8" and x.dtype != np.uint8:
            low, high = float(x.min()), float(x.max())
            if not (low >= 0 and high <= 1):  # NaN fails, too
                raise BadSample(
                    f"'{self.field}' holds numbers from {low:g} to {high:g}; pixels are bytes or lie in 0..1, "
                    f"else set tokenizer.pixel_dtype=float32"
                )
            x = np.rint(x * 255).astype(np.uint8)
        return {self.field: resize(x, self.shape, "bilinear")}


def keeping(asked: Literal["auto", "uint8", "float32"], dtype: str | None) -> Literal["uint8", "float32"]:
    """As asked, else floats where the data are known to be no bytes."""
    if asked != "auto":
        return asked
    return "uint8" if dtype in (None, "uint8", "bool") else "float32"


def picture_field(name: str, fields: Fields, field: str) -> tuple[int | None, ...]:
    """(channels, H, W) of the field, None where they differ. Errors: ConfigError that names what is offered."""
    found = fields.get(field)
    if not isinstance(found, Continuous) or len(found.shape) != 3:
        offered = ", ".join(f"'{key}': {value}" for key, value in fields.items()) or "no field"
        raise ConfigError(
            f"tokenizer '{name}' reads a field '{field}' of real numbers (channels, H, W); the data set "
            f"offers {offered}"
        )
    return found.shape


def resolve_size(
    name: str, asked: tuple[int, int] | int | None, space: Sequence[int | None], usual: int
) -> tuple[int, int]:
    """The size asked for, else that of the data where all are alike, else the usual one. Errors: ConfigError."""
    if isinstance(asked, int):
        asked = (asked, asked)
    if asked is None:
        asked = (space[0] or usual, space[1] or usual)
    if min(asked) < 1:
        raise ConfigError(f"tokenizer '{name}': size {asked} must be positive; set tokenizer.size")
    return asked


def resolve_patch(name: str, asked: tuple[int, int] | int | None, size: tuple[int, int]) -> tuple[int, int]:
    """The patch asked for, else for each side the divisor nearest to an eighth of it. Errors: ConfigError."""
    if asked is not None:
        return (asked, asked) if isinstance(asked, int) else asked
    return (_divisor(name, size[0]), _divisor(name, size[1]))


def _divisor(name: str, side: int) -> int:
    least = min(2, side)
    fitting = [step for step in range(least, side // 2 + 1) if side % step == 0]
    if not fitting and side > 1:
        raise ConfigError(
            f"tokenizer '{name}': no patch divides a side of {side}; set tokenizer.size to resize, or tokenizer.patch=1"
        )
    wanted = max(side / TOKENS_ALONG, 2.0)
    return min(fitting, key=lambda step: (abs(math.log(step / wanted)), step), default=1)


def pixels(value: Any, field: str) -> np.ndarray:
    """The array as (channels, H, W). Errors: BadSample if it is none."""
    x = np.asarray(value)
    if x.ndim == 2:
        x = x[np.newaxis]
    if x.ndim != 3 or x.size == 0 or x.dtype.kind not in "uifb":
        raise BadSample(f"'{field}' is {x.dtype} of shape {x.shape}, no picture (channels, height, width) of numbers")
    return x


def unit_range(x: np.ndarray) -> np.ndarray:
    """Unsigned integers divided by their type's maximum; other numbers as they are. float32."""
    if x.dtype.kind == "u":
        return np.true_divide(x, np.iinfo(x.dtype).max, dtype=np.float32)
    return x.astype(np.float32)


def as_channels(x: np.ndarray, wanted: int) -> np.ndarray:
    """(c, H, W) with the wanted number of channels. Errors: BadSample where there is no usual way."""
    count = len(x)
    if count == wanted:
        return x
    if count == 1:
        return np.repeat(x, wanted, axis=0)
    if count in (2, 4) and wanted == count - 1:  # the last one is transparency
        return x[:wanted]
    if count in (3, 4) and wanted == 1:
        return np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), x[:3], axes=1)[np.newaxis]
    raise BadSample(f"the picture has {count} channels, and {wanted} are wanted; set tokenizer.channels={count}")


def resize(x: np.ndarray, size: Sequence[int], how: Literal["bilinear", "nearest"]) -> np.ndarray:
    """(C, H, W) bytes or floats at another size, aspect not kept, as PIL does it channel by channel."""
    height, width = size
    if x.shape[1:] == (height, width):
        return np.ascontiguousarray(x)
    planes = [Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), FILTERS[how]) for plane in x]
    return np.stack([np.asarray(plane) for plane in planes])
