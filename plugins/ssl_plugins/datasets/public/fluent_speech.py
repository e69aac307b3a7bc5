"""Fluent Speech Commands (Lugosch et al., 2019): spoken commands with the action, object and location that they name.

The classes are in the published order.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets._io.texts.texts import open_text
from ssl_plugins.datasets.public._recordings import RecordingList, SpeechDataset, classification

INNER = "fluent_speech_commands_dataset"
TABLES = {"train": ("train_data.csv", "valid_data.csv"), "test": ("test_data.csv",)}
SOURCE = Source(
    homepage="https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/",
    terms="academic research only",
    folder="speech/fluent_speech",
    archives=(
        Archive(
            url="http://fluent.ai:2052/jf8398hf30f0381738rucj3828chfdnchs.tar.gz",
            file="fluent_speech_commands_dataset.tar.gz", kind="tar", produces=INNER,
        ),
    ),
    required_paths=tuple(f"{INNER}/data/{name}" for names in TABLES.values() for name in names),
    sample_counts={"train": 26_250, "test": 3_793},
)  # fmt: skip


class FluentSpeech(SpeechDataset):
    """One column of the tables as the label; trained on the train and valid tables."""

    source = SOURCE
    column: ClassVar[str]
    words: ClassVar[tuple[str, ...]]

    def list_recordings(self) -> RecordingList:
        """The rows of the split's tables, in order."""
        self.task = classification(self.words, self.column)
        class_of = {word: label for label, word in enumerate(self.words)}
        paths: list[str] = []
        labels: list[int] = []
        for table in TABLES[self.split]:
            table_path = self.folder / INNER / "data" / table
            for row, (path, word) in enumerate(_rows(table_path, self.column), start=2):
                if word not in class_of:
                    raise DataError(
                        f"{table_path} row {row}: {self.column} '{word}' is none of {', '.join(self.words)}"
                    )
                paths.append(f"{INNER}/{path}")
                labels.append(class_of[word])
        return RecordingList(paths, np.array(labels, dtype=np.int64))


def _rows(table: Path, column: str) -> list[tuple[str, str]]:
    with open_text(table) as file:
        reader = csv.DictReader(file)
        for required in ("path", column):
            if required not in (reader.fieldnames or ()):
                raise DataError(f"{table} has no column '{required}', only {', '.join(reader.fieldnames or ())}")
        return [(row["path"], row[column]) for row in reader]


class FluentSpeechLocation(FluentSpeech):
    """Fluent Speech Commands: four locations that spoken commands name."""

    name = "fluent_speech_location"
    aliases = ("fluent-speech-loc",)
    column = "location"
    words = ("none", "kitchen", "bedroom", "washroom")


class FluentSpeechAction(FluentSpeech):
    """Fluent Speech Commands: six actions of spoken commands."""

    name = "fluent_speech_action"
    aliases = ("fluent-speech-act",)
    column = "action"
    words = ("change language", "activate", "deactivate", "increase", "decrease", "bring")


class FluentSpeechObject(FluentSpeech):
    """Fluent Speech Commands: 14 objects that spoken commands name."""

    name = "fluent_speech_object"
    aliases = ("fluent-speech-obj",)
    column = "object"
    words = (
        "none", "music", "lights", "volume", "heat", "lamp", "newspaper", "juice", "socks", "shoes", "Chinese",
        "Korean", "English", "German",
    )  # fmt: skip


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [FluentSpeechLocation, FluentSpeechAction, FluentSpeechObject]
