"""Recordings of several channels, a file each: from arrays, and from EDF and BDF files with names, units and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ssl_core import Column, DataError, nearest
from ssl_plugins.datasets._io.files.listing import FileEntry, SampleLocations
from ssl_plugins.datasets._io.series.rows import Reading, Rows, SeriesRows
from ssl_plugins.datasets._io.splitting import Codes
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector

EDF_EXTENSIONS = (".edf", ".bdf")
EDF_CURE = "pip install 'sslx[edf]'"


@dataclass(frozen=True)
class Recording:
    """values: (steps, channels) float32. units: of each channel, if the format gives them. rate: Hz, if it is known."""

    entry: FileEntry
    values: np.ndarray
    channels: tuple[str, ...]
    units: tuple[str, ...] = ()
    rate: float | None = None


def read_edf(entry: FileEntry, channels: Sequence[str], rate: float | None) -> Recording:
    """Read the signals of an EDF or BDF file.

    Args:
        entry: the file.
        channels: names of the signals to read; all if empty.
        rate: Hz to which signals are resampled; by default the rate that most of them have.

    Raises:
        DataError: the file cannot be read, has no such signal, or the optional library is missing.
    """
    path = entry.path
    try:
        import edfio
    except ImportError:
        raise DataError(f"{path} is an EDF file; reading it needs {EDF_CURE}") from None
    try:
        read = edfio.read_bdf if path.suffix.lower() == ".bdf" else edfio.read_edf
        signals = {signal.label: signal for signal in read(path).signals}
        names = list(channels) or list(signals)
        for name in names:
            if name not in signals:
                raise DataError(
                    f"{path} has no channel '{name}'; name those that all files have in dataset.channels: "
                    f"{nearest(name, list(signals), 'channel')}"
                )
        if not names:
            raise DataError(f"{path} has no signal")
        used = [signals[name] for name in names]
        rates = Counter(float(signal.sampling_frequency) for signal in used)
        rate = rate or max(rates, key=lambda value: (rates[value], value))
        series = [_resample(np.asarray(signal.data), float(signal.sampling_frequency), rate) for signal in used]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as EDF: {' '.join(str(error).split()):.200}") from None
    steps = min(map(len, series))
    values = np.stack([x[:steps] for x in series], axis=1).astype(np.float32)
    return Recording(entry, values, tuple(names), tuple(signal.physical_dimension for signal in used), rate)


def _resample(x: np.ndarray, old: float, new: float) -> np.ndarray:
    if old == new:
        return x
    from scipy.signal import resample_poly  # slow to import

    ratio = Fraction(new / old).limit_denominator(10_000)
    return np.asarray(resample_poly(x, ratio.numerator, ratio.denominator))


def rows_of_recordings(recordings: Sequence[Recording], options: Any) -> SeriesRows:
    """The recordings as series, in the order of the files.

    Raises:
        DataError: their channels differ, or the options name none of them.
    """
    first = recordings[0]
    for recording in recordings:
        if len(recording.channels) != len(first.channels):
            raise DataError(
                f"{recording.entry.path} has {len(recording.channels)} channels, and {first.entry.path} has "
                f"{len(first.channels)}; fix or remove one, or name the channels to use in dataset.channels"
            )
    names = list(options.channels) or [name for name in first.channels if name not in options.drop_columns]
    for name in names:
        if name not in first.channels:
            known = nearest(name, list(first.channels), "channel")
            raise DataError(f"{first.entry.path} has no channel '{name}'; set dataset.channels: {known}")
    picked = [first.channels.index(name) for name in names]
    metadata = MetadataCollector(options.task)
    lengths = [len(recording.values) for recording in recordings]
    for recording, length in zip(recordings, lengths, strict=True):
        if not length:
            raise DataError(f"{recording.entry.path} holds no values; remove it")
        metadata.append_file(recording.entry, length)
    locations = SampleLocations(
        [recording.entry.path for recording in recordings], np.cumsum([0, *lengths]), unit="step"
    )
    series = np.repeat(np.arange(len(recordings)), lengths)
    values = np.concatenate([recording.values for recording in recordings])
    if len(picked) != values.shape[1] or picked != sorted(picked):
        values = values[:, picked]
    rows = Rows(
        np.ascontiguousarray(values), series, Codes(np.zeros(len(recordings), np.int32), ("file",)),
        metadata.metadata(locations),
    )  # fmt: skip
    units = dict(zip(first.channels, first.units, strict=True)) if first.units else {}
    columns = [
        Column(name, "input" if name in names else "left out", why=units.get(name, "")) for name in first.channels
    ]
    reading = Reading(columns, {} if first.rate is None else {"rate": f"{first.rate:g} Hz"})
    table = SeriesRows(names, rows, locations, reading, rate=first.rate)
    table.drop_empty_channels(options.dropping)
    return table
