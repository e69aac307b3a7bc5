"""Data sets as they were published: archives, nested JSON, tables without names, splits in columns and headers."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus import Fault, Read
from PIL import Image

RANDOM = np.random.RandomState


def sizes(**expected: int) -> Callable[[Read], None]:
    def expect(read: Read) -> None:
        assert read.sizes == expected

    return expect


def has_one_split_each(field: str, **expected: int) -> Callable[[Read], None]:
    """Sizes, and that no sample of one split is in another."""

    def expect(read: Read) -> None:
        found = {split: {one[field].tobytes() for one in read.samples(split)} for split in read.datasets}
        assert read.sizes == expected
        assert not found["train"] & found["test"]

    return expect


# --- archives --------------------------------------------------------------------------------------------------------


def zipped(name: str, files: dict[str, str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, content in files.items():
                archive.writestr(member, content)
        return folder / name

    return make


def inner(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda folder: make(folder) / name


ROWS = "a,b\n" + "".join(f"{i}.5,{i % 3}.25\n" for i in range(10))
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def protein(i: int, length: int = 40) -> str:
    return "".join(RANDOM(i).choice(list(RESIDUES), length))


def split_zips(folder: Path) -> None:
    for split in ("train", "test"):
        zipped(f"{split}.zip", {f"{split}/{i}.csv": ROWS for i in range(1 if split == "test" else 2)})(folder)


def unpacked_beside(folder: Path) -> None:
    zipped("data.zip", {"x.csv": ROWS})(folder)
    (folder / "x.csv").write_text(ROWS)


def several_splits(folder: Path) -> Path:
    def table(seed: int) -> str:
        names = RANDOM(seed).permutation(["train"] * 15 + ["test"] * 5)
        return "sequence,set\n" + "".join(f"{protein(i)},{name}\n" for i, name in enumerate(names))

    return zipped("splits.zip", {"one.csv": table(0), "two.csv": table(1)})(folder)


# --- tables ----------------------------------------------------------------------------------------------------------


def uci(folder: Path) -> None:
    for name, count, dot in (("x.data", 20, ""), ("x.test", 8, ".")):
        rows = (f"{i % 7}.5, word{i % 3}, {'<=50K' if i % 2 else '>50K'}{dot}\n" for i in range(count))
        (folder / name).write_text("".join(rows))
    (folder / "x.names").write_text("A data set of numbers and words.")


def uci_labels(read: Read) -> None:
    assert read.sizes == {"train": 20, "test": 8}
    assert set(read.labels("test")) == {"<=50K", ">50K"}


def with_split(columns: str, cell: Callable[[int], str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "x.csv").write_text(f"a,{columns}\n" + "".join(f"{i % 7}.5,{cell(i)}\n" for i in range(20)))
        return folder / "x.csv"

    return make


def set_is_an_input(read: Read) -> None:
    assert read.columns["set"] == "input"


# --- texts -----------------------------------------------------------------------------------------------------------


def squad(language: str, articles: int = 10) -> str:
    questions = [{"question": "Why?", "id": "1"}]
    data = [
        {"title": f"title {a}", "paragraphs": [
            {"context": f"A text of the article {a}, paragraph {p}, in {language}.", "qas": questions} for p in range(3)
        ]}
        for a in range(articles)
    ]  # fmt: skip
    return json.dumps({"version": "1.1", "data": data})


def languages(folder: Path) -> None:
    for language in ("de", "en", "th"):
        (folder / f"xquad.{language}.json").write_text(squad(language))
    (folder / "UPSTREAM_README.md").write_text("About the data.")


def articles_are_whole(read: Read) -> None:
    assert sum(read.sizes.values()) == 90
    assert read.train.task is not None
    assert read.train.task.names == ("de", "en", "th")
    found = {split: {str(one["text"]).split(",")[0] for one in read.samples(split)} for split in ("train", "test")}
    assert len(found["test"]) == 2
    assert not found["train"] & found["test"]


def one_squad(folder: Path) -> Path:
    (folder / "x.json").write_text(squad("en"))
    return folder / "x.json"


# --- captions --------------------------------------------------------------------------------------------------------


def photo(i: int) -> Image.Image:
    return Image.fromarray(RANDOM(i).randint(0, 256, (8, 8, 3)).astype(np.uint8))


def questions(name: str) -> Callable[[Path], None]:
    """Rows without names, with the numbers of pictures, in folders of the splits."""

    def make(folder: Path) -> None:
        for split, count in (("train", 12), ("test", 12)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                photo(i + 100 * (split == "test")).save(folder / split / name / f"{i}.png")
            rows = [[f"is picture {i} red?", "yes" if i % 2 else "no", i] for i in range(count)]
            (folder / split / "questions.json").write_text(json.dumps(rows))

    return make


def questions_are_captions(read: Read) -> None:
    assert read.sizes == {"train": 12, "test": 12}
    assert read.bad() == []
    assert str(read.samples()[3]["caption"]) == "is picture 3 red?"
    np.testing.assert_array_equal(read.samples()[3]["image"], np.moveaxis(np.asarray(photo(3)), -1, 0))


# --- sequences -------------------------------------------------------------------------------------------------------


def fasta(header: Callable[[int], str], letters: Callable[[int], str] = protein, count: int = 20) -> str:
    return "".join(f">s{i}{header(i)}\n{letters(i)}\n" for i in range(count))


def attributes(i: int) -> str:
    return f" SET={'test' if i % 4 == 3 else 'train'} VALIDATION={i % 5 == 1}"


def annotated(folder: Path) -> None:
    (folder / "sequences.fasta").write_text(fasta(lambda i: ""))
    (folder / "labels.fasta").write_text(fasta(attributes, lambda i: "".join(RANDOM(i).choice(list("HEC"), 40))))


def residues_only(read: Read) -> None:
    assert read.sizes == {"train": 12, "validation": 3, "test": 5}
    assert all(set(str(one["sequence"])) - set("HEC") for one in read.samples())


# --- copies ----------------------------------------------------------------------------------------------------------


def copied_pictures(folder: Path) -> None:
    for i in range(20):
        photo(i).save(folder / f"{i:02}.png")
        if i < 10:
            shutil.copy(folder / f"{i:02}.png", folder / f"again{i:02}.png")


def copied_rows(folder: Path) -> Path:
    frame = pd.DataFrame(RANDOM(0).standard_normal((60, 3)), columns=list("abc"))
    pd.concat([frame, frame[:20]]).to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def copied_rows_beside_validation(folder: Path) -> Path:
    """Twenty rows of training are copies of others of training; the data name ten rows for validation."""
    frame = pd.DataFrame(RANDOM(0).standard_normal((60, 3)), columns=list("abc"))
    frame["split"] = ["val"] * 10 + ["train"] * 50
    pd.concat([frame, frame[20:40]]).to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def copied_texts(folder: Path) -> Path:
    frame = pd.DataFrame({"text": [f"this is text {i}" for i in range(60)], "split": ["val"] * 10 + ["train"] * 50})
    pd.concat([frame, frame[20:40]]).to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


def few_values(folder: Path) -> Path:
    frame = pd.DataFrame({"a": np.arange(60) % 2, "b": [f"word{i % 3}" for i in range(60)]})
    frame.to_csv(folder / "x.csv", index=False)
    return folder / "x.csv"


# --- formats ---------------------------------------------------------------------------------------------------------


def zarr_store(folder: Path) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "x.zarr"), mode="w")
    group["images"] = RANDOM(0).randint(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    group["labels"] = np.arange(20) % 2
    return folder / "x.zarr"


def zarr_series(folder: Path) -> Path:
    zarr = pytest.importorskip("zarr")
    zarr.save_array(str(folder / "x.zarr"), RANDOM(0).standard_normal((20, 2, 64)).astype(np.float32))
    return folder / "x.zarr"


def heic(folder: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    for i in range(6):
        x = np.kron(RANDOM(i).randint(0, 256, (2, 3, 3)), np.ones((16, 16, 1)))
        Image.fromarray(x.astype(np.uint8)).save(folder / f"{i}.heic", quality=95)


def saved(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = {"text": [f"text number {i}" for i in range(10)], "label": [i % 2 for i in range(10)]}
    one = datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=["bad", "good"]))
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(folder / "saved")
    return folder / "saved"


def class_names(read: Read) -> None:
    assert read.sizes == {"train": 10, "test": 10}
    assert set(read.labels()) == {"bad", "good"}


TEXT, PROTEIN, IMAGE = "multilingual-text", "protein", "image"

FAULTS = [
    Fault("zip: a table", "tabular", zipped("x.zip", {"x.csv": ROWS}), sizes(train=8, test=2)),
    Fault("zip: a table in a folder in it", "tabular", zipped("x.zip", {"x/y/x.csv": ROWS}), sizes(train=8, test=2)),
    Fault("zip: one of its tables", "tabular", inner("b.csv", zipped("x.zip", {"a.csv": "x", "b.csv": ROWS})),
          sizes(train=8, test=2)),
    Fault("zip: what a Mac adds", "tabular", zipped("x.zip", {"x.csv": ROWS, "__MACOSX/._x.csv": "\0"}),
          sizes(train=8, test=2)),
    Fault("zip: a member outside", "tabular", zipped("x.zip", {"../x.csv": ROWS}), error="points outside of it"),
    Fault("zip: each split", "tabular", split_zips, sizes(train=20, test=10)),
    Fault("zip: unpacked beside itself", "tabular", unpacked_beside, sizes(train=8, test=2)),
    Fault("zip: proteins", PROTEIN, zipped("x.zip", {"x.fasta": fasta(lambda i: "")}), sizes(train=16, test=4)),
    Fault("splits: several of the same sequences", PROTEIN, several_splits, error="several splits of one data set"),
    Fault("splits: one of them", PROTEIN, inner("one.csv", several_splits), sizes(train=15, test=5)),
    Fault("UCI: .data and .test", "tabular", uci, uci_labels, {"label": "column3"}, doubt="first row"),
    Fault("splits: column set", "tabular", with_split("set", lambda i: "test" if i < 4 else "train"),
          sizes(train=16, test=4)),
    Fault("splits: column Partition", "tabular", with_split("Partition", lambda i: "Test" if i < 4 else "Train"),
          sizes(train=16, test=4)),
    Fault("splits: set and validation", "tabular",
          with_split("set,validation", lambda i: "test," if i < 4 else f"train,{'True' if i < 8 else ''}"),
          sizes(train=12, validation=4, test=4)),
    Fault("splits: set of something else", "tabular", with_split("set", lambda i: "abc"[i % 3]), set_is_an_input),
    Fault("splits: in headers", PROTEIN, inner("x.fasta", zipped("x.zip", {"x.fasta": fasta(attributes)})),
          sizes(train=12, validation=3, test=5)),
    Fault("annotations of residues", PROTEIN, annotated, residues_only, warning="a letter for each residue"),
    Fault("nested JSON: languages", TEXT, languages, articles_are_whole, warning="'paragraphs.context' of nested"),
    Fault("nested JSON: a key", "text", one_squad, sizes(train=24, test=6), {"text": "data.paragraphs.context"}),
    Fault("nested JSON: questions", "text", one_squad, sizes(train=24, test=6), {"text": "paragraphs.qas.question"}),
    Fault("arrays of arrays", "image-text", questions("images"), questions_are_captions, plain=False),
    Fault("arrays of arrays: folder img", "image-text", questions("img"), questions_are_captions, plain=False),
    Fault("arrays of arrays: the label is hinted at", "image-text", questions("images"), questions_are_captions,
          {"label": "column2"}),
    Fault("copies: pictures", IMAGE, copied_pictures, has_one_split_each("image", train=24, test=6)),
    Fault("copies: rows", "tabular", copied_rows, lambda read: _no_row_twice(read), warning="kept in one split"),
    Fault("copies: rows, train and val are named", "tabular", copied_rows_beside_validation,
          lambda read: _no_row_twice(read), warning="kept in one split"),
    Fault("copies: texts, train and val are named", "text", copied_texts, lambda read: _no_text_twice(read),
          warning="kept in one split"),
    Fault("copies: rows of few values are none", "tabular", few_values, sizes(train=48, test=12)),
    Fault("zarr: pictures", IMAGE, zarr_store, sizes(train=16, test=4)),
    Fault("zarr: series", "time-series", zarr_series, sizes(train=16, test=4)),
    Fault("heic", IMAGE, heic, sizes(train=5, test=1)),
    Fault("save_to_disk", "text", saved, class_names),
]  # fmt: skip


def _no_text_twice(read: Read) -> None:
    found = {split: {str(one["text"]) for one in read.samples(split)} for split in read.datasets}
    assert sum(read.sizes.values()) == 80
    assert not found["train"] & found["test"]


def _no_row_twice(read: Read) -> None:
    found = {split: {one["numeric"].tobytes() for one in read.samples(split)} for split in read.datasets}
    assert sum(read.sizes.values()) == 80
    assert not found["train"] & found["test"]
