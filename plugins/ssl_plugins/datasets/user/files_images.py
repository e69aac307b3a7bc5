"""The user's images: a folder, a table of paths, Parquet of images, or a file of arrays, for four modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import (
    BadSample,
    Column,
    ConfigError,
    Continuous,
    DataError,
    Dataset,
    Sample,
    Split,
    hookimpl,
)
from ssl_plugins.datasets._io.class_names import conform_classes
from ssl_plugins.datasets._io.images.raster_survey import (
    CommonFormat,
    common_format,
    doubts_of_alpha,
    doubts_of_axes,
    doubts_of_nodata,
    doubts_of_scale,
    names_of_channels,
    read_values,
    sizes_in_words,
)
from ssl_plugins.datasets._io.images.rasters import (
    RASTER_EXTENSIONS,
    VOLUME_EXTENSIONS,
    Alpha,
    Raster,
    RasterOptions,
    Slices,
    convert_channels,
    finish,
)
from ssl_plugins.datasets._io.images.readers import Images
from ssl_plugins.datasets._io.images.sources import ImageSource, open_images
from ssl_plugins.datasets._io.images.tiles import Parts, find_parts, metadata_of_parts, split_one_image
from ssl_plugins.datasets._io.user_data import UserData
from ssl_plugins.datasets.user._image_options import ImageOptions


class ImageFiles(UserData):
    """Your own images (png, jpg, tif, npy, ...): a folder, a table, Parquet of images, or an .npz with labels."""

    modality = "image"
    field = "image"
    stored = False
    """Whether the numbers are used as they are stored, such as the indices of a palette."""
    channel = "channel"
    """What a channel is called."""
    unit_range = True
    """Whether unsigned integers are divided by their type's maximum, by the tokenizer."""

    class Options(ImageOptions):
        """Options of the user's images."""

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        if options.stride is not None and options.tile is None:
            raise ConfigError("dataset.stride is for tiles; set dataset.tile, or leave dataset.stride out")
        self.raster_options = RasterOptions(
            options.order, options.alpha, self.stored, options.nodata, options.fill, options.max_value, self._slices()
        )
        source = open_images(options)
        self.images: Images = source.images
        self.parts: Parts | None = None
        self.selected_bands: tuple[int, ...] = ()
        self._last: tuple[int, Raster] | None = None
        self.record_files(self.images.paths)
        image_format = common_format(self.images, self.raster_options)
        self.doubts += source.doubts + doubts_of_axes(image_format)
        self.file_channels = image_format.channels
        self.channels = self._channel_count(image_format.channels)
        self.size = image_format.size if options.sizes == "auto" else None
        self.only_size = image_format.sizes[0][0] if len(image_format.sizes) == 1 else None
        self.dtype = image_format.dtype
        self.names = self._names(image_format)
        facts = {"sizes": sizes_in_words(image_format)}
        self._cut_and_split(source, image_format, facts)
        self._set_fields(self.size)
        self._summarise(source, image_format, facts)

    def _slices(self) -> Slices:
        """What becomes of volumes."""
        return "middle"

    def _channel_count(self, common: int) -> int:
        """Channels of every sample. common: those of most files."""
        return {"auto": common, "grey": 1, "rgb": 3}[self.options.mode]

    def _names(self, image_format: CommonFormat) -> tuple[str, ...]:
        """Names of the channels of a sample."""
        return names_of_channels(image_format, self.channels)

    def _set_fields(self, size: tuple[int, int] | None) -> None:
        shape = (self.channels, *(size or (None, None)))
        self.fields = {self.field: Continuous(shape, dtype=self.dtype.name)}

    def _cut_and_split(self, source: ImageSource, image_format: CommonFormat, facts: dict[str, str]) -> None:
        """Cut images into tiles and volumes into slices, if there are any, and select the samples of the split."""
        options, metadata, target, codes = self.options, source.metadata, source.target, None
        has_slices = any(header.slices is not None for _, header in image_format.headers)
        if options.tile is not None or (has_slices and self._slices() == "each"):
            headers = [self.images.header(index, self.raster_options) for index in range(len(self.images))]
            self.parts, small = find_parts(headers, options.tile, options.stride)
            if small:
                self.warnings += (f"{small} images are smaller than dataset.tile and are left out",)
            if len(self.images) == 1 and metadata.split is None and metadata.group is None and options.test_fraction:
                codes = split_one_image(self.parts, options)
                self.warnings += ("there is one image only: the parts at its lower end are the test split",)
            metadata = metadata_of_parts(metadata, self.parts, source.names)
            target = None if target is None else target[self.parts.image]
            if options.tile is not None:
                self.size = options.tile
                facts["tiles"] = f"{len(self.parts):,} of {options.tile[0]} x {options.tile[1]}"
            else:
                facts["slices"] = f"{len(self.parts):,} of {len(self.images):,} files (dataset.slices=each)"
        elif metadata.count == 1 and options.test_fraction > 0:
            height, width = image_format.sizes[0][0]
            raise DataError(
                f"dataset.root {options.root} holds one image only, of {height} x {width} pixels, so no test split "
                f"can be cut from it; set dataset.tile={max(1, min(height, width) // 8)} to cut it into tiles, or add "
                f"images"
            )
        title = options.label or "label"
        self.assign_split(metadata, codes, title=title, target=target, label_names=source.label_names)

    def _summarise(self, source: ImageSource, image_format: CommonFormat, facts: dict[str, str]) -> None:
        if self.split == "train":
            values = read_values(self.images, image_format, self.raster_options)
            facts |= values.facts(self.raster_options)
            self.doubts += doubts_of_alpha(values, self.raster_options)
            self.doubts += doubts_of_nodata(values, self.raster_options)
            if self.options.max_value is None and not self.stored:
                self.doubts += doubts_of_scale(values, self.unit_range)
        columns = [Column(name, kind=self.channel) for name in self.names]
        if self.task is not None:
            kind = "number" if self.task.kind == "number" else "category"
            columns.append(Column(self.task.title, "label", kind, self.task.names))
        self.record_summary(source.files, columns, facts=facts)
        self.warnings += source.warnings

    def _raster(self, row: int) -> Raster:
        """The pixels of a sample as its file states them."""
        if self.parts is None:
            return self.images.decode(row, self.raster_options)
        image = int(self.parts.image[row])
        if self._last is None or self._last[0] != image:  # the parts of an image follow each other
            self._last = (image, self.images.decode(image, self.raster_options))
        raster = self._last[1]
        return replace(raster, pixels=self.parts.cut(row, raster.pixels))

    def __getitem__(self, index: int) -> Sample:
        """{field: (channels, H, W) in the file's dtype}.

        Raises:
            BadSample: the file cannot be read, or has other channels or another size.
        """
        x = finish(self._raster(int(self.rows[index])), self.raster_options)
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

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def schema(self) -> dict[str, Any]:
        """Channels by number and name, their type, the size if all have one, and the classes."""
        names = self.task.names if self.task is not None else ()
        size = None if self.size is None else list(self.size)
        return {
            **super().schema(), "columns": [{"name": name} for name in self.names], "dtype": self.dtype.name,
            "size": size, "classes": list(names),
        }  # fmt: skip

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Convert the channels to those that the encoder was trained on, and match the classes by name.

        Another size is left to the tokenizer.

        Raises:
            DataError: the channels cannot be converted.
        """
        super().conform(schema)
        if not schema:
            return
        conform_classes(self, schema)
        self._conform_channels(tuple(column["name"] for column in schema["columns"]))
        if self.options.tile is None and self.size is not None and list(self.size) != schema["size"]:
            self.size = None  # all are resized, so that none is skipped
        self._set_fields(self.size or self.only_size)

    def _conform_channels(self, names: tuple[str, ...]) -> None:
        channels = len(names)
        if channels == self.channels:
            return
        if convert_channels(np.zeros((self.channels, 1, 1), np.uint8), channels) is None:
            raise DataError(
                f"the images of {self.options.root} have {self.channels} channels, and the encoder was trained on "
                f"{channels}; convert them, or train on images like these"
            )
        self.warnings += (
            f"images of {self.channels} channels are converted to the {channels} that the encoder was trained on",
        )
        self.channels, self.names = channels, names

    def fingerprint(self) -> str:
        """Changes with the files, the options, and the channels and size of a trained encoder."""
        return f"{super().fingerprint()}:{self.channels}:{self.size}:{self.selected_bands}"


class MedicalImageFiles(ImageFiles):
    """Your own scans (png, jpg, tif, npy, DICOM, NIfTI): a folder, a table, Parquet of images, or an .npz."""

    modality = "medical-image"

    class Options(ImageFiles.Options):
        """Options of the user's scans."""

        extensions: tuple[str, ...] = Field(
            (*RASTER_EXTENSIONS, *VOLUME_EXTENSIONS), description="endings of the files to read"
        )
        slices: Slices = Field(
            "each",
            description="volumes (NIfTI, DICOM of several frames): each = every slice is a sample, and those of a file "
            "stay in one split; middle = the middle slice; channels = all slices are the channels of one sample",
        )

    def _slices(self) -> Slices:
        slices: Slices = self.options.slices
        return slices


