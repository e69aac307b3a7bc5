"""Images in Parquet files, as Hugging Face stores them: a column struct{bytes, path}, or one of bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa, pc, pq
from ssl_plugins.datasets._io.images.raster_types import Content

PARQUET = ".parquet"
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
        value = self._images[row - int(self.starts[group])].as_py()  # type: ignore[index]
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data:
            return bytes(data)
        if not name:
            raise BadSample(f"has no image in the column '{self.column}'")
        if not (path := self.path.parent / str(name)).is_file():
            raise BadSample(f"there is no image '{name}'; paths are relative to the file's folder")
        return path

    def cheap_rows(self, count: int) -> int:
        """The rows of the first row group, at most `count`."""
        return min(count, int(self.starts[1])) if len(self.starts) > 1 else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": -1, "_images": None}


def image_columns(path: Path) -> list[str]:
    """The columns of a Parquet file that may hold images; none if it is another file, or cannot be read."""
    if path.suffix.lower() != PARQUET:
        return []
    try:
        schema = pq.read_schema(path)
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
    metadata = pq.read_schema(path).metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return tuple(str(name) for name in feature["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def named_classes(column: Any, names: Sequence[str]) -> Any:
    """A column of class numbers as their names; -1 and other numbers without a name are missing."""
    if not names or not pa.types.is_integer(column.type):
        return column
    known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
    indices = pc.if_else(known, column, pa.scalar(None, column.type))
    return pa.array(list(names), pa.string()).take(indices)
