"""Genomics OOD (Ren et al., 2019): genera of bacteria, from chunks of their DNA."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssl_core import Archive, DataError, Dataset, PublicDataset, Sample, Source, Split, Task, Text, hookimpl
from ssl_plugins.datasets.public._arrays import (
    LazyMemmap,
    NinetyTenOptions,
    NpyWriter,
    atomic_dir,
    head_tail,
    shuffled_order,
)

if TYPE_CHECKING:
    import pandas as pd

LENGTH = 250
CHUNK = 100_000  # rows to read at once: 50 MB
COLUMNS = ("seq", "label")

KNOWN = (
    "Bacillus", "Burkholderia", "Clostridium", "Escherichia", "Mycobacterium", "Pseudomonas", "Salmonella",
    "Staphylococcus", "Streptococcus", "Yersinia",
)  # fmt: skip
NEW = (
    "Actinoplanes", "Advenella", "Alicycliphilus", "Altererythrobacter", "Anabaena", "Archangium", "Bibersteinia",
    "Blastochloris", "Calothrix", "Carnobacterium", "Cedecea", "Cellulophaga", "Chondromyces", "Chryseobacterium",
    "Collimonas", "Corallococcus", "Cyclobacterium", "Dehalobacter", "Desulfosporosinus", "Devosia", "Dyella",
    "Elizabethkingia", "Glaciecola", "Granulicella", "Haliscomenobacter", "Hymenobacter", "Kibdelosporangium",
    "Kutzneria", "Labilithrix", "Leptolyngbya", "Leptospirillum", "Lysobacter", "Mannheimia", "Massilia",
    "Methanobacterium", "Microbacterium", "Myroides", "Neorhizobium", "Niastella", "Oblitimonas", "Octadecabacter",
    "Oscillatoria", "Pandoraea", "Pelosinus", "Phaeobacter", "Piscirickettsia", "Planococcus", "Pseudonocardia",
    "Pseudoxanthomonas", "Rahnella", "Raoultella", "Rufibacter", "Saccharothrix", "Sandaracinus", "Singulisphaera",
    "Sphaerochaeta", "Sphingobacterium", "Spiroplasma", "Tannerella", "Terriglobus",
)  # fmt: skip


def _source(stem: str, train: int, test: int) -> Source:
    archive = Archive(
        url="https://storage.googleapis.com/tfds-data/downloads/genomics_ood/genomics_ood.zip",
        file="genomics_ood.zip", kind="zip", produces=f"{stem}.txt",
    )  # fmt: skip
    return Source(
        homepage="https://github.com/google-research/google-research/tree/master/genomics_ood",
        terms="not stated; sequences from NCBI", folder="genomics", archives=(archive,),
        required_paths=(f"arrays/{stem}",), sample_counts={"train": train, "test": test},
    )  # fmt: skip


class Genomics(PublicDataset):
    """Genomics OOD, 250 bases of bacteria discovered before 2011: ten genera; for pretraining.

    The rows of one file, shuffled and split 90/10. The published codes shuffle the order of TensorFlow Datasets; here
    it is that of the file. Sizes are equal, members differ.
    """

    name = "genomics"
    modality = "genomics"
    stem: ClassVar[str] = "before_2011_in_tr"
    genera: ClassVar[tuple[str, ...]] = KNOWN
    source = _source(stem, 900_000, 100_000)

    class Options(NinetyTenOptions):
        """Options of Genomics OOD."""

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        arrays = self.folder / "arrays" / self.stem
        self.letters, self.labels = LazyMemmap(arrays / "letters.npy"), LazyMemmap(arrays / "labels.npy")
        self.rows = head_tail(shuffled_order(len(self.labels)), split, options.protocol).astype(np.int32)
        self.fields = {"sequence": Text()}
        self.task = Task("classes", len(self.genera), "accuracy", names=self.genera, title="genus")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": 250 letters} and the genus."""
        row = self.rows[index]
        text = self.letters.array[row].tobytes().decode("latin-1")
        return {"inputs": {"sequence": np.array(text)}, "label": int(self.labels.array[row])}

    def describe(self, index: int) -> str:
        """File and row, counted from 1 after the header."""
        return f"{self.folder / self.stem}.txt row {self.rows[index] + 1}"

    def fingerprint(self) -> str:
        """Changes with the options and the arrays."""
        return f"{super().fingerprint()}:{self.letters.state()}:{self.labels.state()}"

    @classmethod
    def convert(cls, folder: Path) -> None:
        """Convert the table to letters (n, 250) and labels (n,), both uint8, in bounded memory.

        Raises:
            DataError: for an invalid row.
        """
        table, arrays = folder / f"{cls.stem}.txt", folder / "arrays" / cls.stem
        if table.exists() and not arrays.exists():
            with atomic_dir(arrays) as work:
                write_arrays(table, cls.genera, work)


class GenomicsTransferID(Genomics):
    """Genomics OOD, 250 bases of bacteria discovered in 2011 to 2016: the ten genera of pretraining."""

    name = "genomics_transfer_id"
    aliases = ("genomics-id",)
    stem = "between_2011-2016_in_val"
    source = _source(stem, 90_000, 10_000)


class GenomicsTransferOOD(Genomics):
    """Genomics OOD, 250 bases of bacteria discovered in 2011 to 2016: 60 genera that are not in pretraining."""

    name = "genomics_transfer_ood"
    aliases = ("genomics-ood",)
    stem = "between_2011-2016_ood_val"
    genera = NEW
    source = _source(stem, 540_000, 60_000)


def write_arrays(table: Path, genera: tuple[str, ...], folder: Path) -> None:
    """Write letters.npy and labels.npy of a table with the columns seq and label.

    Raises:
        DataError: for an invalid row, with file and row.
    """
    import pandas as pd  # slow to import, and few data sets need it

    classes, done = pd.Index(genera), 0
    with (
        NpyWriter(folder / "letters.npy", np.uint8, (LENGTH,)) as letters,
        NpyWriter(folder / "labels.npy", np.uint8) as out,
    ):
        try:
            chunks = pd.read_csv(
                table, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, chunksize=CHUNK
            )
            for chunk in chunks:
                missing = [column for column in COLUMNS if column not in chunk.columns]
                if missing:
                    raise DataError(f"{table} has no column '{missing[0]}', only {', '.join(chunk.columns)}")
                lengths, labels = chunk["seq"].str.len().to_numpy(), classes.get_indexer(pd.Index(chunk["label"]))
                _check_rows(table, done, lengths != LENGTH, chunk["seq"], f"a sequence of another length than {LENGTH}")
                _check_rows(table, done, labels < 0, chunk["label"], "an unknown genus")
                joined = np.frombuffer("".join(chunk["seq"]).encode("latin-1", "replace"), dtype=np.uint8)
                letters.append(joined.reshape(-1, LENGTH))
                out.append(labels)
                done += len(chunk)
        except (ValueError, OSError) as error:
            raise DataError(f"{table} cannot be read: {' '.join(str(error).split())}") from None


def _check_rows(table: Path, done: int, wrong: np.ndarray, values: pd.Series[str], what: str) -> None:
    """Raises DataError for the first row where `wrong` is true."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        value = str(values.iloc[rows[0]])
        raise DataError(f"{table} row {done + rows[0] + 1}: {what}, '{value[:40]}'")


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Genomics, GenomicsTransferID, GenomicsTransferOOD]
