"""AudioMNIST (Becker et al., 2018): spoken digits by 60 speakers."""

from __future__ import annotations

import os

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._recordings import RecordingList, SpeechDataset, classification

# The published lists of speakers. Training uses the validation speakers as well.
TRAIN = (
    28, 56, 7, 19, 35, 1, 6, 16, 23, 34, 46, 53, 36, 57, 9, 24, 37, 2, 8, 17, 29, 39, 48, 54, 43, 58, 14, 25, 38, 3,
    10, 20, 30, 40, 49, 55,
)  # fmt: skip
VALIDATION = (12, 47, 59, 15, 27, 41, 4, 11, 21, 31, 44, 50)
TEST = (26, 52, 60, 18, 32, 42, 5, 13, 22, 33, 45, 51)


class AudioMnist(SpeechDataset):
    """AudioMNIST: ten spoken digits, tested on speakers that are not in the training split.

    The recordings have 48 kHz and are resampled to dataset.rate, for encoders of 16 kHz speech. The published codes
    do not resample: dataset.rate=48000, for an encoder trained at that rate.
    """

    name = "audio_mnist"
    aliases = ("audio-mnist",)
    source = Source(
        homepage="https://github.com/soerenab/AudioMNIST",
        terms="MIT",
        folder="speech/AudioMNIST",
        archives=(
            Archive(
                url="https://github.com/soerenab/AudioMNIST/archive/refs/heads/master.zip", file="AudioMNIST.zip",
                kind="zip", produces="data", strip_components=1,
            ),
        ),
        required_paths=("data/01", "data/60"),
        sample_counts={"train": 24_000, "test": 6_000},
    )  # fmt: skip

    def list_recordings(self) -> RecordingList:
        """data/<speaker>/<digit>_<speaker>_<take>.wav of the split's speakers, sorted by speaker and name."""
        self.task = classification([str(digit) for digit in range(10)], "digit")
        paths: list[str] = []
        for speaker in sorted(TRAIN + VALIDATION if self.split == "train" else TEST):
            folder = self.folder / "data" / f"{speaker:02}"
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder}; the copy is incomplete, fetch it again")
            names = sorted(name for name in os.listdir(folder) if name.endswith(".wav"))
            paths += [f"data/{speaker:02}/{name}" for name in names]
        return RecordingList(paths, np.array([_digit(path) for path in paths], dtype=np.int64))


def _digit(path: str) -> int:
    digit = path.rpartition("/")[2].partition("_")[0]
    if len(digit) != 1 or not digit.isdigit():
        raise DataError(f"{path} is not named <digit>_<speaker>_<take>.wav")
    return int(digit)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [AudioMnist]
