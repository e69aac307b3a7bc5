"""Images in Parquet and Arrow files, as Hugging Face stores them: a column struct{bytes, path}, or one of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa, pq
from ssl_plugins.datasets._io.images.raster_types import Content
from ssl_plugins.datasets._io.tables.columns import class_names_in

PARQUET, ARROW = ".parquet", ".arrow"
IMAGE_NAMES = ("image", "img", "picture", "pixel_values")


class ParquetImages:
    """The images of one column. A row group is read when one of its images is, and kept until the next one.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self._group, self._images = -1, None
        try:
            metadata = pq.ParquetFile(path).metadata
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split()):.200}") from None
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def content(self, row: int) -> Content:
        """The bytes of the image in a row, or the path of its file.

        Raises:
            BadSample: the row has none.
            DataError: the file cannot be read.
        """
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        if group != self._group:
            try:
                file = pq.ParquetFile(self.path)
                self._images = file.read_row_group(group, columns=[self.column]).column(0).combine_chunks()
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split()):.200}") from None
            self._group = group
        return _content_of(self._images[row - int(self.starts[group])].as_py(), self.path, self.column)  # type: ignore[index]

    def cheap_rows(self, count: int) -> int:
        """The rows of the first row group, at most `count`."""
        return min(count, int(self.starts[1])) if len(self.starts) > 1 else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": -1, "_images": None}


class ArrowImages:
    """The images of one column of an Arrow file, as `datasets.save_to_disk` writes it. The file is memory-mapped.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self._images: Any = None
        self.count = len(self._column())

    def __len__(self) -> int:
        return self.count

    def _column(self) -> Any:
        if self._images is None:
            try:
                with _arrow_reader(pa.memory_map(str(self.path))) as reader:
                    self._images = reader.read_all().column(self.column)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split()):.200}") from None
        return self._images

    def content(self, row: int) -> Content:
        """As of `ParquetImages`."""
        return _content_of(self._column()[row].as_py(), self.path, self.column)

    def cheap_rows(self, count: int) -> int:
        """All rows, at most `count`."""
        return min(count, self.count)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": None}


def _arrow_reader(file: Any) -> Any:
    """The reader of an Arrow file, or of one that is written as a stream."""
    try:
        return pa.ipc.open_stream(file)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(file)


def _content_of(value: Any, path: Path, column: str) -> Content:
    """The bytes of a cell, or the path of the file that it names.

    Raises:
        BadSample: it has none.
    """
    data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if data:
        return bytes(data)
    if not name:
        raise BadSample(f"has no image in the column '{column}'")
    if not (file := path.parent / str(name)).is_file():
        raise BadSample(f"there is no image '{name}'; paths are relative to the file's folder")
    return file


def stored_images(path: Path, column: str) -> ParquetImages | ArrowImages:
    """The images of a column of a Parquet or Arrow file.

    Raises:
        DataError: the file cannot be read.
    """
    return ParquetImages(path, column) if path.suffix.lower() == PARQUET else ArrowImages(path, column)


def schema_of(path: Path) -> Any:
    """The schema of a Parquet or Arrow file."""
    if path.suffix.lower() == PARQUET:
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as file:
        return _arrow_reader(file).schema


def image_columns(path: Path) -> list[str]:
    """The columns of a Parquet or Arrow file that may hold images; none if it is another file, or cannot be read."""
    if path.suffix.lower() not in (PARQUET, ARROW):
        return []
    try:
        schema = schema_of(path)
    except (pa.ArrowException, OSError):
        return []
    return [name for name in schema.names if is_image_type(schema.field(name).type)]


def is_image_type(kind: Any) -> bool:
    """Whether a column of this type may hold images."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def choose_image_column(path: Path, option: str | None) -> str:
    """The column that the option names, else one with a usual name, else the only one.

    Raises:
        DataError: there is no such column, or there are several.
    """
    columns = image_columns(path)
    if option is not None:
        if option not in columns:
            raise DataError(f"{path} has no column '{option}' of images; {nearest(option, columns, 'column')}")
        return option
    usual = [name for name in columns if name.lower() in IMAGE_NAMES]
    if len(usual) != 1 and len(columns) != 1:
        listed = ", ".join(columns) or "none"
        raise DataError(f"{path} has several columns of images ({listed}); name one in dataset.image")
    return usual[0] if len(usual) == 1 else columns[0]


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names of the classes that Hugging Face's metadata gives for a column; empty if there are none."""
    return class_names_in(schema_of(path).metadata, column)
