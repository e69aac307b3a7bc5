"""Collections of images: files, files that are one image's bands, columns of Parquet files, and arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ssl_core import BadSample
from ssl_plugins.datasets._io.files.entry import SampleLocations
from ssl_plugins.datasets._io.images.raster_colour import scale_bits
from ssl_plugins.datasets._io.images.raster_types import Content, ImageHeader, Raster, RasterOptions
from ssl_plugins.datasets._io.images.rasters import channels_first, decode, header_of_array, read_header
from ssl_plugins.datasets._io.npz import RaggedMaps, SampleArray


class Images(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    @property
    def paths(self) -> Sequence[Path]:
        """The files that hold them."""

    def name(self, index: int) -> str:
        """The name of an image in messages."""

    def decode(self, index: int, options: RasterOptions) -> Raster:
        """Read an image.

        Raises:
            BadSample: it cannot be read.
        """

    def header(self, index: int, options: RasterOptions) -> ImageHeader | None:
        """The format of an image; None if it cannot be read."""

    def spread(self, count: int) -> Iterator[int]:
        """At most about `count` images that are cheap to read, spread over all."""


@dataclass(frozen=True)
class FileImages:
    """Each image is a file, or several files of one band each.

    Args:
        files: the files of each image.
        names: names in messages; by default the first file.
        bands: names of the bands, if images have several files.
        problems: why an image cannot be used.
    """

    files: Sequence[tuple[Path, ...]]
    names: Sequence[str] = ()
    bands: tuple[str, ...] = ()
    problems: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> Sequence[Path]:
        """All files."""
        return [path for files in self.files for path in files]

    def name(self, index: int) -> str:
        """The path, or the name of the scene."""
        return self.names[index] if self.names else str(self.files[index][0])

    def decode(self, index: int, options: RasterOptions) -> Raster:
        """Read an image; bands are stacked in order."""
        if index in self.problems:
            raise BadSample(self.problems[index])
        if not self.bands:
            return decode(self.files[index][0], options)
        return _stack([(path.name, decode(path, options)) for path in self.files[index]])

    def header(self, index: int, options: RasterOptions) -> ImageHeader | None:
        """The format of an image; that of the largest band, if bands are files."""
        if index in self.problems:
            return None
        headers = [read_header(path, options) for path in self.files[index]]
        known = [header for header in headers if header is not None]
        if len(known) < len(headers):
            return None
        if not self.bands:
            return known[0]
        largest = max(known, key=lambda header: header.size)
        dtype = np.result_type(*(header.dtype for header in known))
        return ImageHeader(len(known), largest.size, dtype, names=self.bands, nodata=largest.nodata)

    def spread(self, count: int) -> Iterator[int]:
        """Evenly spaced images."""
        return iter(range(0, len(self), max(1, len(self) // count)))


def _stack(rasters: Sequence[tuple[str, Raster]]) -> Raster:
    """One image of several files of one band; smaller bands are enlarged to the largest (nearest pixel)."""
    planes, values = [], []
    for name, raster in rasters:
        pixels = raster.pixels[:-1] if raster.has_alpha else raster.pixels
        if len(pixels) != 1:
            raise BadSample(f"{name} has {len(pixels)} channels; a file of one band has one")
        planes.append(pixels[0])
        values.append(raster.nodata)
    height, width = max(plane.shape for plane in planes)
    common = next((value for value in values if value is not None), None)
    out = np.empty((len(planes), height, width), np.result_type(*planes))
    for index, (plane, nodata) in enumerate(zip(planes, values, strict=True)):
        rows = np.arange(height) * plane.shape[0] // height
        columns = np.arange(width) * plane.shape[1] // width
        out[index] = plane[rows][:, columns]
        if nodata is not None and common is not None and nodata != common:
            out[index][out[index] == nodata] = common
    return Raster(out, nodata=common)


class ColumnImages(Protocol):
    """Images of one table."""

    @property
    def path(self) -> Path:
        """The file."""

    def __len__(self) -> int: ...

    def content(self, row: int) -> Content:
        """The image of a row.

        Raises:
            BadSample: the row has none.
        """

    def cheap_rows(self, count: int) -> int:
        """How many of the first rows are read at once; at most `count`."""


@dataclass(frozen=True)
class TableImages:
    """The images of several tables. describe: names an image. named: files of images that the tables name."""

    tables: Sequence[ColumnImages]
    starts: np.ndarray
    describe: Callable[[int], str]
    named: Sequence[Path] = ()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def paths(self) -> Sequence[Path]:
        """The tables, and the files that they name."""
        return [*(table.path for table in self.tables), *self.named]

    def name(self, index: int) -> str:
        """File and row."""
        return self.describe(index)

    def content(self, index: int) -> Content:
        """The file or the bytes of an image."""
        table = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.tables[table].content(index - int(self.starts[table]))

    def decode(self, index: int, options: RasterOptions) -> Raster:
        """Read an image."""
        return decode(self.content(index), options)

    def header(self, index: int, options: RasterOptions) -> ImageHeader | None:
        """The format of an image."""
        try:
            return read_header(self.content(index), options, self.name(index))
        except BadSample:
            return None

    def spread(self, count: int) -> Iterator[int]:
        """The first rows of evenly spaced tables, at most four."""
        step = max(1, len(self.tables) // 4)
        chosen = range(0, len(self.tables), step)
        for table in chosen:
            rows = self.tables[table].cheap_rows(max(1, count // len(chosen)))
            yield from range(int(self.starts[table]), int(self.starts[table]) + rows)


@dataclass(frozen=True)
class ArrayImages:
    """The images of .npy and .npz files. locations: names an image, and finds its array."""

    arrays: Sequence[SampleArray | RaggedMaps]
    locations: SampleLocations

    def __len__(self) -> int:
        return int(self.locations.starts[-1])

    @property
    def paths(self) -> Sequence[Path]:
        """The file of each array."""
        return [array.path for array in self.arrays]

    def name(self, index: int) -> str:
        """File and sample."""
        return self.locations(index)

    def decode(self, index: int, options: RasterOptions) -> Raster:
        """Read an image."""
        array, position = self.locations.locate(index)
        x = self.arrays[array][position]
        if x.size == 0:
            raise BadSample(f"has shape {x.shape}, without a pixel; remove it")
        x = channels_first(x, "", options.order)
        return Raster(scale_bits(x, 1) if x.dtype.kind == "b" and not options.stored else x)

    def header(self, index: int, options: RasterOptions) -> ImageHeader | None:
        """The format of an image."""
        array, position = self.locations.locate(index)
        source = self.arrays[array]
        if isinstance(source, RaggedMaps):
            size = (int(source.height[position]), int(source.width[position]))
            return ImageHeader(1, size, source.pixels.dtype) if min(size) else None
        array_ = source.array
        return header_of_array(array_.shape[1:], array_.dtype, options.order, f"a sample of {source.path.name}")

    def spread(self, count: int) -> Iterator[int]:
        """Evenly spaced images."""
        return iter(range(0, len(self), max(1, len(self) // count)))
