"""WM-811K (Wu, Jang and Chen, 2015): wafer maps from production and their failures (protocol section 2.10, D47).

The upstream is one pickled pandas table of 2 GB. `prepare` makes memory-mapped arrays of it once, without running the
pickle (`_pickles`); that takes about 2.5 times its size in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssl_core import Archive, Continuous, DataError, Dataset, PublicDataset, Sample, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import NinetyTen, head_tail, shuffled
from ssl_plugins.datasets.public._pickles import plain, reading, table

MAPS = "maps"
UPSTREAM = "MIR-WM811K/Python/WM811K.pkl"
PICKLES = (UPSTREAM, "WM811K.pkl", "MIR-WM811K/Python/LSWMD.pkl", "LSWMD.pkl")  # the last two: Kaggle's copy
NAMES = ("none", "random", "donut", "scratch", "center", "loc", "edge-loc", "edge-ring", "near-full")
UNLABELLED = -1


@dataclass(frozen=True)
class Pickled(Archive):
    """The upstream's archive, not needed where its table is there, or what was made of it."""

    def is_unpacked(self, folder: Path) -> bool:
        """Whether any form of the data is there."""
        return any((folder / path).exists() for path in (MAPS, *PICKLES))


def _source(train: int, test: int) -> Source:
    return Source(
        homepage="http://mirlab.org/dataSet/public/",
        terms="free, with its notice and two citations",
        folder="semiconductors",
        archives=(
            Pickled("http://mirlab.org/dataSet/public/MIR-WM811K.zip", "MIR-WM811K.zip", "zip", produces=UPSTREAM),
        ),
        needs=(MAPS,),
        counts={"train": train, "test": test},
    )


class WaferMaps(PublicDataset):
    """Wafer maps of one part, shuffled by RandomState(42), the first 90 % for training.

    Made of the upstream's pickle, MIR-WM811K/Python/WM811K.pkl or WM811K.pkl, or of Kaggle's LSWMD.pkl. The upstream's
    MATLAB file, MIR-WM811K/MATLAB/WM811K.mat, which DABS converts, is not read, nor are DABS's converted files.
    """

    modality = "wafer"
    labelled: ClassVar[bool]

    class Options(NinetyTen):
        """Options of WM-811K."""

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"map": Continuous((1, None, None))}
        if self.labelled:
            self.task = Task("classes", len(NAMES), "weighted_f1", names=NAMES, title="failure")
        self._pixels: np.ndarray | None = None
        with reading(self.folder / MAPS, "folder of arrays that `sslx data prepare` made"):
            self.shapes = np.load(self.folder / MAPS / "shapes.npy")
            self.labels = np.load(self.folder / MAPS / "labels.npy")
        self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1, dtype=np.int64))])
        part = np.flatnonzero((self.labels != UNLABELLED) == self.labelled)
        order = part[shuffled(len(part))]
        self.rows = head_tail(order, split, options.protocol)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"map": (1, H, W) bytes of 0 (no die), 1 (good), 2 (bad)} and the failure, if labelled."""
        row = self.rows[index]
        if self._pixels is None:
            self._pixels = np.load(self.folder / MAPS / "pixels.npy", mmap_mode="r")
        pixels = self._pixels[self.starts[row] : self.starts[row + 1]]
        found = np.array(pixels).reshape(1, *self.shapes[row])
        return {"inputs": {"map": found}, "label": int(self.labels[row]) if self.labelled else None}

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory map: a worker process opens its own."""
        return {**self.__dict__, "_pixels": None}

    def describe(self, index: int) -> str:
        """The row of the upstream's table, counted from 0."""
        return f"{self.folder / MAPS}: row {self.rows[index]} of the upstream's table"

    def fingerprint(self) -> str:
        """Changes with the options, the rows, their sizes and their labels."""
        made = hashlib.sha256(self.rows.astype("<i8").tobytes())
        made.update(self.shapes[self.rows].astype("<i8").tobytes())
        made.update(self.labels[self.rows].astype("<i8").tobytes())
        return f"{super().fingerprint()}:{made.hexdigest()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """maps/{pixels,shapes,labels}.npy of the upstream's table. Errors: DataError with the row."""
        found = next((folder / path for path in PICKLES if (folder / path).exists()), None)
        if found is None or (folder / MAPS).exists():
            return
        columns = table(found, ("waferMap", "failureType"))
        work = folder / f".{MAPS}-unfinished"
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            with reading(found):
                _write(work, columns["waferMap"], columns["failureType"])
            os.replace(work, folder / MAPS)
        finally:
            shutil.rmtree(work, ignore_errors=True)


class Wafer(WaferMaps):
    """WM-811K without labels, for pretraining: 638,507 wafer maps that nobody has inspected."""

    name = "wafer"
    aliases = ("wafer-map",)
    labelled = False
    source = _source(574_657, 63_850)


class WaferTransfer(WaferMaps):
    """WM-811K with labels, for transfer: which of eight failures, or none; measured by weighted F1."""

    name = "wafer_transfer"
    labelled = True
    source = _source(155_655, 17_295)


def _write(folder: Path, maps: np.ndarray, failures: np.ndarray) -> None:
    labels = np.array([_label(failure, row) for row, failure in enumerate(failures)], dtype=np.int8)
    shapes = np.array([_map(one, row).shape for row, one in enumerate(maps)], dtype=np.int32).reshape(-1, 2)
    ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64))
    size = int(ends[-1]) if len(ends) else 0
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(size,))
    for row, one in enumerate(maps):
        found = _map(one, row)
        pixels[ends[row] - found.size : ends[row]] = found.ravel()
    pixels.flush()
    np.save(folder / "shapes.npy", shapes)
    np.save(folder / "labels.npy", labels)


def _map(value: Any, row: int) -> np.ndarray:
    found = plain(value)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "ui" or not found.size:
        raise DataError(f"row {row}: waferMap is no map of whole numbers")
    if found.min() < 0 or found.max() > 2:
        raise DataError(f"row {row}: waferMap holds {found.max()}; a die is 0 (none), 1 (good) or 2 (bad)")
    return found


def _label(value: Any, row: int) -> int:
    """A text, or Kaggle's [[text]], in any case; UNLABELLED for 0, nothing or an empty array."""
    value = plain(value)
    while isinstance(value, (np.ndarray, list, tuple)):
        value = plain(next(iter(np.ravel(np.asarray(value, dtype=object))), None))
    text = value.strip().lower() if isinstance(value, str) else ""
    if text and text not in NAMES:
        raise DataError(f"row {row}: failureType '{text:.40}' is none of {', '.join(NAMES)}")
    return NAMES.index(text) if text else UNLABELLED


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Wafer, WaferTransfer]
