"""HIGGS (Baldi et al., 2014): simulated collisions, signal or background (protocol section 2.10, D47)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Archive, Continuous, DataError, Dataset, PublicDataset, Sample, Source, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import Mapped, NinetyTen, NpyWriter, building, head_tail, shuffled
from ssl_plugins.datasets.public._numbers import numbers

FILE, ARRAYS = "HIGGS.csv.gz", "arrays/higgs"
CHUNK = 200_000  # rows that are read at once: 50 MB
JETS = [f"jet_{number}_{what}" for number in range(1, 5) for what in ("pt", "eta", "phi", "b-tag")]
COLUMNS = (
    "lepton_pT", "lepton_eta", "lepton_phi", "missing_energy_magnitude", "missing_energy_phi", *JETS,
    "m_jj", "m_jjj", "m_lv", "m_jlv", "m_bb", "m_wbb", "m_wwbb",
)  # fmt: skip


def _source(train: int, test: int) -> Source:
    archive = Archive(
        url="https://archive.ics.uci.edu/ml/machine-learning-databases/00280/HIGGS.csv.gz",
        file=FILE, kind="file", produces=FILE, size=2_816_407_858,
        digest="sha256:ea302c18164d4e3d916a1e2e83a9a8d07069fa6ebc7771e4c0540d54e593b698",
    )  # fmt: skip
    return Source(
        homepage="https://archive.ics.uci.edu/dataset/280/higgs", terms="CC BY 4.0", folder="particle_physics",
        archives=(archive,), needs=(ARRAYS,), counts={"train": train, "test": test},
    )  # fmt: skip


class Higgs(PublicDataset):
    """HIGGS, first 90 % of 11 million simulated collisions: signal or background, by 28 numbers; pretraining.

    Raw values. The published codes cut TFDS's order of the rows, which only TFDS knows; here it is the file's, whose
    rows are independent draws of the simulation. Then both parts are shuffled and cut 90/10 as published.
    """

    name = "higgs"
    modality = "tabular"
    source = _source(8_910_000, 990_000)

    class Options(NinetyTen):
        """Options of HIGGS."""

        columns: Literal["published", "upstream"] = Field(
            "published", description="order of the columns: published = by name, as the published codes have it"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.numbers = Mapped(self.folder / ARRAYS / "numbers.npy")
        self.labels = Mapped(self.folder / ARRAYS / "labels.npy")
        start, stop = self.part(len(self.labels))
        self.rows = (start + head_tail(shuffled(stop - start), split, options.protocol)).astype(np.int32)
        names = sorted(COLUMNS) if options.columns == "published" else COLUMNS
        self.order = np.array([COLUMNS.index(name) for name in names])
        self.fields = {"numeric": Continuous((len(COLUMNS),))}
        self.task = Task("classes", 2, "accuracy", names=("background", "signal"), title="process")

    @staticmethod
    def part(count: int) -> tuple[int, int]:
        """First and last row, exclusive, of what is used of the file."""
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
        """Changes with the arrays."""
        return f"{super().fingerprint()}:{self.numbers.stamp()}:{self.labels.stamp()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """HIGGS.csv.gz to numbers (n, 28) float32 and labels (n,) uint8, in bounded memory. Errors: DataError."""
        if (folder / FILE).exists() and not (folder / ARRAYS).exists():
            with building(folder / ARRAYS) as work:
                to_arrays(folder / FILE, work)


class HiggsTransfer(Higgs):
    """HIGGS, last 10 % of 11 million simulated collisions: signal or background, by 28 numbers; transfer."""

    name = "higgs_transfer"
    source = _source(990_000, 110_000)

    @staticmethod
    def part(count: int) -> tuple[int, int]:
        """The rows that pretraining does not use."""
        return count - count // 10, count


def to_arrays(table: Path, place: Path) -> None:
    """Write the table's columns, in its order, as numbers.npy and labels.npy. Errors: DataError with file and row."""
    width, done = len(COLUMNS), 0
    with (
        NpyWriter(place / "numbers.npy", np.float32, (width,)) as rows,
        NpyWriter(place / "labels.npy", np.uint8) as labels,
    ):
        for chunk in numbers(table, width + 1, ",", CHUNK):
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
