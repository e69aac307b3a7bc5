"""Many samples in one .npy or .npz file: arrays with a first axis of samples, or wafer maps one behind the other."""

from __future__ import annotations

import weakref
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.file_listing import Item
from ssl_plugins.datasets._io.tables import MarkColumns

LABELS = ("labels", "label", "y")
GROUPS = ("groups", "group", "subjects", "subject")
PACKED = (".npy", ".npz")
UNLABELLED = -1  # among the numbers of `label_names`, as in WM-811K
SHARED = 1 << 24  # bytes from which on an array is shared by the splits

_held: weakref.WeakValueDictionary[tuple[str, int, int, str], np.ndarray] = weakref.WeakValueDictionary()


@dataclass
class Stack:
    """(n, ...) an array of samples; an .npy file is memory-mapped and pickled by its path."""

    path: Path
    array: Any

    numbers = None
    word = "sample"

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Those of the samples: one."""
        return {self.array.shape[1:]}

    def __getitem__(self, place: int) -> np.ndarray:
        return np.array(self.array[place])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "array": None if isinstance(self.array, np.memmap) else self.array}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.array = state["path"], state["array"]
        if self.array is None:
            self.array = np.load(self.path, mmap_mode="r")


@dataclass
class Maps:
    """Maps of different sizes, as WM-811K is packed: map i is pixels[offset[i]:offset[i + 1]], (height, width)."""

    path: Path
    pixels: np.ndarray
    offset: np.ndarray
    height: np.ndarray
    width: np.ndarray

    numbers = None
    word = "sample"

    def __len__(self) -> int:
        return len(self.height)

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """Those of the samples."""
        return set(zip(self.height.tolist(), self.width.tolist(), strict=True))

    def __getitem__(self, place: int) -> np.ndarray:
        found = self.pixels[self.offset[place] : self.offset[place + 1]]
        return found.reshape(self.height[place], self.width[place])


def unpack(path: Path, names: Sequence[str], item: Item, marks: MarkColumns) -> list[Stack | Maps]:
    """The samples of a file, with what it says of them: labels, groups, and train or test in front of the names.

    names: what the array of samples may be called, with "train_" or "test_" in front or without. item: what is said of
    the whole file. Errors: DataError; ConfigError if labels are to be numbers and there are none.
    """
    split = item.split
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim < 2:
                raise DataError(f"{path} has shape {array.shape}; its first axis must be the samples")
            _say(marks, path, "the array", len(array), None, None, item)
            return [Stack(path, array)]
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is no .npz file, or only a part of one; write it anew by numpy.savez")
        found = _arrays(path)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as arrays: {' '.join(str(error).split()):.200}") from None
    if {"pixels", "offset", "height", "width"} <= set(found):
        return [_maps(path, found, item, marks)]
    parts: list[Stack | Maps] = []
    for prefix, its in (("", split), ("train_", "train"), ("test_", "test")):
        name = next((prefix + name for name in names if prefix + name in found), None)
        if name is None or (prefix and split not in (None, its)):
            continue
        labels, groups = (next((found[prefix + n] for n in of if prefix + n in found), None) for of in (LABELS, GROUPS))
        if not found[name].ndim:
            raise DataError(f"{path}: '{name}' is one value; its first axis must be the samples")
        _say(marks, path, f"'{name}'", len(found[name]), labels, groups, replace(item, split=its))
        parts.append(Stack(path, found[name]))
    if not parts:
        raise DataError(f"{path} holds {', '.join(found) or 'nothing'}; the array of samples must be called {names[0]}")
    return parts


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; a large one that the other split holds already is shared with it."""
    state = path.stat()
    found: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            key = (str(path), state.st_size, state.st_mtime_ns, name)
            array = _held.get(key)
            if array is None:
                array = file[name]
                if isinstance(array, np.ndarray) and array.nbytes >= SHARED:
                    _held[key] = array
            found[name] = array
    return found


def _maps(path: Path, found: dict[str, np.ndarray], item: Item, marks: MarkColumns) -> Maps:
    """Errors: DataError."""
    for name in ("pixels", "offset", "height", "width"):
        if found[name].ndim != 1 or (name != "pixels" and found[name].dtype.kind not in "ui"):
            raise DataError(
                f"{path}: '{name}' is {found[name].dtype} of shape {found[name].shape}; maps one behind the other are "
                f"(n,) pixels and whole numbers offset, height and width"
            )
    pixels = found["pixels"]
    offset, height, width = (found[name].astype(np.int64) for name in ("offset", "height", "width"))
    if not len(offset) == len(height) + 1 == len(width) + 1 or not np.array_equal(np.diff(offset), height * width):
        raise DataError(
            f"{path}: offset, height and width do not fit together; map i is pixels[offset[i]:offset[i + 1]]"
        )
    if offset[0] < 0 or offset[-1] > len(pixels):
        raise DataError(
            f"{path}: offset goes from {offset[0]} to {offset[-1]}, but there are {len(pixels)} pixels; write the file "
            f"anew"
        )
    labels, names = found.get("label"), found.get("label_names")
    if labels is not None and names is not None:
        labels = _named(path, labels.reshape(-1), names.reshape(-1))
    _say(marks, path, "the file", len(height), labels, found.get("group"), item)
    return Maps(path, pixels, offset, height, width)


def _named(path: Path, labels: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(n,) the name of each label, empty where it is UNLABELLED. Errors: DataError with the sample."""
    if labels.dtype.kind not in "ui":
        raise DataError(f"{path}: 'label' is {labels.dtype}; with 'label_names' it is the number of a name, from 0")
    wrong = np.flatnonzero((labels >= len(names)) | (labels < UNLABELLED))
    if len(wrong):
        raise DataError(
            f"{path} sample {wrong[0] + 1}: label {labels[wrong[0]]} has no name in 'label_names', which are "
            f"{len(names)}, from 0; a map without a label has {UNLABELLED}"
        )
    return np.append(names.astype(str), "")[labels]


def _say(
    marks: MarkColumns,
    path: Path,
    what: str,
    count: int,
    labels: np.ndarray | None,
    groups: np.ndarray | None,
    item: Item,
) -> None:
    """Errors: DataError for no samples, or another number of labels or groups."""
    if not count:
        raise DataError(f"{path}: {what} holds no samples; fill it or leave it out")
    block = {"": pa.nulls(count)}  # which alone says how many there are
    for name, values in (("label", labels), ("group", groups)):
        if values is not None:
            if values.size != count:
                raise DataError(f"{path}: {what} has {count} samples, but {values.size} {name}s")
            flat = values.reshape(-1)
            gone = np.isnan(flat) if flat.dtype.kind == "f" else None
            block[name] = pa.array(flat.astype(str).tolist(), pa.string(), mask=gone)
    columns = {name: name for name in block if name}
    marks.add(block, columns, item, lambda row: f"{path} sample {row + 1}")
