"""Many samples in one .npy or .npz file: arrays with a first axis of samples, or wafer maps one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._arrow import pa
from ssl_plugins.datasets._tables import MarkColumns

LABELS = ("labels", "label", "y")
GROUPS = ("groups", "group", "subjects", "subject")
PACKED = (".npy", ".npz")


@dataclass
class Stack:
    """(n, ...) an array of samples; an .npy file is memory-mapped and pickled by its path."""

    path: Path
    array: Any

    numbers = None
    word = "sample"

    def __len__(self) -> int:
        return len(self.array)

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

    def __getitem__(self, place: int) -> np.ndarray:
        found = self.pixels[self.offset[place] : self.offset[place + 1]]
        return found.reshape(self.height[place], self.width[place])


def unpack(path: Path, names: Sequence[str], split: str | None, marks: MarkColumns) -> list[Stack | Maps]:
    """The samples of a file, with what it says of them: labels, groups, and train or test in front of the names.

    names: what the array of samples may be called, with "train_" or "test_" in front or without. Errors: DataError.
    """
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim < 2:
                raise DataError(f"{path} has shape {array.shape}; its first axis must be the samples")
            _say(marks, len(array), None, None, split)
            return [Stack(path, array)]
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path} cannot be read as arrays: {' '.join(str(error).split()):.200}") from None
    if {"pixels", "offset", "height", "width"} <= set(found):
        return [_maps(path, found, split, marks)]
    parts: list[Stack | Maps] = []
    for prefix, its in (("", split), ("train_", "train"), ("test_", "test")):
        name = next((prefix + name for name in names if prefix + name in found), None)
        if name is None or (prefix and split not in (None, its)):
            continue
        labels, groups = (next((found[prefix + n] for n in of if prefix + n in found), None) for of in (LABELS, GROUPS))
        for what, values in (("labels", labels), ("groups", groups)):
            if values is not None and values.size != len(found[name]):
                raise DataError(f"{path}: '{name}' has {len(found[name])} samples, but {values.size} {what}")
        _say(marks, len(found[name]), labels, groups, its)
        parts.append(Stack(path, found[name]))
    if not parts:
        raise DataError(f"{path} holds {', '.join(found) or 'nothing'}; the array of samples must be called {names[0]}")
    return parts


def _maps(path: Path, found: dict[str, np.ndarray], split: str | None, marks: MarkColumns) -> Maps:
    offset, height, width = (found[name].astype(np.int64) for name in ("offset", "height", "width"))
    if len(offset) != len(height) + 1 or not np.array_equal(np.diff(offset), height * width):
        raise DataError(f"{path}: offset, height and width do not fit together")
    labels, names = found.get("label"), found.get("label_names")
    if labels is not None and names is not None:
        labels = names[labels]
    _say(marks, len(height), labels, found.get("group"), split)
    return Maps(path, found["pixels"], offset, height, width)


def _say(marks: MarkColumns, count: int, labels: Any, groups: Any, split: str | None) -> None:
    for what, values in (("label", labels), ("group", groups)):
        if values is None:
            marks.coders[what].say(None, count)
        else:
            marks.coders[what].add(pa.array(np.asarray(values).reshape(-1).astype(str).tolist(), pa.string()))
    marks.coders["split"].say(split, count)
