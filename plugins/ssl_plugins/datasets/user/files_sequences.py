"""The user's sequences of bases or residues: FASTA, a sequence a line, or a column of a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from ssl_core import BadSample, ConfigError, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.file_listing import (
    TABLE_EXTENSIONS,
    FileEntry,
    SampleLocations,
    apply_pattern,
    list_sources,
)
from ssl_plugins.datasets._io.splitting import SampleMetadata, check_split, needs_test_split, wants_validation
from ssl_plugins.datasets._io.tables import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.texts import FastaRecords, TextLines, TextSource, locations_of, read_columns
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

FASTA_EXTENSIONS = tuple(f".{name}{suffix}" for name in ("fasta", "fa", "fna", "faa", "ffn") for suffix in ("", ".gz"))
PLAIN_EXTENSIONS = (".txt", ".seq", ".txt.gz", ".seq.gz")
EXTENSIONS = (*FASTA_EXTENSIONS, *PLAIN_EXTENSIONS, *TABLE_EXTENSIONS)


class SequenceFiles(UserData):
    """Your own DNA (FASTA, a sequence a line, CSV, Parquet); long sequences whole or in windows."""

    modality = "genomics"

    class Options(RowOptions):
        """Options of the user's sequences. In FASTA files `label_pattern` is searched in "path>header"."""

        sequence: str = Field("sequence", description="column of the sequence")
        window: int | None = Field(None, ge=1, description="cut each sequence into windows of this many letters")
        stride: int | None = Field(None, ge=1, description="letters from one window to the next; by default `window`")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        if options.stride is not None and options.window is None:
            raise ConfigError("dataset.stride needs dataset.window")
        entries = list_sources(options.root, options.test_root, EXTENSIONS, None, options)
        check_extensions(entries, EXTENSIONS, "file of sequences")
        collector = MetadataCollector(options.task)
        self.sources = [self._read_source(entry, collector) for entry in entries]
        self.locations = locations_of(self.sources, [entry.path for entry in entries])
        if not self.locations.starts[-1]:
            raise DataError(f"dataset.root {options.root} holds no sequence")
        metadata = collector.metadata(self.locations)
        self.begin: np.ndarray | None = None
        self.last_sequence: tuple[int, str] = (-1, "")
        if options.window is None:
            self.assign_split(metadata, target=collector.target(), title=options.label or "label")
        elif collector.target_chunks is not None:
            raise ConfigError("windows of a sequence cannot share its number; set dataset.task=classes")
        else:
            self._cut_windows(metadata, options.window, options.stride or options.window)
        self.fields = {"sequence": Text()}
        self.record_files(self.locations.paths)
        self.record_summary(entries)

    def _read_source(self, entry: FileEntry, metadata: MetadataCollector) -> TextSource:
        name, options = entry.path.name.lower(), self.options
        if name.endswith((*TABLE_EXTENSIONS, *PLAIN_EXTENSIONS)):
            if options.label_pattern is not None:
                (entry,) = apply_pattern([entry], options.label_pattern)
            if name.endswith(TABLE_EXTENSIONS):
                return read_columns(entry, {"sequence": options.sequence}, options, metadata)
            lines = TextLines(entry.path)
            metadata.append_file(entry, len(lines))
            return lines
        fasta = FastaRecords(entry.path)
        if options.label_pattern is None:
            metadata.append_file(entry, len(fasta))
        else:
            records = [replace(entry, name=f"{entry.name}>{fasta.header(i)}") for i in range(len(fasta))]
            metadata.append_entries(apply_pattern(records, options.label_pattern))
        return fasta

    def _cut_windows(self, metadata: SampleMetadata, window: int, stride: int) -> None:
        """Cut all sequences into windows and assign the split.

        Whole sequences are split if the data name groups or the test split, else each sequence is split.

        Args:
            metadata: the sequences.
            window: letters of a window.
            stride: letters from one window to the next.
        """
        records = [(source, i) for source in self.sources for i in range(len(source))]
        lengths = np.array(
            [
                source.sequence_length(i) if isinstance(source, FastaRecords) else len(source.texts(i)[0])
                for source, i in records
            ]
        )
        counts = np.maximum(0, (lengths - window) // stride + 1)
        if not counts.any():
            raise DataError(f"no sequence has {window} letters; lower dataset.window")
        if short := int((counts == 0).sum()):
            self.warnings += (f"{short} of {len(counts)} sequences have less than {window} letters and are left out",)
        self.record = np.repeat(np.arange(len(counts)), counts)
        first_window = np.repeat(np.cumsum(counts) - counts, counts)
        self.begin = (np.arange(len(self.record)) - first_window) * stride
        label = None if metadata.label is None else metadata.label.take(self.record)
        locations = _WindowLocations(self.locations, self.record, self.begin, window)
        window_metadata = SampleMetadata(len(self.record), locations, label)
        options = self.options
        names_test = metadata.split is not None and not needs_test_split(metadata.split)
        group_options = (*options.test_groups, *options.train_groups, *options.validation_groups)
        if names_test or metadata.group is not None or group_options:
            split = self.split_samples(metadata)[self.record]
        else:
            split = self.split_windows(metadata, self.record, self.begin, window, lengths[self.record])
        check_split(window_metadata, split, wants_validation(options))
        self.assign_split(window_metadata, split)

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": text}.

        Raises:
            BadSample: the sequence is empty.
        """
        row = int(self.rows[index])
        if self.begin is None:
            text = self._sequence(row)
        else:
            record, begin = int(self.record[row]), int(self.begin[row])
            if self.last_sequence[0] != record:
                self.last_sequence = (record, self._sequence(record))
            text = self.last_sequence[1][begin : begin + self.options.window]
        if not text:
            raise BadSample("holds no sequence")
        return {"inputs": {"sequence": np.array(text)}, "label": self.label_of(index)}

    def _sequence(self, record: int) -> str:
        file, index = self.locations.locate(record)
        return self.sources[file].texts(index)[0].strip()


class _WindowLocations:
    """Called with a window's index, returns its sequence, first letter and last letter."""

    def __init__(self, locations: SampleLocations, record: np.ndarray, begin: np.ndarray, window: int) -> None:
        self.locations, self.record, self.begin, self.window = locations, record, begin, window

    def __call__(self, row: int) -> str:
        begin = int(self.begin[row])
        return f"{self.locations(int(self.record[row]))} letters {begin + 1} to {begin + self.window}"


class ProteinFiles(SequenceFiles):
    """Your own proteins (FASTA, a sequence a line, CSV, Parquet); long sequences whole or in windows."""

    modality = "protein"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SequenceFiles, ProteinFiles]
