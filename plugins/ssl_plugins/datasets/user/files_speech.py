"""The user's recordings: a folder or a table of paths, whole or in windows, with or without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, ConfigError, Continuous, DataError, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets._io.audio.recordings import (
    FFMPEG_CURE,
    FFMPEG_ENDINGS,
    Header,
    Source,
    check_sound,
    endings,
    evenly_spaced,
    has_ffmpeg,
    read_header,
    read_recording,
    select_channel,
    sound_range,
    source_state,
)
from ssl_plugins.datasets._io.class_names import conform_classes
from ssl_plugins.datasets._io.files.listing import FileEntry, FileList, list_files, metadata_of_files
from ssl_plugins.datasets._io.files.tar import TarMember, TarShards, check_archive, has_tars
from ssl_plugins.datasets._io.label_kinds import look_decimal, take_labels
from ssl_plugins.datasets._io.splitting import SampleMetadata, check_split, needs_test_split
from ssl_plugins.datasets._io.user_data import FileOptions, UserData, with_known

MAX_HEADERS = 2000  # headers to read for rate, channels and length
MAX_CHECKED = 64  # recordings to listen to
CHECKED_SECONDS = 10.0  # of each
USED_SECONDS = 1.0  # what the tokenizer uses of recordings of different lengths by default
LONG_SECONDS = 30.0  # a longer recording is no utterance
QUIET_SHARE = 0.2  # share of recordings that begin with silence from which on it is no chance


class SpeechFiles(UserData):
    """Your own recordings (wav, flac, mp3, ogg, ...): a folder, a table of path, label, group, split, or tar files."""

    modality = "speech"

    class Options(FileOptions):
        """Options of the user's recordings."""

        extensions: tuple[str, ...] = Field(
            (),
            description="endings of the files to read; by default those of all formats of libsndfile (.wav, .flac, "
            ".mp3, .ogg, .opus, .aiff, .au, .caf, ...) and, with the extra audio, of FFmpeg (.m4a, .aac, .wma, ...)",
        )
        rate: int | None = Field(None, ge=1, description="resample to this rate in Hz; by default the most common one")
        channel: str = Field(
            "mean",
            description="mean of the channels, or the number of one channel, counted from 0",
        )
        window: float | Literal["auto", "whole"] | None = Field(
            "auto",
            description="seconds of the windows into which recordings are cut, each a sample; whole or none = each "
            "recording is one sample; auto = the same, and long recordings are pointed out",
        )
        stride: float | None = Field(None, gt=0, description="seconds from one window to the next; by default `window`")
        trim: bool | None = Field(
            None,
            description="cut silence off both ends of a recording; by default not, and silent beginnings are pointed "
            "out",
        )
        trim_db: float = Field(60.0, gt=0, description="silence is this many dB below the maximum of a recording")
        task: Literal["auto", "classes", "number", "labels"] = Field(
            "auto",
            description="type of the label: classes, number, or labels = several, joined by | (or ; or ,); auto = "
            "classes, and labels that look like numbers or several are pointed out",
        )
        silent: Literal["auto", "use", "skip"] = Field(
            "auto",
            description="recordings without any sound: use or skip; auto = use, and they are pointed out",
        )
        truncated: Literal["skip", "use"] = Field(
            "skip", description="recordings that end before their header says: skip, or use what is there"
        )

        @field_validator("channel", mode="after")
        @classmethod
        def _mean_or_number(cls, value: str) -> str:
            if value != "mean" and not value.isdecimal():
                raise ValueError("a channel is mean, or its number counted from 0")
            return value

        @property
        def window_seconds(self) -> float | None:
            """Seconds of a window; None for whole recordings."""
            return None if self.window is None or isinstance(self.window, str) else self.window

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        self.window = options.window_seconds
        if self.window is not None and self.window <= 0:
            raise ConfigError(f"dataset.window={self.window:g}: a window lasts more than 0 seconds")
        if options.stride is not None and self.window is None:
            raise ConfigError("dataset.stride is for windows; set dataset.window too, e.g. to 1")
        if options.trim and self.window is not None:
            raise ConfigError("dataset.trim cuts whole recordings; leave it out, or set dataset.window=whole")
        self.members: dict[Path, TarMember] = {}
        self.copies: np.ndarray | None = None
        files = entries = self._list_files()
        if self.members:
            files = entries.with_entries(
                FileEntry(path, path.name) for path in dict.fromkeys(one.archive for one in self.members.values())
            )
        metadata = metadata_of_files(entries)
        if self.members:
            metadata = replace(metadata, copies=self.copies)
        headers = self._read_headers([entry.path for entry in entries])
        known = [header for header in headers if header is not None]
        rates = Counter(header.rate for header in known)
        common_rate = min(rates, key=lambda rate: (-rates[rate], rate))
        self.rate = options.rate or common_rate
        if self.window is None:
            plain, target, names = take_labels(metadata, options.task)
            split_codes = self.split_samples(metadata if target is None else with_known(plain, target))
            self.assign_split(plain, split_codes, target=target, label_names=names)
            self.entries = [entries[row] for row in self.rows]
            used = np.flatnonzero(split_codes >= 0)
        else:
            used = self._cut_windows(entries, metadata, headers)
        self._set_fields()
        if len(rates) > 1 or self.rate != common_rate:
            self.warnings += (f"recordings at other rates are resampled to {self.rate} Hz",)
        self._look_at_labels(metadata)
        self._look_for_doubts([entries[row].path for row in used], known)
        self._summarise(files, known, rates)
        self.record_files(entry.path for entry in files)

    def _list_files(self) -> FileList:
        """All recordings that can be read.

        Raises:
            DataError: there is none.
        """
        options = self.options
        check_archive(options.root)
        known = options.extensions or (*endings(), *FFMPEG_ENDINGS)
        if has_tars(options.root, known, options):
            return self._list_members(known)
        if options.extensions:
            return list_files(options.root, options.extensions, options.label_pattern, options)
        entries = list_files(options.root, (*endings(), *FFMPEG_ENDINGS), options.label_pattern, options)
        if has_ffmpeg():
            return entries
        left_out = Counter(entry.path.suffix.lower() for entry in entries)
        left_out = Counter({ending: left_out[ending] for ending in FFMPEG_ENDINGS if left_out[ending]})
        if not left_out:
            return entries
        names, count = ", ".join(left_out), left_out.total()
        if count == len(entries):
            raise DataError(
                f"dataset.root {options.root} holds recordings ending in {names}; reading them needs {FFMPEG_CURE}"
            )
        kept = entries.with_entries(entry for entry in entries if entry.path.suffix.lower() not in left_out)
        use = ",".join(sorted({entry.path.suffix.lower() for entry in kept}))
        self.doubts += (
            f"{count} of {len(entries)} recordings, those ending in {names}, are left out; reading them needs "
            f"{FFMPEG_CURE}, or set dataset.extensions={use} to do without them",
        )
        kept.ignored += left_out
        return kept

    def _list_members(self, extensions: Sequence[str]) -> FileList:
        """The recordings in tar files, each called as if the tar file were a folder."""
        shards = TarShards(self.options, extensions, "recording")
        self.members = {member.path: member for tar in shards.tars for member in tar.members}
        self.copies = shards.copies()
        return shards.entries.with_entries(shards.samples())

    def _source(self, path: Path) -> Source:
        """The recording that is called so."""
        return self.members.get(path, path)

    def _read_headers(self, paths: Sequence[Path]) -> list[Header | None]:
        """The headers of evenly spaced files, or of all files if they are cut into windows."""
        if self.window is None:
            paths = evenly_spaced(paths, MAX_HEADERS)
        sources = [self._source(path) for path in paths]
        headers = [read_header(source, source_state(source)) for source in sources]
        if not any(headers):
            reason = _reason(sources[0])
            raise DataError(f"none of the {len(paths)} files is a readable recording, e.g. {paths[0]}{reason}")
        return headers

    def _cut_windows(
        self, entries: Sequence[FileEntry], metadata: SampleMetadata, headers: Sequence[Header | None]
    ) -> np.ndarray:
        """Cut all recordings into windows and assign the split. Returns the rows of the recordings.

        The windows of a recording are all in one split; the end of a single recording is the test split.
        """
        options, window = self.options, self.window
        assert window is not None
        stride = options.stride or window
        seconds = np.array([0.0 if header is None else header.seconds for header in headers])
        counts = np.where(seconds < window - 1e-6, 0, np.floor((seconds - window) / stride + 1e-6).astype(int) + 1)
        if not counts.any():
            raise DataError(
                f"dataset.root {options.root}: no recording lasts {window:g} s, the longest {seconds.max():.3g} s; "
                f"lower dataset.window"
            )
        bad = np.array([header is None for header in headers])
        if short := int(((counts == 0) & ~bad).sum()):
            self.warnings += (f"{short} of {len(counts)} recordings are shorter than {window:g} s and left out",)
        if bad.any():
            first = entries[int(np.flatnonzero(bad)[0])].path
            self.warnings += (f"{int(bad.sum())} of {len(counts)} recordings cannot be read, e.g. {first}",)
        self.record = np.repeat(np.arange(len(counts)), counts)
        self.begin = (np.arange(len(self.record)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
        rows = np.flatnonzero(counts)
        used = metadata.take(rows).remove_unused_groups()
        position = np.searchsorted(rows, self.record)  # of each window's recording among those with a window
        plain, target, names = take_labels(metadata, options.task)
        used = used if target is None else with_known(used, target[rows])
        target = None if target is None else target[self.record]
        label = None if plain.label is None else plain.label.take(self.record)
        locations = _WindowLocations([entry.path for entry in entries], self.record, self.begin, window)
        windows = SampleMetadata(len(self.record), locations, label)
        named_test = metadata.split is not None and not needs_test_split(metadata.split)
        groups = (*options.test_groups, *options.train_groups, *options.validation_groups)
        if len(rows) > 1 or named_test or groups:
            split = self.split_samples(used)[position]
        else:
            unit = 1000  # milliseconds: positions are whole numbers
            begin, length = np.rint(self.begin * unit).astype(int), np.floor(seconds[self.record] * unit).astype(int)
            split = self.split_windows(used, position, begin, round(window * unit), length)
        check_split(windows, split, options)
        self.assign_split(windows, split, target=target, label_names=names)
        self.entries = [entries[row] for row in self.record[self.rows]]
        return rows

    def _set_fields(self) -> None:
        samples = None if self.window is None else round(self.window * self.rate)
        self.fields = {"waveform": Continuous((1, samples), rate=float(self.rate))}

    def _look_for_doubts(self, paths: Sequence[Path], headers: Sequence[Header]) -> None:
        """Listen to some recordings, and point out what may not be what was meant."""
        options = self.options
        median = float(np.median([header.seconds for header in headers]))
        if options.window == "auto" and median > LONG_SECONDS:
            self.doubts += (
                f"half of the recordings last {median:.3g} s or more, and the tokenizer uses the first "
                f"{USED_SECONDS:g} s of each by default; set dataset.window={USED_SECONDS:g} to cut them into windows "
                f"of this length, or dataset.window=whole to use them as they are",
            )
        if options.silent != "auto" and options.trim is not None:
            return
        chosen = evenly_spaced(paths, MAX_CHECKED)
        sources = [self._source(path) for path in chosen]
        checks = {
            path: check_sound(source, source_state(source), options.channel, CHECKED_SECONDS, options.trim_db)
            for path, source in zip(chosen, sources, strict=True)
        }
        found = {path: check for path, check in checks.items() if check is not None}
        where = " that were looked at" if len(chosen) < len(paths) else ""
        constant = [path for path, check in found.items() if check.is_constant]
        if constant and options.silent == "auto":
            sounding = [check.sounding for check in found.values() if check.is_constant and check.sounding]
            cure = "dataset.silent=skip to leave them out, or dataset.silent=use to keep them"
            if sounding:
                cure = f"dataset.channel={sounding[0][0]} for a channel with sound, {cure}"
            self.doubts += (
                f"{len(constant)} of {len(found)} recordings{where} are silent throughout, e.g. {constant[0]}; set "
                f"{cure}",
            )
        quiet = [
            path
            for path, check in found.items()
            if not check.is_constant and check.starts > USED_SECONDS / 2 and check.seconds > USED_SECONDS
        ]
        if options.trim is None and self.window is None and len(quiet) > QUIET_SHARE * len(found):
            self.doubts += (
                f"{len(quiet)} of {len(found)} recordings{where} begin with silence, e.g. {quiet[0]} with "
                f"{found[quiet[0]].starts:.2g} s, and the tokenizer uses the first {USED_SECONDS:g} s of each by "
                f"default; set dataset.trim=true to cut silence off, or dataset.trim=false to use them as they are",
            )

    def _look_at_labels(self, metadata: SampleMetadata) -> None:
        """Point out classes that look like numbers or like several labels."""
        label = metadata.label
        if label is None or self.options.task != "auto":
            return
        if look_decimal(label):
            self.doubts += (
                f"the labels are numbers with decimals, e.g. {label.names[0]}; set dataset.task=number to predict "
                f"them, else dataset.task=classes",
            )

    def _summarise(self, entries: Sequence[FileEntry], headers: Sequence[Header], rates: Counter[int]) -> None:
        """Set what the header and the report say of the data."""
        channels = Counter(header.channels for header in headers)
        seconds = [header.seconds for header in headers]
        use = "their mean" if self.options.channel == "mean" else f"channel {self.options.channel}, counted from 0,"
        facts = {
            "rate": ", ".join(f"{rate} Hz" for rate, _ in rates.most_common()),
            "length": f"{min(seconds):.3g} to {max(seconds):.3g} s, median {np.median(seconds):.3g} s",
            "channels": ", ".join(str(count) for count in sorted(channels)),
        }
        if set(channels) != {1}:
            facts["channels"] += f"; {use} is used"
            self.warnings += (f"some recordings have several channels: {use} is used (dataset.channel)",)
        facts["samples"] = "whole recordings" if self.window is None else f"windows of {self.window:g} s"
        self.record_summary(entries, facts=facts)

    def __getitem__(self, index: int) -> Sample:
        """{"waveform": (1, n) float32}, the mean of the channels or the one chosen, whole or a window of it.

        Raises:
            BadSample: the file cannot be read, is cut off, or holds NaN or infinite values.
        """
        options, source = self.options, self._source(self.entries[index].path)
        if self.window is None:
            sound, header = read_recording(source)
        else:
            sound, header = read_recording(source, float(self.begin[self.rows[index]]), self.window)
        if header.is_truncated and options.truncated == "skip":
            raise BadSample(
                f"ends after {header.seconds:.3g} of the {header.promised / header.rate:.3g} s that its header "
                f"promises; set dataset.truncated=use to use what is there"
            )
        clip = select_channel(sound, options.channel)
        if not np.isfinite(clip).all():
            raise BadSample("holds NaN or infinite values")
        if options.silent == "skip" and len(clip) and clip.min() == clip.max():
            raise BadSample("is silent throughout")
        if options.trim:
            start, stop = sound_range(clip, header.rate, options.trim_db)
            clip = clip[start:stop]
        if header.rate != self.rate and len(clip):
            import librosa  # slow to import, and most data sets have one rate

            clip = librosa.resample(clip, orig_sr=header.rate, target_sr=self.rate)
        if self.window is not None:
            clip = _fix_length(clip, round(self.window * self.rate))
        return {"inputs": {"waveform": clip[np.newaxis]}, "label": self.label_of(index)}

    def schema(self) -> dict[str, Any]:
        """The sampling rate and the classes."""
        return {"rate": self.rate, "classes": list(self.task.names) if self.task is not None else []}

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Resample to the rate of the data that the encoder was trained on, and match the classes by name."""
        super().conform(schema)
        conform_classes(self, schema)
        rate = schema.get("rate")
        if rate is not None and rate != self.rate:
            self.warnings += (
                f"recordings at {self.rate} Hz are resampled to {rate} Hz, the rate that the encoder was trained on",
            )
            self.rate = int(rate)
            self._set_fields()

    def fingerprint(self) -> str:
        """Changes with the options, the rate, the split, the labels and the files."""
        return f"{super().fingerprint()}:{self.rate}"


class _WindowLocations:
    """Called with a window's index, returns its file and seconds."""

    def __init__(self, paths: Sequence[Path], record: np.ndarray, begin: np.ndarray, window: float) -> None:
        self.paths, self.record, self.begin, self.window = paths, record, begin, window

    def __call__(self, row: int) -> str:
        begin = float(self.begin[row])
        return f"{self.paths[int(self.record[row])]} from {begin:g} to {begin + self.window:g} s"


def _fix_length(clip: np.ndarray, samples: int) -> np.ndarray:
    """The clip at exactly `samples` samples; rounding may have made it a little longer or shorter.

    Raises:
        BadSample: much is missing.
    """
    if len(clip) < 0.99 * samples:
        raise BadSample(f"the recording ends within this window, after {len(clip)} of {samples} samples")
    return np.pad(clip[:samples], (0, max(0, samples - len(clip))))


def _reason(source: Source) -> str:
    """Why a recording cannot be read, in brackets."""
    try:
        read_recording(source)
    except BadSample as error:
        return f": {error}"
    return ""


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SpeechFiles]
