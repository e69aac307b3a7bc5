"""Base class of the image tokenizers, and helpers for image fields, sizes, patches, channels and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from ssl_core import BadSample, ConfigError, Continuous, Fields, Inputs, Preprocessing
from ssl_plugins.tokenizers._augment import AugmentedTokenizer
from ssl_plugins.tokenizers._handmade import image_statistics

MAX_NUMBERS = 8192  # of a token, above which the size of images is doubtful
ROUNDING = 1e-3  # share by which measured constants may be beyond what numbers in 0..1 have
TOKENS_PER_SIDE = 8  # of the default patch: 4 x 4 at 32 x 32, 8 x 8 at 64 x 64
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


class SizeOptions(AugmentedTokenizer.Options):
    """Options on the size of an image, common to all tokenizers of images."""

    size: tuple[int, int] | int | None = Field(
        None, description="height and width, or one number for both; by default that of the data if all are equal"
    )
    patch: tuple[int, int] | int | None = Field(
        None, description="patch as (height, width), or one number; by default about an eighth of each side"
    )
    fit: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="how an image of other proportions gets the size: stretch changes the proportions; crop and pad "
        "keep them, and cut off the sides or add some (0 for bytes, else the mean of the channel)",
    )


class BaseImageTokenizer(AugmentedTokenizer):
    """Patches of images (channels, H, W) of any size and number of channels, prepared as bytes or as floats.

    Unsigned integers are divided by their type's maximum, so that 0..1 is black to white at any bit depth. Numbers of
    another type stay as they are; to be prepared as bytes they must lie in 0..1.
    """

    fits_sizes = True

    class Options(SizeOptions):
        """Options common to all image tokenizers."""

        channels: int | None = Field(
            None, ge=1,
            description="channels: grey is copied to several, RGB is converted to luminance; by default the data's",
        )  # fmt: skip
        pixel_dtype: Literal["auto", "uint8", "float32"] = Field(
            "auto",
            description="type of prepared pixels: uint8, a quarter of the disk space, or float32; auto = float32 if "
            "the data set declares another type than 8-bit pixels, else uint8",
        )

    def __init__(
        self, options: Options, fields: Fields, dim: int, *, field: str, default_size: int, default_channels: int
    ) -> None:
        channels, *space = image_shape(self.name, fields, field)
        size = resolve_size(self.name, options.size, space, default_size)
        pixel_dtype = resolve_pixel_dtype(options.pixel_dtype, getattr(fields[field], "dtype", None))
        super().__init__(
            options,
            fields,
            dim,
            field=field,
            channels=options.channels or channels or default_channels,
            shape=size,
            patch=resolve_patch(self.name, options.patch, size),
            unit=1 / 255 if pixel_dtype == "uint8" else 1.0,
        )
        self.pixel_dtype = pixel_dtype
        self.source_dtype: str | None = getattr(fields[field], "dtype", None)
        self.doubts = doubts_of_size(options, self.shape, self.patch, self.channels)
        self.warnings = warnings_of_size(options, space, self.shape)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Convert the channels of one image, (channels, H, W) or (H, W), and resize it to (C, *size).

        Raises:
            BadSample: The array is not an image, its channels cannot be converted, its range does not fit bytes, or it
                holds unsigned integers and the encoder was trained on other numbers beyond 0..1.
        """
        x = to_image_array(inputs[self.field], self.field)
        if x.dtype.kind == "u" and self._is_beyond_unit_range():
            raise BadSample(
                f"'{self.field}' is {x.dtype}, which would be divided by {np.iinfo(x.dtype).max}, and the encoder was "
                f"trained on {self.source_dtype} numbers beyond 0..1; give x.astype('float32') if these have the "
                f"same unit"
            )
        if x.dtype != np.uint8 or self.pixel_dtype == "float32" or len(x) not in (1, self.channels):
            x = to_unit_range(x)
        x = convert_channels(x, self.channels)
        if self.pixel_dtype == "uint8" and x.dtype != np.uint8:
            low, high = float(x.min()), float(x.max())
            if not (low >= 0 and high <= 1):  # NaN fails, too
                raise BadSample(
                    f"'{self.field}' holds numbers from {low:g} to {high:g}; give bytes (uint8) or "
                    f"divide to numbers in 0..1, or set tokenizer.pixel_dtype=float32 for a new encoder"
                )
            x = np.rint(x * 255).astype(np.uint8)
        return {self.field: resize(x, self.shape, "bilinear", self.options.fit)}

    def _is_beyond_unit_range(self) -> bool:
        """Whether training images that are not unsigned integers held numbers below 0 or above 1.

        The constants tell: the variance of numbers in 0..1 is at most mean (1 - mean). A deviation of exactly 1 is that
        of a constant channel, or not measured.
        """
        if self.pixel_dtype == "uint8" or self.source_dtype is None or np.dtype(self.source_dtype).kind in "ub":
            return False
        if self.options.normalise == "none":
            return False
        mean, std = (constant.detach().double().cpu().numpy() for constant in (self.mean, self.std))
        if ((mean < -ROUNDING) | (mean > 1 + ROUNDING)).any():
            return True
        largest = np.maximum(mean * (1 - mean), 0) * (1 + ROUNDING) + ROUNDING**2
        return bool(self.options.normalise == "measured" and ((std != 1) & (std**2 > largest)).any())

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Histograms of gradients and of values of the prepared image."""
        return image_statistics(np.asarray(self.preprocess(inputs)[self.field]))

    def describe_preprocessing(self) -> Preprocessing:
        """Range, channels and size; the rest is inside."""
        to_floats = "divide unsigned integers by the maximum of their type (255, 65535); other numbers stay"
        steps: list[dict[str, Any]] = [{"do": to_floats, "dtype": "float32"}, channel_step(self.channels)]
        if self.pixel_dtype == "uint8":
            steps[0] = {"do": f"bytes of 1 or of `channels` channels stay; else {to_floats}", "channels": self.channels}
            to_bytes = "multiply numbers that are not bytes, which must lie in 0..1, by 255 and round half to even"
            steps.append({"do": to_bytes, "dtype": "uint8"})
        steps.append(resize_step(self.shape, self.options.fit))
        return Preprocessing(steps, super().describe_preprocessing().inside)


def channel_step(channels: int) -> dict[str, Any]:
    """The conversion of channels in words."""
    return {
        "do": "convert to `channels` channels: one channel is copied to all; of 2 or 4 channels for 1 or 3 the last, "
        "alpha, is dropped; 3 or 4 channels for 1 become the sum of the first three times `luminance`; another number "
        "is refused",
        "channels": channels, "luminance": [0.299, 0.587, 0.114],
    }  # fmt: skip


def resize_step(size: Sequence[int], fit: str) -> dict[str, Any]:
    """The resizing in words."""
    how = {
        "stretch": "the proportions are not kept",
        "crop": "the proportions are kept: scale so that both sides reach the size (round to pixels), cut off the rest "
        "alike on both sides",
        "pad": "the proportions are kept: scale so that both sides fit (round to pixels), fill both sides alike with 0 "
        "for integers, else with the channel's mean",
    }[fit]
    return {
        "do": f"resize each channel to height and width by Pillow's bilinear filter, which averages where it shrinks; "
        f"{how}; an image of this size stays",
        "height": size[0], "width": size[1], "filter": "bilinear", "fit": fit, "axes": "channels, height, width",
    }  # fmt: skip


def doubts_of_size(options: Any, size: Sequence[int], patch: Sequence[int], channels: int) -> tuple[str, ...]:
    """A doubt if the images are large, so that by default a token holds very many numbers."""
    count = channels * math.prod(patch)
    if count <= MAX_NUMBERS or options.size is not None or options.patch is not None:
        return ()
    return (
        f"images of {size[0]} x {size[1]} pixels in patches of {patch[0]} x {patch[1]} are {count:,} numbers a token; "
        f"set tokenizer.size=224 and tokenizer.patch=16, or tokenizer.patch={patch[0]},{patch[1]} to keep these",
    )


def warnings_of_size(options: Any, space: Sequence[int | None], size: Sequence[int]) -> tuple[str, ...]:
    """A line if images of several sizes are resized to one that no option names."""
    if None not in space or options.size is not None:
        return ()
    how = "whatever their proportions (tokenizer.fit=crop or pad keeps them)" if options.fit == "stretch" else ""
    how = how or f"by tokenizer.fit={options.fit}"
    return (f"the images may differ in size: all are resized to {size[0]} x {size[1]} (tokenizer.size), {how}",)


def resolve_pixel_dtype(option: Literal["auto", "uint8", "float32"], dtype: str | None) -> Literal["uint8", "float32"]:
    """The option's type; with `auto`, float32 if the data set declares a type other than 8-bit pixels."""
    if option != "auto":
        return option
    return "uint8" if dtype in (None, "uint8", "bool") else "float32"


