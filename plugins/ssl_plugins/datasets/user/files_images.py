"""Own pictures: a folder, a table of paths, or one file of arrays, for the four kinds of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, ConfigError, Continuous, DataError, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets._io.file_listing import Item, listing
from ssl_plugins.datasets._io.npz import PACKED, Maps, Stack, unpack
from ssl_plugins.datasets._io.rasters import RASTERS, Common, Order, as_grey_or_colour, common, read_raster
from ssl_plugins.datasets._io.splitting import Coder, Said
from ssl_plugins.datasets._io.tables import MARKS, MarkColumns
from ssl_plugins.datasets._io.user_data import Places, UserData, UserDataOptions

NAMES = ("images", "image", "maps", "data", "x")


class ImageFiles(UserData):
    """Your own pictures (png, jpg, tif, npy): a folder, a table of paths, or an .npz of images and labels."""

    modality = "image"
    field = "image"
    all_channels = False
    """Whether transparency is a channel like others."""

    class Options(UserDataOptions):
        """Options of own pictures."""

        test_root: str | None = Field(None, description="an .npz of the test split, where root is one, too")
        extensions: tuple[str, ...] = Field(RASTERS, description="endings of the files to read")
        mode: Literal["auto", "grey", "rgb"] = Field(
            "auto",
            description="grey or colour; auto = the channels that most files have, without the transparency of png and "
            "the like",
        )
        sizes: Literal["auto", "any"] = Field(
            "auto",
            description="auto = where nine of ten pictures have one size, those of another are left out; any = all are "
            "used, resized to tokenizer.size",
        )
        order: Order = Field("auto", description="where .npy and .tif files have their channels; auto = the short axis")

        @field_validator("root", "test_root", mode="after")
        @classmethod
        def _absolute_paths(cls, value: str | None) -> str | None:
            return None if value is None else str(Path(value).expanduser().absolute())

        @field_validator("extensions", mode="after")
        @classmethod
        def _with_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            return tuple("." + part.lower().lstrip(".") for part in value)

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.parts: list[Stack | Maps] = []
        self.paths: list[Path] = []
        if Path(options.root).suffix.lower() in PACKED:
            said = self._unpacked()
            shapes = [self._shape(part, shape) for part in self.parts for shape in sorted(part.shapes)]
            size = shapes[0][1:] if len({shape[1:] for shape in shapes}) == 1 else None
            found = Common(shapes[0][0], size, np.result_type(*(_numbers(part).dtype for part in self.parts)))
        else:
            said = self._listed()
            found = common(self.paths, options.order, all_channels=self.all_channels)
        self.channels = self._wanted(found.channels)
        self.size = found.size if options.sizes == "auto" else None
        self.settle(said)
        self.fields = {self.field: Continuous((self.channels, *(self.size or (None, None))), dtype=found.dtype.name)}

    def _wanted(self, channels: int) -> int:
        """How many channels all pictures get."""
        return {"auto": channels, "grey": 1, "rgb": 3}[self.options.mode]

    def _listed(self) -> Said:
        if self.options.test_root is not None:
            raise ConfigError(
                "dataset.test_root is for an .npz of pictures; of folders name one, which holds train/ and test/, as "
                "dataset.root"
            )
        items = listing(self.options.root, self.options.extensions, self.options.label_pattern)
        self.paths = [item.path for item in items]
        coders = {what: Coder() for what in MARKS}
        for what, coder in coders.items():
            coder.each(getattr(item, what) for item in items)
        where = Places(self.paths, np.arange(len(items) + 1), word="")
        self.stamp(self.paths)
        return Said(len(items), where, **{what: coder.marks(what, where) for what, coder in coders.items()})

    def _unpacked(self) -> Said:
        options, marks = self.options, MarkColumns("classes")
        if options.label_pattern is not None:
            raise ConfigError(
                "dataset.label_pattern is for names of files; labels of an .npz are an array 'labels' in it, groups "
                "one called 'groups'"
            )
        for root, split in ((options.root, "train" if options.test_root else None), (options.test_root, "test")):
            if root is None:
                continue
            if not Path(root).is_file():
                raise DataError(f"{root} does not exist; name a folder of pictures, or an .npy or .npz file")
            self.parts += unpack(Path(root), NAMES, Item(Path(root), Path(root).name, split=split), marks)
        paths = [part.path for part in self.parts]
        self.stamp(paths)
        return marks.said(Places(paths, np.cumsum([0, *map(len, self.parts)]), word="sample"))

    def _shape(self, part: Stack | Maps, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The (channels, H, W) of samples of an array. Errors: DataError if they are no pictures."""
        kind = _numbers(part).dtype
        if len(shape) not in (2, 3) or kind.kind not in "uifb":
            raise DataError(
                f"{part.path}: a sample is {kind} of shape {shape}, no picture; arrays are numbers "
                f"(n, height, width) or (n, channels, height, width)"
            )
        if len(shape) == 2:
            return 1, shape[0], shape[1]
        return (shape[2], shape[0], shape[1]) if self._channels_last(shape) else (shape[0], shape[1], shape[2])

    def _channels_last(self, shape: tuple[int, ...]) -> bool:
        order = self.options.order
        return order == "last" or (order == "auto" and shape[2] < shape[0])

    def _ordered(self, x: np.ndarray) -> np.ndarray:
        """One sample of an array as (channels, H, W). Errors: BadSample if it has no pixels."""
        if x.size == 0:
            raise BadSample(f"has shape {x.shape}, which is no pixel; remove it")
        if x.ndim == 2:
            return x[np.newaxis]
        return np.ascontiguousarray(np.moveaxis(x, 2, 0)) if self._channels_last(x.shape) else x

    def __getitem__(self, index: int) -> Sample:
        """{field: (channels, H, W) in the file's own numbers}. Errors: BadSample for a file that does not fit."""
        row = int(self.rows[index])
        if self.parts:
            assert isinstance(self.where, Places)
            number, place = self.where.part(row)
            x = self._ordered(self.parts[number][place])
        else:
            x = read_raster(self.paths[row], self.options.order)
        x = self._fitted(x)
        if self.size is not None and x.shape[1:] != self.size:
            height, width = self.size
            raise BadSample(
                f"is {x.shape[1]} pixels high and {x.shape[2]} wide, the others {height} and {width}; remove it, or "
                f"set dataset.sizes=any to resize it"
            )
        return {"inputs": {self.field: x}, "label": self.label_of(index)}

    def _fitted(self, x: np.ndarray) -> np.ndarray:
        found = as_grey_or_colour(x, self.channels)
        if found is None:
            raise BadSample(f"has {len(x)} channels, and {self.channels} are wanted; convert or remove it")
        return found


