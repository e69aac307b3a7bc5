"""Rows of labels that are several names or numbers, in tables and in lists of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from corpus import Fault, Read
from PIL import Image

NAMES = ("art", "art|law", "law", "art|law|sea", "sea")
NUMBERS = ("1.5", "2.25", "0.5", "3", "-1.5")
COUNT = 20


def table(labels: tuple[str, ...]) -> Callable[[Path], Path]:
    """Rows whose first number is that of the row."""

    def make(folder: Path) -> Path:
        lines = [f"{i}.5,{i % 3}.25,{labels[i % len(labels)]}" for i in range(COUNT)]
        (folder / "data.csv").write_text("a,b,label\n" + "\n".join(lines) + "\n")
        return folder / "data.csv"

    return make


def recordings(labels: tuple[str, ...]) -> Callable[[Path], Path]:
    """Tones whose first sample is the number of the file, and a list of them."""

    def make(folder: Path) -> Path:
        for i in range(COUNT):
            tone = 0.5 * np.sin(np.arange(800) * 0.1)
            tone[0] = i / 100
            soundfile.write(folder / f"{i}.wav", tone, 8000, subtype="FLOAT")
        lines = [f"{i}.wav,{labels[i % len(labels)]}" for i in range(COUNT)]
        (folder / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
        return folder / "list.csv"

    return make


def pictures(labels: tuple[str, ...]) -> Callable[[Path], Path]:
    """Grey pictures whose value is the number of the file, and a list of them."""

    def make(folder: Path) -> Path:
        for i in range(COUNT):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i}.png")
        lines = [f"{i}.png,{labels[i % len(labels)]}" for i in range(COUNT)]
        (folder / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
        return folder / "list.csv"

    return make


def series(labels: tuple[str, ...]) -> Callable[[Path], Path]:
    """A recording that is cut into windows of four steps, whose first value is their number."""

    def make(folder: Path) -> Path:
        rows = [f"{i}.5,{labels[i % len(labels)]}" for i in range(COUNT) for _ in range(4)]
        (folder / "data.csv").write_text("x,label\n" + "\n".join(rows) + "\n")
        return folder / "data.csv"

    return make


def numbered(field: str, scale: float) -> Callable[[Read, str], dict[int, object]]:
    """The label of each sample by its number, which the first value of a field gives."""

    def labels(read: Read, split: str) -> dict[int, object]:
        dataset = read.datasets[split]  # type: ignore[index]
        samples = [dataset[index] for index in range(len(dataset))]
        return {round(float(np.ravel(one["inputs"][field])[0]) * scale - 0.01): one["label"] for one in samples}

    return labels


READERS = {
    "tabular": (table, numbered("numeric", 1)), "speech": (recordings, numbered("waveform", 100)),
    "image": (pictures, numbered("image", 1)), "time-series": (series, numbered("series", 1)),
}  # fmt: skip


def several(modality: str) -> Callable[[Read], None]:
    """Three labels, each set in the samples whose names it is among."""

    def expect(read: Read) -> None:
        task = read.train.task
        assert task is not None
        assert (task.kind, task.names) == ("labels", ("art", "law", "sea"))
        assert set(read.sizes) == {"train", "test"}
        for split in read.sizes:
            for number, label in READERS[modality][1](read, split).items():
                names = NAMES[number % len(NAMES)].split("|")
                assert np.asarray(label).tolist() == [int(name in names) for name in task.names], number

    return expect


def split_as_usual(read: Read) -> None:
    """A set of labels that no other sample has is no class of one sample, which would only train."""
    assert read.sizes == {"train": 16, "test": 4}


def numbers(read: Read) -> None:
    """Each recording has its number."""
    task = read.train.task
    assert task is not None
    assert task.kind == "number"
    for split in read.sizes:
        for number, label in READERS["speech"][1](read, split).items():
            assert label == float(NUMBERS[number % len(NUMBERS)])


def names_of_rows(folder: Path) -> Path:
    """A label of its own for each row, which must not be compared with each other."""
    rows = "".join(f"{i % 7}.5,{10**6 + i}\n" for i in range(8000))
    (folder / "data.csv").write_text("a,label\n" + rows)
    return folder / "data.csv"


def two_files(whole: str) -> Callable[[Path], None]:
    """Whole numbers in one file, decimals in another. whole: the name of the first of them, beside b.csv."""

    def make(folder: Path) -> None:
        for name, labels in ((whole, (1, 2, 3)), ("b", (1.5, 2.5, 3.25))):
            rows = "".join(f"{i}.5,{labels[i % 3]}\n" for i in range(12))
            (folder / f"{name}.csv").write_text("a,label\n" + rows)

    return make


def one_target(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == "number"
    found = read.labels("train") + read.labels("test")
    assert sorted(found) == sorted([1, 2, 3, 1.5, 2.5, 3.25] * 4)


LATE = 70_000  # rows, of which the first block of a Parquet file holds fewer


def late_decimals(folder: Path) -> Path:
    label = np.where(np.arange(LATE) < LATE - 2000, np.arange(LATE) % 5, np.arange(LATE) % 5 + 0.5)
    pd.DataFrame({"a": np.arange(LATE) % 9 + 0.5, "label": label}).to_parquet(folder / "x.parquet")
    return folder / "x.parquet"


def late(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == "number"
    labels = np.concatenate([dataset.labels for dataset in read.datasets.values()])
    assert len(labels) == LATE
    assert (labels % 1 == 0.5).sum() == 2000


def late_name(folder: Path) -> None:
    """A label that is no number makes all of them classes."""
    for name, labels in (("a", ("0", "1")), ("b", ("0.5", "low"))):
        rows = "".join(f"{i}.5,{labels[i % 2]}\n" for i in range(12))
        (folder / f"{name}.csv").write_text("a,label\n" + rows)


def four_classes(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.names == ("0", "0.5", "1", "low")


BOOLEANS = pd.DataFrame(
    {
        "word": [f"word {i % 3}" for i in range(COUNT)],
        "is_new": [i % 3 == 0 for i in range(COUNT)],
        "label": [i % 2 == 0 for i in range(COUNT)],
    }
)


def saved(write: Callable[[Path], object], name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return make


def booleans(read: Read) -> None:
    """The classes have one name, whatever the format."""
    assert read.train.task is not None
    assert read.train.task.names == ("False", "True")
    for column in read.train.summary.columns:
        assert column.name != "is_new" or column.categories in ((), ("False", "True"))


OTHER = tuple(name.replace("|", "; ") for name in NAMES)
OPTIONS: dict[str, dict[str, object]] = {"time-series": {"window": 4}}
FAULTS = [
    *(
        Fault(
            f"several labels: {modality}",
            modality,
            make(NAMES),
            several(modality),
            OPTIONS.get(modality, {}) | {"task": "labels"},
        )
        for modality, (make, _) in READERS.items()
    ),
    *(
        Fault(
            f"several labels: {modality}, doubted",
            modality,
            make(NAMES),
            options=OPTIONS.get(modality, {}),
            doubt="set dataset.task=labels",
        )
        for modality, (make, _) in READERS.items()
    ),
    Fault("several labels: parts that no other label has are one name", "tabular", table(("a|b", "c|d", "e", "f;g"))),
    Fault(
        "several labels: eight thousand classes",
        "tabular",
        names_of_rows,
        error="each of the 8000 classes has one",
        cure={"task": "number"},
    ),
    Fault("numbers: decimals in the last file alone", "tabular", two_files("a"), one_target),
    Fault("numbers: decimals in the first file alone", "tabular", two_files("c"), one_target),
    Fault("numbers: decimals behind the first block", "tabular", late_decimals, late),
    Fault("numbers: decimals behind the first block, with a name", "tabular", late_name, four_classes),
    *(
        Fault(
            f"true and false: {modality}, {name}",
            modality,
            saved(write, name),
            booleans,
            {"text": "word"} if modality == "text" else {},
        )
        for modality in ("tabular", "text")
        for name, write in {
            "x.csv": lambda path: BOOLEANS.to_csv(path, index=False),
            "x.parquet": BOOLEANS.to_parquet,
            "x.jsonl": lambda path: BOOLEANS.to_json(path, orient="records", lines=True),
            "x.json": lambda path: BOOLEANS.to_json(path, orient="records"),
        }.items()
    ),
    Fault("several labels: joined by ;", "speech", recordings(OTHER), several("speech"), {"task": "labels"}),
    Fault(
        "several labels: each set once",
        "tabular",
        table(tuple(f"a|b{i}" for i in range(COUNT))),
        split_as_usual,
        {"task": "labels"},
    ),
    Fault(
        "several labels: windows, each set once",
        "time-series",
        series(tuple(f"a|b{i}" for i in range(COUNT))),
        split_as_usual,
        {"task": "labels", "window": 4},
    ),
    Fault("several labels: none", "tabular", table(("a", "b")), options={"task": "labels"}, error="task=labels out"),
    Fault("numbers: recordings", "speech", recordings(NUMBERS), numbers, {"task": "number"}),
    Fault("numbers: recordings, doubted", "speech", recordings(NUMBERS), doubt="set dataset.task=number"),
    Fault("numbers: a name", "speech", recordings((*NUMBERS, "x")), options={"task": "number"}, error="'x' is no"),
]
