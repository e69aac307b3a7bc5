"""VoxCeleb1 (Nagrani et al., 2017): celebrities in interviews; speaker identification (protocol section 2.5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets._io.texts import table_lines
from ssl_plugins.datasets.public._recordings import Listed, Recordings, classes

SPLITS = {"train": ("1", "2"), "test": ("3",)}
TABLE = "iden_split.txt"


class VoxCeleb1(Recordings):
    """VoxCeleb1: which of 1,251 speakers; official identification split, train and validation for training."""

    name = "voxceleb1"
    source = Source(
        homepage="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html",
        terms="registration; annotation CC BY 4.0",
        folder="speech/voxceleb1",
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/iden_split.txt", file=TABLE, kind="file",
                produces=TABLE,
            ),
        ),
        registration="register at https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html, download "
        "vox1_dev_wav_partaa to partad and vox1_test_wav.zip, join the parts (cat vox1_dev_wav_part* > "
        "vox1_dev_wav.zip) and unpack both zips, so that voxceleb1/wav/id10001/... exists",
        needs=("wav",),
        counts={"train": 145_265, "test": 8_251},
    )  # fmt: skip

    def listed(self) -> Listed:
        """The lines of iden_split.txt in order; a speaker's class is its rank by name."""
        table = _table(self.folder / TABLE)
        speakers = sorted({path.partition("/")[0] for _, path in table})
        self.task = classes(speakers, "speaker")
        number = {speaker: label for label, speaker in enumerate(speakers)}
        mine = [path for part, path in table if part in SPLITS[self.split]]
        labels = np.array([number[path.partition("/")[0]] for path in mine], dtype=np.int64)
        return Listed([f"wav/{path}" for path in mine], labels)


def _table(table: Path) -> list[tuple[str, str]]:
    rows = []
    for row, line in table_lines(table):
        part, _, path = line.partition(" ")
        if part not in ("1", "2", "3") or "/" not in path:
            raise DataError(f"{table} line {row}: expected '1|2|3 speaker/video/file.wav', not '{line:.60}'")
        rows.append((part, path.strip()))
    return rows


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [VoxCeleb1]
