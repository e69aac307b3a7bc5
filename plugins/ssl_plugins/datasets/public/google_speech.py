"""Google Speech Commands v0.02 (Warden, 2018): single words (protocol section 2.5, pitfall P11)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets._io.texts import table_lines
from ssl_plugins.datasets.public._recordings import Listed, Recordings, classes, folders

WORDS = (
    "eight", "right", "happy", "three", "yes", "up", "no", "stop", "on", "four", "nine", "zero", "down", "go", "six",
    "two", "left", "five", "off", "seven", "one", "cat", "bird", "marvin", "wow", "tree", "dog", "sheila", "bed",
    "house", "follow", "visual", "backward", "forward", "learn", "_background_noise_",
)  # fmt: skip
NUMBER = {word: label for label, word in enumerate(WORDS)}
TESTING, VALIDATION = "testing_list.txt", "validation_list.txt"


class GoogleSpeech(Recordings):
    """Google Speech Commands v0.02: which of 35 words is said (the 36th class, background noise, is never tested).

    The test split is testing_list.txt; training is everything else. With protocol=published training is everything,
    the test files too, and the validation files twice, as both published codes had it (P11, D58).
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
                digest="sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
            ),
        ),
        needs=(VALIDATION,),
        counts={"train": 94_830, "test": 11_005},
    )  # fmt: skip

    class Options(Recordings.Options):
        """Options of Google Speech Commands."""

        protocol: Literal["fixed", "published"] = Field(
            "fixed", description="published: train on the test files as well, as the published code does"
        )

    def listed(self) -> Listed:
        """<word>/*.wav, sorted."""
        self.task = classes(WORDS, "word")
        testing = _lines(self.folder / TESTING)
        if self.split == "test":
            paths = testing
        else:
            paths = [path for folder in folders(self.folder) for path in _wavs(folder)]
            if self.options.protocol == "published":
                paths += _lines(self.folder / VALIDATION)
            else:
                held = set(testing)
                paths = [path for path in paths if path not in held]
        return Listed(paths, np.array([self._label(path) for path in paths], dtype=np.int64))

    def _label(self, path: str) -> int:
        word = path.partition("/")[0].lower()
        if word not in NUMBER:
            raise DataError(f"{self.folder / path} lies in a folder that is no word of Speech Commands v0.02: '{word}'")
        return NUMBER[word]


def _lines(table: Path) -> list[str]:
    return [line for _, line in table_lines(table)]


def _wavs(folder: Path) -> list[str]:
    return sorted(f"{folder.name}/{name}" for name in os.listdir(folder) if name.endswith(".wav"))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [GoogleSpeech]