class MultispectralFiles(ImageFiles):
    """Your own images of any number of bands (tif, npy): a folder, a table of paths, or an .npz."""

    modality = "multispectral"
    channel = "band"
    unit_range = False

    class Options(ImageFiles.Options):
        """Options of the user's multispectral images."""

        alpha: Alpha = Field(
            "keep",
            description="transparent pixels: keep = transparency is the last band; drop = it is left out; white or "
            "black = composited",
        )

    def _channel_count(self, common: int) -> int:
        return common

    def _names(self, image_format: CommonFormat) -> tuple[str, ...]:
        return image_format.names or tuple(f"band {number + 1}" for number in range(self.channels))

    def _with_channels(self, x: np.ndarray) -> np.ndarray:
        if len(x) != self.file_channels:
            raise BadSample(f"has {len(x)} bands, the others have {self.file_channels}; remove it")
        return x[list(self.selected_bands)] if self.selected_bands else x

    def _conform_channels(self, names: tuple[str, ...]) -> None:
        """Bands are matched by name if the files name them, else by number."""
        is_named = not any(name.startswith("band ") for name in (*names, *self.names))
        if is_named and names != self.names:
            missing = [name for name in names if name not in self.names]
            if missing:
                raise DataError(
                    f"the images of {self.options.root} have no band '{missing[0]}', which the encoder was trained "
                    f"on; they have {', '.join(self.names)}"
                )
            self.warnings += (f"bands are put in the order of the training data: {', '.join(names)}",)
            self.selected_bands = tuple(self.names.index(name) for name in names)
            self.channels, self.names = len(names), names
        elif len(names) != self.channels:
            raise DataError(
                f"the images of {self.options.root} have {self.channels} bands, and the encoder was trained on "
                f"{len(names)}; bands are matched by name only if all files name them"
            )


class WaferFiles(ImageFiles):
    """Your own wafer maps of 0, 1, 2 (npy or png each, or one .npz in the format of WM-811K)."""

    modality = "wafer"
    field = "map"
    stored = True

    class Options(ImageFiles.Options):
        """Options of the user's wafer maps."""

        sizes: Literal["auto", "any"] = Field(
            "any", description="any = maps of all sizes; auto = if nine of ten have one size, skip those of another"
        )

    def _channel_count(self, common: int) -> int:
        return 1

    def _names(self, image_format: CommonFormat) -> tuple[str, ...]:
        return ("state of a die",)

    def _with_channels(self, x: np.ndarray) -> np.ndarray:
        if len(x) != 1:
            raise BadSample(f"has {len(x)} channels; a wafer map has one, of 0 (no die), 1 (good) and 2 (bad)")
        return x


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [ImageFiles, MedicalImageFiles, MultispectralFiles, WaferFiles]
