"""What all public pictures have in common: files listed once, read one at a time, as bytes of their own size."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from ssl_core import BadSample, Continuous, DataError, PublicDataset, Sample, Source, Split, Task
from ssl_plugins.datasets._io.file_state import file_state_digest
from ssl_plugins.datasets._io.texts import table_lines
from ssl_plugins.datasets.public._arrays import SPLIT_SEED

TRAIN_SHARE = 0.8
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)

Box = tuple[int, int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class OneOf(Source):
    """A source that needs, besides all else, one path of each group of `alternatives`."""

    alternatives: tuple[tuple[str, ...], ...] = ()

    def missing(self, folder: Path) -> list[str]:
        """The paths that a folder lacks; of a group of which it has none, the first."""
        lacking = [group[0] for group in self.alternatives if not any((folder / path).exists() for path in group)]
        return super().missing(folder) + lacking


@dataclass(frozen=True)
class Listed:
    """The pictures of one split: paths below the data set's folder, labels (n,) or (n, size), boxes to crop to."""

    paths: Sequence[str]
    labels: np.ndarray
    boxes: Sequence[Box] | None = None


class Pictures(PublicDataset):
    """Picture files of one split. A subclass writes `listed` and sets `task` in it."""

    modality = "image"
    mode: Literal["RGB", "L"] = "RGB"

    def __init__(self, options: PublicDataset.Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((len(self.mode), None, None))}
        found = self.listed()
        if not found.paths:
            raise DataError(f"{self.folder} holds no pictures for the {split} split")
        self.paths, self.labels, self.boxes = found.paths, found.labels, found.boxes

    def listed(self) -> Listed:
        """The pictures of `self.split` in `self.folder`, always in the same order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3 or 1, H, W) bytes} of the file's own size. Errors: BadSample for one that cannot be read."""
        image = read(self.folder / self.paths[index], self.mode, self.boxes[index] if self.boxes else None)
        label = self.labels[index]
        return {"inputs": {"image": image}, "label": label.astype(np.int64) if label.ndim else int(label)}

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.folder / self.paths[index])

    def fingerprint(self) -> str:
        """Changes with the options, and with any picture's name, label, box, size or time of change."""
        made = hashlib.sha256("\n".join(self.paths).encode("utf-8", "surrogateescape"))
        made.update(np.asarray(self.labels, dtype="<i8").tobytes())
        if self.boxes:
            made.update(np.asarray(self.boxes, dtype="<i8").tobytes())
        return f"{super().fingerprint()}:{made.hexdigest()}:{file_state_digest(self.folder, self.paths)}"


def read(path: Path, mode: Literal["RGB", "L"], box: Box | None = None) -> np.ndarray:
    """A picture as (channels, H, W) bytes, cropped to (left, top, right, bottom). Errors: BadSample."""
    try:
        with Image.open(path) as image:
            found = image.convert(mode)
        if box is not None:
            found = found.crop(box)
        pixels = np.array(found)
    except UNREADABLE as error:
        raise BadSample(f"cannot be read as a picture ({' '.join(str(error).split()):.200})") from None
    if not pixels.size:
        raise BadSample(f"holds no pixels{f' within {box}' if box else ''}")
    return np.ascontiguousarray(pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def classes(names: Sequence[str], title: str) -> Task:
    """One of the classes `names`, measured by accuracy (protocol section 2.1)."""
    return Task("classes", len(names), "accuracy", names=tuple(names), title=title)


def files(place: Path, *endings: str) -> list[str]:
    """Names of the files in a folder with one of the endings, sorted; hidden ones left out. Errors: DataError."""
    try:
        names = os.listdir(place)
    except OSError as error:
        raise DataError(f"{place} cannot be listed ({error.strerror}); the copy is not whole, fetch it again") from None
    return sorted(name for name in names if name.lower().endswith(endings) and not name.startswith("."))


def two_columns(table: Path) -> list[tuple[str, str]]:
    """The rows of a text file, each divided at its first blank. Errors: DataError with the line."""
    rows = []
    for number, line in table_lines(table):
        first, _, rest = line.partition(" ")
        if not rest:
            raise DataError(f"{table} line {number}: expected two columns, not '{line:.60}'")
        rows.append((first, rest.strip()))
    return rows


def numbered(names: Sequence[str], known: Sequence[str], where: Path) -> np.ndarray:
    """Each name's rank in `known`, the training split's classes. Errors: DataError with the row of another one."""
    rank = {name: label for label, name in enumerate(known)}
    for row, name in enumerate(names, start=1):
        if name not in rank:
            raise DataError(f"{where} row {row}: the class '{name}' is in no training picture")
    return np.array([rank[name] for name in names], dtype=np.int64)


def per_class(groups: Iterable[Sequence[T]], split: Split) -> tuple[list[T], np.ndarray]:
    """Each class shuffled in turn by one RandomState(42); its first int(0.8 n) for training. With the labels (n,)."""
    random = np.random.RandomState(SPLIT_SEED)
    items: list[T] = []
    labels: list[int] = []
    for label, group in enumerate(groups):
        order = random.permutation(len(group))  # the same as shuffling a list of them
        cut = int(TRAIN_SHARE * len(group))
        chosen = order[:cut] if split == "train" else order[cut:]
        items += [group[place] for place in chosen]
        labels += [label] * len(chosen)
    return items, np.array(labels, dtype=np.int64)