class MedicalImageFiles(ImageFiles):
    """Your own scans (png, jpg, tif, npy; 8 or 16 bits, floats): a folder, a table of paths, or an .npz."""

    modality = "medical-image"


class MultispectralFiles(ImageFiles):
    """Your own images of any number of bands (tif, npy): a folder, a table of paths, or an .npz."""

    modality = "multispectral"
    all_channels = True

    def _wanted(self, channels: int) -> int:
        return channels

    def _fitted(self, x: np.ndarray) -> np.ndarray:
        if len(x) != self.channels:
            raise BadSample(f"has {len(x)} bands, the others have {self.channels}; remove it")
        return x


class WaferFiles(ImageFiles):
    """Your own wafer maps of 0, 1, 2 (npy or png each, or one .npz of all, as WM-811K is packed)."""

    modality = "wafer"
    field = "map"

    class Options(ImageFiles.Options):
        """Options of own wafer maps."""

        sizes: Literal["auto", "any"] = Field("any", description="any = maps of all sizes; auto = as most are")

    def _wanted(self, channels: int) -> int:
        return 1

    def _fitted(self, x: np.ndarray) -> np.ndarray:
        if len(x) != 1:
            raise BadSample(f"has {len(x)} channels; a wafer map has one, of 0 (no die), 1 (good) and 2 (bad)")
        return x


def _numbers(part: Stack | Maps) -> np.ndarray:
    """The array that holds the pixels."""
    found: np.ndarray = part.array if isinstance(part, Stack) else part.pixels
    return found


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [ImageFiles, MedicalImageFiles, MultispectralFiles, WaferFiles]
