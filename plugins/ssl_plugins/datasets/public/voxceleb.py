"""VoxCeleb1 (Nagrani et al., 2017): interviews with celebrities, for speaker identification."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets._io.texts.texts import table_lines
from ssl_plugins.datasets.public._recordings import RecordingList, SpeechDataset, classification

SPLITS = {"train": ("1", "2"), "test": ("3",)}
TABLE = "iden_split.txt"


class VoxCeleb1(SpeechDataset):
    """VoxCeleb1: 1,251 speakers, in the official split for identification; trained on train and validation."""

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
        required_paths=("wav",),
        sample_counts={"train": 145_265, "test": 8_251},
    )  # fmt: skip

    def list_recordings(self) -> RecordingList:
        """The lines of iden_split.txt, in order. A class is the rank of the speaker's name."""
        table = _table(self.folder / TABLE)
        speakers = sorted({path.partition("/")[0] for _, path in table})
        self.task = classification(speakers, "speaker")
        class_of = {speaker: label for label, speaker in enumerate(speakers)}
        paths = [path for part, path in table if part in SPLITS[self.split]]
        labels = np.array([class_of[path.partition("/")[0]] for path in paths], dtype=np.int64)
        return RecordingList([f"wav/{path}" for path in paths], labels)


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