def image_shape(name: str, fields: Fields, field: str) -> tuple[int | None, ...]:
    """(channels, H, W) of an image field, None for what differs between samples.

    Raises:
        ConfigError: The data set has no such field.
    """
    image = fields.get(field)
    if not isinstance(image, Continuous) or len(image.shape) != 3:
        offered = ", ".join(f"'{key}': {value}" for key, value in fields.items()) or "no field"
        raise ConfigError(
            f"tokenizer '{name}' reads a field '{field}' of real numbers (channels, H, W); the data set "
            f"offers {offered}"
        )
    return image.shape


def resolve_size(
    name: str, size: tuple[int, int] | int | None, space: Sequence[int | None], default: int
) -> tuple[int, int]:
    """(height, width): the option `size`, else the size of the data, else the default.

    Raises:
        ConfigError: The size is not positive.
    """
    if isinstance(size, int):
        size = (size, size)
    if size is None:
        size = (space[0] or default, space[1] or default)
    if min(size) < 1:
        raise ConfigError(f"tokenizer '{name}': size {size} must be positive; set tokenizer.size")
    return size


def resolve_patch(name: str, patch: tuple[int, int] | int | None, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width): the option `patch`, else for each side the divisor nearest to an eighth of it.

    Raises:
        ConfigError: A side has no suitable divisor.
    """
    if patch is not None:
        return (patch, patch) if isinstance(patch, int) else patch
    return (_default_patch(name, size[0]), _default_patch(name, size[1]))


def _default_patch(name: str, side: int) -> int:
    divisors = [step for step in range(min(2, side), side // 2 + 1) if side % step == 0]
    if not divisors and side > 1:
        raise ConfigError(
            f"tokenizer '{name}': no patch divides a side of {side}; set tokenizer.size to resize, or tokenizer.patch=1"
        )
    ideal = max(side / TOKENS_PER_SIDE, 2.0)
    return min(divisors, key=lambda step: (abs(math.log(step / ideal)), step), default=1)


def to_image_array(value: Any, field: str) -> np.ndarray:
    """The value as an array (channels, H, W).

    Raises:
        BadSample: It has another number of axes, is empty or holds no numbers.
    """
    x = np.asarray(value)
    if x.ndim == 2:
        x = x[np.newaxis]
    if x.ndim != 3 or x.size == 0 or x.dtype.kind not in "uifb":
        raise BadSample(f"'{field}' is {x.dtype} of shape {x.shape}, not an image of numbers (channels, height, width)")
    return x


def to_unit_range(x: np.ndarray) -> np.ndarray:
    """float32: unsigned integers divided by their type's maximum, other numbers unchanged."""
    if x.dtype.kind == "u":
        return np.true_divide(x, np.iinfo(x.dtype).max, dtype=np.float32)
    return x.astype(np.float32)


