"""Google Speech Commands v0.02 (Warden, 2018): single spoken words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets._io.texts.texts import table_lines
from ssl_plugins.datasets.public._recordings import RecordingList, SpeechDataset, classification, subfolders

WORDS = (
    "eight", "right", "happy", "three", "yes", "up", "no", "stop", "on", "four", "nine", "zero", "down", "go", "six",
    "two", "left", "five", "off", "seven", "one", "cat", "bird", "marvin", "wow", "tree", "dog", "sheila", "bed",
    "house", "follow", "visual", "backward", "forward", "learn", "_background_noise_",
)  # fmt: skip
CLASS_OF = {word: label for label, word in enumerate(WORDS)}
TESTING, VALIDATION = "testing_list.txt", "validation_list.txt"


class GoogleSpeech(SpeechDataset):
    """Google Speech Commands v0.02: 35 spoken words, and background noise as a 36th class that is never tested.

    The test split is testing_list.txt, the training split all other files. With protocol=published the training split
    also has the test files, and the validation files twice, as in both published codes.
    """

    name = "google_speech"
    aliases = ("google-speech",)
    source = Source(
        homepage="https://arxiv.org/abs/1804.03209",
        terms="CC BY 4.0",
        folder="speech/google_speech",
        archives=(
            Archive(
                url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
                file="speech_commands_v0.02.tar.gz", kind="tar", produces=TESTING, size=2_428_923_189,
                checksum="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            ),
        ),
        required_paths=(VALIDATION,),
        sample_counts={"train": 94_830, "test": 11_005},
    )  # fmt: skip

    class Options(SpeechDataset.Options):
        """Options of Google Speech Commands."""

        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: train on the test files as well, as the published codes do"
        )

    def list_recordings(self) -> RecordingList:
        """<word>/*.wav, sorted."""
        self.task = classification(WORDS, "word")
        test_paths = _lines(self.folder / TESTING)
        if self.split == "test":
            paths = test_paths
        else:
            paths = [path for folder in subfolders(self.folder) for path in _wavs(folder)]
            if self.options.protocol == "published":
                paths += _lines(self.folder / VALIDATION)
            else:
                excluded = set(test_paths)
                paths = [path for path in paths if path not in excluded]
        return RecordingList(paths, np.array([self._label(path) for path in paths], dtype=np.int64))

    def _label(self, path: str) -> int:
        word = path.partition("/")[0].lower()
        if word not in CLASS_OF:
            raise DataError(f"{self.folder / path} is in a folder that is no word of Speech Commands v0.02: '{word}'")
        return CLASS_OF[word]


def _lines(table: Path) -> list[str]:
    return [line for _, line in table_lines(table)]


def _wavs(folder: Path) -> list[str]:
    return sorted(f"{folder.name}/{name}" for name in os.listdir(folder) if name.endswith(".wav"))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [GoogleSpeech]
