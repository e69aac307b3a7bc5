"""HIGGS (Baldi et al., 2014): simulated particle collisions, signal or background."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Archive, Continuous, DataError, Dataset, PublicDataset, Sample, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import (
    LazyMemmap,
    NinetyTenOptions,
    NpyWriter,
    atomic_dir,
    head_tail,
    shuffled_order,
)
from ssl_plugins.datasets.public._numbers import read_numbers

FILE, ARRAYS = "HIGGS.csv.gz", "arrays/higgs"
CHUNK = 200_000  # rows to read at once: 50 MB
JETS = [f"jet_{number}_{what}" for number in range(1, 5) for what in ("pt", "eta", "phi", "b-tag")]
COLUMNS = (
    "lepton_pT", "lepton_eta", "lepton_phi", "missing_energy_magnitude", "missing_energy_phi", *JETS,
    "m_jj", "m_jjj", "m_lv", "m_jlv", "m_bb", "m_wbb", "m_wwbb",
)  # fmt: skip


def _source(train: int, test: int) -> Source:
    archive = Archive(
        url="https://archive.ics.uci.edu/ml/machine-learning-databases/00280/HIGGS.csv.gz",
        file=FILE, kind="file", produces=FILE, size=2_816_407_858,
        checksum="sha256:ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698",
    )  # fmt: skip
    return Source(
        homepage="https://archive.ics.uci.edu/dataset/280/higgs", terms="CC BY 4.0", folder="particle_physics",
        archives=(archive,), required_paths=(ARRAYS,), sample_counts={"train": train, "test": test},
    )  # fmt: skip


class Higgs(PublicDataset):
    """HIGGS, first 90 % of 11 million simulated collisions: signal or background, by 28 numbers; for pretraining.

    Values are raw. The published codes cut the order of TensorFlow Datasets; here it is that of the file, whose rows
    are independent samples of the simulation. Both parts are then shuffled and split 90/10 as published.
    """

    name = "higgs"
    modality = "tabular"
    source = _source(8_910_000, 990_000)

    class Options(NinetyTenOptions):
        """Options of HIGGS."""

        columns: Literal["published", "upstream"] = Field(
            "published", description="order of the columns: by name as in the published codes, or as in the file"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.numbers = LazyMemmap(self.folder / ARRAYS / "numbers.npy")
        self.labels = LazyMemmap(self.folder / ARRAYS / "labels.npy")
        start, stop = self.part(len(self.labels))
        self.rows = (start + head_tail(shuffled_order(stop - start), split, options.protocol)).astype(np.int32)
        names = sorted(COLUMNS) if options.columns == "published" else COLUMNS
        self.order = np.array([COLUMNS.index(name) for name in names])
        self.fields = {"numeric": Continuous((len(COLUMNS),))}
        self.task = Task("classes", 2, "accuracy", names=("background", "signal"), title="process")

    @staticmethod
    def part(count: int) -> tuple[int, int]:
        """First row and end of the part of the file that is used."""
        return 0, count - count // 10

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (28,) float32} and 1 for signal."""
        row = self.rows[index]
        return {"inputs": {"numeric": self.numbers.array[row][self.order]}, "label": int(self.labels.array[row])}

    def describe(self, index: int) -> str:
        """File and row."""
        return f"{self.folder / FILE} row {self.rows[index] + 1}"

    def fingerprint(self) -> str:
        """Changes with the options and the arrays."""
        return f"{super().fingerprint()}:{self.numbers.state()}:{self.labels.state()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert HIGGS.csv.gz to numbers (n, 28) float32 and labels (n,) uint8, in bounded memory.

        Raises:
            DataError: for an invalid row, with file and row.
        """
        if (folder / FILE).exists() and not (folder / ARRAYS).exists():
            with atomic_dir(folder / ARRAYS) as work:
                write_arrays(folder / FILE, work)


class HiggsTransfer(Higgs):
    """HIGGS, last 10 % of 11 million simulated collisions: signal or background, by 28 numbers; for transfer."""

    name = "higgs_transfer"
    source = _source(990_000, 110_000)

    @staticmethod
    def part(count: int) -> tuple[int, int]:
        """The rows that pretraining does not use."""
        return count - count // 10, count


def write_arrays(table: Path, folder: Path) -> None:
    """Write the columns of the table, in its order, as numbers.npy and labels.npy.

    Raises:
        DataError: for an invalid row, with file and row.
    """
    width, done = len(COLUMNS), 0
    with (
        NpyWriter(folder / "numbers.npy", np.float32, (width,)) as rows,
        NpyWriter(folder / "labels.npy", np.uint8) as labels,
    ):
        for chunk in read_numbers(table, width + 1, ",", CHUNK):
            wrong = np.flatnonzero((chunk[:, 0] != 0) & (chunk[:, 0] != 1))
            if len(wrong):
                row = int(wrong[0])
                raise DataError(f"{table} row {done + row + 1}: class {chunk[row, 0]:g} is neither 0 nor 1")
            labels.append(chunk[:, 0])
            rows.append(chunk[:, 1:])
            done += len(chunk)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Higgs, HiggsTransfer]
