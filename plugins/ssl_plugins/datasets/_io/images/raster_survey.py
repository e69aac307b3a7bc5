"""What most images of a collection have in common, the range of their numbers, and what is doubtful about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssl_core import BadSample, DataError
from ssl_plugins.datasets._io.images.raster_colour import finish, missing_pixels, white_of
from ssl_plugins.datasets._io.images.raster_types import ImageHeader, RasterOptions
from ssl_plugins.datasets._io.images.readers import Images

MAX_HEADERS = 500  # headers to read for the common format
MIN_SIZE_SHARE = 0.9  # share of these headers that must agree on a size
MAX_READ = 16  # images to read for the range of values
MAX_NUMBERS = 1 << 24  # of these images together
SENTINELS = (-999.0, -9999.0, -99999.0, -32768.0)  # usual marks of pixels without data
LOWEST_DATA = -1e30  # and any number below it
SENTINEL_GAP = 0.5  # from such a mark to the next number, as a share of the range of the others
MAX_VEILED = 0.5  # share of pixels that are partly transparent
MAX_SCALE_RATIO = 8.0  # of the largest values of two types of numbers


@dataclass(frozen=True)
class CommonFormat:
    """Format of most images.

    Args:
        channels: number of channels.
        size: (H, W), or None if too few images agree.
        dtype: holds the numbers of all images.
        names: names of the channels, if the files hold some.
        sizes: number of images of each size, the most frequent first.
        headers: the headers that were read.
    """

    channels: int
    size: tuple[int, int] | None
    dtype: np.dtype
    names: tuple[str, ...] = ()
    sizes: tuple[tuple[tuple[int, int], int], ...] = ()
    headers: tuple[tuple[int, ImageHeader], ...] = ()


def common_format(images: Images, options: RasterOptions) -> CommonFormat:
    """The format of most images, from the headers of at most about `2 * MAX_HEADERS` of them.

    A transparency channel counts as a channel if `options` keep it.

    Raises:
        DataError: no image can be read.
    """
    read = [(index, images.header(index, options)) for index in images.spread(MAX_HEADERS)]
    headers = [(index, header) for index, header in read if header is not None]
    if not headers:
        first = read[0][0]
        message = f"none of the {len(images)} files is a readable image, e.g. {images.name(first)}"
        try:
            images.decode(first, options)
        except BadSample as error:
            message += f", which {error}"
        raise DataError(message)
    keeps_alpha = options.alpha == "keep" and not options.stored
    channels = Counter(header.channels + (keeps_alpha and header.has_alpha) for _, header in headers)
    sizes = Counter(header.size for _, header in headers)
    by_count = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    size, count = by_count[0]
    names = {header.names for _, header in headers}
    return CommonFormat(
        min(channels, key=lambda key: (-channels[key], key)),
        size if count >= MIN_SIZE_SHARE * len(headers) else None,
        np.dtype("float32") if options.max_value is not None else np.result_type(*(h.dtype for _, h in headers)),
        names.pop() if len(names) == 1 else (),
        tuple(by_count),
        tuple(headers),
    )


def doubts_of_axes(common: CommonFormat) -> tuple[str, ...]:
    """A doubt if the lengths of the axes do not tell which are the channels."""
    doubtful = [header.doubt for _, header in common.headers if header.doubt]
    more = f" ({len(doubtful) - 1} more files like it)" if len(doubtful) > 1 else ""
    return (doubtful[0] + more,) if doubtful else ()


def sizes_in_words(common: CommonFormat) -> str:
    """The sizes of the images, height first."""
    sizes = [size for size, _ in common.sizes]
    if len(sizes) <= 3:
        return ", ".join(f"{height} x {width}" for height, width in sizes)
    low, high = min(sizes, key=_area), max(sizes, key=_area)
    return f"{low[0]} x {low[1]} to {high[0]} x {high[1]}, {len(sizes)} different"


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


@dataclass(frozen=True)
class ValueRange:
    """Numbers of one type: the smallest and the largest, and an image that holds the largest."""

    low: float
    high: float
    example: str


@dataclass(frozen=True)
class Values:
    """The numbers of a few images.

    Args:
        ranges: by numpy's name of the type.
        count: number of images that were read.
        missing: share of the pixels without data.
        has_alpha: whether an image has transparency.
        veiled: an image most of whose pixels are neither opaque nor clear; empty if there is none.
        sentinel: a number far below all others that usually marks pixels without data, and an image that holds it.
    """

    ranges: dict[str, ValueRange]
    count: int
    missing: float
    has_alpha: bool
    veiled: str = ""
    sentinel: tuple[float, str] | None = None

    def facts(self, options: RasterOptions) -> dict[str, str]:
        """What to say of the numbers, and of what was done to them."""
        facts = {}
        if self.ranges:
            parts = [f"{name} {found.low:g} to {found.high:g}" for name, found in self.ranges.items()]
            facts["numbers"] = f"{', '.join(parts)} (in {self.count} image{'s' if self.count > 1 else ''})"
        if self.has_alpha and not options.stored:
            done = {"keep": "kept as a channel", "drop": "dropped"}.get(options.alpha, f"composited on {options.alpha}")
            facts["transparency"] = f"{done} (dataset.alpha={options.alpha})"
        if self.missing:
            facts["pixels without data"] = f"{self.missing:.1%} (dataset.fill={options.fill})"
        return facts


def read_values(images: Images, common: CommonFormat, options: RasterOptions) -> Values:
    """Read a few images of each type of numbers."""
    by_type: dict[str, list[tuple[int, ImageHeader]]] = {}
    for index, header in common.headers:
        by_type.setdefault(header.dtype.name, []).append((index, header))
    ranges: dict[str, ValueRange] = {}
    count, numbers, missing, pixels, veiled, sentinel = 0, 0, 0.0, 0, "", None
    for headers in by_type.values():
        share = max(1, MAX_READ // len(by_type))
        for position, (index, header) in enumerate(headers[:: max(1, len(headers) // share)][:share]):
            size = header.channels * header.size[0] * header.size[1]
            if position and numbers + size > MAX_NUMBERS:
                break
            try:
                raster = images.decode(index, options)
                mask = missing_pixels(raster.pixels, (raster.nodata, options.nodata))
                x = finish(raster, RasterOptions(alpha="drop", stored=options.stored, nodata=options.nodata))
            except BadSample:
                continue
            veiled = veiled or (images.name(index) if raster.has_alpha and _is_veiled(raster.pixels[-1]) else "")
            numbers, count, pixels = numbers + size, count + 1, pixels + raster.pixels.size
            missing += 0 if mask is None or options.stored else int(mask.sum())
            low, high = float(np.min(x)), float(np.max(x))
            sentinel = sentinel or ((low, images.name(index)) if _is_sentinel(x, low, high) else None)
            old = ranges.get(x.dtype.name)
            example = images.name(index) if old is None or high > old.high else old.example
            ranges[x.dtype.name] = ValueRange(
                low if old is None else min(low, old.low), high if old is None else max(high, old.high), example
            )
    has_alpha = any(header.has_alpha for _, header in common.headers)
    return Values(ranges, count, missing / max(1, pixels), has_alpha, veiled, sentinel)


def _is_sentinel(x: np.ndarray, low: float, high: float) -> bool:
    """Whether the smallest number usually marks pixels without data, and lies far below all others."""
    if low not in SENTINELS and low > LOWEST_DATA:
        return False
    others = x[x > low]
    return bool(len(others)) and float(others.min()) - low > SENTINEL_GAP * (high - float(others.min()))


def doubts_of_nodata(values: Values, options: RasterOptions) -> tuple[str, ...]:
    """A doubt if a number that usually marks pixels without data is read as any other."""
    if values.sentinel is None or options.stored or options.nodata is not None:
        return ()
    number, name = values.sentinel
    return (
        f"pixels of {name} hold {number:g}, far below all others; set dataset.nodata={number:.17g} if it marks pixels "
        f"without data, else dataset.nodata=nan",
    )


def _is_veiled(alpha: np.ndarray) -> bool:
    """Whether most pixels are neither opaque nor clear, as if the last channel were a band and no transparency."""
    return bool(((alpha > 0) & (alpha < white_of(alpha.dtype))).mean() > MAX_VEILED)


def doubts_of_alpha(values: Values, options: RasterOptions) -> tuple[str, ...]:
    """A doubt if an image is composited by a channel that looks like a band, such as near infrared."""
    if not values.veiled or options.stored or options.alpha in ("keep", "drop"):
        return ()
    return (
        f"the file says that the last channel of {values.veiled} is transparency, but most of its pixels are neither "
        f"opaque nor clear; set dataset.alpha=keep if it is a band, or dataset.alpha=drop to leave it out",
    )


def doubts_of_scale(values: Values, is_scaled: bool) -> tuple[str, ...]:
    """A doubt if images of several types of numbers differ in scale.

    Args:
        values: the numbers.
        is_scaled: whether unsigned integers are divided by their type's maximum.
    """
    if len(values.ranges) < 2:
        return ()
    scaled = {
        name: max(abs(found.low), abs(found.high)) / (white_of(np.dtype(name)) if is_scaled else 1.0)
        for name, found in values.ranges.items()
    }
    small, large = min(scaled, key=scaled.__getitem__), max(scaled, key=scaled.__getitem__)
    if not scaled[small] or scaled[large] < MAX_SCALE_RATIO * scaled[small]:
        return ()
    parts = " and ".join(
        f"{name} from {values.ranges[name].low:g} to {values.ranges[name].high:g} ({values.ranges[name].example})"
        for name in (small, large)
    )
    white = max(values.ranges[name].high for name in (small, large))
    cure = f"set dataset.max_value={white:g} to divide all by it, or convert" if is_scaled else "convert"
    return (f"the images hold {parts}, which are read in different scales; {cure} the files to one type of numbers",)


def names_of_channels(common: CommonFormat, channels: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """A name for each channel: those of the files, else grey, red, green and blue, else numbers."""
    if len(names or common.names) == channels:
        return tuple(names or common.names)
    plain = {1: ("grey",), 2: ("grey", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}
    return plain.get(channels) or tuple(f"band {number + 1}" for number in range(channels))
