"""Miniatures of the public sensor and tabular sets, in the upstreams' formats.

WRITERS maps (modality, name) to a function that writes the set below a root.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssl_plugins.datasets.public import higgs as higgs_module
from ssl_plugins.datasets.public import pamap2 as pamap2_module

BOUTS = {  # subject: (activity, rows) in order; 0 is a pause
    1: ((0, 30), (1, 1100), (0, 20), (17, 330)),
    2: ((2, 400), (0, 25), (24, 1010), (2, 100)),
    3: ((3, 320), (4, 360)),  # 320 rows are too few for a window of 320: there must be more
    4: ((0, 10), (12, 350)),
    5: ((0, 40), (1, 1050), (0, 10), (17, 380), (24, 1020)),
    6: ((4, 370), (13, 400)),
    7: ((5, 340),),
    8: ((6, 340), (7, 345)),
    9: ((16, 340),),
}
START = {1: 45, 5: 45}  # rows without a heart rate at the start of a recording


@functools.cache
def recording(subject: int) -> str:
    """A recording as text: 54 columns, a heart rate in every eleventh row, gaps of the wireless sensors as NaN."""
    rng = np.random.default_rng(subject)
    bouts = BOUTS[subject]
    activity = np.repeat([name for name, _ in bouts], [rows for _, rows in bouts])
    count = len(activity)
    heart = np.where(np.arange(count) % 11 == 0, rng.integers(60, 180, count).astype(float), np.nan)
    heart[: START.get(subject, 0)] = np.nan
    sensors = rng.normal(0, 5, (count, 51))
    sensors[rng.random(count) < 0.01, 17:34] = np.nan
    sensors[-3:, -1] = np.nan
    table = np.column_stack([5.64 + 0.01 * np.arange(count), activity, heart, sensors])
    rows = [" ".join(["%.2f", "%d", *["%g"] * 52]) % tuple(row) for row in table.tolist()]
    return "\n".join(rows).replace("nan", "NaN") + "\n"


def recordings(root: Path) -> None:
    folder = root / "sensor" / "pamap2" / "PAMAP2_Dataset" / "Protocol"
    folder.mkdir(parents=True)
    for subject in BOUTS:
        (folder / f"subject{100 + subject}.dat").write_text(recording(subject))


def pamap2(root: Path) -> None:
    recordings(root)
    pamap2_module.Pamap2.convert(root / "sensor" / "pamap2")


def higgs_lines(count: int = 1003) -> list[str]:
    """The class and 28 numbers, with 18 decimals. Jets without a tag are 0."""
    rng = np.random.default_rng(4)
    table = rng.normal(1, 1, (count, 29))
    table[:, 0] = rng.integers(0, 2, count)
    table[rng.random(count) < 0.5, 9] = 0
    return [",".join(f"{value:.18e}" for value in row) for row in table.tolist()]


def higgs(root: Path) -> None:
    table = root / "particle_physics" / "HIGGS.csv.gz"
    table.parent.mkdir(parents=True)
    with gzip.open(table, "wt") as file:
        file.write("\n".join(higgs_lines()) + "\n")
    higgs_module.Higgs.convert(table.parent)


WRITERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("time-series", "pamap2"): pamap2,
    ("multispectral", "pamap2_spectrogram"): pamap2,
    ("tabular", "higgs"): higgs,
    ("tabular", "higgs_transfer"): higgs,
}
