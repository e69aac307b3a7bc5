"""Rows of samples that are equal: they are kept in one split where the split is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from corpus import Fault, Read
from PIL import Image

COUNT = 50  # different samples, each twice
SERIES = np.tile(np.random.RandomState(0).standard_normal((COUNT, 24)).astype(np.float32), (2, 1))
PIXELS = np.tile(np.random.RandomState(1).randint(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8), (2, 1, 1, 1))
LETTERS = ["".join(np.random.RandomState(row).choice(list("ACGT"), 40)) for row in range(COUNT)] * 2
LINE = r"^50 samples are copies of others, e\.g\. .* 51 of .* 1; copies are kept in one split"


def apart(read: Read) -> None:
    """No sample is in two splits, and all are in one."""
    found = [
        {inputs[name].tobytes() for inputs in read.samples(split) for name in inputs} for split in ("train", "test")
    ]
    assert sum(read.sizes.values()) == 2 * COUNT
    assert len(found[0]) + len(found[1]) == COUNT
    assert found[0].isdisjoint(found[1])
    assert not read.bad()


def train_and_test_apart(read: Read) -> None:
    """The rows of the named validation split may be copies; those of the test split, which is cut, are not."""
    found = [{inputs["series"].tobytes() for inputs in read.samples(split)} for split in ("train", "test")]
    assert set(read.sizes) == {"train", "validation", "test"}
    assert found[0].isdisjoint(found[1])


def wide(folder: Path) -> Path:
    frame = pd.DataFrame(SERIES, columns=[f"t{i}" for i in range(24)])
    frame.to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def wide_with_validation(folder: Path) -> Path:
    frame = pd.DataFrame(SERIES, columns=[f"t{i}" for i in range(24)])
    frame["split"] = np.where(np.arange(len(frame)) % COUNT < 10, "val", "train")
    frame.to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def array(folder: Path) -> Path:
    np.save(folder / "x.npy", SERIES[:, np.newaxis])
    return folder / "x.npy"


def two_arrays(folder: Path) -> None:
    for name in ("a.npz", "b.npz"):
        np.savez(folder / name, series=SERIES[:COUNT, np.newaxis])


def sequences(folder: Path) -> Path:
    pd.DataFrame({"sequence": LETTERS}).to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def fasta(folder: Path) -> Path:
    (folder / "x.fa").write_text("".join(f">r{row}\n{text}\n" for row, text in enumerate(LETTERS)))
    return folder / "x.fa"


def images(folder: Path) -> Path:
    np.savez(folder / "x.npz", images=PIXELS)
    return folder / "x.npz"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def parquet(name: str, by_path: bool = False) -> Callable[[Path], Path]:
    """Writes images into a table as Hugging Face does, or the names of their files."""

    def make(folder: Path) -> Path:
        cells = []
        for row, pixels in enumerate(PIXELS):
            (folder / f"{row}.png").write_bytes(png(pixels))
            cells.append({"bytes": None if by_path else png(pixels), "path": f"{row}.png"})
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(cells, kind)})
        if name.endswith(".parquet"):
            pq.write_table(table, folder / name, row_group_size=30)
        else:
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        return folder / name

    return make


FAULTS = [
    Fault("wide series", "time-series", wide, apart, warning=LINE),
    Fault("wide series, beside a validation split", "time-series", wide_with_validation, train_and_test_apart),
    Fault("series in npy", "time-series", array, apart, warning=LINE),
    Fault("series in two files", "time-series", two_arrays, apart, warning=r"^50 samples are copies of others"),
    Fault("sequences in a table", "genomics", sequences, apart, warning=LINE),
    Fault("sequences in FASTA", "genomics", fasta, apart, warning=LINE),
    Fault("images in npz", "image", images, apart, warning=LINE),
    Fault("images in Parquet", "image", parquet("x.parquet"), apart, warning=LINE),
    Fault("images that Parquet names", "image", parquet("x.parquet", by_path=True), apart, warning=LINE),
    Fault("images in Arrow", "image", parquet("x.arrow"), apart, warning=LINE),
]
