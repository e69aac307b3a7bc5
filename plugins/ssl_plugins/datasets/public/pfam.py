"""Pfam (El-Gebali et al., 2019) in TAPE's split: clans of protein domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_core import DataError, Dataset, Split, Task, hookimpl
from ssl_plugins.datasets.public._arrays import (
    LazyMemmap,
    NinetyTenOptions,
    NpyWriter,
    atomic_dir,
    head_tail,
    shuffled_order,
)
from ssl_plugins.datasets.public._tape import ProteinDataset, SequenceArrays, tape_source, write_arrays

ARRAYS = "arrays/pfam"
FILES = {"train": "pfam/pfam_train.json", "valid": "pfam/pfam_valid.json"}
CLANS = 623
TRANSFER = 200_000  # records of the validation file for the transfer set
CHUNK = 1 << 20


class Pfam(ProteinDataset):
    """Pfam, 32 million protein domains of 623 clans, for pretraining.

    The training split is TAPE's training file in its order. The test split is TAPE's validation file, shuffled, without
    the last 200,000 records, which are the transfer set.
    """

    name = "pfam"
    source = tape_source("pfam", [ARRAYS], {"train": 32_207_059})

    def __init__(self, options: ProteinDataset.Options, split: Split) -> None:
        super().__init__(options, split)
        self.choose_rows()
        self.clans = LazyMemmap(self.folder / ARRAYS / self.stem / "clans.npy")
        self.task = Task("classes", CLANS, "accuracy", title="clan")

    def choose_rows(self) -> None:
        """Open the file of the split and set `rows`."""
        self._open(self.split if self.split == "train" else "valid")
        if self.split == "test":
            self.rows = shuffled_order(len(self.sequences))[:-TRANSFER].astype(np.int32)

    def _open(self, stem: str) -> None:
        """Open a file.

        Raises:
            DataError: if the validation file has no records besides the transfer set.
        """
        self.stem, self.file = stem, FILES[stem]
        self.sequences = SequenceArrays(self.folder / ARRAYS / stem)
        if stem == "valid" and len(self.sequences) <= TRANSFER:
            raise DataError(
                f"{self.folder / self.file} holds {len(self.sequences):,} records; the last {TRANSFER:,} are the "
                "transfer set, and there must be more"
            )

    def label(self, row: int) -> int:
        """The rank of the clan among the clans of the training file."""
        return int(self.clans.array[row])

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert both JSON files to arrays, in bounded memory.

        Raises:
            DataError: for a damaged record, with file and record.
        """
        if all((folder / file).exists() for file in FILES.values()) and not (folder / ARRAYS).exists():
            with atomic_dir(folder / ARRAYS) as work:
                for stem, file in FILES.items():
                    (work / stem).mkdir()
                    write_arrays(folder / file, work / stem, "clan", np.int32)
                rank_clans(folder, work)


class PfamTransfer(Pfam):
    """Pfam, 200,000 protein domains of TAPE's validation file: 623 clans."""

    name = "pfam_transfer"
    source = tape_source("pfam", [ARRAYS], {"train": 180_000, "test": 20_000})

    class Options(NinetyTenOptions):
        """Options of Pfam for transfer."""

    def choose_rows(self) -> None:
        """The last 200,000 records of the shuffled validation file, split 90/10."""
        self._open("valid")
        last = shuffled_order(len(self.sequences))[-TRANSFER:]
        self.rows = head_tail(last, self.split, self.options.protocol).astype(np.int32)


def rank_clans(folder: Path, work: Path) -> None:
    """Write clans.npy for both files: the rank of each label among the labels of the training file.

    Raises:
        DataError: for more than 623 clans, or a clan that the training file lacks.
    """
    labels = {stem: LazyMemmap(work / stem / "labels.npy").array for stem in FILES}
    train_clans = np.unique(labels["train"])
    if len(train_clans) > CLANS:
        raise DataError(f"{folder / FILES['train']} holds {len(train_clans)} clans, more than {CLANS}")
    for stem, file in FILES.items():
        with NpyWriter(work / stem / "clans.npy", np.int16) as ranks:
            for start in range(0, len(labels[stem]), CHUNK):
                clans = labels[stem][start : start + CHUNK]
                rank = np.minimum(np.searchsorted(train_clans, clans), len(train_clans) - 1)
                unknown = np.flatnonzero(train_clans[rank] != clans)
                if len(unknown):
                    row = start + int(unknown[0])
                    raise DataError(
                        f"{folder / file} record {row + 1}: clan {labels[stem][row]} is not in {FILES['train']}"
                    )
                ranks.append(rank)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Pfam, PfamTransfer]
