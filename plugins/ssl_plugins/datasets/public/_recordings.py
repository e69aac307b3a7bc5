"""What all public speech has in common: recordings listed once, read one at a time, at one rate."""

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
from ssl_plugins.datasets._io.file_state import file_state_digest


@dataclass(frozen=True)
class Listed:
    """The recordings of one split: paths below the data set's folder, and the class of each or None."""

    paths: Sequence[str]
    labels: np.ndarray | None = None


class Recordings(PublicDataset):
    """Recordings of one split. A subclass writes `listed`, and sets `task` in it where there are labels."""

    modality = "speech"

    class Options(PublicDataset.Options):
        """Options common to all public speech."""

        rate: int = Field(16_000, ge=1, description="recordings at another rate (Hz) are resampled to this one")
        longest: int | None = Field(None, ge=1, description="samples that are handed over of a longer recording")
        side: Literal["start", "random"] = Field(
            "start", description="which part that is: the first, or in training the first or the last, by a fair coin"
        )
        side_seed: int = Field(0, ge=0, description="seed of the coins")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        if options.side == "random" and options.longest is None:
            raise ConfigError(f"dataset.side=random of '{self.name}' needs dataset.longest, the samples of a part")
        self.fields = {"waveform": Continuous((1, None), rate=float(options.rate))}
        found = self.listed()
        self.paths, self.labels = found.paths, found.labels

    def listed(self) -> Listed:
        """The recordings of `self.split` in `self.folder`, always in the same order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """{"waveform": (1, n) float32}, the first channel. Errors: BadSample for a file that cannot be read."""
        wave = read(self.folder / self.paths[index], self.options.rate)
        longest = self.options.longest
        if longest is not None and wave.shape[1] > longest:
            wave = wave[:, -longest:] if self._ends(index) else wave[:, :longest]
        return {"inputs": {"waveform": wave}, "label": None if self.labels is None else int(self.labels[index])}

    def _ends(self, index: int) -> bool:
        """Whether the last part of a long recording is taken: its own coin, the same each time (protocol 2.5, step 2).

        The published codes toss anew in each epoch; here a sample depends on nothing but its place.
        """
        if self.options.side == "start" or self.split == "test":
            return False
        return bool(np.random.default_rng([self.options.side_seed, index]).integers(2))

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.folder / self.paths[index])

    def fingerprint(self) -> str:
        """Changes with the options, and with any recording's name, class, size or time of change."""
        made = hashlib.sha256("\n".join(self.paths).encode())
        if self.labels is not None:
            made.update(np.asarray(self.labels, dtype="<i8").tobytes())
        return f"{super().fingerprint()}:{made.hexdigest()}:{file_state_digest(self.folder, self.paths)}"


def read(path: Path, rate: int) -> np.ndarray:
    """A recording's first channel, (1, n) float32 at `rate` Hz. Errors: BadSample."""
    try:
        sound, found = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise BadSample(f"cannot be read as sound ({' '.join(str(error).split())})") from None
    wave = sound[:, 0]
    if not len(wave):
        raise BadSample("holds no samples")
    if not np.isfinite(wave).all():
        raise BadSample("holds NaN or infinite samples")
    if found != rate:
        import librosa  # slow to import, and most data sets have the wanted rate

        wave = librosa.resample(wave, orig_sr=found, target_sr=rate)
    return np.ascontiguousarray(wave[np.newaxis])


def folders(place: Path) -> Iterator[Path]:
    """The folders in a folder, sorted, hidden ones left out."""
    yield from sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def classes(names: Sequence[str], title: str) -> Task:
    """One of the classes `names`, measured by accuracy (protocol section 2.5)."""
    return Task("classes", len(names), "accuracy", names=tuple(names), title=title)
