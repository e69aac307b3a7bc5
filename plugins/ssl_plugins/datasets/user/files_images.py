"""The user's images: a folder, a table of paths, or one file of arrays, for four modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, ConfigError, Continuous, DataError, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets._io.file_listing import FileEntry, SampleLocations, list_files, metadata_of_files
from ssl_plugins.datasets._io.npz import ARRAY_EXTENSIONS, RaggedMaps, SampleArray, read_arrays
from ssl_plugins.datasets._io.rasters import (
    RASTER_EXTENSIONS,
    CommonFormat,
    Order,
    common_format,
    convert_channels,
    read_raster,
)
from ssl_plugins.datasets._io.splitting import SampleMetadata
from ssl_plugins.datasets._io.tables import MetadataCollector
from ssl_plugins.datasets._io.user_data import FileOptions, UserData

ARRAY_KEYS = ("images", "image", "maps", "data", "x")


class ImageFiles(UserData):
    """Your own images (png, jpg, tif, npy): a folder, a table of paths, or an .npz of images and labels."""

    modality = "image"
    field = "image"
    count_alpha = False
    """Whether a transparency channel counts as a channel."""

    class Options(FileOptions):
        """Options of the user's images."""

        test_root: str | None = Field(
            None, description="an .npy or .npz file of the test split, if root is such a file"
        )
        extensions: tuple[str, ...] = Field(RASTER_EXTENSIONS, description="endings of the files to read")
        mode: Literal["auto", "grey", "rgb"] = Field(
            "auto",
            description="channels; auto = the number that most files have, without the transparency of png and the "
            "like",
        )
        sizes: Literal["auto", "any"] = Field(
            "auto",
            description="auto = if nine of ten images have one size, skip those of another; any = use all, resized to "
            "tokenizer.size",
        )
        order: Order = Field(
            "auto", description="position of the channel axis in .npy and .tif files; auto = the short axis"
        )

        @field_validator("test_root", mode="after")
        @classmethod
        def _absolute_test(cls, value: str | None) -> str | None:
            return None if value is None else str(Path(value).expanduser().absolute())

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.arrays: list[SampleArray | RaggedMaps] = []
        self.paths: list[Path] = []
        if Path(options.root).suffix.lower() in ARRAY_EXTENSIONS:
            metadata = self._read_arrays()
            shapes = [self._image_shape(array, shape) for array in self.arrays for shape in sorted(array.shapes)]
            size = shapes[0][1:] if len({shape[1:] for shape in shapes}) == 1 else None
            dtype = np.result_type(*(_pixels_of(array).dtype for array in self.arrays))
            image_format = CommonFormat(shapes[0][0], size, dtype)
        else:
            metadata = self._list_images()
            image_format = common_format(self.paths, options.order, count_alpha=self.count_alpha)
        self.channels = self._channel_count(image_format.channels)
        self.size = image_format.size if options.sizes == "auto" else None
        self.assign_split(metadata)
        shape = (self.channels, *(self.size or (None, None)))
        self.fields = {self.field: Continuous(shape, dtype=image_format.dtype.name)}

    def _channel_count(self, common: int) -> int:
        """Channels of every sample. common: those of most files."""
        return {"auto": common, "grey": 1, "rgb": 3}[self.options.mode]

    def _list_images(self) -> SampleMetadata:
        if self.options.test_root is not None:
            raise ConfigError(
                "dataset.test_root is for an .npz of images; of folders name one, which holds train/ and test/, as "
                "dataset.root"
            )
        entries = list_files(self.options.root, self.options.extensions, self.options.label_pattern, self.options)
        self.paths = [entry.path for entry in entries]
        self.record_files(self.paths)
        self.record_summary(entries)
        return metadata_of_files(entries)

    def _read_arrays(self) -> SampleMetadata:
        options, metadata = self.options, MetadataCollector("classes")
        if options.label_pattern is not None:
            raise ConfigError(
                "dataset.label_pattern is for names of files; labels of an .npz are an array 'labels' in it, groups "
                "one called 'groups'"
            )
        for root, split in ((options.root, "train" if options.test_root else None), (options.test_root, "test")):
            if root is None:
                continue
            path = Path(root)
            if not path.is_file():
                raise DataError(f"{root} does not exist; name a folder of images, or an .npy or .npz file")
            self.arrays += read_arrays(path, ARRAY_KEYS, FileEntry(path, path.name, split=split), metadata)
        paths = [array.path for array in self.arrays]
        self.record_files(paths)
        self.locations = SampleLocations(paths, np.cumsum([0, *map(len, self.arrays)]), unit="sample")
        return metadata.metadata(self.locations)

    def _image_shape(self, array: SampleArray | RaggedMaps, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The (channels, H, W) of samples of `shape`."""
        dtype = _pixels_of(array).dtype
        if len(shape) not in (2, 3) or dtype.kind not in "uifb":
            raise DataError(
                f"{array.path}: a sample is {dtype} of shape {shape}, not an image; arrays are numbers "
                f"(n, height, width) or (n, channels, height, width)"
            )
        if len(shape) == 2:
            return 1, shape[0], shape[1]
        return (shape[2], shape[0], shape[1]) if self._is_channels_last(shape) else (shape[0], shape[1], shape[2])

    def _is_channels_last(self, shape: tuple[int, ...]) -> bool:
        order = self.options.order
        return order == "last" or (order == "auto" and shape[2] < shape[0])

    def _channels_first(self, x: np.ndarray) -> np.ndarray:
        """One sample of an array as (channels, H, W)."""
        if x.size == 0:
            raise BadSample(f"has shape {x.shape}, without a pixel; remove it")
        if x.ndim == 2:
            return x[np.newaxis]
        return np.ascontiguousarray(np.moveaxis(x, 2, 0)) if self._is_channels_last(x.shape) else x

    def __getitem__(self, index: int) -> Sample:
        """{field: (channels, H, W) in the file's dtype}.

        Raises:
            BadSample: the file cannot be read, or has other channels or another size.
        """
        row = int(self.rows[index])
        if self.arrays:
            array, index_in_array = self.locations.locate(row)
            x = self._channels_first(self.arrays[array][index_in_array])
        else:
            x = read_raster(self.paths[row], self.options.order)
        x = self._with_channels(x)
        if self.size is not None and x.shape[1:] != self.size:
            height, width = self.size
            raise BadSample(
                f"is {x.shape[1]} pixels high and {x.shape[2]} wide, the others {height} and {width}; remove it, or "
                f"set dataset.sizes=any to resize it"
            )
        return {"inputs": {self.field: x}, "label": self.label_of(index)}

    def _with_channels(self, x: np.ndarray) -> np.ndarray:
        """Convert a sample to the channels of all."""
        image = convert_channels(x, self.channels)
        if image is None:
            raise BadSample(f"has {len(x)} channels, and {self.channels} are needed; convert or remove it")
        return image


class MedicalImageFiles(ImageFiles):
    """Your own scans (png, jpg, tif, npy; 8 or 16 bits, floats): a folder, a table of paths, or an .npz."""

    modality = "medical-image"


class MultispectralFiles(ImageFiles):
    """Your own images of any number of bands (tif, npy): a folder, a table of paths, or an .npz."""

    modality = "multispectral"
    count_alpha = True

    def _channel_count(self, common: int) -> int:
        return common

    def _with_channels(self, x: np.ndarray) -> np.ndarray:
        if len(x) != self.channels:
            raise BadSample(f"has {len(x)} bands, the others have {self.channels}; remove it")
        return x


class WaferFiles(ImageFiles):
    """Your own wafer maps of 0, 1, 2 (npy or png each, or one .npz in the format of WM-811K)."""

    modality = "wafer"
    field = "map"

    class Options(ImageFiles.Options):
        """Options of the user's wafer maps."""

        sizes: Literal["auto", "any"] = Field(
            "any", description="any = maps of all sizes; auto = if nine of ten have one size, skip those of another"
        )

    def _channel_count(self, common: int) -> int:
        return 1

    def _with_channels(self, x: np.ndarray) -> np.ndarray:
        if len(x) != 1:
            raise BadSample(f"has {len(x)} channels; a wafer map has one, of 0 (no die), 1 (good) and 2 (bad)")
        return x


def _pixels_of(array: SampleArray | RaggedMaps) -> np.ndarray:
    """The array that holds the pixels."""
    pixels: np.ndarray = array.array if isinstance(array, SampleArray) else array.pixels
    return pixels


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [ImageFiles, MedicalImageFiles, MultispectralFiles, WaferFiles]
