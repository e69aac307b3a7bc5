"""Miniatures of the public genomics and protein sets, in the upstreams' formats.

WRITERS maps (modality, name) to a function that writes the set below a root.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ssl_plugins.datasets.public import genomics_ood, pfam, tape

LETTERS = np.array(list("ARNDCQEGHILKMFPSTWYV"))
GENOMICS = {  # file: genera, rows
    "before_2011_in_tr": (genomics_ood.KNOWN, 120),
    "between_2011-2016_in_val": (genomics_ood.KNOWN, 60),
    "between_2011-2016_ood_val": (genomics_ood.NEW, 133),
}


def genomics_file(root: Path, stem: str) -> None:
    """Tab-separated with a header, sorted by genus, so that tests notice a wrong order of the rows."""
    genera, rows = GENOMICS[stem]
    rng = np.random.default_rng(len(stem) + rows)
    table = root / "genomics" / f"{stem}.txt"
    table.parent.mkdir(parents=True, exist_ok=True)
    lines = ["seq\tlabel\tseq_info\tdomain"]
    for row in range(rows):
        genus = genera[row * len(genera) // rows]
        bases = "".join(rng.choice(list("ACGT"), 250))
        lines.append(f"{bases}\t{genus}\t{genus}_sp_{row}__NC_0{row}_{250 * row}\tin")
    table.write_text("\n".join(lines) + "\n")


def genomics(root: Path) -> None:
    genomics_file(root, "before_2011_in_tr")
    genomics_ood.Genomics.convert(root / "genomics")


def genomics_transfer_id(root: Path) -> None:
    genomics_file(root, "between_2011-2016_in_val")
    genomics_ood.GenomicsTransferID.convert(root / "genomics")


def genomics_transfer_ood(root: Path) -> None:
    genomics_file(root, "between_2011-2016_ood_val")
    genomics_ood.GenomicsTransferOOD.convert(root / "genomics")


def sequence(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(LETTERS, length))


def json_array(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """An array in one line, as json.dump writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(records)))


CLANS = (7, 40, 41, 255, 12_000)


def pfam_files(root: Path, train: int = 60, valid: int = pfam.TRANSFER + 300) -> None:
    """More validation records than the transfer set has, short ones; ids only in the small file."""
    rng = np.random.default_rng(1)
    for stem, count in (("train", train), ("valid", valid)):
        letters = "".join(rng.choice(LETTERS, 8 * count).tolist())
        clans, lengths = rng.choice(CLANS, count).tolist(), rng.integers(5, 9, count).tolist()
        other_keys = ', "family": 9, "id": "0"' if stem == "train" else ""
        lines = [
            f'{{"primary": "{letters[8 * i : 8 * i + lengths[i]]}", "clan": {clans[i]}{other_keys}}}'
            for i in range(count)
        ]
        path = root / "proteins" / "pfam" / f"pfam_{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[" + ", ".join(lines) + "]")


PFAM_FOLDERS: list[Path] = []


def pfam_arrays(root: Path) -> None:
    """Files and arrays of Pfam. The second call links to the files of the first, which take long to write."""
    existing = next((folder for folder in PFAM_FOLDERS if folder.exists()), None)
    if existing is not None:
        shutil.copytree(existing, root / "proteins", copy_function=os.link, dirs_exist_ok=True)
        return
    pfam_files(root)
    pfam.Pfam.convert(root / "proteins")
    PFAM_FOLDERS.append(root / "proteins")


def scop(root: Path) -> None:
    """Records with their other keys: numbers for each residue, other labels."""
    rng = np.random.default_rng(2)
    for stem, count in (("train", 30), ("valid", 12)):
        records = []
        for number in range(count):
            length = int(rng.integers(20, 200))
            labels = {f"{level}_label": int(rng.integers(5)) for level in ("class", "superfamily", "family")}
            records.append(
                {
                    "primary": sequence(rng, length), "protein_length": length, "id": f"d1{number:03}a_",
                    "evolutionary": rng.normal(size=(length, 20)).round(3).tolist(),
                    "fold_label": int(rng.integers(1195)), **labels,
                }
            )  # fmt: skip
        json_array(root / "proteins" / "remote_homology" / f"remote_homology_{stem}.json", records)
    tape.Scop.convert(root / "proteins")


def secondary_structure(root: Path) -> None:
    """A state for each residue. Angles contain NaN, as in the upstream."""
    rng = np.random.default_rng(3)
    for stem, count in (("train", 20), ("valid", 10)):
        records = []
        for number in range(count):
            length = int(rng.integers(30, 220))
            records.append(
                {
                    "primary": sequence(rng, length), "protein_length": length, "id": f"{number}-A",
                    "ss3": rng.integers(0, 3, length).tolist(), "ss8": rng.integers(0, 8, length).tolist(),
                    "phi": [float("nan"), *rng.normal(size=length - 1).tolist()], "valid_mask": [True] * length,
                }
            )  # fmt: skip
        json_array(root / "proteins" / "secondary_structure" / f"secondary_structure_{stem}.json", records)
    tape.SecondaryStructure.convert(root / "proteins")


def regression(root: Path, archive: str, column: str, length: int) -> None:
    """The label is a list of one number."""
    rng = np.random.default_rng(length)
    for stem, count in (("train", 40), ("valid", 15)):
        records = [
            {"primary": sequence(rng, length), "protein_length": length, column: [float(rng.normal())], "id": str(i)}
            for i in range(count)
        ]
        json_array(root / "proteins" / archive / f"{archive}_{stem}.json", records)


def stability(root: Path) -> None:
    regression(root, "stability", "stability_score", 43)
    tape.Stability.convert(root / "proteins")


def fluorescence(root: Path) -> None:
    regression(root, "fluorescence", "log_fluorescence", 237)
    tape.Fluorescence.convert(root / "proteins")


WRITERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("genomics", "genomics"): genomics,
    ("genomics", "genomics_transfer_id"): genomics_transfer_id,
    ("genomics", "genomics_transfer_ood"): genomics_transfer_ood,
    ("protein", "pfam"): pfam_arrays,
    ("protein", "pfam_transfer"): pfam_arrays,
    ("protein", "scop"): scop,
    ("protein", "secondary_struct"): secondary_structure,
    ("protein", "stability"): stability,
    ("protein", "fluorescence"): fluorescence,
}