def convert_channels(x: np.ndarray, channels: int) -> np.ndarray:
    """(c, H, W) with `channels` channels: grey is copied, RGB becomes luminance, an alpha channel is dropped.

    Raises:
        BadSample: None of these conversions gives this number of channels.
    """
    count = len(x)
    if count == channels:
        return x
    if count == 1:
        return np.repeat(x, channels, axis=0)
    if count in (2, 4) and channels == count - 1:  # the last channel is alpha
        return x[:channels]
    if count in (3, 4) and channels == 1:
        return np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), x[:3], axes=1)[np.newaxis]
    raise BadSample(f"the image has {count} channels, not {channels}; set tokenizer.channels={count}")


def resize(
    x: np.ndarray,
    size: Sequence[int],
    resampling: Literal["bilinear", "nearest"],
    fit: Literal["stretch", "crop", "pad"] = "stretch",
) -> np.ndarray:
    """(C, H, W) bytes or floats resized by PIL, channel by channel.

    Args:
        x: the image.
        size: height and width.
        resampling: filter of PIL.
        fit: "stretch" changes the proportions; "crop" keeps them and cuts off what goes beyond the size, alike on both
            sides; "pad" keeps them and fills the rest with 0 (bytes) or the mean of the channel (floats).
    """
    height, width = size
    if x.shape[1:] == (height, width):
        return np.ascontiguousarray(x)
    if fit == "stretch" or x.shape[1] * width == x.shape[2] * height:
        return _stretch(x, height, width, resampling)
    choose = max if fit == "crop" else min
    scale = choose(height / x.shape[1], width / x.shape[2])
    inner = tuple(max(1, round(side * scale)) for side in x.shape[1:])
    x = _stretch(x, inner[0], inner[1], resampling)
    top, left = (abs(inner[axis] - side) // 2 for axis, side in enumerate((height, width)))
    if fit == "crop":
        return np.ascontiguousarray(x[:, top : top + height, left : left + width])
    ground = np.zeros(len(x), x.dtype) if x.dtype.kind in "ui" else x.mean(axis=(1, 2))
    out = np.empty((len(x), height, width), x.dtype)
    out[:] = ground[:, np.newaxis, np.newaxis]
    out[:, top : top + inner[0], left : left + inner[1]] = x
    return out


def _stretch(x: np.ndarray, height: int, width: int, resampling: Literal["bilinear", "nearest"]) -> np.ndarray:
    """(C, height, width); the proportions are not kept."""
    filter_ = RESAMPLING[resampling]
    planes = [Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), filter_) for plane in x]
    return np.stack([np.asarray(plane) for plane in planes])
