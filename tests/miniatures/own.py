"""Small examples of the user's own files for every modality but speech. WRITERS: (modality, name) -> writer(root)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def images(root: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        path = root / ("cat", "dog")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def scans(root: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(24):
        path = root / ("ill", "well")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 65536, (16, 16), dtype=np.uint16)).save(path)


def tiles(root: Path) -> None:
    rng = np.random.default_rng(2)
    for number in range(24):
        path = root / ("sea", "land")[number % 2] / f"{number:02}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, rng.integers(-5, 9000, (16, 16, 7), dtype=np.int16), photometric="minisblack")


def wafers(root: Path) -> None:
    rng = np.random.default_rng(3)
    for number in range(24):
        path = root / ("ring", "none")[number % 2] / f"{number:02}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.integers(0, 3, (20 + number % 3, 22), dtype=np.uint8))


def table(root: Path) -> None:
    rng = np.random.default_rng(4)
    root.mkdir(parents=True, exist_ok=True)
    rows = [f"{rng.normal():.4f},{rng.integers(9)},{rng.choice(['red', 'blue'])},{i % 2}" for i in range(40)]
    rows[3] = ",7,?,1"
    (root / "rows.csv").write_text("width,count,colour,label\n" + "\n".join(rows) + "\n")


def series(root: Path) -> None:
    rng = np.random.default_rng(5)
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{person},{step},{rng.normal():.4f},{rng.normal():.4f},{('walk', 'run')[person % 2]}"
        for person in range(8)
        for step in range(640)
    ]
    (root / "walks.csv").write_text("id,step,x,y,label\n" + "\n".join(rows) + "\n")


def fasta(letters: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        rng = np.random.default_rng(6)
        root.mkdir(parents=True, exist_ok=True)
        sequences = ["".join(rng.choice(list(letters), 150)) for _ in range(40)]
        records = [f">{i}\n{sequence}\n{sequence[::-1]}\n" for i, sequence in enumerate(sequences)]
        (root / "all.fasta").write_text("".join(records))

    return write


def texts(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    entries = [{"text": f"the {i} red birds sing {'well' if i % 2 else 'badly'}", "label": i % 2} for i in range(40)]
    (root / "all.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def captions(root: Path) -> None:
    rng = np.random.default_rng(7)
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "caption": f"image {i} of a house", "label": i % 2}))
    (root / "all.jsonl").write_text("\n".join(lines) + "\n")


WRITERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("image", "files"): images,
    ("medical-image", "files"): scans,
    ("multispectral", "files"): tiles,
    ("wafer", "files"): wafers,
    ("tabular", "files"): table,
    ("time-series", "files"): series,
    ("genomics", "files"): fasta("ACGT"),
    ("protein", "files"): fasta("ARNDCQEGHILKMFPSTWYV"),
    ("text", "files"): texts,
    ("multilingual-text", "files"): texts,
    ("image-text", "files"): captions,
}
