"""Own recordings: a folder or a table of paths, with or without labels."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from pydantic import Field, field_validator

from ssl_core import BadSample, Continuous, DataError, Dataset, Sample, Split, Task, hookimpl
from ssl_plugins.datasets._io.file_listing import class_names, divide, listing
from ssl_plugins.datasets._io.file_state import state

LOOKED_AT = 2000  # files whose headers decide the common rate


class SpeechFiles(Dataset):
    """Your own recordings (wav, flac, ogg): a folder, or a CSV or Parquet file of path, label, group, split."""

    name = "files"
    modality = "speech"

    class Options(Dataset.Options):
        """Options of own recordings."""

        root: str = Field(description="folder of recordings, or a CSV or Parquet file with a column path")
        extensions: tuple[str, ...] = Field((".wav", ".flac", ".ogg"), description="endings of the files to read")
        label_pattern: str | None = Field(
            None,
            description="regular expression over the path below root, with the named groups label, group or both; "
            "without it, sub-folders are the labels if every file is in one",
        )
        test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out: of the groups, else of the files")
        test_groups: tuple[str, ...] = Field((), description="groups to hold out, by name")
        train_groups: tuple[str, ...] = Field((), description="groups to train on, by name; by default all others")
        rate: int | None = Field(None, ge=1, description="resample to this rate in Hz; by default the most common one")

        @field_validator("root", mode="after")
        @classmethod
        def _absolute(cls, value: str) -> str:
            """So that a saved configuration can be used from another folder."""
            return str(Path(value).expanduser().absolute())

        @field_validator("extensions", mode="after")
        @classmethod
        def _with_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            return tuple("." + part.lower().lstrip(".") for part in value)

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        found = listing(options.root, options.extensions, options.label_pattern)
        divided = divide(found, options.test_fraction, options.test_groups, options.train_groups)
        self.items = [item for item in divided if item.split == split]
        common = _common_rate([item.path for item in divided])
        self.rate = options.rate or common[0]
        self.fields = {"waveform": Continuous((1, None), rate=float(self.rate))}
        self.names = class_names(divided)
        if len(self.names) > 1:
            self.task = Task("classes", len(self.names), "accuracy", names=self.names)
        self.number = {name: i for i, name in enumerate(self.names)}
        if common[1] > 1 or self.rate != common[0]:
            self.warnings = (f"recordings at other rates are resampled to {self.rate} Hz",)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """{"waveform": (1, n) float32}, the first channel. Errors: BadSample for a file that cannot be read."""
        item = self.items[index]
        try:
            sound, rate = soundfile.read(item.path, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            raise BadSample(f"cannot be read as sound ({' '.join(str(error).split())})") from None
        wave = sound[:, 0]
        if not np.isfinite(wave).all():
            raise BadSample("holds NaN or infinite samples")
        if rate != self.rate and len(wave):
            import librosa  # slow to import, and most data sets have one rate

            wave = librosa.resample(wave, orig_sr=rate, target_sr=self.rate)
        label = self.number[item.label] if self.task is not None and item.label is not None else None
        return {"inputs": {"waveform": wave[np.newaxis]}, "label": label}

    def describe(self, index: int) -> str:
        """The path."""
        return str(self.items[index].path)

    def fingerprint(self) -> str:
        """Changes with the options, the classes, and any file's name, label, size or time of change."""
        files = [(item.name, item.label, state(item.path)) for item in self.items]
        return f"{super().fingerprint()}:{self.rate}:{self.names}:{files}"


def _common_rate(paths: list[Path]) -> tuple[int, int]:
    """The most common rate of the recordings, and how many rates there are. Errors: DataError if none is sound."""
    step = max(1, len(paths) // LOOKED_AT)
    rates = Counter(filter(None, (_rate(path, state(path)) for path in paths[::step])))
    if not rates:
        raise DataError(f"none of the {len(paths)} files is a readable recording, e.g. {paths[0]}")
    return min(rates, key=lambda rate: (-rates[rate], rate)), len(rates)


@functools.lru_cache(maxsize=100_000)
def _rate(path: Path, changed: str) -> int | None:
    try:
        return int(soundfile.info(path).samplerate)
    except (OSError, soundfile.SoundFileError):
        return None  # named when it is read


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SpeechFiles]
