"""LibriSpeech (Panayotov et al., 2015): read English, for pretraining, and its part dev-clean for speaker recognition.

The split for speaker recognition is that of MetaMAE's code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_core import Archive, DataError, Dataset, Source, hookimpl
from ssl_plugins.datasets.public._recordings import RecordingList, SpeechDataset, classification

TRAIN = ("train-clean-100", "train-clean-360", "train-other-500")
HELD_OUT = "dev-clean"
SPLIT_SEED = 42
TRAIN_SHARE = 0.8

SHA256 = {
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
}


def _source(parts: Sequence[str], counts: dict[str, int]) -> Source:
    archives = tuple(
        Archive(
            url=f"https://www.openslr.org/resources/12/{part}.tar.gz", file=f"{part}.tar.gz", kind="tar",
            produces=f"LibriSpeech/{part}", checksum=f"sha256:{SHA256[part]}",
        )
        for part in parts
    )  # fmt: skip
    return Source("https://www.openslr.org/12", "CC BY 4.0", "speech/librispeech", archives, sample_counts=counts)


class LibriSpeech(SpeechDataset):
    """LibriSpeech, 960 h of read English, for pretraining; no labels, and other speakers in the test split."""

    name = "librispeech"
    aliases = ("libri-speech",)
    source = _source((*TRAIN, HELD_OUT), {"train": 281_241, "test": 2_703})

    def list_recordings(self) -> RecordingList:
        """The three training parts, or dev-clean."""
        parts = TRAIN if self.split == "train" else (HELD_OUT,)
        return RecordingList([path for part in parts for path in utterances(self.folder, part)])


class LibriSpeechTransfer(SpeechDataset):
    """LibriSpeech dev-clean: 40 speakers; 80 % of each speaker's utterances for training."""

    name = "librispeech_transfer"
    source = _source((HELD_OUT,), {"total": 2_703})

    def list_recordings(self) -> RecordingList:
        """Speakers in numerical order. One generator shuffles each one's utterances; the first int(0.8 n) train."""
        by_speaker: dict[int, list[str]] = {}
        for path in utterances(self.folder, HELD_OUT):
            by_speaker.setdefault(int(path.split("/")[2]), []).append(path)
        random = np.random.RandomState(SPLIT_SEED)
        paths: list[str] = []
        labels: list[int] = []
        for label, speaker in enumerate(sorted(by_speaker)):
            spoken = by_speaker[speaker]
            random.shuffle(spoken)
            cut = int(TRAIN_SHARE * len(spoken))
            chosen = spoken[:cut] if self.split == "train" else spoken[cut:]
            paths += chosen
            labels += [label] * len(chosen)
        self.task = classification([str(speaker) for speaker in sorted(by_speaker)], "speaker")
        return RecordingList(paths, np.array(labels))


def utterances(folder: Path, part: str) -> list[str]:
    """Paths of one part below the data set's folder, sorted by utterance.

    Raises:
        DataError: if there is none.
    """
    top = folder / "LibriSpeech" / part
    paths = [f"LibriSpeech/{part}/{path}" for path in _flac_files(top)]
    if not paths:
        raise DataError(f"{top} holds no <speaker>/<chapter>/*.flac")
    return sorted(paths, key=lambda path: path.rpartition("/")[2])


def _flac_files(top: Path) -> Iterator[str]:
    for speaker in os.scandir(top):
        if not speaker.name.isdigit():
            continue
        for chapter in os.scandir(speaker.path):
            if chapter.name.isdigit():
                names = os.listdir(chapter.path)
                yield from (f"{speaker.name}/{chapter.name}/{name}" for name in names if name.endswith(".flac"))


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [LibriSpeech, LibriSpeechTransfer]
