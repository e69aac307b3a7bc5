"""The user's recordings: a folder or a table of paths, with or without labels."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from pydantic import Field

from ssl_core import BadSample, Continuous, DataError, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets._io.file_listing import list_files, metadata_of_files
from ssl_plugins.datasets._io.file_state import file_state
from ssl_plugins.datasets._io.user_data import FileOptions, UserData

MAX_HEADERS = 2000  # headers to read for the common rate


class SpeechFiles(UserData):
    """Your own recordings (wav, flac, ogg): a folder, or a CSV or Parquet file of path, label, group, split."""

    modality = "speech"

    class Options(FileOptions):
        """Options of the user's recordings."""

        extensions: tuple[str, ...] = Field((".wav", ".flac", ".ogg"), description="endings of the files to read")
        rate: int | None = Field(None, ge=1, description="resample to this rate in Hz; by default the most common one")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        entries = list_files(options.root, options.extensions, options.label_pattern, options)
        metadata = metadata_of_files(entries)
        split_codes = self.split_samples(metadata)
        self.assign_split(metadata, split_codes)
        self.entries = [entries[row] for row in self.rows]
        rates = _rate_counts([entries[row].path for row in np.flatnonzero(split_codes >= 0)])
        common_rate = min(rates, key=lambda rate: (-rates[rate], rate))
        self.rate = options.rate or common_rate
        self.fields = {"waveform": Continuous((1, None), rate=float(self.rate))}
        if len(rates) > 1 or self.rate != common_rate:
            self.warnings += (f"recordings at other rates are resampled to {self.rate} Hz",)
        self.record_files(entry.path for entry in entries)
        self.record_summary(entries)

    def __getitem__(self, index: int) -> Sample:
        """{"waveform": (1, n) float32}, the first channel.

        Raises:
            BadSample: the file cannot be read, or holds NaN or infinite values.
        """
        try:
            waveform, rate = soundfile.read(self.entries[index].path, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            raise BadSample(f"cannot be read as audio ({' '.join(str(error).split())})") from None
        first = waveform[:, 0]
        if not np.isfinite(first).all():
            raise BadSample("holds NaN or infinite values")
        if rate != self.rate and len(first):
            import librosa  # slow to import, and most data sets have one rate

            first = librosa.resample(first, orig_sr=rate, target_sr=self.rate)
        return {"inputs": {"waveform": first[np.newaxis]}, "label": self.label_of(index)}


def _rate_counts(paths: list[Path]) -> Counter[int]:
    """How many recordings have each rate, from the headers of evenly spaced files."""
    step = max(1, len(paths) // MAX_HEADERS)
    rates = Counter(rate for path in paths[::step] if (rate := _rate(path, file_state(path))) is not None)
    if not rates:
        raise DataError(f"none of the {len(paths)} files is a readable recording, e.g. {paths[0]}")
    return rates


@functools.lru_cache(maxsize=100_000)
def _rate(path: Path, state: str) -> int | None:
    """Sampling rate in Hz; None for an unreadable file, which is named when it is read. state: part of the key."""
    try:
        return int(soundfile.info(path).samplerate)
    except (OSError, soundfile.SoundFileError):
        return None


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SpeechFiles]
