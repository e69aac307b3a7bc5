"""Images in Parquet and Arrow files, as Hugging Face stores them: a column struct{bytes, path}, or one of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa, pc, pq
from ssl_plugins.datasets._io.copies import copies_of_digests, digest_of_bytes, digest_of_file
from ssl_plugins.datasets._io.files.state import file_state
from ssl_plugins.datasets._io.images.raster_types import Content
from ssl_plugins.datasets._io.tables.columns import class_names_in

PARQUET, ARROW = ".parquet", ".arrow"
MAX_READ = 1024  # tables whose digests are kept
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

    def named_files(self) -> list[Path]:
        """The files that rows without bytes name."""
        file, names = pq.ParquetFile(self.path), list[str]()
        kind = file.schema_arrow.field(self.column).type
        if not (pa.types.is_struct(kind) and kind.get_field_index("path") >= 0):
            return []
        for group in range(file.metadata.num_row_groups):
            if not _holds_all_bytes(file.metadata.row_group(group), self.column):
                cells = file.read_row_group(group, columns=[f"{self.column}.path"]).column(0).combine_chunks()
                names += cells.field("path").drop_null().to_pylist()
        return _files_below(self.path.parent, names)

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

    def named_files(self) -> list[Path]:
        """As of `ParquetImages`."""
        kind, names = self._column().type, list[str]()
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            for cells in self._column().chunks:
                lacks_bytes = pc.fill_null(pc.is_null(cells.field("bytes")), True)
                names += cells.field("path").filter(lacks_bytes).drop_null().to_pylist()
        return _files_below(self.path.parent, names)

    def cheap_rows(self, count: int) -> int:
        """All rows, at most `count`."""
        return min(count, self.count)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": None}


def _holds_all_bytes(group: Any, column: str) -> bool:
    """Whether each image of a row group has bytes, as the statistics of the file say."""
    parts = [group.column(index) for index in range(group.num_columns)]
    found = [part.statistics for part in parts if part.path_in_schema == f"{column}.bytes"]
    return bool(found and found[0] is not None and found[0].has_null_count and found[0].null_count == 0)


def _files_below(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files of these names that exist."""
    paths = [folder / name for name in dict.fromkeys(names) if name]
    return [path for path in paths if path.is_file()]


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


def copies_of_stored(tables: Sequence[ParquetImages | ArrowImages]) -> np.ndarray | None:
    """(n,) int64: images of equal bytes in the tables have one number. None if no two are equal.

    One image, or one row group of Parquet, is in memory at a time.
    """
    found = [one for table in tables for one in _contents(table.path, file_state(table.path), table.column)]
    return copies_of_digests(digest_of_file(one) if isinstance(one, Path) else one for one in found)


@lru_cache(maxsize=MAX_READ)
def _contents(path: Path, state: str, column: str) -> tuple[bytes | Path | None, ...]:
    """Of each image the digest of its bytes, or its file; None if it has none. Read once for all splits."""
    table, found = stored_images(path, column), list[bytes | Path | None]()
    for row in range(len(table)):
        try:
            content = table.content(row)
        except BadSample:
            found.append(None)
            continue
        found.append(digest_of_bytes(content) if isinstance(content, bytes) else content)
    return tuple(found)


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
