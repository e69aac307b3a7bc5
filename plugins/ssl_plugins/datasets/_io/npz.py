"""Reads many samples from one .npy or .npz file: arrays with a first axis of samples, or concatenated wafer maps."""

from __future__ import annotations

import functools
import weakref
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError, nearest
from ssl_plugins.datasets._io.array_names import names_of_array
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.listing import FileEntry
from ssl_plugins.datasets._io.files.stores import is_store, load_store
from ssl_plugins.datasets._io.splitting import SPLIT_NAMES
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector

LABEL_KEYS = ("labels", "label", "y")
GROUP_KEYS = ("groups", "group", "subjects", "subject")
ARRAY_EXTENSIONS = (".npy", ".npz", ".zarr")
PREFIXES = {f"{name}_": split for name, split in SPLIT_NAMES.items()}
OBJECT_ERRORS = ("Object arrays", "Python objects")  # of numpy.load without pickle
AS_OBJECTS = "as numpy saves lists of arrays of different shapes"
SAVE_ONE_ARRAY = "save one array of numbers whose first axis is the samples, or a file for each sample in a folder"
UNLABELLED = -1  # a label in files with `label_names`, as in WM-811K
MIN_SHARED_BYTES = 1 << 24  # arrays of at least this size are shared by the splits

MAX_MAPS = 64
"""Memory-mapped files that are open at a time."""

_array_cache: weakref.WeakValueDictionary[tuple[str, int, int, str], np.ndarray] = weakref.WeakValueDictionary()


class SampleArray:
    """An array of samples, (n, ...). An .npy file is memory-mapped while it is used, and pickled by its path.

    unused: names of the arrays of its file that are not read.
    """

    line_numbers = None
    unit = "sample"

    def __init__(self, path: Path, array: Any) -> None:
        self.path, self.shape, self.unused = path, tuple(array.shape), tuple[str, ...]()
        self.own = None if isinstance(array, np.memmap) else array

    @property
    def array(self) -> Any:
        """The array."""
        if self.own is not None:
            return self.own
        status = self.path.stat()
        return _mapped(self.path, status.st_size, status.st_mtime_ns)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The shape of the samples, as a set of one."""
        return {self.shape[1:]}

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(self.array[index])

    def view(self, index: int) -> np.ndarray:
        """A sample that is no copy: of a file, only what is used of it is read."""
        return np.asarray(self.array[index])


@functools.lru_cache(maxsize=MAX_MAPS)
def _mapped(path: Path, size: int, changed: int) -> Any:
    """A map of a file in this state. Each map keeps a file open, so only the last ones that were used are kept."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


