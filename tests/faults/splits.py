"""Rows of splits and labels: folders, partly labelled data, several labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from corpus import Fault, Read
from PIL import Image


def _texts(*names: str):
    """A maker of text files of these names below the folder."""

    def make(folder: Path) -> None:
        for number, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"text number {number} of {name}")

    return make


def _pictures(*names: str):
    """A maker of pictures of these names below the folder."""

    def make(folder: Path) -> None:
        for number, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)

    return make


def _names(*folders: str, count: int = 4, ending: str = "txt") -> list[str]:
    return [f"{folder}/{i}.{ending}" for folder in folders for i in range(count)]


def _split(sizes: dict[str, int], labels: dict[str, list]):
    """An expectation: samples of each split, and their sorted labels."""

    def expect(read: Read) -> None:
        assert read.sizes == sizes
        for split, expected in labels.items():
            assert sorted(map(str, read.labels(split))) == sorted(map(str, expected))

    return expect


IMDB = _names("train/pos", "train/neg", "train/unsup", "test/pos", "test/neg", count=3)


def _tables(*names: str):
    """A maker of tables of twelve rows of these names."""

    def make(folder: Path) -> None:
        for name in names:
            rows = "".join(f"{(7 * i + len(name)) % 5}.5,{i % 3}\n" for i in range(12))
            (folder / name).write_text("a,b\n" + rows)

    return make


def _arrays(folder: Path) -> None:
    for name, count in (("train", 8), ("val", 3), ("test", 4)):
        x = np.random.RandomState(count).randint(0, 256, (count, 3, 8, 8)).astype(np.uint8)
        np.savez(folder / f"{name}.npz", images=x)


def _series_beside_a_table(folder: Path) -> None:
    for name in ("s1", "s2", "s3"):
        rows = "".join(f"{i % 4}.25,{i % 7}.5\n" for i in range(40))
        (folder / f"{name}.csv").write_text("x,y\n" + rows)
    (folder / "subjects.csv").write_text("subject,age\ns1,20\ns2,30\ns3,40\n")
    (folder / "record.json").write_text('{"creator": {"name": "x"}}')


def _channels(read: Read) -> None:
    assert read.train.fields["series"].shape == (2, 5)
    assert sum(read.sizes.values()) == 24


def _partly_labelled_table(folder: Path) -> Path:
    rows = "".join(f"{i}.5,{i % 7},{'' if i % 4 else 'ab'[i // 4 % 2]}\n" for i in range(80))
    (folder / "x.csv").write_text("a,b,label\n" + rows)
    return folder / "x.csv"


def _partly_labelled(read: Read) -> None:
    assert read.sizes == {"train": 76, "test": 4}
    assert sorted(read.labels("test")) == ["a", "a", "b", "b"]
    known = [label for label in read.labels("train") if label is not None]
    assert sorted(known) == ["a"] * 8 + ["b"] * 8


def _numbers_with_gaps(folder: Path) -> Path:
    rows = "".join(f"{i % 9},{'' if i % 2 else i + 0.5}\n" for i in range(40))
    (folder / "x.csv").write_text("a,label\n" + rows)
    return folder / "x.csv"


def _numeric_labels(read: Read) -> None:
    assert read.train.task is not None
    assert read.train.task.kind == "number"
    labels = read.labels("train") + read.labels("test")
    assert sorted(label for label in labels if label is not None) == [i + 0.5 for i in range(0, 40, 2)]
    assert None not in read.labels("test")


def _all_for_training(read: Read) -> None:
    assert read.sizes == {"train": 8}


FAULTS = [
    Fault(
        "folders: train/{pos,neg,unsup}",
        "text",
        _texts(*IMDB),
        _split(
            {"train": 9, "test": 6},
            {"train": ["pos"] * 3 + ["neg"] * 3 + [None] * 3, "test": ["pos"] * 3 + ["neg"] * 3},
        ),
    ),
    Fault(
        "folders: train, test and unlabeled",
        "text",
        _texts(*_names("train/a", "train/b", "test/a", "test/b", "unlabeled")),
        _split({"train": 12, "test": 8}, {"train": ["a"] * 4 + ["b"] * 4 + [None] * 4, "test": ["a"] * 4 + ["b"] * 4}),
    ),
    Fault(
        "folders: classes beside unlabelled",
        "image",
        _pictures(*_names("cat", "dog", "Unlabelled", count=5, ending="png")),
        _split({"train": 13, "test": 2}, {"train": ["cat"] * 4 + ["dog"] * 4 + [None] * 5, "test": ["cat", "dog"]}),
    ),
    Fault(
        "folders: train_images/test_images",
        "image",
        _pictures(*_names("train_images/a", "train_images/b", "test_images/a", "test_images/b", count=2, ending="png")),
        _split({"train": 4, "test": 4}, {"train": ["a", "a", "b", "b"], "test": ["a", "a", "b", "b"]}),
    ),
    Fault(
        "folders: Train-set and VAL.set",
        "image",
        _pictures(*_names("Train-set", count=6, ending="png"), *_names("VAL.set", count=2, ending="png")),
        _split({"train": 5, "validation": 2, "test": 1}, {}),
    ),
    Fault(
        "folders: training and testing",
        "image",
        _pictures(*_names("training", "testing", ending="png")),
        error="training.*call those to use train, val and test",
    ),
    Fault("labels: some rows of a table", "tabular", _partly_labelled_table, _partly_labelled),
    Fault("labels: some numbers of a table", "tabular", _numbers_with_gaps, _numeric_labels),
    Fault(
        "pretraining: on everything",
        "text",
        _texts(*_names("a", "b")),
        _all_for_training,
        options={"test_fraction": 0},
    ),
    Fault(
        "split: one text only",
        "text",
        _texts("a.txt"),
        lambda read: _split({"train": 1}, {})(read),
        error="one sample.*none is left for the test split",
        cure={"test_fraction": 0},
    ),
    Fault(
        "split: every class has one sample",
        "image",
        _pictures(*[f"class{i}/x.png" for i in range(6)]),
        lambda read: _split({"train": 6}, {})(read),
        error="each of the 6 classes has one sample, .*e.g. class0/x.png",
        cure={"test_fraction": 0},
    ),
    Fault(
        "files: words of the names are the split",
        "tabular",
        _tables("higgs_train_10k.csv", "higgs_test_5k.csv"),
        _split({"train": 12, "test": 12}, {}),
    ),
    Fault(
        "files: one without a split",
        "tabular",
        _tables("train.csv", "more.csv"),
        _split({"train": 19, "test": 5}, {}),
    ),
    Fault(
        "files: several for each split, with validation",
        "tabular",
        _tables("s1-train.csv", "s2-train.csv", "s1-val.csv", "s2_TEST.csv"),
        _split({"train": 24, "validation": 12, "test": 12}, {}),
    ),
    Fault(
        "folders: images and labels",
        "multispectral",
        _pictures(*_names("images", "labels", count=6, ending="png")),
        _split({"train": 5, "test": 1}, {}),
        warning="files of labels belong to those of images by their names, and are left out",
        plain=False,
    ),
    Fault(
        "folders: images and masks of other names",
        "image",
        _pictures(*_names("images", ending="png"), *(f"masks/{i}_mask.png" for i in range(4))),
        error="folders images and masks hold images and what belongs to each of them",
        cure={"exclude": "masks"},
        plain=False,
    ),
    Fault(
        "folders: imgs, masks and annotations",
        "image",
        _pictures(*_names("imgs", "masks", "annotations", ending="png")),
        _split({"train": 3, "test": 1}, {}),
        warning="files of annotations, masks belong to those of imgs",
        plain=False,
    ),
    Fault(
        "folders: images and other classes",
        "image",
        _pictures(*_names("images", "drawings", ending="png")),
        _split({"train": 6, "test": 2}, {"test": ["drawings", "images"]}),
    ),
    Fault("folders: arrays of each split", "image", _arrays, _split({"train": 8, "validation": 3, "test": 4}, {})),
    Fault(
        "folders: a table that describes series",
        "time-series",
        _series_beside_a_table,
        lambda read: _channels(read),
        options={"window": 5},
        warning="subjects.csv has no column of the other tables, and is left out",
    ),
]
