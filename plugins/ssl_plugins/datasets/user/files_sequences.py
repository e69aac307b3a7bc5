"""The user's sequences of bases or residues: FASTA, FASTQ, GenBank, a sequence a line, or a column of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ssl_core import BadSample, ConfigError, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.class_names import class_names, conform_classes
from ssl_plugins.datasets._io.copies import copies_of_texts
from ssl_plugins.datasets._io.files.entry import ending_of
from ssl_plugins.datasets._io.files.listing import (
    TABLE_EXTENSIONS,
    FileEntry,
    FileList,
    SampleLocations,
    apply_pattern,
    list_sources,
)
from ssl_plugins.datasets._io.label_checks import label_findings
from ssl_plugins.datasets._io.splitting import (
    TEST,
    TRAIN,
    SampleMetadata,
    check_split,
    needs_test_split,
    wants_test,
)
from ssl_plugins.datasets._io.tables.other_tables import without_other_tables
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.texts.annotations import (
    check_one_split,
    find_annotations,
    splits_in_headers,
    with_splits,
)
from ssl_plugins.datasets._io.texts.encodings import with_compressions
from ssl_plugins.datasets._io.texts.facts import findings_of, merge_columns, names_in_words
from ssl_plugins.datasets._io.texts.lines import TextSource
from ssl_plugins.datasets._io.texts.sequence_records import (
    FASTA_EXTENSIONS,
    LINE_EXTENSIONS,
    NUCLEOTIDE_EXTENSIONS,
    PROTEIN_EXTENSIONS,
    FastaRecords,
    FastqRecords,
    SequenceRecords,
    describe_letters,
    kind_of_letters,
    lengths_in_words,
    letter_counts,
    read_sequences,
    sequence_lengths,
)
from ssl_plugins.datasets._io.texts.texts import locations_of, read_columns
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

EXTENSIONS = (*FASTA_EXTENSIONS, *LINE_EXTENSIONS, *TABLE_EXTENSIONS)
MAX_COMMON_LENGTH = 512  # letters; the tokenizer takes all of sequences of one length up to this
USED_SHARE = 0.2  # of all letters, in samples of the usual length; for less there is a hint at dataset.window


class SequenceFiles(UserData):
    """Your own DNA or RNA (FASTA, FASTQ, GenBank, a sequence a line, CSV, Parquet); long sequences in windows."""

    modality = "genomics"
    foreign_kinds: ClassVar[tuple[str, ...]] = ("protein",)
    foreign_extensions: ClassVar[tuple[str, ...]] = PROTEIN_EXTENSIONS
    typical_window: ClassVar[int] = 250
    kind: str = ""
    """"DNA", "RNA" or "protein" by the letters, else empty."""

    class Options(RowOptions):
        """Options of the user's sequences. In files with headers `label_pattern` is searched in "path>header"."""

        sequence: str = Field("sequence", description="column of the sequence")
        window: int | None = Field(
            None,
            ge=1,
            description="cut each sequence into windows of this many letters, which are tokenizer.length too",
        )
        stride: int | None = Field(None, ge=1, description="letters from one window to the next; by default `window`")
        extensions: tuple[str, ...] = Field(
            (), description="endings of the files to read; by default all, but of .fna and .faa in one folder those of "
            "the modality",
        )  # fmt: skip

        @field_validator("extensions", mode="after")
        @classmethod
        def _with_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            return tuple("." + extension.lower().lstrip(".") for extension in value)

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        if options.stride is not None and options.window is None:
            raise ConfigError("dataset.stride needs dataset.window")
        extensions = with_compressions(options.extensions) if options.extensions else EXTENSIONS
        entries = list_sources(options.root, options.test_root, extensions, None, options)
        check_extensions(entries, extensions, "file of sequences")
        entries = without_other_tables(entries, "sequence", options)
        entries = self._without_foreign_files(entries)
        entries, opened = self._open_sources(entries)
        collector = MetadataCollector(options.task)
        sources = [self._collect(entry, source, collector) for entry, source in zip(entries, opened, strict=True)]
        empty = [entry.name for entry, source in zip(entries, sources, strict=True) if not len(source)]
        if len(empty) == len(entries):
            raise DataError(f"dataset.root {options.root} holds no sequence")
        if empty:
            self.warnings += (f"{len(empty)} of {len(entries)} files hold no sequence: {names_in_words(empty)}",)
        self.sources = sources
        self.locations = locations_of(self.sources, [entry.path for entry in entries])
        metadata = collector.metadata(self.locations)
        check_one_split(sources, metadata, [str(entry.path) for entry in entries])
        self.lengths = np.concatenate([sequence_lengths(source) for source in sources])
        self.begin: np.ndarray | None = None
        self.last_sequence: tuple[int, str] = (-1, "")
        if options.window is None:
            self._check_lengths()
            metadata = self._with_copies(metadata)
            self.assign_split(metadata, target=collector.target(), title=options.label or "label")
            if collector.target() is None:
                doubts, warnings = label_findings(metadata.label, options.label or "label", options.task)
                self.doubts, self.warnings = self.doubts + doubts, self.warnings + warnings
        elif collector.target_chunks is not None:
            raise ConfigError(
                "windows of a sequence cannot share its number; set dataset.task=classes, or leave dataset.window out"
            )
        else:
            self._cut_windows(metadata, options.window, options.stride or options.window)
        self.fields = {"sequence": Text(options.window or self._common_length())}
        self._look_at_letters(entries, sources)
        self.record_files(self.locations.paths)

    def _without_foreign_files(self, entries: FileList) -> FileList:
        """The entries without those whose ending names the other kind of sequence, if there are both."""
        foreign = [entry for entry in entries if entry.path.name.lower().endswith(self.foreign_extensions)]
        if self.options.extensions or not foreign or len(foreign) == len(entries):
            return entries
        used = entries.with_entries(entry for entry in entries if entry not in foreign)
        others = Counter(ending_of(entry.path.name) for entry in foreign)
        used.ignored.update(others)
        used.doubts.append(
            f"{len(foreign)} files ending in {', '.join(others)} are no {self.modality} by their ending, and left out; "
            f"dataset.extensions={','.join(used.endings)} says so, "
            f"dataset.extensions={','.join([*used.endings, *others])} reads them too"
        )
        return used

    def _check_lengths(self) -> None:
        """Look for sequences that should be cut into windows.

        Raises:
            DataError: there is a single sequence.
        """
        median = int(np.median(self.lengths))
        cure = f"--set dataset.window={self.typical_window} cuts"
        if len(self.lengths) == 1 and wants_test(self.options):
            what = f"{self.locations(0)} is the only sequence, of {median:,} letters"
            if median >= 8 * self.typical_window:
                raise DataError(f"{what}; {cure} it into windows, of which the last are the test split")
            raise DataError(f"{what}; a run needs several, or --set dataset.window= to cut it into windows")
        share = float(np.minimum(self.lengths, self.typical_window).sum() / max(1, self.lengths.sum()))
        if share < USED_SHARE:
            self.warnings += (
                f"a sample is the first tokenizer.length letters of a sequence: {self.typical_window} of each are "
                f"{100 * share:.2g} % of all letters; {cure} them into windows",
            )

    def _with_copies(self, metadata: SampleMetadata) -> SampleMetadata:
        """The metadata of whole sequences, with the copies among them if the test split is drawn here."""
        if not metadata.draws_test:
            return metadata
        readers = (partial(source.texts, index) for source in self.sources for index in range(len(source)))
        return replace(metadata, copies=copies_of_texts(readers))

    def _common_length(self) -> int | None:
        """The length of all sequences, if they have one and it is short."""
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        return longest if shortest == longest <= MAX_COMMON_LENGTH else None

    def _look_at_letters(self, entries: FileList, sources: Sequence[TextSource]) -> None:
        """Set the summary and the kind of the letters; doubt letters of the other kind."""
        counts = [letter_counts(source) if len(source) else np.zeros(256, np.int64) for source in sources]
        kinds = [kind_of_letters(count) for count in counts]
        whole = np.sum(counts, axis=0)
        self.kind = kind_of_letters(whole)
        foreign = [entry.name for entry, kind in zip(entries, kinds, strict=True) if kind in self.foreign_kinds]
        if self.kind in self.foreign_kinds:
            other = "protein" if self.kind == "protein" else "genomics"
            self.doubts += (
                f"the sequences look like {self.kind} (letters {describe_letters(whole)}); --modality {other} reads "
                f"them",
            )
        elif foreign:
            self.doubts += (
                f"{len(foreign)} of {len(entries)} files do not look like {self.modality} as the others do: "
                f"{names_in_words(foreign)}; name the endings to read in dataset.extensions, or move these files",
            )
        facts = {
            "sequences": f"{len(self.lengths):,} of {lengths_in_words(self.lengths, 'letters')}",
            "letters": describe_letters(whole),
        }
        if self.options.window is not None:
            assert self.begin is not None
            facts["windows"] = f"{len(self.begin):,} of {self.options.window:,} letters"
        if self.kind == "RNA":
            facts["RNA"] = "U is read as T where tokenizer.alphabet has no U"
        if any(isinstance(source, FastqRecords) for source in sources):
            facts["FASTQ"] = "the quality of reads is not used"
        self.record_summary(entries, merge_columns(sources), findings_of(sources), facts)

    def schema(self) -> dict[str, Any]:
        """The classes, and whether the sequences are nucleotides or proteins."""
        letters = "nucleotides" if self.kind in ("DNA", "RNA") else self.kind
        return {**super().schema(), "classes": class_names(self.task), "letters": letters}

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Match the classes by name.

        Raises:
            DataError: the encoder was trained on nucleotides and these are proteins, or the reverse.
        """
        super().conform(schema)
        conform_classes(self, schema)
        trained, given = schema.get("letters"), self.schema()["letters"]
        if trained and given and trained != given:
            raise DataError(
                f"dataset.root {self.options.root} holds {given} (letters {self.summary.facts['letters']}), and the "
                f"encoder was trained on {trained}; name files of {trained}"
            )

    def _open_sources(self, entries: FileList) -> tuple[FileList, list[TextSource | None]]:
        """The files of records, without those that annotate others; None for tables.

        Splits that annotations name hold for the sequences.
        """
        options = self.options
        sources: list[TextSource | None] = [
            None
            if entry.path.name.lower().endswith(TABLE_EXTENSIONS)
            else read_sequences(entry.path, getattr(options, "encoding", None))
            for entry in entries
        ]
        self.record_splits: dict[Path, list[str]] = {}
        records = [(entry, source) for entry, source in zip(entries, sources, strict=True) if source is not None]
        left_out: set[Path] = set()
        if options.label_pattern is None:
            for entry, source in records:
                splits = splits_in_headers(source) if isinstance(source, FastaRecords) and not entry.split else None
                if splits is not None:
                    self.record_splits[entry.path] = splits
            for found in find_annotations([entry for entry, _ in records], [source for _, source in records]):
                names = ", ".join(entry.path.name for entry in found.entries)
                hold = "holds" if len(found.entries) == 1 else "hold"
                splits_line = ""
                if found.splits is not None and found.of.path not in self.record_splits:
                    self.record_splits[found.of.path] = found.splits
                    splits_line = ", but for the splits that they name"
                left_out |= {entry.path for entry in found.entries}
                entries.warnings.append(
                    f"{names} {hold} a letter for each residue of {found.of.name}, and only that file is read"
                    f"{splits_line}; name another one to read it alone"
                )
        self._check_all_split([entry for entry, _ in records if entry.path not in left_out])
        if not left_out:
            return entries, sources
        used = entries.with_entries(entry for entry in entries if entry.path not in left_out)
        used.ignored["annotations"] = len(left_out)
        kept = [source for entry, source in zip(entries, sources, strict=True) if entry.path not in left_out]
        return used, kept

    def _check_all_split(self, entries: Sequence[FileEntry]) -> None:
        """Refuse files of records of which only some name their split, as those of several data sets do."""
        named = [entry for entry in entries if entry.path in self.record_splits]
        others = [entry for entry in entries if entry.path not in self.record_splits and entry.split is None]
        if named and others:
            others_in_words = names_in_words([entry.name for entry in others])
            excluded = ",".join(entry.name for entry in others)
            raise DataError(
                f"the records of {named[0].name} name their split, and those of {others_in_words} do not, so that they "
                f"seem to be several data sets; name one, as in --data {named[0].path}, or set "
                f"'dataset.exclude={excluded}'"
            )

    def _collect(self, entry: FileEntry, source: TextSource | None, metadata: MetadataCollector) -> TextSource:
        """Append the metadata of the samples of a file, which is read if it is a table."""
        options = self.options
        if source is None:
            if options.label_pattern is not None:
                (entry,) = apply_pattern([entry], options.label_pattern)
            return read_columns(entry, {"sequence": options.sequence}, options, metadata)
        if entry.path in self.record_splits and len(source):
            metadata.append_entries(with_splits(entry, self.record_splits[entry.path]))
        elif options.label_pattern is None or not len(source):
            metadata.append_file(entry, len(source))
        elif isinstance(source, SequenceRecords):
            records = [replace(entry, name=f"{entry.name}>{source.header(i)}") for i in range(len(source))]
            metadata.append_entries(apply_pattern(records, options.label_pattern))
        else:
            metadata.append_file(apply_pattern([entry], options.label_pattern)[0], len(source))
        return source

    def _cut_windows(self, metadata: SampleMetadata, window: int, stride: int) -> None:
        """Cut all sequences into windows and assign the split.

        Whole sequences are split if the data name groups or the test split, else each sequence is split, unless no
        window fits into the end of any.

        Args:
            metadata: the sequences.
            window: letters of a window.
            stride: letters from one window to the next.
        """
        lengths = self.lengths
        counts = np.maximum(0, (lengths - window) // stride + 1)
        if not counts.any():
            raise DataError(f"no sequence has {window} letters, the longest has {lengths.max()}; lower dataset.window")
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
            split = self.split_samples(self._with_copies(metadata))[self.record]
        else:
            split = self.split_windows(metadata, self.record, self.begin, window, lengths[self.record])
            needed = {TRAIN, TEST} if wants_test(options) else {TRAIN}
            if len(counts) > 1 and not needed <= set(split.tolist()):
                self.warnings += (
                    f"the sequences are too short to hold out windows of {window} letters at the end of each: the test "
                    f"split is whole sequences",
                )
                split = self.split_samples(self._with_copies(metadata))[self.record]
        check_split(self.strata(window_metadata), split, options)
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

    def identify(self, index: int) -> str:
        """The id that a column names or the first word of the record's header, else file and row."""
        if self.ids is None and self.begin is None:
            file, place = self.locations.locate(int(self.rows[index]))
            source = self.sources[file]
            if isinstance(source, SequenceRecords) and (words := source.header(place).split(maxsplit=1)):
                return words[0]
        return super().identify(index)

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
    """Your own proteins (FASTA, GenPept, a sequence a line, CSV, Parquet); long sequences whole or in windows."""

    modality = "protein"
    foreign_kinds = ("DNA", "RNA")
    foreign_extensions = NUCLEOTIDE_EXTENSIONS
    typical_window = 128


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SequenceFiles, ProteinFiles]