@dataclass
class RaggedMaps:
    """Maps of different sizes in the format of WM-811K: map i is pixels[offset[i]:offset[i + 1]], (height, width)."""

    path: Path
    pixels: np.ndarray
    offset: np.ndarray
    height: np.ndarray
    width: np.ndarray

    line_numbers = None
    unit = "sample"
    unused = ()

    def __len__(self) -> int:
        return len(self.height)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The different shapes of the samples."""
        return set(zip(self.height.tolist(), self.width.tolist(), strict=True))

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = self.pixels[self.offset[index] : self.offset[index + 1]]
        return pixels.reshape(self.height[index], self.width[index])

    view = __getitem__


def read_arrays(
    path: Path, keys: Sequence[str], entry: FileEntry, metadata: MetadataCollector, options: Any
) -> list[SampleArray | RaggedMaps]:
    """Read the samples of a file, and append their labels, groups and splits to `metadata`.

    Args:
        path: the file.
        keys: names that the array of samples may have; a prefix such as "train_" names the split (`PREFIXES`).
        entry: metadata of the whole file.
        metadata: receives the metadata of each sample.
        options: those of the data set; `label` and `group` name arrays.

    Raises:
        ConfigError: labels must be numbers and there are none, or an option names no array.
        DataError: the file cannot be read, or holds no such array.
    """
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim < 2:
                raise DataError(f"{path} has the shape {array.shape}; {SAVE_ONE_ARRAY}")
            role_keys(path, (), options)
            _append_metadata(metadata, path, "the array", len(array), None, None, entry)
            return [SampleArray(path, array)]
        if not is_store(path) and not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an .npz file, or only a part of one; write it again with numpy.savez")
        arrays = _of_samples(load_store(path), keys) if is_store(path) else _load_npz(path)
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if any(words in str(error) for words in OBJECT_ERRORS):
            raise DataError(f"{path} holds Python objects, {AS_OBJECTS}; {SAVE_ONE_ARRAY}") from None
        raise DataError(f"{path} cannot be read as arrays: {' '.join(str(error).split()):.200}") from None
    if {"pixels", "offset", "height", "width"} <= set(arrays):
        return [_ragged_maps(path, arrays, entry, metadata)]
    label_keys, group_keys = role_keys(path, arrays, options)
    parts: list[SampleArray | RaggedMaps] = []
    key_of = {
        prefix: next((prefix + key for key in keys if prefix + key in arrays), None) for prefix in ("", *PREFIXES)
    }
    for prefix, key in key_of.items():
        split = PREFIXES.get(prefix, entry.split)
        if key is None or not _is_part_of(entry.split, split):
            continue
        if not prefix and split is None and key_of["train_"] is None and any(key_of[other] for other in PREFIXES):
            split = "train"  # such as images beside test_images
        labels, groups, label_names = (
            next((arrays[prefix + name] for name in names if prefix + name in arrays), None)
            for names in (label_keys, group_keys, ("label_names",))
        )
        label_names = arrays.get("label_names") if label_names is None else label_names
        if arrays[key].dtype == object:
            raise DataError(f"{path}: '{key}' holds Python objects, {AS_OBJECTS}; {SAVE_ONE_ARRAY}")
        if arrays[key].ndim < 2:
            raise DataError(f"{path}: '{key}' has the shape {arrays[key].shape}; {SAVE_ONE_ARRAY}")
        count, entry_of_part = len(arrays[key]), replace(entry, split=split)
        sets = None if labels is None else _label_sets(path, labels, count)
        labels = None if sets is not None else labels
        _append_metadata(metadata, path, f"'{key}'", count, labels, groups, entry_of_part)
        if sets is not None:
            metadata.set_label_sets(sets, () if label_names is None else tuple(_class_names(path, label_names)))
        parts.append(SampleArray(path, arrays[key]))
    read = {prefix + name for prefix in ("", *PREFIXES) for name in (*label_keys, *group_keys, "label_names")}
    for part in parts:
        part.unused = tuple(name for name in arrays if name not in read and name not in key_of.values())
    if not parts:
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; the array of samples must be called {keys[0]}")
    return parts


def role_keys(path: Path, names: Collection[str], options: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that the arrays of labels and of groups may have.

    Args:
        path: the file.
        names: its arrays; none for a file of one array.
        options: those of the data set.

    Raises:
        ConfigError: `label` or `group` names an array that the file does not hold.
    """
    found: list[tuple[str, ...]] = []
    for kind, usual in (("label", LABEL_KEYS), ("group", GROUP_KEYS)):
        name = getattr(options, kind, None)
        if name is None:
            found.append(usual)
        elif any(prefix + name in names for prefix in ("", *PREFIXES)):
            found.append((name,))
        else:
            cure = nearest(name, names, "array") if names else "save the samples and it in one .npz"
            raise ConfigError(f"dataset.{kind}={name}: {path} holds no such array; {cure}")
    return found[0], found[1]


