"""Rows of labels and groups in arrays: the types in which each format stores names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Fault, Read
from scipy.io import savemat

TS = "time-series"
COUNT = 30
SERIES = np.random.RandomState(0).standard_normal((COUNT, 2, 20)).astype(np.float32)
PEOPLE = np.repeat(np.arange(6), 5)
WORDS = np.array(["a", "b", "c"] * 10)


def hdf5(**arrays: Any) -> Callable[[Path], Path | None]:
    """Writes an HDF5 file of these arrays."""

    def make(folder: Path) -> Path:
        import h5py

        with h5py.File(folder / "x.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
        return folder / "x.h5"

    return make


def mat(**arrays: Any) -> Callable[[Path], Path]:
    """Writes a .mat file of these arrays."""

    def make(folder: Path) -> Path:
        savemat(folder / "x.mat", arrays)
        return folder / "x.mat"

    return make


def npz(**arrays: Any) -> Callable[[Path], Path]:
    """Writes an .npz file of these arrays."""

    def make(folder: Path) -> Path:
        np.savez(folder / "x.npz", **arrays)
        return folder / "x.npz"

    return make


def new_mat(folder: Path) -> Path:
    """As MATLAB writes version 7.3: HDF5 with the axes reversed, texts as numbers of letters, cells as references."""
    import h5py

    with h5py.File(folder / "x.mat", "w", userblock_size=512) as file:
        file["series"] = SERIES.T
        cells = []
        for row, word in enumerate(("walk", "sit") * 15):
            cell = file.create_dataset(f"#refs#/{row}", data=np.array([[ord(letter)] for letter in word], np.uint16))
            cell.attrs["MATLAB_class"] = np.bytes_("char")
            cells.append(cell.ref)
        file.create_dataset("labels", data=np.array([cells], h5py.ref_dtype))
    with (folder / "x.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return folder / "x.mat"


def file_per_person(folder: Path) -> Path:
    """A .mat file a person, with one label and one subject for all of its series."""
    for person in range(4):
        content = {"series": SERIES[:6] + person, "label": "ab"[person % 2], "subject": f"p{person}"}
        savemat(folder / f"{person}.mat", content)
    return folder


def cells(*values: object) -> np.ndarray:
    """A cell array of MATLAB, a column of objects."""
    out = np.empty((COUNT, 1), object)
    out[:, 0] = list(values) * (COUNT // len(values))
    return out


def named(*names: str, missing: int = 0) -> Callable[[Read], None]:
    """The classes, and the number of samples without one."""

    def expect(read: Read) -> None:
        assert read.train.task.names == names
        assert sum(label is None for split in read.datasets for label in read.labels(split)) == missing

    return expect


def people_apart(read: Read) -> None:
    """No person is in both splits, and every series has its label."""
    named("a", "b", "c")(read)
    people = [{int(PEOPLE[row]) for row in dataset.rows} for dataset in (read.datasets["train"], read.datasets["test"])]
    assert people[0] | people[1] == set(range(6))
    assert people[0].isdisjoint(people[1])
    assert all(
        label == WORDS[row]
        for split, dataset in read.datasets.items()
        for row, label in zip(dataset.rows, read.labels(split), strict=True)
    )


def unused_note(read: Read) -> None:
    people_apart(read)
    assert read.train.summary.facts["arrays not used"] == "note"


def two_persons(read: Read) -> None:
    named("a", "b")(read)
    files = [{dataset.describe(i).split(" ")[0] for i in range(len(dataset))} for dataset in read.datasets.values()]
    assert files[0].isdisjoint(files[1])


try:
    import h5py  # noqa: F401

    OF_HDF5 = [
        Fault(
            "hdf5: bytes", TS, hdf5(series=SERIES, labels=WORDS.astype("S1"), subjects=PEOPLE.astype("S2")),
            people_apart,
        ),
        Fault(
            "hdf5: texts of any length", TS,
            hdf5(series=SERIES, kind=WORDS.astype(object), who=PEOPLE.astype(str).astype(object), note="a text"),
            unused_note, options={"label": "kind", "group": "who"},
        ),
        Fault("hdf5: one subject in the only file", TS, hdf5(series=SERIES, label=WORDS.astype("S1"), subject="p1"),
              named("a", "b", "c")),
        Fault("mat 7.3: cells", TS, new_mat, named("sit", "walk")),
    ]  # fmt: skip
except ImportError:
    OF_HDF5 = []

FAULTS = [
    *OF_HDF5,
    Fault("mat: NaN", TS, mat(series=SERIES, labels=np.array([1, np.nan, 2] * 10)), named("1", "2", missing=10)),
    Fault("mat: cells", TS, mat(series=SERIES, labels=cells("sit", "walk")), named("sit", "walk")),
    Fault("mat: empty cells", TS, mat(series=SERIES, labels=cells("sit", "", "walk")),
          named("sit", "walk", missing=10)),
    Fault("mat: cells of arrays", TS, mat(series=SERIES, labels=cells("sit", np.zeros((2, 2)))),
          error=r"the label of sample 2 is an array of shape \(2, 2\); save a text or a number for each sample"),
    Fault("mat: a value for a file", TS, file_per_person, two_persons),
    Fault("npz: bytes in UTF-8", TS, npz(series=SERIES, labels=np.array(["é".encode(), b"b"] * 15)), named("b", "é")),
    Fault("npz: bytes in Latin-1", TS, npz(series=SERIES, labels=np.array([b"\xe9", b"b"] * 15)),
          error=r"the label of sample 1 is '\\xe9', which is not UTF-8; save the labels as text in UTF-8"),
    Fault("npz: names of classes are bytes", "wafer", npz(
        pixels=np.random.RandomState(0).randint(0, 3, 64 * 20).astype(np.uint8), offset=np.arange(21) * 64,
        height=np.full(20, 8), width=np.full(20, 8), label=np.arange(20) % 2,
        label_names=np.array(["é".encode(), b"b"]),
    ), named("b", "é"), plain=False),
]  # fmt: skip
