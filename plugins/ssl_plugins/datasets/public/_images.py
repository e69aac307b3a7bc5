"""Base class of the public image sets: files are listed once and read one at a time, in their own size."""

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
from ssl_plugins.datasets._io.files.state import file_state_digest
from ssl_plugins.datasets._io.texts.texts import table_lines
from ssl_plugins.datasets.public._arrays import SPLIT_SEED

TRAIN_SHARE = 0.8
READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)

Box = tuple[int, int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class SourceWithAlternatives(Source):
    """A source that also requires one path of each group.

    Attributes:
        alternatives: groups of paths below the folder.
    """

    alternatives: tuple[tuple[str, ...], ...] = ()

    def missing_paths(self, folder: Path) -> list[str]:
        """The paths that a folder lacks. A group without any path counts as its first path."""
        missing = [group[0] for group in self.alternatives if not any((folder / path).exists() for path in group)]
        return super().missing_paths(folder) + missing


@dataclass(frozen=True)
class ImageList:
    """The images of one split.

    Attributes:
        paths: paths below the data set's folder.
        labels: (n,) classes, or (n, size) of 0 and 1.
        boxes: region to crop each image to, if any.
    """

    paths: Sequence[str]
    labels: np.ndarray
    boxes: Sequence[Box] | None = None


class ImageDataset(PublicDataset):
    """Image files of one split. A subclass implements `list_images`, which also sets `task`."""

    modality = "image"
    mode: Literal["RGB", "L"] = "RGB"

    def __init__(self, options: PublicDataset.Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((len(self.mode), None, None))}
        images = self.list_images()
        if not images.paths:
            raise DataError(f"{self.folder} holds no pictures for the {split} split")
        self.paths, self.labels, self.boxes = images.paths, images.labels, images.boxes

    def list_images(self) -> ImageList:
        """The images of `self.split` in `self.folder`, in a fixed order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"image": (3 or 1, H, W) uint8} in the file's own size, and the label.

        Raises:
            BadSample: if the file cannot be read.
        """
        image = read_image(self.folder / self.paths[index], self.mode, self.boxes[index] if self.boxes else None)
        label = self.labels[index]
        return {"inputs": {"image": image}, "label": label.astype(np.int64) if label.ndim else int(label)}

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.folder / self.paths[index])

    def fingerprint(self) -> str:
        """Changes with the options, and with the name, label, box, size or time of modification of any image."""
        digest = hashlib.sha256("\n".join(self.paths).encode("utf-8", "surrogateescape"))
        digest.update(np.asarray(self.labels, dtype="<i8").tobytes())
        if self.boxes:
            digest.update(np.asarray(self.boxes, dtype="<i8").tobytes())
        return f"{super().fingerprint()}:{digest.hexdigest()}:{file_state_digest(self.folder, self.paths)}"


def read_image(path: Path, mode: Literal["RGB", "L"], box: Box | None = None) -> np.ndarray:
    """An image as (channels, H, W) uint8, cropped to (left, top, right, bottom).

    Raises:
        BadSample: if the file cannot be read or has no pixels.
    """
    try:
        with Image.open(path) as file:
            image = file.convert(mode)
        if box is not None:
            image = image.crop(box)
        pixels = np.array(image)
    except READ_ERRORS as error:
        raise BadSample(f"cannot be read as a picture ({' '.join(str(error).split()):.200})") from None
    if not pixels.size:
        raise BadSample(f"holds no pixels{f' within {box}' if box else ''}")
    return np.ascontiguousarray(pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))


def classification(names: Sequence[str], title: str) -> Task:
    """A single-label task with the classes `names`, scored by accuracy."""
    return Task("classes", len(names), "accuracy", names=tuple(names), title=title)


def list_files(folder: Path, *suffixes: str) -> list[str]:
    """Sorted names of the files with one of the suffixes; hidden files are skipped.

    Raises:
        DataError: if the folder cannot be read.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}); the copy is incomplete, fetch it again"
        ) from None
    return sorted(name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))


def read_pairs(table: Path) -> list[tuple[str, str]]:
    """The rows of a text file, each split at its first blank.

    Raises:
        DataError: for a line without a blank.
    """
    rows = []
    for number, line in table_lines(table):
        first, _, rest = line.partition(" ")
        if not rest:
            raise DataError(f"{table} line {number}: expected two columns, not '{line:.60}'")
        rows.append((first, rest.strip()))
    return rows


def encode_labels(names: Sequence[str], classes: Sequence[str], table: Path) -> np.ndarray:
    """(n,) the index of each name in `classes`, those of the training split.

    Raises:
        DataError: for a name that is not in `classes`, with its row of the table.
    """
    rank = {name: label for label, name in enumerate(classes)}
    for row, name in enumerate(names, start=1):
        if name not in rank:
            raise DataError(f"{table} row {row}: the class '{name}' is in no training picture")
    return np.array([rank[name] for name in names], dtype=np.int64)


def split_per_class(groups: Iterable[Sequence[T]], split: Split) -> tuple[list[T], np.ndarray]:
    """Items of a split and their labels (n,): one RandomState(42) shuffles each class, the first int(0.8 n) train."""
    random = np.random.RandomState(SPLIT_SEED)
    items: list[T] = []
    labels: list[int] = []
    for label, group in enumerate(groups):
        order = random.permutation(len(group))  # as if the list itself were shuffled
        cut = int(TRAIN_SHARE * len(group))
        chosen = order[:cut] if split == "train" else order[cut:]
        items += [group[position] for position in chosen]
        labels += [label] * len(chosen)
    return items, np.array(labels, dtype=np.int64)