def _of_samples(arrays: dict[str, np.ndarray], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a store; the only one is that of the samples, whatever it is called."""
    return {keys[0]: next(iter(arrays.values()))} if len(arrays) == 1 else arrays


def _is_part_of(file_split: str | None, split: str | None) -> bool:
    """Whether a file of `file_split` may hold samples of `split`: its own, or validation in a file for training."""
    return file_split in (None, split) or (file_split == "train" and split == "validation")


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file. A large array is loaded once while any split holds it."""
    status = path.stat()
    arrays: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            key = (str(path), status.st_size, status.st_mtime_ns, name)
            array = _array_cache.get(key)
            if array is None:
                try:
                    array = file[name]
                except ValueError as error:
                    if not any(words in str(error) for words in OBJECT_ERRORS):
                        raise
                    array = np.empty(0, object)  # refused if it is needed
                if isinstance(array, np.ndarray) and array.nbytes >= MIN_SHARED_BYTES:
                    _array_cache[key] = array
            arrays[name] = array
    return arrays


def _ragged_maps(
    path: Path, arrays: dict[str, np.ndarray], entry: FileEntry, metadata: MetadataCollector
) -> RaggedMaps:
    for name in ("pixels", "offset", "height", "width"):
        if arrays[name].ndim != 1 or (name != "pixels" and arrays[name].dtype.kind not in "ui"):
            raise DataError(
                f"{path}: '{name}' is {arrays[name].dtype} of shape {arrays[name].shape}; concatenated maps are (n,) "
                f"pixels and whole numbers offset, height and width"
            )
    pixels = arrays["pixels"]
    offset, height, width = (arrays[name].astype(np.int64) for name in ("offset", "height", "width"))
    if not len(offset) == len(height) + 1 == len(width) + 1 or not np.array_equal(np.diff(offset), height * width):
        raise DataError(
            f"{path}: offset, height and width do not fit together; map i is pixels[offset[i]:offset[i + 1]]"
        )
    if offset[0] < 0 or offset[-1] > len(pixels):
        raise DataError(
            f"{path}: offset goes from {offset[0]} to {offset[-1]}, but there are {len(pixels)} pixels; write the file "
            f"again"
        )
    labels, names = arrays.get("label"), arrays.get("label_names")
    if labels is not None and names is not None:
        labels = _label_names(path, labels.reshape(-1), names.reshape(-1))
    _append_metadata(metadata, path, "the file", len(height), labels, arrays.get("group"), entry)
    return RaggedMaps(path, pixels, offset, height, width)


def _label_names(path: Path, labels: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(n,) the name of each label, empty where it is UNLABELLED."""
    if labels.dtype.kind not in "ui":
        raise DataError(f"{path}: 'label' is {labels.dtype}; with 'label_names' it is the index of a name, from 0")
    invalid = np.flatnonzero((labels >= len(names)) | (labels < UNLABELLED))
    if len(invalid):
        raise DataError(
            f"{path} sample {invalid[0] + 1}: label {labels[invalid[0]]} has no name in 'label_names', which holds "
            f"{len(names)}, from 0; a map without a label has {UNLABELLED}"
        )
    return np.array([*_class_names(path, names), ""])[labels]


def _class_names(path: Path, names: np.ndarray) -> list[str]:
    """The names of an array "label_names"."""
    found = names_of_array(path, "'label_names'", names.size, "label name", names).to_pylist()
    return ["" if name is None else str(name) for name in found]


def _label_sets(path: Path, labels: np.ndarray, count: int) -> np.ndarray | None:
    """(n, k) int64 of 0 and 1, -1 where there is none, if a sample has several labels; else None."""
    if labels.ndim != 2 or labels.shape[1] < 2 or len(labels) != count or labels.dtype.kind not in "uifb":
        return None
    sets = np.where(np.isnan(labels), -1, labels) if labels.dtype.kind == "f" else labels
    if not np.isin(sets, (-1, 0, 1)).all():
        raise DataError(
            f"{path}: the labels have the shape {labels.shape}, so they are {labels.shape[1]} of 0 and 1 for each "
            f"sample (-1 = none), but they hold {sets[~np.isin(sets, (-1, 0, 1))][0]}; write (n,) classes or numbers"
        )
    return sets.astype(np.int64)


def _append_metadata(
    metadata: MetadataCollector,
    path: Path,
    array_name: str,
    count: int,
    labels: np.ndarray | None,
    groups: np.ndarray | None,
    entry: FileEntry,
) -> None:
    """Append labels and groups of `count` samples."""
    if not count:
        raise DataError(f"{path}: {array_name} holds no samples; fill it or leave it out")
    block = {"": pa.nulls(count)}  # gives the number of rows where there are neither labels nor groups
    for kind, values in (("label", labels), ("group", groups)):
        if values is not None:
            if values.dtype == object:
                raise DataError(
                    f"{path}: the {kind}s hold Python objects; save them as numpy.array({kind}s, dtype=str)"
                )
            block[kind] = names_of_array(path, array_name, count, kind, values)
    columns = {kind: kind for kind in block if kind}
    metadata.append(block, columns, entry, lambda row: f"{path} sample {row + 1}")
