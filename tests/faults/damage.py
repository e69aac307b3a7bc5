"""Files that are damaged or made to harm: each is one line that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from corpus import Fault, Read


def _unknown_compression(folder: Path) -> Path:
    np.savez(folder / "x.npz", images=np.zeros((20, 8, 8), np.uint8))
    content = bytearray((folder / "x.npz").read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = content.find(signature)
        while start >= 0:
            content[start + place : start + place + 2] = b"\x63\x00"
            start = content.find(signature, start + 4)
    (folder / "x.npz").write_bytes(content)
    return folder / "x.npz"


def _deep_table(folder: Path) -> None:
    (folder / "x.json").write_text('{"a":' * 10**5 + "1" + "}" * 10**5)


def _long_labels(folder: Path) -> None:
    labels = ["12"[i % 2] * 5000 for i in range(20)]
    pd.DataFrame({"a": np.random.RandomState(0).rand(20), "label": labels}).to_csv(folder / "x.csv", index=False)


def _two_classes(read: Read) -> None:
    assert set(read.labels()) == {"1" * 5000, "2" * 5000}


FAULTS = [
    Fault(
        "npz of an unknown compression", "image", _unknown_compression,
        error=r"x\.npz cannot be read as arrays: That compression method is not supported",
    ),
    Fault("json nested too deeply", "tabular", _deep_table, error=r"x\.json cannot be read as JSON: maximum recursion"),
    Fault("labels of 5,000 digits", "tabular", _long_labels, _two_classes),
]  # fmt: skip
