"""Options of the user's images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ssl_plugins.datasets._io.images.rasters import RASTER_EXTENSIONS, Alpha, Fill, Order
from ssl_plugins.datasets._io.user_data import FileOptions


class ImageOptions(FileOptions):
    """Options common to the user's images of all modalities."""

    label_pattern: str | None = Field(
        None,
        description="regular expression over each file's path below root, with the named groups label, group, split, "
        "and band if each band of an image is a file; without it, sub-folders are the labels if every file is in one",
    )
    test_root: str | None = Field(
        None, description="an .npy, .npz or Parquet file of the test split, if root is such a file"
    )
    extensions: tuple[str, ...] = Field(RASTER_EXTENSIONS, description="endings of the files to read")
    mode: Literal["auto", "grey", "rgb"] = Field("auto", description="channels; auto = the number that most files have")
    sizes: Literal["auto", "any"] = Field(
        "auto",
        description="auto = if nine of ten images have one size, skip those of another; any = use all, resized to "
        "tokenizer.size",
    )
    order: Order = Field(
        "auto",
        description="position of the channel axis in .npy and .tif files that do not name it; auto = the axis "
        "beside a square image, else the shorter of the first and the last axis",
    )
    alpha: Alpha = Field(
        "white",
        description="transparent pixels: composited on white or black; keep = transparency is the last channel; "
        "drop = the colours are used as if they were opaque",
    )
    nodata: float | None = Field(
        None, description="value of pixels without data, besides NaN and the value that a GeoTIFF names"
    )
    fill: Fill = Field(
        "mean",
        description="what replaces pixels without data: mean = the mean of the other pixels of the same channel "
        "and image, zero, or refuse = the sample is bad",
    )
    max_value: float | None = Field(
        None, gt=0, description="the number that is white, such as 4095 for 12 bits: all numbers are divided by "
        "it; by default the maximum of the type for unsigned integers, and 1 for other numbers",
    )  # fmt: skip
    tile: tuple[int, int] | int | None = Field(
        None, description="cut each image into tiles of this height and width; tiles of an image stay in one "
        "split, and of a single image the lower end is the test split",
    )  # fmt: skip
    stride: tuple[int, int] | int | None = Field(
        None, description="distance of the tiles' beginnings; by default that of tile, so that none overlap"
    )
    task: Literal["auto", "classes", "number", "labels"] = Field(
        "auto",
        description="type of the label in a table, an array or a pattern; labels = several, joined by | (or ; or ,); "
        "auto = a number if it has decimals, else a class",
    )
    image: str | None = Field(
        None, description="column of a Parquet file that holds the images; by default the only one"
    )

    @field_validator("test_root", mode="after")
    @classmethod
    def _absolute_test(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).expanduser().absolute())

    @field_validator("tile", "stride", mode="after")
    @classmethod
    def _positive(cls, value: tuple[int, int] | int | None) -> tuple[int, int] | None:
        pair = (value, value) if isinstance(value, int) else value
        if pair is not None and min(pair) < 1:
            raise ValueError("must be positive")
        return pair
