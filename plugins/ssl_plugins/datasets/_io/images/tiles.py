"""Cuts images into tiles and volumes into slices. The parts of one image stay in one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets._io.images.raster_types import ImageHeader
from ssl_plugins.datasets._io.splitting import (
    EXCLUDED,
    TEST,
    TRAIN,
    VALIDATION,
    Codes,
    DescribeRow,
    SampleMetadata,
    SplitOptions,
)

Size = tuple[int, int]


@dataclass(frozen=True)
class Parts:
    """The samples that are parts of images.

    Args:
        image: (n,) index of the image.
        top, left: (n,) the first row and column of each tile.
        slice: (n,) the slice of each volume, -1 where the image is no volume.
        tile: height and width of a tile; None if images are not cut.
    """

    image: np.ndarray
    top: np.ndarray
    left: np.ndarray
    slice: np.ndarray
    tile: Size | None = None

    def __len__(self) -> int:
        return len(self.image)

    def cut(self, row: int, pixels: np.ndarray) -> np.ndarray:
        """The part of an image (channels or slices, H, W)."""
        if self.slice[row] >= 0:
            pixels = pixels[self.slice[row] : self.slice[row] + 1]
        if self.tile is None:
            return pixels
        top, left = int(self.top[row]), int(self.left[row])
        return pixels[:, top : top + self.tile[0], left : left + self.tile[1]]

    def describe(self, row: int) -> str:
        """Which part of its image a sample is."""
        words = f" slice {self.slice[row] + 1}" if self.slice[row] >= 0 else ""
        return words + (f" tile at row {self.top[row]}, column {self.left[row]}" if self.tile is not None else "")


@dataclass(frozen=True)
class PartNames:
    """Names a part by its image and its place."""

    describe: DescribeRow
    parts: Parts

    def __call__(self, row: int) -> str:
        return f"{self.describe(int(self.parts.image[row]))}{self.parts.describe(row)}"


def find_parts(headers: Sequence[ImageHeader | None], tile: Size | None, stride: Size | None) -> tuple[Parts, int]:
    """The slices and tiles of all images, and the number of images that are smaller than a tile.

    The last row and column of tiles end at the border, so that they may overlap those before them. An image that
    cannot be read has one part, whose reading says why.

    Raises:
        DataError: all images are smaller than a tile.
    """
    rows: list[tuple[np.ndarray, ...]] = []
    small = 0
    for number, header in enumerate(headers):
        tops, lefts, slices = np.zeros(1, np.int64), np.zeros(1, np.int64), np.full(1, -1)
        if header is not None and header.slices is not None:
            slices = np.arange(header.slices)
        if header is not None and tile is not None:
            if header.size[0] < tile[0] or header.size[1] < tile[1]:
                small += 1
                continue
            steps = stride or tile
            tops, lefts = (_starts(header.size[axis], tile[axis], steps[axis]) for axis in (0, 1))
        grid = np.meshgrid(slices, tops, lefts, indexing="ij")
        rows.append((np.full(grid[0].size, number), *(axis.ravel() for axis in grid)))
    if tile is not None and small == sum(header is not None for header in headers) > 0:
        raise DataError(f"all {small} images are smaller than dataset.tile={tile[0]},{tile[1]}; choose smaller tiles")
    image, slices, top, left = (np.concatenate([row[axis] for row in rows]) for axis in range(4))
    return Parts(image, top, left, slices, tile), small


def _starts(length: int, tile: int, step: int) -> np.ndarray:
    starts = np.arange(0, length - tile + 1, step)
    return starts if starts[-1] + tile >= length else np.append(starts, length - tile)


def metadata_of_parts(metadata: SampleMetadata, parts: Parts, names: Sequence[str]) -> SampleMetadata:
    """The metadata of each part: that of its image. Without groups the image, by its name, is the group."""
    expanded = metadata.take(parts.image)
    group = expanded.group
    if group is None:
        group = Codes(parts.image.astype(np.int32), tuple(names)).remove_unused()
    copies = expanded.copies
    if copies is not None:  # a part is a copy of the same part of the other image
        starts = np.searchsorted(parts.image, parts.image)
        place = np.arange(len(parts.image)) - starts
        copies = copies * (int(place.max()) + 1) + place
    return replace(expanded, describe=PartNames(metadata.describe, parts), group=group, copies=copies)


def split_one_image(parts: Parts, options: SplitOptions) -> np.ndarray:
    """(n,) int8: split codes of the parts of a single image. Its lower end is the test split.

    The end is that of the slices of a volume, of rows of tiles, or of columns if there is one row only. Tiles that
    cross a border are EXCLUDED.

    Raises:
        ConfigError: there is a single part.
    """
    if options.test_fraction == 0:
        return np.full(len(parts), TRAIN, np.int8)
    length = 1
    begin = parts.slice
    if len(set(begin.tolist())) < 2:
        assert parts.tile is not None
        begin, length = parts.top, parts.tile[0]
        if len(set(begin.tolist())) < 2:
            begin, length = parts.left, parts.tile[1]
    positions = np.unique(begin)
    if len(positions) < 2:
        raise ConfigError("there is one image only, and it is one tile; set dataset.tile to less than half of its side")
    count = min(max(1, round(options.test_fraction * len(positions))), len(positions) - 1)
    test = positions[-count]
    split = np.select([begin >= test, begin + length <= test], [TEST, TRAIN], EXCLUDED).astype(np.int8)
    if options.validation_fraction > 0:
        rest = positions[positions + length <= test]
        count = min(max(1, round(options.validation_fraction * len(rest))), len(rest) - 1) if len(rest) > 1 else 0
        if not count:
            raise ConfigError("too few tiles are left for a validation split; choose smaller tiles with dataset.tile")
        first = rest[-count]
        is_train = split == TRAIN
        split[is_train & (begin >= first)] = VALIDATION
        split[is_train & (begin < first) & (begin + length > first)] = EXCLUDED
    if not (split == TRAIN).any():
        raise ConfigError(
            "there is one image only, and no tile is left for training; set dataset.tile to a smaller number"
        )
    return split
