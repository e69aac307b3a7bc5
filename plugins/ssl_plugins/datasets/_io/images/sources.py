"""Opens what the root of images names: a folder, a table of paths, Parquet files of images, or arrays."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.copies import copies_of_files, copies_of_samples
from ssl_plugins.datasets._io.files.entry import FileEntry, FileList, SampleLocations, is_excluded
from ssl_plugins.datasets._io.files.listing import list_files, list_sources, root_parts, splits_by_name
from ssl_plugins.datasets._io.files.stores import is_store
from ssl_plugins.datasets._io.files.tar import TarShards, check_archive, files_ending, has_tars
from ssl_plugins.datasets._io.images.bands import (
    doubt_of_bands,
    doubt_of_folders,
    has_bands,
    pattern_of_metadata,
    stack_bands,
)
from ssl_plugins.datasets._io.images.parquet import (
    ARROW,
    PARQUET,
    choose_image_column,
    class_names,
    copies_of_stored,
    image_columns,
    stored_images,
)
from ssl_plugins.datasets._io.images.raster_axes import find_channel_axis
from ssl_plugins.datasets._io.images.readers import ArrayImages, FileImages, Images, TableImages
from ssl_plugins.datasets._io.label_checks import label_findings
from ssl_plugins.datasets._io.npz import ARRAY_EXTENSIONS, RaggedMaps, SampleArray, read_arrays
from ssl_plugins.datasets._io.splitting import SampleMetadata, is_validation
from ssl_plugins.datasets._io.tables.columns import named_classes
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, Table

MAX_COMPARED = 8 << 30  # bytes of tables of images: to find copies, all of them are read
ARRAY_KEYS = ("images", "image", "maps", "data", "x")


@dataclass(frozen=True)
class ImageSource:
    """Images and what is known of them.

    Args:
        images: the images.
        metadata: label, group and split of each.
        target: (n,) labels that are numbers.
        names: names of the images below the root.
        files: the files that hold the images, and what was found beside them.
        doubts, warnings: on what may have been misread.
        label_names: names of the labels, if an image has several of 0 and 1.
    """

    images: Images
    metadata: SampleMetadata
    target: np.ndarray | None
    names: Sequence[str]
    files: FileList
    doubts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()


def open_images(options: Any) -> ImageSource:
    """The images that `options.root` names.

    Args:
        options: those of the user's images.

    Raises:
        ConfigError: an option does not fit the root.
        DataError: the root cannot be read, or holds no images.
    """
    several = _several_arrays(options)
    if several or (not _is_several(options.root) and Path(options.root).suffix.lower() in ARRAY_EXTENSIONS):
        return _open_arrays(options, several)
    check_archive(options.root)
    if has_tars(options.root):
        return _open_tars(options)
    if arrays := _folder_of_arrays(options):
        return _open_arrays(options, arrays)
    tables = _image_tables(options)
    return _open_tables(tables, options) if tables else _open_files(options)


def _is_several(root: str) -> bool:
    """Whether a root is a pattern, or several paths."""
    return len(root_parts(root)) > 1 or (glob.has_magic(root) and not Path(root).exists())


def _several_arrays(options: Any) -> list[FileEntry]:
    """The files of samples that a pattern or several paths name; none if the root names something else.

    An .npy file of several is one image, as in a folder, but for .npy files that are arrays of samples by their axes.
    """
    if not _is_several(options.root):
        return []
    try:
        files = list_sources(options.root, None, ARRAY_EXTENSIONS, None, options)
    except DataError:
        return []  # said by the reader of files
    if any(ending.lower() in options.extensions for ending in files.ignored):
        return []  # files of one image beside arrays
    return files if all(_holds_samples(entry.path) for entry in files) else []


def _holds_samples(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending == ".npy":
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False).ndim == 4
        except (OSError, ValueError):
            return False
    return ending in ARRAY_EXTENSIONS


def _folder_of_arrays(options: Any) -> list[FileEntry]:
    """The .npz files of a folder that holds no image files."""
    folder = Path(options.root)
    arrays = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if arrays and any(path.suffix.lower() in options.extensions for path in folder.rglob("*")):
        return []
    used = [FileEntry(path, path.name) for path in arrays if not is_excluded(path.name, options)]
    if arrays and not used:
        raise DataError(f"dataset.root {folder}: dataset.exclude leaves out each of its files; shorten it")
    return splits_by_name(used)


def _open_files(options: Any) -> ImageSource:
    pattern = options.label_pattern
    doubts: tuple[str, ...] = ()
    if options.test_root is not None:
        raise ConfigError(
            "dataset.test_root is for an .npz or Parquet of images; of folders name one, which holds train/ and "
            "test/, as dataset.root"
        )
    if has_bands(pattern):
        files = list_files(options.root, options.extensions, pattern_of_metadata(pattern), options)
        scenes = stack_bands(files, pattern)
        entries, images = scenes.entries, scenes.images
    else:
        files = list_files(options.root, options.extensions, pattern, options)
        entries, images = list(files), FileImages([(entry.path,) for entry in files])
        if pattern is None and not Path(options.root).is_file():
            doubts = doubt_of_bands(entries) or doubt_of_folders(entries, options.test_fraction > 0)
    names_label = pattern is None or "(?P<label>" in pattern
    if not names_label and all(entry.label == entry.group for entry in entries):  # the folders are groups, no classes
        entries = [replace(entry, label=None) for entry in entries]
    is_folder_label = pattern is None and not Path(options.root).is_file() and "metadata" not in files.facts
    collector = MetadataCollector("classes" if is_folder_label and options.task == "auto" else options.task)
    values = {kind: [getattr(entry, kind) for entry in entries] for kind in ("label", "group", "split")}
    block = {kind: pa.array(names, pa.string()) for kind, names in values.items()}
    columns = {kind: kind for kind, names in values.items() if any(name is not None for name in names)}
    paths = [Path(name) for name in images.names] or [entry.path for entry in entries]
    locations = SampleLocations(paths, np.arange(len(paths) + 1), unit="")
    collector.append(block, columns, FileEntry(Path(options.root), ""), locations)
    names = [entry.name for entry in entries]
    metadata, target = collector.metadata(locations), collector.target()
    if metadata.draws_test and not has_bands(pattern):
        metadata = replace(metadata, copies=copies_of_files([entry.path for entry in entries]))
    warnings: tuple[str, ...] = ()
    if target is None and not is_folder_label:
        more, warnings = label_findings(metadata.label, options.label or "label", options.task)
        doubts += more
    return ImageSource(images, metadata, target, names, files, doubts, warnings)


def _image_tables(options: Any) -> FileList | None:
    """The Parquet or Arrow files of images that root names; None if it is something else."""
    for ending in (PARQUET, ARROW):
        tables = files_ending(options.root, ending)
        if tables and image_columns(tables[0]):
            return _list_shards(options, ending)
    return None


def _list_shards(options: Any, ending: str) -> FileList:
    """The files of many images each, with the splits that their names may say."""
    files = list_sources(options.root, options.test_root, (ending,), options.label_pattern, options)
    return files if options.test_root else files.with_entries(splits_by_name(files))


def _open_tables(entries: FileList, options: Any) -> ImageSource:
    collector, tables = MetadataCollector(options.task), []
    for entry in entries:
        tables.append(stored_images(entry.path, choose_image_column(entry.path, options.image)))
        table = Table.open(entry.path, options)
        columns = table.metadata_columns(options.label, options.group, options.split)
        entries.doubts += table.doubts.values()
        classes = class_names(entry.path, columns["label"]) if "label" in columns else ()
        start = 0
        for block in table.blocks(list(columns.values()) or [_small_column(table)]):
            if "label" in columns:
                block[columns["label"]] = named_classes(block[columns["label"]], classes)
            collector.append(block, columns, entry, _Row(entry.path, start))
            start += len(next(iter(block.values())))
    paths = [entry.path for entry in entries]
    locations = SampleLocations(paths, np.cumsum([0, *map(len, tables)]))
    named = [path for table in tables for path in table.named_files()]
    images = TableImages(tables, locations.starts, locations, named)
    names = [locations(row) for row in range(len(images))] if options.tile is not None else ()
    metadata = collector.metadata(locations)
    if metadata.draws_test:
        size = sum(entry.path.stat().st_size for entry in entries)
        if size <= MAX_COMPARED:
            metadata = replace(metadata, copies=copies_of_stored(tables))
        else:
            entries.facts["copies"] = f"not looked for among {size >> 30:,} GiB of images"
    return ImageSource(images, metadata, collector.target(), names, entries)


def _open_tars(options: Any) -> ImageSource:
    """Tar files in the form of WebDataset."""
    shards, collector = TarShards(options, options.extensions, "image"), MetadataCollector(options.task)
    shards.collect(collector)
    locations = shards.locations
    names = [f"{tar.path.name}/{name}" for tar in shards.tars for name in tar.names]
    images = TableImages(shards.tars, locations.starts, locations)
    metadata = replace(collector.metadata(locations), copies=shards.copies())
    return ImageSource(images, metadata, collector.target(), names, shards.entries)


@dataclass(frozen=True)
class _Row:
    """Names a row of a block that begins at row `start` of its file."""

    path: Path
    start: int

    def __call__(self, row: int) -> str:
        return f"{self.path} row {self.start + row + 1}"


def _small_column(table: Table) -> str:
    """A column that is cheap to read, for the number of rows."""

    def is_large(name: str) -> bool:
        kind = table.types[name]
        return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return min(table.columns, key=lambda name: (is_large(name), name))


def _open_arrays(options: Any, entries: Sequence[FileEntry] = ()) -> ImageSource:
    """Images of arrays. entries: several files; by default the one that the root names."""
    collector, arrays = MetadataCollector(options.task), []
    if options.label_pattern is not None:
        raise ConfigError(
            "dataset.label_pattern is for names of files; labels of an .npz are an array 'labels' in it, groups "
            "one called 'groups'"
        )
    of_root = list(entries) or [FileEntry(Path(options.root), Path(options.root).name)]
    if options.test_root is not None:
        path = Path(options.test_root)
        of_root = [replace(entry, split=entry.split if is_validation(entry.split) else "train") for entry in of_root]
        of_root.append(FileEntry(path, path.name, split="test"))
    entries = of_root
    for entry in entries:
        if not entry.path.is_file() and not is_store(entry.path):
            raise DataError(f"{entry.path} does not exist; name a folder of images, or an .npy or .npz file")
        arrays += read_arrays(entry.path, ARRAY_KEYS, entry, collector, options)
    for array in arrays:
        _check_array(array, options)
    locations = SampleLocations([array.path for array in arrays], np.cumsum([0, *map(len, arrays)]), unit="sample")
    images = ArrayImages(arrays, locations)
    names = [locations(row) for row in range(len(images))] if options.tile is not None else ()
    files = FileList([FileEntry(path, path.name) for path in dict.fromkeys(array.path for array in arrays)])
    if unused := dict.fromkeys(name for array in arrays for name in array.unused):
        files.facts["arrays not used"] = ", ".join(unused)
    metadata, target = collector.metadata(locations), collector.target()
    if metadata.draws_test:
        metadata = replace(metadata, copies=copies_of_samples(arrays))
    return ImageSource(images, metadata, target, names, files, label_names=collector.label_names)


def _check_array(array: SampleArray | RaggedMaps, options: Any) -> None:
    pixels = array.array if isinstance(array, SampleArray) else array.pixels
    for shape in array.shapes:
        if find_channel_axis(shape, "", options.order) is None or pixels.dtype.kind not in "uifb":
            raise DataError(
                f"{array.path}: a sample is {pixels.dtype} of shape {shape}, not an image; arrays are numbers "
                f"(n, height, width) or (n, channels, height, width)"
            )
