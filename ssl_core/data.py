"""What a data set hands over: fields, a task, samples; and the batch that the engine makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

Split = Literal["train", "test"]
TaskKind = Literal["classes", "labels", "number"]
ArchiveKind = Literal["zip", "tar", "gz", "file"]
MetricName = Literal["accuracy", "weighted_f1", "auroc", "pearson", "spearman"]


@dataclass(frozen=True)
class Continuous:
    """A field of real numbers. shape: (channels, *space); None where the size differs from sample to sample.

    `rate`: samples per second along the last axis, for data that has one (Hz). `dtype`: numpy's name of the numbers
    that samples come in, such as "uint16", where it is known; fields that differ in it alone are the same.
    """

    shape: tuple[int | None, ...]
    rate: float | None = None
    dtype: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Discrete:
    """A field of vocabulary entries: `length` ids, each in [0, vocab)."""

    length: int
    vocab: int


@dataclass(frozen=True)
class Text:
    """A field of text of any length: an array of type str, of shape () or (n,).

    Several texts, shape (n,), belong together in one sample, such as the two sentences of a pair; each may be empty.
    """


Field: TypeAlias = Continuous | Discrete | Text
Fields: TypeAlias = Mapping[str, Field]


@dataclass(frozen=True)
class Task:
    """What is predicted from the frozen features.

    kind "classes": one of `size` classes, label an int; "labels": each of `size` labels yes or no, label (size,) of
    0 and 1; "number": one real number, size 1. With `per_token` the label has one entry per token, and entries equal
    to `ignore` are left out of training and metric. `names` are the classes' names, for reports.
    """

    kind: TaskKind
    size: int
    metric: MetricName
    per_token: bool = False
    ignore: int | None = None
    names: tuple[str, ...] = ()
    title: str = "label"


class Sample(TypedDict):
    """One example, as numpy arrays without a batch axis. `label` is None where there is none."""

    inputs: dict[str, np.ndarray]
    label: Any


def send(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. To CUDA from page-locked memory, the only kind from which a copy is not waited for."""
    if device.type == "cuda" and not value.is_cuda:
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """Prepared examples stacked along a first axis B. label: (B, ...) or None."""

    inputs: dict[str, Tensor]
    label: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        inputs = {name: send(value, device) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, label=None if self.label is None else send(self.label, device))

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


MARKS = ".unpacked"
"""Folder of a data set in which archives that name nothing in `gives` are ticked off."""


@dataclass(frozen=True)
class Archive:
    """One file to download, and what it becomes.

    url: http, https, ftp or file. file: its name on disk. kind: "zip"; "tar", compressed or not; "gz", one compressed
    file; "file", kept as it is. gives: a path below the data set's folder that exists once it is unpacked, moved into
    place last; for "gz" and "file" the path of the file itself. Without it a mark records that it is done.
    size: bytes; digest: "sha256:..." or "md5:...", lower-case hexadecimal; None where the upstream names none.
    strip: leading folders to drop from the names inside. unpacked: upper bound of the unpacked bytes; by default
    50 times the archive and 1 GiB. fills: for one of several archives without `gives`, the path that they fill
    together; where it exists and nothing was ever ticked off, it is somebody's own copy, and none of them is needed.
    """

    url: str
    file: str
    kind: ArchiveKind
    gives: str = ""
    size: int | None = None
    digest: str | None = None
    strip: int = 0
    unpacked: int | None = None
    fills: str = ""

    def done(self, folder: Path) -> bool:
        """Whether it is unpacked in a data set's folder, or not needed there."""
        if self.gives:
            return (folder / self.gives).exists()
        marks = folder / MARKS
        own = bool(self.fills) and (folder / self.fills).exists() and not marks.is_dir()
        return own or (marks / self.file).exists()


@dataclass(frozen=True)
class Source:
    """Where a public data set comes from and what its folder holds.

    terms: licence or terms of use. folder: its place below the root of all public data, as in DABS ("speech/
    librispeech"). archives: what can be downloaded. registration: what to do by hand, for data behind a registration.
    needs: paths below the folder that must exist. counts: published number of samples of "train" and "test", or of
    both as "total", under the default options.
    """

    homepage: str
    terms: str
    folder: str
    archives: tuple[Archive, ...] = ()
    registration: str | None = None
    needs: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def missing(self, folder: Path) -> list[str]:
        """The paths that a folder lacks, relative to it."""
        marked = (folder / MARKS).is_dir()
        wanted = [archive for archive in self.archives if archive.gives or marked]
        lacking = [archive.gives or f"{MARKS}/{archive.file}" for archive in wanted if not archive.done(folder)]
        return [*lacking, *(need for need in self.needs if not (folder / need).exists())]

    def places(self, root: Path) -> list[Path]:
        """Where it may lie: root/speech/librispeech, root/librispeech, or root itself."""
        parts = PurePosixPath(self.folder).parts
        return [root.joinpath(*parts[start:]) for start in range(len(parts) + 1)]

    def place(self, root: Path) -> Path:
        """Where most of it lies; where it belongs, if nothing is there."""
        return min(self.places(root), key=self._lack)

    def _lack(self, folder: Path) -> int:
        """How many paths a folder lacks. Parts never ticked off there count, or half a copy would lose to none."""
        pending = {f"{MARKS}/{one.file}" for one in self.archives if one.fills and not one.done(folder)}
        return len(pending.union(self.missing(folder)))
