"""Pfam as TAPE cuts it (El-Gebali et al., 2019): which clan a protein domain belongs to (protocol 2.9, D47)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_core import DataError, Dataset, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import Mapped, NinetyTen, NpyWriter, building, head_tail, shuffled
from ssl_plugins.datasets.public._tape import Proteins, Sequences, tape_source, to_arrays

ARRAYS = "arrays/pfam"
FILES = {"train": "pfam/pfam_train.json", "valid": "pfam/pfam_valid.json"}
CLANS = 623
TRANSFER = 200_000  # records of the validation file that pretraining leaves to transfer
CHUNK = 1 << 20


class Pfam(Proteins):
    """Pfam, 32 million protein domains of 623 clans, for pretraining.

    Training is all of TAPE's training file in its order; the test is its shuffled validation file without the last
    200,000, which are the transfer set.
    """

    name = "pfam"
    source = tape_source("pfam", [ARRAYS], {"train": 32_207_059})

    def __init__(self, options: Proteins.Options, split: Split) -> None:
        super().__init__(options, split)
        self.choose()
        self.clans = Mapped(self.folder / ARRAYS / self.stem / "clans.npy")
        self.task = Task("classes", CLANS, "accuracy", title="clan")

    def choose(self) -> None:
        """Which file, and which rows of it."""
        self._open(self.split if self.split == "train" else "valid")
        if self.split == "test":
            self.rows = shuffled(len(self.sequences))[:-TRANSFER].astype(np.int32)

    def _open(self, stem: str) -> None:
        """Errors: DataError for a validation file too small to leave something to transfer."""
        self.stem, self.file = stem, FILES[stem]
        self.sequences = Sequences(self.folder / ARRAYS / stem)
        if stem == "valid" and len(self.sequences) <= TRANSFER:
            raise DataError(
                f"{self.folder / self.file} holds {len(self.sequences):,} records; the last {TRANSFER:,} are the "
                "transfer set, and there must be more"
            )

    def label(self, row: int) -> int:
        """The clan's rank among those of the training file."""
        return int(self.clans.array[row])

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Both JSON files to memory-mapped arrays, in bounded memory. Errors: DataError with file and record."""
        if all((folder / file).exists() for file in FILES.values()) and not (folder / ARRAYS).exists():
            with building(folder / ARRAYS) as work:
                for stem, file in FILES.items():
                    (work / stem).mkdir()
                    to_arrays(folder / file, work / stem, "clan", np.int32)
                rank_clans(folder, work)


class PfamTransfer(Pfam):
    """Pfam, 200,000 protein domains of TAPE's validation file: which of 623 clans."""

    name = "pfam_transfer"
    source = tape_source("pfam", [ARRAYS], {"train": 180_000, "test": 20_000})

    class Options(NinetyTen):
        """Options of Pfam for transfer."""

    def choose(self) -> None:
        """The last 200,000 of the shuffled validation file, cut 90/10."""
        self._open("valid")
        last = shuffled(len(self.sequences))[-TRANSFER:]
        self.rows = head_tail(last, self.split, self.options.protocol).astype(np.int32)


def rank_clans(folder: Path, work: Path) -> None:
    """Write clans.npy beside the labels of both files: each clan's rank among the training file's.

    Errors: DataError for more than 623 clans, or one that the training file lacks.
    """
    labels = {stem: Mapped(work / stem / "labels.npy").array for stem in FILES}
    known = np.unique(labels["train"])
    if len(known) > CLANS:
        raise DataError(f"{folder / FILES['train']} holds {len(known)} clans, more than {CLANS}")
    for stem, file in FILES.items():
        with NpyWriter(work / stem / "clans.npy", np.int16) as ranks:
            for start in range(0, len(labels[stem]), CHUNK):
                clans = labels[stem][start : start + CHUNK]
                rank = np.minimum(np.searchsorted(known, clans), len(known) - 1)
                strange = np.flatnonzero(known[rank] != clans)
                if len(strange):
                    row = start + int(strange[0])
                    raise DataError(
                        f"{folder / file} record {row + 1}: clan {labels[stem][row]} is not in {FILES['train']}"
                    )
                ranks.append(rank)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Pfam, PfamTransfer]
