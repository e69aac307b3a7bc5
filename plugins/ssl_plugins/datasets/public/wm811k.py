"""WM-811K (Wu, Jang and Chen, 2015): wafer maps from production, with failure patterns.

The upstream is a pickled pandas table of 2 GB. `sslx data prepare` converts it to arrays once, without running the
pickle (see `_pickles`); this takes about 2.5 times its size in memory.
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
from ssl_plugins.datasets.public._arrays import NinetyTenOptions, head_tail, shuffled_order
from ssl_plugins.datasets.public._pickles import read_table, to_array, translate_errors

MAPS = "maps"
UPSTREAM = "MIR-WM811K/Python/WM811K.pkl"
PICKLES = (UPSTREAM, "WM811K.pkl", "MIR-WM811K/Python/LSWMD.pkl", "LSWMD.pkl")  # the last two: Kaggle's copy
NAMES = ("none", "random", "donut", "scratch", "center", "loc", "edge-loc", "edge-ring", "near-full")
UNLABELLED = -1


@dataclass(frozen=True)
class PickleArchive(Archive):
    """The upstream's archive. It is not downloaded if its table, or the arrays, exist."""

    def is_unpacked(self, folder: Path) -> bool:
        """Whether the data exist in any form."""
        return any((folder / path).exists() for path in (MAPS, *PICKLES))


def _source(train: int, test: int) -> Source:
    return Source(
        homepage="http://mirlab.org/dataSet/public/",
        terms="free, with its notice and two citations",
        folder="semiconductors",
        archives=(
            PickleArchive(
                "http://mirlab.org/dataSet/public/MIR-WM811K.zip", "MIR-WM811K.zip", "zip", produces=UPSTREAM
            ),
        ),
        required_paths=(MAPS,),
        sample_counts={"train": train, "test": test},
    )


class WaferMapDataset(PublicDataset):
    """The wafer maps with or without a label, shuffled by RandomState(42), the first 90 % for training.

    Converted from the upstream's pickle, MIR-WM811K/Python/WM811K.pkl or WM811K.pkl, or from Kaggle's LSWMD.pkl. The
    upstream's MATLAB file, which DABS converts, and DABS's converted files are not read.
    """

    modality = "wafer"
    labelled: ClassVar[bool]

    class Options(NinetyTenOptions):
        """Options of WM-811K."""

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"map": Continuous((1, None, None))}
        if self.labelled:
            self.task = Task("classes", len(NAMES), "weighted_f1", names=NAMES, title="failure")
        self._pixels: np.ndarray | None = None
        with translate_errors(self.folder / MAPS, "folder of arrays that `sslx data prepare` writes"):
            self.shapes = np.load(self.folder / MAPS / "shapes.npy")
            self.labels = np.load(self.folder / MAPS / "labels.npy")
        self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(axis=1, dtype=np.int64))])
        part = np.flatnonzero((self.labels != UNLABELLED) == self.labelled)
        order = part[shuffled_order(len(part))]
        self.rows = head_tail(order, split, options.protocol)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"map": (1, H, W) uint8 of 0 (no die), 1 (good), 2 (bad)} and the failure, if labelled."""
        row = self.rows[index]
        if self._pixels is None:
            self._pixels = np.load(self.folder / MAPS / "pixels.npy", mmap_mode="r")
        pixels = self._pixels[self.starts[row] : self.starts[row + 1]]
        wafer_map = np.array(pixels).reshape(1, *self.shapes[row])
        return {"inputs": {"map": wafer_map}, "label": int(self.labels[row]) if self.labelled else None}

    def __getstate__(self) -> dict[str, Any]:
        """Drop the memory map, which each worker process opens itself."""
        return {**self.__dict__, "_pixels": None}

    def describe(self, index: int) -> str:
        """The row of the upstream's table, from 0."""
        return f"{self.folder / MAPS}: row {self.rows[index]} of the upstream's table"

    def fingerprint(self) -> str:
        """Changes with the options, and with the rows, their sizes and labels."""
        digest = hashlib.sha256(self.rows.astype("<i8").tobytes())
        digest.update(self.shapes[self.rows].astype("<i8").tobytes())
        digest.update(self.labels[self.rows].astype("<i8").tobytes())
        return f"{super().fingerprint()}:{digest.hexdigest()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert the upstream's table to maps/{pixels,shapes,labels}.npy.

        Raises:
            DataError: for an invalid row, with its number.
        """
        pickle_path = next((folder / path for path in PICKLES if (folder / path).exists()), None)
        if pickle_path is None or (folder / MAPS).exists():
            return
        columns = read_table(pickle_path, ("waferMap", "failureType"))
        work = folder / f".{MAPS}-unfinished"
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            with translate_errors(pickle_path):
                _write(work, columns["waferMap"], columns["failureType"])
            os.replace(work, folder / MAPS)
        finally:
            shutil.rmtree(work, ignore_errors=True)


class Wafer(WaferMapDataset):
    """WM-811K without labels, for pretraining: 638,507 wafer maps that were not inspected."""

    name = "wafer"
    aliases = ("wafer-map",)
    labelled = False
    source = _source(574_657, 63_850)


class WaferTransfer(WaferMapDataset):
    """WM-811K with labels, for transfer: eight failure patterns or none; scored by weighted F1."""

    name = "wafer_transfer"
    labelled = True
    source = _source(155_655, 17_295)


def _write(folder: Path, maps: np.ndarray, failures: np.ndarray) -> None:
    labels = np.array([_label(failure, row) for row, failure in enumerate(failures)], dtype=np.int8)
    shapes = np.array([_map(record, row).shape for row, record in enumerate(maps)], dtype=np.int32).reshape(-1, 2)
    ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64))
    size = int(ends[-1]) if len(ends) else 0
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(size,))
    for row, record in enumerate(maps):
        wafer_map = _map(record, row)
        pixels[ends[row] - wafer_map.size : ends[row]] = wafer_map.ravel()
    pixels.flush()
    np.save(folder / "shapes.npy", shapes)
    np.save(folder / "labels.npy", labels)


def _map(value: Any, row: int) -> np.ndarray:
    """The map (H, W) of a row.

    Raises:
        DataError: if it is no array of 0, 1 and 2.
    """
    array = to_array(value)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "ui" or not array.size:
        raise DataError(f"row {row}: waferMap is no map of whole numbers")
    if array.min() < 0 or array.max() > 2:
        raise DataError(f"row {row}: waferMap holds {array.max()}; a die is 0 (none), 1 (good) or 2 (bad)")
    return array


def _label(value: Any, row: int) -> int:
    """The class of a failure: a text or Kaggle's [[text]], in any case. UNLABELLED for 0, None or an empty array.

    Raises:
        DataError: for an unknown failure.
    """
    value = to_array(value)
    while isinstance(value, (np.ndarray, list, tuple)):
        value = to_array(next(iter(np.ravel(np.asarray(value, dtype=object))), None))
    text = value.strip().lower() if isinstance(value, str) else ""
    if text and text not in NAMES:
        raise DataError(f"row {row}: failureType '{text:.40}' is none of {', '.join(NAMES)}")
    return NAMES.index(text) if text else UNLABELLED


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Wafer, WaferTransfer]
