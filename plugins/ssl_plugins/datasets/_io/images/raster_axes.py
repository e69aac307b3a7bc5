"""Which axis of an array of pixels is the channels: by its name, by an option, or by its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssl_core import BadSample

Order = Literal["auto", "first", "last"]
FEW_CHANNELS = 4  # grey, RGB and these with transparency
CERTAIN_NAMES = "SC"  # samples of a pixel, channels
UNKNOWN_NAME = "Q"


@dataclass(frozen=True)
class ChannelAxis:
    """The channel axis of an array of two or three axes.

    index: the axis; None where the array is one channel (height, width).
    is_guess: the lengths of the axes decided.
    is_doubtful: the lengths fit another axis, too.
    """

    index: int | None
    is_guess: bool = False
    is_doubtful: bool = False


def find_channel_axis(shape: Sequence[int], axes: str, order: Order) -> ChannelAxis | None:
    """The channel axis, or None if the array is no image.

    Samples and channels that the file names decide; then `order`; then any other name beside Y and X, such as Z or
    pages; then the lengths: the axis that leaves a square image, else the shorter of the first and the last one.

    Args:
        shape: lengths of two or three axes.
        axes: a letter for each axis as in tifffile ("Q" = not known); empty if the file names none.
        order: the option.
    """
    if len(shape) == 2:
        return ChannelAxis(None)
    if len(shape) != 3:
        return None
    named = len(axes) == 3 and {"Y", "X"} <= set(axes)
    other = next((index for index, name in enumerate(axes) if name not in "YX"), None) if named else None
    if other is not None and axes[other] in CERTAIN_NAMES:
        return ChannelAxis(other)
    if order != "auto":
        return ChannelAxis(0 if order == "first" else 2)
    if other is not None and axes[other] != UNKNOWN_NAME:
        return ChannelAxis(other)
    return _by_length(shape)


def _by_length(shape: Sequence[int]) -> ChannelAxis:
    first, middle, last = shape
    is_square_first, is_square_last = middle == last, first == middle
    index = (0 if is_square_first else 2) if is_square_first != is_square_last else 0 if first <= last else 2
    count, opposite = (first, last) if index == 0 else (last, first)
    side = min(middle, opposite)
    is_clear = (
        count <= FEW_CHANNELS < opposite or 2 * count <= side or (is_square_first != is_square_last and count <= side)
    )
    return ChannelAxis(index, is_guess=True, is_doubtful=not is_clear)


def squeeze_axes(shape: Sequence[int], axes: str) -> tuple[tuple[int, ...], str]:
    """Drop axes of length one, other than Y and X, until three are left; unnamed ones from the beginning."""
    sizes, names = list(shape), list(axes if len(axes) == len(shape) else UNKNOWN_NAME * len(shape))
    is_named = {"Y", "X"} <= set(names)
    index = 0
    while len(sizes) > 3 and index < len(sizes):
        if sizes[index] == 1 and not (is_named and names[index] in "YX"):
            del sizes[index], names[index]
        elif is_named:
            index += 1
        else:
            break
    return tuple(sizes), "".join(names) if len(axes) == len(shape) else ""


def channels_first(x: np.ndarray, axes: str, order: Order) -> np.ndarray:
    """An array of pixels as (channels, height, width).

    Raises:
        BadSample: it is no image of numbers.
    """
    shape, axes = squeeze_axes(x.shape, axes)
    axis = find_channel_axis(shape, axes, order)
    if axis is None or x.dtype.kind not in "uifb" or x.size == 0:
        raise BadSample(
            f"holds {x.dtype} of shape {x.shape}, not an image (channels, height, width) of numbers{_cure(x)}"
        )
    x = x.reshape(shape)
    return x[np.newaxis] if axis.index is None else np.moveaxis(x, axis.index, 0)


def _cure(x: np.ndarray) -> str:
    if x.ndim > 3:
        return "; save each plane or time point as its own file"
    return "; save numbers of shape (height, width) or (channels, height, width)" if x.ndim < 2 else ""


def doubt_of_axes(name: str, shape: Sequence[int], axis: ChannelAxis) -> str:
    """The doubt for an array whose channel axis the lengths do not tell."""
    assert axis.index is not None
    channels, height, width = (shape[axis.index], *(n for i, n in enumerate(shape) if i != axis.index))
    own, other = ("first", "last") if axis.index == 0 else ("last", "first")
    return (
        f"{name} has the shape {' x '.join(map(str, shape))} and is read as {channels} channels of {height} x {width} "
        f"pixels; set dataset.order={own} if that is right, else dataset.order={other}"
    )
