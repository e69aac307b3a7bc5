"""AudioMNIST (Becker et al., 2018): spoken digits; 48 of 60 speakers for training (protocol section 2.5)."""

from __future__ import annotations

import os

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._recordings import Listed, Recordings, classes

# The published lists of speakers; the validation list is part of the training split.
TRAIN = (
    28, 56, 7, 19, 35, 1, 6, 16, 23, 34, 46, 53, 36, 57, 9, 24, 37, 2, 8, 17, 29, 39, 48, 54, 43, 58, 14, 25, 38, 3,
    10, 20, 30, 40, 49, 55,
)  # fmt: skip
VALIDATION = (12, 47, 59, 15, 27, 41, 4, 11, 21, 31, 44, 50)
TEST = (26, 52, 60, 18, 32, 42, 5, 13, 22, 33, 45, 51)


class AudioMnist(Recordings):
    """AudioMNIST: which digit is said, by speakers never heard in training.

    Recorded at 48 kHz and resampled to dataset.rate by default, so that an encoder of 16 kHz speech can read it;
    dataset.rate=48000 keeps the recordings as the published protocol does, for an encoder trained at that rate.
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
        needs=("data/01", "data/60"),
        counts={"train": 24_000, "test": 6_000},
    )  # fmt: skip

    def listed(self) -> Listed:
        """data/<speaker>/<digit>_<speaker>_<take>.wav of this split's speakers, by speaker and name."""
        self.task = classes([str(digit) for digit in range(10)], "digit")
        paths: list[str] = []
        for speaker in sorted(TRAIN + VALIDATION if self.split == "train" else TEST):
            place = self.folder / "data" / f"{speaker:02}"
            if not place.is_dir():
                raise DataError(f"there is no folder {place}; the copy is not whole, fetch it again")
            names = sorted(name for name in os.listdir(place) if name.endswith(".wav"))
            paths += [f"data/{speaker:02}/{name}" for name in names]
        return Listed(paths, np.array([_digit(path) for path in paths], dtype=np.int64))


def _digit(path: str) -> int:
    digit = path.rpartition("/")[2].partition("_")[0]
    if len(digit) != 1 or not digit.isdigit():
        raise DataError(f"{path} is not named <digit>_<speaker>_<take>.wav")
    return int(digit)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [AudioMnist]
