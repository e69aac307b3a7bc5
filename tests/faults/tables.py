"""Rows of tables."""

from __future__ import annotations

from pathlib import Path

from corpus import Fault, Read


def _semicolons(folder: Path) -> Path:
    path = folder / "x.csv"
    path.write_text("a;b;label\n" + "".join(f"{i};{i % 3};{'ab'[i % 2]}\n" for i in range(20)))
    return path


def _numbers(read: Read) -> None:
    assert read.train.fields["numeric"].shape == (2,)
    assert read.sizes == {"train": 16, "test": 4}


FAULTS = [
    Fault(
        "delimiter: semicolons", "tabular", _semicolons, _numbers, error="semicolons|delimiter", cure={"delimiter": ";"}
    ),
]
