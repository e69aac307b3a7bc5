"""Data set `files`: the fingerprint changes with labels, splits and files of every modality."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from ssl_core import Dataset
from ssl_plugins.datasets.user.files_captions import CaptionFiles
from ssl_plugins.datasets.user.files_images import ImageFiles, MedicalImageFiles, MultispectralFiles, WaferFiles
from ssl_plugins.datasets.user.files_sequences import ProteinFiles, SequenceFiles
from ssl_plugins.datasets.user.files_series import SeriesFiles
from ssl_plugins.datasets.user.files_speech import SpeechFiles
from ssl_plugins.datasets.user.files_tables import TableFiles
from ssl_plugins.datasets.user.files_text import MultilingualTextFiles, TextFiles

COUNT = 8
LABELS = ["a", "b"] * (COUNT // 2)
SPLITS = ["train"] * 5 + ["test"] * 3


def column(values: Callable[[int], object], name: str) -> Callable[[Path], tuple[str, list[str]]]:
    return lambda folder: (name, [str(values(i)) for i in range(COUNT)])


def grey(folder: Path) -> tuple[str, list[str]]:
    for i in range(COUNT):
        Image.fromarray(np.full((8, 8), i % 3, np.uint8)).save(folder / f"{i}.png")
    return "path", [f"{i}.png" for i in range(COUNT)]


def sounds(folder: Path) -> tuple[str, list[str]]:
    for i in range(COUNT):
        soundfile.write(folder / f"{i}.wav", np.zeros(80), 8000)
    return "path", [f"{i}.wav" for i in range(COUNT)]


def captions(folder: Path) -> tuple[str, list[str]]:
    return "caption,image", [f"thing,{name}" for name in grey(folder)[1]]


KINDS = {
    SpeechFiles: sounds,
    ImageFiles: grey,
    MedicalImageFiles: grey,
    MultispectralFiles: grey,
    WaferFiles: grey,
    CaptionFiles: captions,
    SequenceFiles: column(lambda i: "ACGT" * (i + 1), "sequence"),
    ProteinFiles: column(lambda i: "MKV" * (i + 1), "sequence"),
    SeriesFiles: column(lambda i: f"{i}.5,{i}\n{i}.5,{i}", "x,id"),
    TableFiles: column(lambda i: i, "x"),
    TextFiles: column(lambda i: f"text {i}", "text"),
    MultilingualTextFiles: column(lambda i: f"text {i}", "text"),
}


def write(path: Path, names: str, rows: list[str], labels: list[str], splits: list[str]) -> Path:
    """Write the table. The modification time is constant, so that only the content can change the fingerprint."""
    lines = [f"{names},label,split"]
    for row, label, split in zip(rows, labels, splits, strict=True):
        lines += [f"{line},{label},{split}" for line in row.split("\n")]
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, ns=(1, 1))
    return path


def prints(cls: type[Dataset], path: Path) -> tuple[str, str]:
    options = cls.Options(root=str(path), **({"window": 2} if cls is SeriesFiles else {}))  # type: ignore[call-arg]
    return cls(options, "train").fingerprint(), cls(options, "test").fingerprint()


@pytest.mark.parametrize("cls", KINDS)
def test_fingerprint_changes_with_labels_and_splits(tmp_path, cls):
    names, rows = KINDS[cls](tmp_path)
    path = tmp_path / "table.csv"
    first = prints(cls, write(path, names, rows, LABELS, SPLITS))
    assert prints(cls, write(path, names, rows, LABELS, SPLITS)) == first
    swapped = prints(cls, write(path, names, rows, ["b", "a", *LABELS[2:]], SPLITS))
    assert swapped[0] != first[0]
    moved = prints(cls, write(path, names, rows, LABELS, ["test", *SPLITS[1:-1], "train"]))
    assert {*moved}.isdisjoint(first)
    # class a of the training split is renamed to z: class b of the test samples gets another index
    only_b = ["a", "b", "a", "b", "b", "b", "b", "b"]
    before = prints(cls, write(path, names, rows, only_b, SPLITS))
    after = prints(cls, write(path, names, rows, ["z" if label == "a" else "b" for label in only_b], SPLITS))
    assert {*after}.isdisjoint(before)


@pytest.mark.parametrize("cls", KINDS)
def test_fingerprint_changes_with_modification_time(tmp_path, cls):
    names, rows = KINDS[cls](tmp_path)
    path = write(tmp_path / "table.csv", names, rows, LABELS, SPLITS)
    first = prints(cls, path)
    inner = next((file for file in sorted(tmp_path.iterdir()) if file != path), path)
    os.utime(inner, ns=(5, 5))
    assert prints(cls, path)[0] != first[0]


def test_fingerprint_changes_with_added_images_and_groups(tmp_path):
    names, rows = captions(tmp_path)
    path = write(tmp_path / "table.csv", names, rows, LABELS, SPLITS)
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").unlink()
    first = prints(CaptionFiles, path)
    (tmp_path / "1.png").write_bytes(content)
    assert prints(CaptionFiles, path)[0] != first[0]

    def grouped(groups: str) -> tuple[str, str]:
        rows = [f"{i}.png,{group},{'ab'[i % 2]}" for i, group in enumerate(groups)]
        (tmp_path / "groups.csv").write_text("path,group,label\n" + "\n".join(rows) + "\n")
        return prints(ImageFiles, tmp_path / "groups.csv")

    assert {*grouped("11112222")}.isdisjoint(grouped("11221122"))


@pytest.mark.parametrize("stored", [False, True])
def test_fingerprint_changes_with_images_that_parquet_names(tmp_path, stored):
    for number in range(10):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
    content = (tmp_path / "0.png").read_bytes() if stored else None
    cells = [{"bytes": content, "path": f"{number}.png"} for number in range(10)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "x.parquet")
    before = open_one(ImageFiles, tmp_path / "x.parquet")
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tmp_path / "3.png")
    after = open_one(ImageFiles, tmp_path / "x.parquet")
    assert (before == after) == stored


def open_one(cls: type[Dataset], path: Path) -> str:
    """The fingerprint of the training split."""
    return cls(cls.Options(root=str(path)), "train").fingerprint()
