"""The user's time series: tables, arrays and recordings, as samples or cut into windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import (
    BadSample,
    ConfigError,
    Continuous,
    DataError,
    Dataset,
    DataSummary,
    Excerpt,
    Sample,
    Split,
    hookimpl,
)
from ssl_plugins.datasets._io.class_names import conform_classes
from ssl_plugins.datasets._io.copies import copies_of_samples
from ssl_plugins.datasets._io.files.listing import (
    TABLE_EXTENSIONS,
    FileEntry,
    FileList,
    SampleLocations,
    list_sources,
    splits_by_name,
)
from ssl_plugins.datasets._io.files.stores import is_group, is_store
from ssl_plugins.datasets._io.files.tar import TarShards, check_archive, has_tars
from ssl_plugins.datasets._io.npz import ARRAY_EXTENSIONS
from ssl_plugins.datasets._io.series.arrays import (
    CONTAINER_EXTENSIONS,
    TarArrays,
    choose_array_layout,
    choose_order,
    load_array,
    read_array_recording,
    read_samples,
    sample_shape,
)
from ssl_plugins.datasets._io.series.channels import Channels, channel_number, match_channels
from ssl_plugins.datasets._io.series.precision import LOOK_SERIES, doubt_of_float32
from ssl_plugins.datasets._io.series.recordings import EDF_EXTENSIONS, Recording, read_edf, rows_of_recordings
from ssl_plugins.datasets._io.series.rows import SeriesRows
from ssl_plugins.datasets._io.series.split import SeriesSplit
from ssl_plugins.datasets._io.series.table import read_series_table
from ssl_plugins.datasets._io.series.wide import (
    TEXT_EXTENSIONS,
    UCR_ENDINGS,
    SeriesList,
    find_wide_layout,
    read_arff,
    read_ts,
    read_wide_tables,
)
from ssl_plugins.datasets._io.series.windows import WindowLocations, majority_labels, window_means
from ssl_plugins.datasets._io.splitting import (
    EXCLUDED,
    TEST,
    TRAIN,
    Codes,
    SampleMetadata,
    check_split,
)
from ssl_plugins.datasets._io.summaries import ReadTable
from ssl_plugins.datasets._io.tables.excerpt import excerpt_tables
from ssl_plugins.datasets._io.tables.other_tables import without_unlike_tables
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.user_data import RowOptions

MOST_STEPS = 100_000  # of a recording that are looked at for what float32 loses
STEP_RATIO = 1.25  # of the steps of time of two data sets, from which on they differ
ARCHIVE_EXTENSIONS = (".ts", ".arff")
EXTENSIONS = (
    *TABLE_EXTENSIONS, *ARRAY_EXTENSIONS, *CONTAINER_EXTENSIONS, *EDF_EXTENSIONS, *ARCHIVE_EXTENSIONS, *UCR_ENDINGS
)  # fmt: skip
KINDS = {
    "table": (*TABLE_EXTENSIONS, *TEXT_EXTENSIONS, *UCR_ENDINGS), "array": (*ARRAY_EXTENSIONS, *CONTAINER_EXTENSIONS),
    "EDF recording": EDF_EXTENSIONS, "archive of series": ARCHIVE_EXTENSIONS,
}  # fmt: skip


class SeriesFiles(SeriesSplit):
    """Your own time series: tables (a row a moment or a series a row), arrays, UCR archives, EDF; with windows."""

    modality = "time-series"
    channels: list[str] = []  # noqa: RUF012
    means: list[float] = []  # noqa: RUF012
    units: Mapping[str, tuple[float, float]] = {}
    step: tuple[float, str] | None = None  # of time from row to row, in the median, and its unit
    absent: frozenset[str] = frozenset()
    picked: list[int] = []  # noqa: RUF012

    class Options(RowOptions):
        """Options of the user's time series. Each row of a table is one time point; without `id` a file is one series.

        Series of one id in several files are always in the same split.
        """

        layout: Literal["auto", "long", "wide", "files"] = Field(
            "auto",
            description="long = a row a time point; wide = a series a row; files = a recording a file; auto = by the "
            "names and the shape, and what is doubtful is pointed out",
        )
        id: str | None = Field(None, description="column that names the series; by default the one called id")
        time: str | None = Field(
            None,
            description="column of numbers or dates to sort a series by; by default the one called time, timestamp, "
            "date, datetime or epoch; rows = none, the rows are in order",
        )
        time_format: str | None = Field(
            None, description="format of dates, such as %d/%m/%Y %H:%M:%S; by default ISO 8601 (2024-01-31T12:00:00)"
        )
        max_gap: float | Literal["auto", "off"] | None = Field(
            "auto",
            description="longest step of time, in seconds or in the unit of the column, that a window may cross; "
            "off or none = any; auto = any, and gaps are pointed out",
        )
        pivot: str | None = Field(
            None, description="column that names the channel of each row (time, sensor, value); each becomes a channel"
        )
        channels: tuple[str, ...] = Field(
            (), description="columns or numbers of the channels; by default all other columns of numbers"
        )
        empty_channel: Literal["skip", "mean"] = Field(
            "skip",
            description="windows in which a channel has no value: skip, or fill in the channel's mean of the training "
            "data",
        )
        order: Literal["auto", "first", "last"] = Field(
            "auto",
            description="axis of the channels in arrays of samples: first = (n, channels, steps), last = (n, steps, "
            "channels); auto = first, unless the last has less than 16 entries and the other more",
        )
        key: str | None = Field(
            None, description="name of the array in .npz, .mat, HDF5 and Zarr; by default series, data or x"
        )
        rate: float | None = Field(None, gt=0, description="resample EDF recordings to this rate in Hz")
        window: int = Field(320, ge=2, description="rows of a window")
        stride: int | None = Field(None, ge=1, description="rows from one window to the next; by default `window`")
        label_share: float = Field(
            0.5, gt=0, le=1, description="share of a window's rows that must have one label; others are left out"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        if isinstance(options.max_gap, float) and not options.max_gap > 0:
            raise ConfigError(f"dataset.max_gap={options.max_gap:g}: a gap is longer than 0")
        self.arrays: list[Any] = []
        self.rate = options.rate
        self._open()

    @classmethod
    def excerpt(cls, options: Options, folder: Path) -> Excerpt | None:
        """The first rows of each of several large tables; other files are opened whole.

        Raises:
            DataError: a table cannot be read.
        """
        if has_tars(options.root, EXTENSIONS, options):
            return None
        entries = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, options)
        if not all(entry.path.name.lower().endswith(TABLE_EXTENSIONS) for entry in entries):
            return None
        return excerpt_tables(without_unlike_tables(entries, options), options, folder, in_order=True)

    def _open(self) -> None:
        """Read all files and assign the split."""
        options = self.options
        check_archive(options.root)
        if has_tars(options.root, EXTENSIONS, options):
            self._read_tars()
            return
        entries = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, options)
        known = (*EXTENSIONS, *TEXT_EXTENSIONS)
        check_extensions(entries, known, "table or array of time series")
        first_name = entries[0].path.name.lower()
        kind = next(kind for kind, endings in KINDS.items() if first_name.endswith(endings))
        check_extensions(entries, KINDS[kind], f"{kind}, as the other files are")
        self.summary, self.tables = DataSummary(), list[ReadTable]()
        if kind == "table":
            entries = self._read_tables(entries)
        elif kind == "archive of series":
            metadata = MetadataCollector(options.task)
            entries = entries.with_entries(splits_by_name(entries))
            read = {".ts": read_ts, ".arff": read_arff}
            self._use_samples([read[entry.path.suffix.lower()](entry, metadata) for entry in entries], metadata)
        elif kind == "EDF recording":
            self._read_edf(entries)
        else:
            self._read_arrays(entries)
        self.record_files(entry.path for entry in entries)
        self.record_summary(entries, tables=self.tables)
        del self.tables  # they cannot be sent to worker processes

    def _read_tars(self) -> None:
        """Use each array of tar files as a series."""
        shards, metadata = TarShards(self.options, (".npy",), "array"), MetadataCollector(self.options.task)
        shards.collect(metadata)
        self.summary = DataSummary()
        self._use_samples([TarArrays(tar) for tar in shards.tars], metadata, shards.copies)
        self.record_files(shards.paths)
        self.record_summary(shards.entries)

    def _read_tables(self, entries: FileList) -> FileList:
        """Read tables; returns those that were read."""
        options = self.options
        entries = without_unlike_tables(entries, options)
        layout = None
        if options.layout in ("auto", "wide") and not (options.pivot or options.time):
            layout = find_wide_layout(entries[0].path, options)
        if options.layout == "wide" or (options.layout == "auto" and layout is not None):
            metadata = MetadataCollector(options.task)
            entries = entries.with_entries(splits_by_name(entries))
            arrays, tables, columns = read_wide_tables(entries, layout, options, metadata)
            self.tables += tables
            self.doubts += tuple(dict.fromkeys(array.doubt for array in arrays if array.doubt))[:1]
            self.summary = replace(self.summary, columns=tuple(columns))
            if options.layout == "auto" and layout is not None and layout.doubtful:
                self.doubts += (
                    f"each row of {entries[0].path} is read as a series of {max(arrays[0].shapes)[-1]} steps, since "
                    f"{layout.why}; set dataset.layout=wide if that is right, or dataset.layout=long if each row is a "
                    f"time point",
                )
            self._use_samples(arrays, metadata)
            return entries
        self._cut_windows(read_series_table(options, entries), "a row is a time point")
        return entries

    def _read_edf(self, entries: Sequence[FileEntry]) -> None:
        recordings: list[Recording] = []
        for entry in entries:
            names = self.options.channels or (recordings[0].channels if recordings else ())
            recordings.append(read_edf(entry, names, self.rate or (recordings[0].rate if recordings else None)))
        self._cut_windows(rows_of_recordings(recordings, self.options), "a file is a recording")

    def _read_arrays(self, entries: Sequence[FileEntry]) -> None:
        options = self.options
        metadata = MetadataCollector(options.task)
        layout = None
        holds_keys = any(  # with labels, groups and splits
            entry.path.suffix.lower() == ".npz" or (is_store(entry.path) and is_group(entry.path)) for entry in entries
        )
        if options.layout in ("files", "long") or (options.layout == "auto" and not holds_keys):
            shapes = {entry.path: tuple(load_array(entry.path, options.key).shape) for entry in entries}
            layout = choose_array_layout(shapes, options.layout)
            self.doubts += (layout.doubt,) if layout.doubt else ()
            if layout.files:
                x = load_array(entries[0].path, options.key)
                x = x.T if x.ndim == 2 and not layout.channels_first else np.atleast_2d(x)
                self._doubt_precision(entries[0].path, x[:, :MOST_STEPS])
        if layout is None or not layout.files:
            arrays: list[Any] = []
            for entry in entries:
                arrays += read_samples(entry, metadata, options, len(entries) > 1)
            self._use_samples(arrays, metadata)
            return
        recordings = [read_array_recording(entry, options.key, layout.channels_first) for entry in entries]
        self._cut_windows(rows_of_recordings(recordings, options), "a file is a recording")

    def _use_samples(
        self,
        arrays: list[Any],
        metadata: MetadataCollector,
        find_copies: Callable[[], np.ndarray | None] | None = None,
    ) -> None:
        """Use each series of the arrays as a sample. find_copies: as `copies_of_samples`, which it is by default."""
        options, self.arrays = self.options, arrays
        self.channels_last, doubt = choose_order(arrays, options.order)
        self.doubts += (doubt,) if doubt else ()
        count, lengths = sample_shape(arrays, self.channels_last)
        self.picked = [channel_number(name, count) for name in options.channels]
        self.locations = SampleLocations(
            [array.path for array in self.arrays],
            np.cumsum([0, *map(len, self.arrays)]),
            unit=[array.unit for array in self.arrays],
            names=[getattr(array, "names", ()) for array in self.arrays],
        )
        self._look_at_precision()
        samples = metadata.metadata(self.locations)
        if samples.draws_test:
            samples = replace(samples, copies=find_copies() if find_copies else copies_of_samples(arrays))
        self.assign_split(samples, target=metadata.target())
        steps = lengths[0] if len(lengths) == 1 else None
        self.fields = {"series": Continuous((len(self.picked) or count, steps), longest=lengths[-1])}
        facts = {
            "layout": f"{int(self.locations.starts[-1])} series, channels {len(self.picked) or count}",
            "length": f"{lengths[0]} steps" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]} steps",
        }
        if unused := dict.fromkeys(name for array in arrays for name in getattr(array, "unused", ())):
            facts[f"{'attributes' if isinstance(arrays[0], SeriesList) else 'arrays'} not used"] = ", ".join(unused)
        self.summary = replace(self.summary, facts=facts)

    def _look_at_precision(self) -> None:
        """Doubt series that float32 does not hold, by evenly spaced ones."""
        count = int(self.locations.starts[-1])
        for row in range(0, count, max(1, count // LOOK_SERIES)):
            array, index = self.locations.locate(row)
            x = np.atleast_2d(self.arrays[array][index])
            if self._doubt_precision(self.arrays[array].path, x.T if self.channels_last else x):
                return

    def _doubt_precision(self, path: Path, channels: np.ndarray) -> bool:
        line = doubt_of_float32(path, channels)
        self.doubts += (line,) if line else ()
        return bool(line)

    def _cut_windows(self, table: SeriesRows, layout: str) -> None:
        """Cut all series into windows, label them and assign the split."""
        options, window = self.options, self.options.window
        stride = options.stride or window
        counts = np.maximum(0, (table.piece_lengths - window) // stride + 1)
        if not counts.any():
            raise DataError(
                f"dataset.root {options.root}: no series has {window} rows, the longest has "
                f"{table.piece_lengths.max()}; lower dataset.window"
            )
        piece = np.repeat(np.arange(len(counts)), counts)
        begin = table.piece_starts[piece]
        begin = begin + (np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
        series = table.piece_series[piece]
        offset = begin - table.starts[series]
        label, is_labelled = None, np.ones(len(series), bool)
        if table.label is not None:
            codes, share = majority_labels(table.label.codes, begin, window)
            label, is_labelled = Codes(codes, table.label.names), share >= options.label_share
        locations = WindowLocations(table, begin, window)
        if not is_labelled.any():
            if mixed := next((doubt for doubt in table.reading.doubts if "several series" in doubt), None):
                raise DataError(f"{options.root}: no window has one label, and {mixed}")
            raise DataError(
                f"{locations(0)}: here and in all other windows less than {options.label_share:.0%} of the rows have "
                f"one label; lower dataset.label_share or window, or set dataset.task=number if labels are numbers"
            )
        metadata = SampleMetadata(len(series), locations, label)
        split = self.split_series_windows(table, series, offset, label)
        split[~is_labelled] = EXCLUDED
        if len(np.unique(series)) == 1 and options.test_fraction > 0 and not (split == TEST).any():
            raise DataError(
                f"dataset.root {options.root} is one series of {table.lengths.max()} rows, too short for a test split "
                f"of windows of {window} rows; lower dataset.window, set dataset.stride to less than the window, raise "
                f"dataset.test_fraction, or set it to 0 to pretrain on everything"
            )
        check_split(self.strata(metadata), split, options)
        target = None if table.target is None else window_means(table.target, begin, window)
        self.assign_split(metadata, split, title=options.label or "label", target=target)
        if (~is_labelled).any():
            self.warnings += (f"{int((~is_labelled).sum())} of {len(series)} windows of mixed labels are left out",)
        if short := int((counts == 0).sum()):
            kind = "series" if len(counts) == len(table.starts) else "parts between gaps"
            self.warnings += (f"{short} of {len(counts)} {kind} have less than {window} rows and are left out",)
        self.begin, self.values, self.rate = begin[self.rows], table.values, table.rate
        self.units, self.step = table.reading.units, table.step
        self._warn_of_missing(table)
        self.channels, self.means = table.channels, table.means(begin[split == TRAIN], window)
        self.fields = {"series": Continuous((len(self.channels), window), rate=table.rate)}
        self._summarise(table, layout)

    def _warn_of_missing(self, table: SeriesRows) -> None:
        """Point out windows in which a channel is mostly missing, as over a gap in the values."""
        window = self.options.window
        is_sparse = np.zeros(len(self.begin), bool)
        for values in table.values.T:
            missing = np.concatenate([[0], np.cumsum(np.isnan(values))])
            count = missing[self.begin + window] - missing[self.begin]
            is_sparse |= (count > window / 2) & (count < window)  # windows without any value are bad samples
        if sparse := int(is_sparse.sum()):
            self.warnings += (
                f"{sparse} of {len(self.begin)} windows lack more than half of the values of a channel, which are "
                f"interpolated, e.g. {WindowLocations(table, self.begin, window)(int(is_sparse.argmax()))}",
            )

    def _summarise(self, table: SeriesRows, layout: str) -> None:
        """Set what the header and the report say of the data."""
        reading, lengths = table.reading, table.lengths
        facts = {
            "layout": f"{layout}; windows of {self.options.window} rows",
            "series": f"{len(lengths)} of {lengths.min()} to {lengths.max()} rows, median {np.median(lengths):g}",
            **reading.facts,
        }
        if constant := table.constant_channels():
            facts["constant channels"] = ", ".join(constant)
        self.warnings += tuple(reading.warnings)
        self.doubts += tuple(reading.doubts)
        self.tables += reading.tables
        self.summary = replace(self.summary, columns=tuple(reading.columns), facts=facts)

    def __getitem__(self, index: int) -> Sample:
        """{"series": (channels, window) float32}; NaN where a value is missing.

        Raises:
            BadSample: a channel has no value in the window.
        """
        if self.arrays:
            array, index_in_array = self.locations.locate(int(self.rows[index]))
            x = np.atleast_2d(self.arrays[array][index_in_array])
            x = np.ascontiguousarray(x.T if self.channels_last else x, dtype=np.float32)
            x = x[self.picked] if self.picked else x
        else:
            start = int(self.begin[index])
            x = np.ascontiguousarray(self.values[start : start + self.options.window].T)
            self._fill_empty(x)
        return {"inputs": {"series": x}, "label": self.label_of(index)}

    def _fill_empty(self, x: np.ndarray) -> None:
        """Fill in the mean of channels without any value in the window, in place, if the options say so."""
        for channel in np.flatnonzero(np.isnan(x).all(axis=1)):
            name = self.channels[channel]
            if self.options.empty_channel == "skip" and name not in self.absent:
                raise BadSample(
                    f"column '{name}' has no value in any of these rows; set dataset.empty_channel=mean to fill in its "
                    f"mean, or {self.options.dropping(name)} to do without it"
                )
            x[channel] = self.means[channel]

    def schema(self) -> dict[str, Any]:
        """Names and means of the channels, the rate, and the classes. Channels of arrays have numbers as names."""
        own = self._own_channels()
        means: Sequence[float | None] = self.means or [None] * len(own.names)
        return {
            **super().schema(),
            "columns": [
                {"name": name, "mean": mean} | dict(zip(("shift", "scale"), self.units.get(name, ()), strict=False))
                for name, mean in zip(own.names, means, strict=True)
            ],
            "named": own.named,
            "rate": self.rate,
            "step": list(self.step) if self.step else None,
            "classes": list(self.task.names) if self.task is not None else [],
        }

    def _own_channels(self) -> Channels:
        count = self.fields["series"].shape[0] or 0  # type: ignore[union-attr]
        numbers = tuple(map(str, range(count)))
        names = tuple(self.channels) or numbers
        return Channels(names, names != numbers)

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Put the channels in the order of the data that the encoder was trained on, matched by name.

        Other channels are left out. A missing one is filled with its mean in the training data. Recordings at another
        rate are resampled. Classes are matched by name. Where either side has no names, the number of channels must be
        the same.

        Raises:
            DataError: a channel seems to have another name, or the number of channels differs.
        """
        super().conform(schema)
        columns = schema.get("columns")
        if not columns:
            return
        self._conform_rate(schema.get("rate"))
        self._compare_steps(schema.get("step"))
        conform_classes(self, schema)
        trained = Channels(tuple(column["name"] for column in columns), bool(schema.get("named")))
        matching = match_channels(self._own_channels(), trained, self.options)
        self.warnings += matching.warnings
        if self.arrays:
            return
        means = [column.get("mean") for column in columns]
        if None not in means:
            self.means = means
        units = {column["name"]: (column.get("shift", 0.0), column.get("scale", 1.0)) for column in columns}
        self._conform_units(units if trained.named else {})
        if matching.index == tuple(range(len(self.channels))):
            return
        values = np.full((len(self.values), len(matching.index)), np.nan, np.float32)
        for channel, own in enumerate(matching.index):
            if own is not None:
                values[:, channel] = self.values[:, own]
        self.values, self.channels = values, list(trained.names)
        self.means = [mean or 0.0 for mean in means]
        missing = (name for name, own in zip(trained.names, matching.index, strict=True) if own is None)
        self.absent = frozenset(missing)
        window = self.fields["series"].shape[1]  # type: ignore[union-attr]
        self.fields = {"series": Continuous((len(self.channels), window), rate=self.rate)}

    def _conform_units(self, trained: Mapping[str, tuple[float, float]]) -> None:
        """Put the values of channels of one name into the units in which the encoder was trained on them."""
        plain = (0.0, 1.0)
        for channel, name in enumerate(self.channels):
            (shift, scale), (own_shift, own_scale) = trained.get(name, plain), self.units.get(name, plain)
            if (shift, scale) != (own_shift, own_scale):
                if not self.values.flags.writeable or not self.values.flags.owndata:
                    self.values = self.values.copy()
                values = self.values[:, channel].astype(np.float64) * (own_scale / scale)
                self.values[:, channel] = values + (own_shift - shift) / scale
        self.units = {name: unit for name, unit in trained.items() if unit != plain}

    def _compare_steps(self, trained: Sequence[Any] | None) -> None:
        """Doubt rows that follow each other at another interval than in the training data."""
        if not trained or self.step is None or self.step[1] != trained[1]:
            return
        if not 1 / STEP_RATIO <= self.step[0] / trained[0] <= STEP_RATIO:
            self.doubts += (
                f"the rows of {self.options.root} are {self.step[0]:.6g}{self.step[1]} apart in the median, those of "
                f"the training data {trained[0]:.6g}{trained[1]}, so a window covers another span of time; resample "
                f"the rows",
            )

    def _conform_rate(self, rate: float | None) -> None:
        """Resample to the rate of the training data; without a rate on either side, the data are taken to have it."""
        if rate == self.rate:
            return
        if rate is not None and self.rate is not None:
            line = f"recordings at {self.rate:g} Hz are resampled to {rate:g} Hz, the rate of the training data"
            self.warnings, self.doubts, self.rate = (), (), float(rate)
            self._open()
        else:
            line = f"the data here have {_rate(self.rate)}, and are taken to have that of training, {_rate(rate)}"
            self.rate = rate
            shape = self.fields["series"].shape  # type: ignore[union-attr]
            self.fields = {"series": Continuous(shape, rate=rate)}
        self.warnings += (line,)

    def fingerprint(self) -> str:
        """Changes with the options, the channels, the rate, the split, the labels and the files."""
        names = self.channels if self.options.empty_channel == "mean" else sorted(self.absent)
        filled = [self.means[self.channels.index(name)] for name in names]
        units = sorted(self.units.items()) if self.units else ""
        return f"{super().fingerprint()}:{','.join(self.channels)}:{self.rate}:{filled}{units}"


def _rate(rate: float | None) -> str:
    return "no rate" if rate is None else f"{rate:g} Hz"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SeriesFiles]
