"""Images with captions: tables with a row for each image, COCO's JSON, and folders of images and texts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, DataError
from ssl_plugins.datasets._io.arrow import pa, pc, pq
from ssl_plugins.datasets._io.copies import Content as StoredContent
from ssl_plugins.datasets._io.copies import FileContent
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.files.state import file_state
from ssl_plugins.datasets._io.files.tar import CAPTION_ENDINGS, TarSamples
from ssl_plugins.datasets._io.images.caption_columns import LOOK_ROWS, find_columns, find_images
from ssl_plugins.datasets._io.images.parquet import ArrowImages, ParquetImages, is_image_type, stored_images
from ssl_plugins.datasets._io.images.raster_types import Content
from ssl_plugins.datasets._io.images.rasters import RASTER_EXTENSIONS
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, Table, as_text

ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
IMAGE_COLUMNS = ("image", "file_name", "filename", "image_path", "path", "img")
CHEAP_ROWS = 64
EMPTY_ANNOTATION = "has no image of the id {}, which an annotation names"


@dataclass
class CaptionTable:
    """The samples of one file: an image and its texts each.

    Args:
        path: the file.
        names: (n,) path of each image as the file has it, as a pyarrow array; missing where a table holds the bytes.
        texts: (n,) pyarrow arrays of captions and, of pairs, of second texts.
        rows: (n,) row of the file that each sample comes from.
        folders: folders that the paths may be relative to.
        stored: the images, if the file holds their bytes.
        table: the file, if it is a table.
    """

    path: Path
    names: Any
    texts: list[Any]
    rows: np.ndarray
    folders: Sequence[Path]
    stored: ParquetImages | ArrowImages | TarSamples | None = None
    table: Table | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """What an image is called in messages."""
        name = self.names[index].as_py()
        return str(name) if name else "the image"

    def captions(self, index: int) -> list[str]:
        """The texts of a sample; a missing one is empty."""
        return [column[index].as_py() or "" for column in self.texts]

    def file(self, index: int) -> Path | None:
        """The file of an image, whether it exists or not; None if the table holds its bytes, or names none."""
        name = self.names[index].as_py()
        if self.stored is not None or not name or ADDRESS.match(name):
            return None
        candidates = [folder / name for folder in self.folders]
        if "\\" in name:  # written on Windows
            candidates += [folder / name.replace("\\", "/") for folder in self.folders]
        return next((path for path in candidates if _is_file(path)), candidates[0])

    def content(self, index: int) -> Content:
        """The image of a sample.

        Raises:
            BadSample: there is none.
        """
        if self.stored is not None:
            return self.stored.content(int(self.rows[index]))
        name, path = self.names[index].as_py(), self.file(index)
        if not name:
            raise BadSample("names no image; fill in its path or remove it")
        if path is None:
            raise BadSample(f"'{name}' is an address; download the images, and write the paths of the files instead")
        if not _is_file(path):
            raise BadSample(
                f"there is no image '{name}'; paths are relative to the file's folder, or to dataset.images"
            )
        return path

    def stored_content(self, index: int) -> StoredContent:
        """The image of a sample as it can be compared with others; an absent file if a table holds its bytes."""
        if isinstance(self.stored, TarSamples):
            return self.stored.members[int(self.rows[index])]
        path = self.file(index) or Path()
        return FileContent(path, file_state(path))

    def digest(self, row: int) -> str:
        """Of the image in a row of a Parquet or Arrow file; empty if there is none.

        Raises:
            DataError: the file cannot be read.
        """
        if not isinstance(self.stored, ParquetImages | ArrowImages):
            return ""
        return _digests(self.path, self.stored.column, file_state(self.path))[row].hex()

    def cheap_rows(self, count: int) -> int:
        """The first samples, at most `CHEAP_ROWS`, and of one row group."""
        rows = min(count, CHEAP_ROWS, len(self))
        if not isinstance(self.stored, ParquetImages):
            return rows
        return int(np.searchsorted(self.rows[:rows], self.stored.cheap_rows(CHEAP_ROWS)))


@lru_cache(maxsize=1 << 10)
def _digests(path: Path, column: str, state: str) -> list[bytes]:
    """Of the bytes of each image of a Parquet or Arrow file, read once for all splits; empty where there is none.

    Args:
        path: the file.
        column: its column of images.
        state: of the file, so that a changed one is read again.
    """
    images, digests = stored_images(path, column), []
    for row in range(len(images)):
        try:
            content = images.content(row)
        except BadSample:
            digests.append(b"")
            continue
        data = content if isinstance(content, bytes) else str(content).encode("utf-8", "surrogatepass")
        digests.append(hashlib.blake2b(data, digest_size=16).digest())
    return digests


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a valid name
        return False


def first_image_column(columns: Sequence[str]) -> str | None:
    """The column that is read as the image unless the option names one; None if no column is called so."""
    return next((name for name in IMAGE_COLUMNS if name in columns), None)


def read_caption_table(entry: FileEntry, options: Any, metadata: MetadataCollector) -> CaptionTable:
    """Read a table of images and captions, and append label, group and split of its samples to `metadata`.

    A list of captions gives a sample for each. A name such as `meta.text` is the key text of the key meta.

    Raises:
        DataError: the file cannot be read, lacks a column, or holds something else than texts.
    """
    table = Table.open(entry.path, options)
    image = options.image or first_image_column(table.columns) or "image"
    caption, listed = options.caption, None
    if image not in table.columns or caption not in table.columns or options.columns:
        listed = find_columns(table, options)
        image, caption = (image, caption) if listed is None else (listed.image, listed.caption)
    columns = {"image": image, "caption": caption} | ({"pair": options.pair} if options.pair else {})
    roots = {option: _root_column(table, name, option) for option, name in columns.items()}
    stored = None
    if is_image_type(table.types.get(roots["image"], pa.null())):
        stored = stored_images(entry.path, roots.pop("image"))
    kinds = table.metadata_columns(options.label, options.group, options.split, options.id)
    chunks: dict[str, list[Any]] = {option: [] for option in roots}
    rows: list[np.ndarray] = []
    start = 0
    for block in table.blocks(list(dict.fromkeys([*roots.values(), *kinds.values()]))):
        parts = {option: _nested(block[root], columns[option]) for option, root in roots.items()}
        count = len(parts["caption"])
        index = _repeats(parts["caption"])
        for option, column in parts.items():
            what = f"{entry.path} row {start + 1}: '{columns[option]}'"
            chunks[option].append(_texts(column, index, what, f"dataset.{option}"))
        taken = {name: block[name].take(pa.array(index)) for name in kinds.values()} or {"": pa.nulls(len(index))}
        first = start

        def describe(row: int, index: np.ndarray = index, first: int = first) -> str:
            return f"{entry.path} row {first + int(index[row]) + 1}"

        metadata.append(taken, kinds, entry, describe)
        rows.append(index + start)
        start += count
    if not start:
        raise DataError(f"{entry.path} has no rows")
    arrays = {option: pa.chunked_array(parts) for option, parts in chunks.items()}
    all_rows = np.concatenate(rows)
    names = _stored_names(entry.path, stored, all_rows) if stored is not None else arrays.pop("image")
    folders = [Path(options.images)] if options.images else [entry.path.parent]
    if listed is None and stored is None:
        place = find_images(entry.path, names.slice(0, LOOK_ROWS).to_pylist(), options.images)
    else:
        place = None if listed is None else (listed.folder, listed.ending)
    if place is not None:
        folders = [place[0]]
        names = pc.binary_join_element_wise(names, place[1], "") if place[1] else names
    return CaptionTable(entry.path, names, list(arrays.values()), all_rows, folders, stored, table)


def _root_column(table: Table, name: str, option: str) -> str:
    """The column of a name such as `meta.text`."""
    root = name.split(".")[0]
    return root if name not in table.columns and root != name and root in table.columns else table.require(name, option)


def _nested(column: Any, name: str) -> Any:
    """The values of the keys behind the first point of a name."""
    for key in name.split(".")[1:]:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(key) < 0:
            break
        column = pc.struct_field(column, key)
    return column


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _repeats(captions: Any) -> np.ndarray:
    """The row of each sample: a row with a list of captions is several samples."""
    count = len(captions)
    if not _is_list(captions.type):
        return np.arange(count)
    lengths = pc.fill_null(pc.list_value_length(captions), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(count), np.maximum(lengths, 1))


def _texts(column: Any, index: np.ndarray, what: str, option: str) -> Any:
    """The text of each sample, from a column of texts or of lists of texts.

    Raises:
        DataError: the column holds something else.
    """
    kind = column.type
    if _is_list(kind):
        values = [value for row in column.to_pylist() for value in (row or [None])]
        if len(values) != len(index):
            raise DataError(f"{what} holds a list of another length than that of the captions; write a text")
        keys = sorted({key for value in values if isinstance(value, dict) for key in value})
        if keys:
            raise DataError(f"{what} holds lists of objects with the keys {', '.join(keys)}; write lists of texts")
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if pa.types.is_struct(kind):
        keys = [field.name for field in kind]
        raise DataError(f"{what} holds an object with the keys {', '.join(keys)}; name one in {option}, such as "
                        f"{option}={what.rsplit(chr(39), 2)[1]}.{keys[0]}")  # fmt: skip
    return as_text(column).take(pa.array(index)).cast(pa.string())


def _stored_names(path: Path, images: ParquetImages | ArrowImages, rows: np.ndarray) -> Any:
    """The names that a table has of its images; missing where it has none."""
    if isinstance(images, ArrowImages):
        return pa.nulls(len(rows), pa.string())
    kind = pq.read_schema(path).field(images.column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        column = pq.read_table(path, columns=[f"{images.column}.path"]).column(0)
        names = (pc.struct_field(column, "path") if pa.types.is_struct(column.type) else column).cast(pa.string())
        if pc.count_distinct(names).as_py() > 1:
            return names.take(pa.array(rows))
    return pa.nulls(len(rows), pa.string())


def read_coco(path: Path, options: Any) -> CaptionTable | None:
    """The captions of a JSON file in COCO's format; None if it has another format.

    The images are in `dataset.images`, else beside the file or in a folder beside it or its folder.

    Raises:
        DataError: an annotation names an image that the file does not list.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        return None
    try:
        file_of = {image["id"]: str(image["file_name"]) for image in content["images"]}
        pairs = [(file_of.get(each["image_id"]), each["image_id"], each["caption"]) for each in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO captions file: an image or annotation has no {error}") from None
    unknown = next((number for name, number, _ in pairs if name is None), None)
    if unknown is not None or not pairs:
        raise DataError(f"{path} {EMPTY_ANNOTATION.format(unknown) if pairs else 'has no annotations'}")
    folders = [Path(options.images)] if options.images else list(_image_folders(path, str(pairs[0][0])))
    names, captions = pa.array([name for name, _, _ in pairs]), pa.array([str(caption) for _, _, caption in pairs])
    return CaptionTable(path, names, [captions], np.arange(len(pairs)), folders)


def _image_folders(path: Path, name: str) -> Iterator[Path]:
    """The folder of the file; before it, the folder beside it that holds the first image."""
    for parent in (path.parent, path.parent.parent):
        for folder in (parent, *sorted(child for child in parent.iterdir() if child.is_dir())):
            if _is_file(folder / name):
                yield folder
                break
    yield path.parent


def read_tar(path: Path) -> CaptionTable:
    """The images of a tar file in the form of WebDataset, with the caption in a member NAME.txt."""
    images = TarSamples(path, RASTER_EXTENSIONS, "image")
    captions = pa.array(images.texts(CAPTION_ENDINGS), pa.string())
    return CaptionTable(path, pa.array(images.names), [captions], np.arange(len(images)), [path.parent], images)


def read_text_files(entries: Sequence[FileEntry], root: Path) -> CaptionTable:
    """Images with a text file of the same name beside each; a sample without one has no caption."""
    captions: list[str | None] = []
    for entry in entries:
        try:
            captions.append(entry.path.with_suffix(".txt").read_text(encoding="utf-8-sig").strip())
        except (OSError, UnicodeDecodeError):
            captions.append(None)
    names = pa.array([str(entry.path) for entry in entries])
    return CaptionTable(root, names, [pa.array(captions, pa.string())], np.arange(len(entries)), [root])
