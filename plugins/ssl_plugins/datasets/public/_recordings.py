"""Base class of the public speech sets: recordings are listed once and read one at a time, at one sampling rate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from pydantic import Field

from ssl_core import BadSample, ConfigError, Continuous, PublicDataset, Sample, Split, Task
from ssl_plugins.datasets._io.files.state import file_state_digest


@dataclass(frozen=True)
class RecordingList:
    """The recordings of one split.

    Attributes:
        paths: paths below the data set's folder.
        labels: (n,) classes, if any.
    """

    paths: Sequence[str]
    labels: np.ndarray | None = None


class SpeechDataset(PublicDataset):
    """Recordings of one split. A subclass implements `list_recordings`, which sets `task` where there are labels."""

    modality = "speech"

    class Options(PublicDataset.Options):
        """Options common to all public speech."""

        rate: int = Field(16_000, ge=1, description="sampling rate (Hz); recordings with another one are resampled")
        longest: int | None = Field(None, ge=1, description="longer recordings are cropped to this many samples")
        side: Literal["start", "random"] = Field(
            "start", description="part that is kept: the first, or, in training, the first or the last at random"
        )
        side_seed: int = Field(0, ge=0, description="seed of dataset.side=random")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        if options.side == "random" and options.longest is None:
            raise ConfigError(
                f"dataset.side=random of '{self.name}' needs dataset.longest, the number of samples to keep"
            )
        self.fields = {"waveform": Continuous((1, None), rate=float(options.rate))}
        recordings = self.list_recordings()
        self.paths, self.labels = recordings.paths, recordings.labels

    def list_recordings(self) -> RecordingList:
        """The recordings of `self.split` in `self.folder`, in a fixed order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"waveform": (1, n) float32}, the first channel, and the class.

        Raises:
            BadSample: if the file cannot be read.
        """
        wave = read_recording(self.folder / self.paths[index], self.options.rate)
        longest = self.options.longest
        if longest is not None and wave.shape[1] > longest:
            wave = wave[:, -longest:] if self._keeps_end(index) else wave[:, :longest]
        return {"inputs": {"waveform": wave}, "label": None if self.labels is None else int(self.labels[index])}

    def _keeps_end(self, index: int) -> bool:
        """Whether the last part of a long recording is kept: a fair coin for each recording, the same at each call.

        The published codes draw anew in each epoch. Here samples are deterministic.
        """
        if self.options.side == "start" or self.split != "train":
            return False
        return bool(np.random.default_rng([self.options.side_seed, index]).integers(2))

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.folder / self.paths[index])

    def fingerprint(self) -> str:
        """Changes with the options, and with the name, class, size or time of modification of any recording."""
        digest = hashlib.sha256("\n".join(self.paths).encode())
        if self.labels is not None:
            digest.update(np.asarray(self.labels, dtype="<i8").tobytes())
        return f"{super().fingerprint()}:{digest.hexdigest()}:{file_state_digest(self.folder, self.paths)}"


def read_recording(path: Path, rate: int) -> np.ndarray:
    """The first channel of a recording, (1, n) float32 at `rate` Hz.

    Raises:
        BadSample: if the file cannot be read, is empty, or holds NaN or infinite samples.
    """
    try:
        sound, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise BadSample(f"cannot be read as sound ({' '.join(str(error).split())})") from None
    wave = sound[:, 0]
    if not len(wave):
        raise BadSample("holds no samples")
    if not np.isfinite(wave).all():
        raise BadSample("holds NaN or infinite samples")
    if file_rate != rate:
        import librosa  # slow to import, and needed only for another rate

        wave = librosa.resample(wave, orig_sr=file_rate, target_sr=rate)
    return np.ascontiguousarray(wave[np.newaxis])


def subfolders(folder: Path) -> Iterator[Path]:
    """The folders in a folder, sorted. Hidden ones are skipped."""
    yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def classification(names: Sequence[str], title: str) -> Task:
    """A single-label task with the classes `names`, scored by accuracy."""
    return Task("classes", len(names), "accuracy", names=tuple(names), title=title)
