"""Own sequences of bases or residues: FASTA, a sequence a line, or a column of a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from ssl_core import BadSample, ConfigError, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.file_listing import Item, by_pattern, sources
from ssl_plugins.datasets._io.splitting import LEFT_OUT, TEST, TRAIN, Said, check_classes, divide_rows
from ssl_plugins.datasets._io.tables import ENDINGS, MarkColumns, check_endings
from ssl_plugins.datasets._io.texts import Fasta, Lines, Part, places_of, read_columns, say_all
from ssl_plugins.datasets._io.user_data import Places, RowOptions, UserData

FASTA = tuple(f".{name}{packed}" for name in ("fasta", "fa", "fna", "faa", "ffn") for packed in ("", ".gz"))
PLAIN = (".txt", ".seq", ".txt.gz", ".seq.gz")
KNOWN = (*FASTA, *PLAIN, *ENDINGS)


class SequenceFiles(UserData):
    """Your own DNA (FASTA, a sequence a line, CSV, Parquet); long sequences whole or in windows."""

    modality = "genomics"

    class Options(RowOptions):
        """Options of own sequences. In FASTA files `label_pattern` is searched in "path>header"."""

        sequence: str = Field("sequence", description="column of the sequence")
        window: int | None = Field(None, ge=1, description="cut each sequence into windows of so many letters")
        stride: int | None = Field(None, ge=1, description="letters from one window to the next; by default `window`")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        if options.stride is not None and options.window is None:
            raise ConfigError("dataset.stride needs dataset.window")
        items = sources(options.root, options.test_root, KNOWN, None)
        check_endings(items, KNOWN, "file of sequences")
        marks = MarkColumns(options.task)
        self.parts = [self._part(item, marks) for item in items]
        self.places = places_of(self.parts, [item.path for item in items])
        if not self.places.starts[-1]:
            raise DataError(f"dataset.root {options.root} holds no sequence")
        said = marks.said(self.places)
        self.begin: np.ndarray | None = None
        self.kept: tuple[int, str] = (-1, "")
        if options.window is None:
            self.settle(said, target=marks.numbers(), title=options.label or "label")
        elif marks.target is not None:
            raise ConfigError("windows of a sequence cannot share its number; set dataset.task=classes")
        else:
            self._windows(said, options.window, options.stride or options.window)
        self.fields = {"sequence": Text()}
        self.stamp(self.places.paths)

    def _part(self, item: Item, marks: MarkColumns) -> Part:
        name, options = item.path.name.lower(), self.options
        if name.endswith(ENDINGS):
            named = _by_name(item, options.label_pattern)
            return read_columns(named, {"sequence": options.sequence}, options, marks)
        if name.endswith(PLAIN):
            part: Part = Lines(item.path)
            say_all(_by_name(item, options.label_pattern), len(part), marks)
            return part
        fasta = Fasta(item.path)
        if options.label_pattern is None:
            say_all(item, len(fasta), marks)
            return fasta
        records = [replace(item, name=f"{item.name}>{fasta.header(i)}") for i in range(len(fasta))]
        found = by_pattern(records, options.label_pattern)
        for what, coder in marks.coders.items():
            coder.each(getattr(one, what) for one in found)
        return fasta

    def _windows(self, said: Said, window: int, stride: int) -> None:
        """All windows. Held out are those of whole sequences if there are groups, else the end of each sequence."""
        parts = [(part, place) for part in self.parts for place in range(len(part))]
        lengths = [p.letters(i) if isinstance(p, Fasta) else len(p.texts(i)[0]) for p, i in parts]
        counts = np.array([max(0, (length - window) // stride + 1) for length in lengths])
        if not counts.any():
            raise DataError(f"no sequence has {window} letters; lower dataset.window")
        if short := int((counts == 0).sum()):
            self.warnings += (f"{short} of {len(counts)} sequences have less than {window} letters and are left out",)
        self.record = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self.begin = (np.arange(len(self.record)) - first) * stride
        options = self.options
        label = None if said.label is None else said.label.taken(self.record)
        where = _WindowPlaces(self.places, self.record, self.begin, window)
        all_of_it = Said(len(self.record), where, label)
        if said.split is not None or said.group is not None:
            held = divide_rows(said, options.test_fraction, options.test_groups, options.train_groups)[self.record]
        elif options.test_groups or options.train_groups:
            raise ConfigError("dataset.test_groups and train_groups need groups; name them in label_pattern")
        else:
            length = np.array(lengths)[self.record]
            cut = np.floor(length * (1 - options.test_fraction)).astype(np.int64)
            held = np.where(self.begin >= cut, TEST, np.where(self.begin + window <= cut, TRAIN, LEFT_OUT))
        check_classes(all_of_it, held)
        self.settle(all_of_it, held=held)

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": text}. Errors: BadSample for an empty one."""
        row = int(self.rows[index])
        if self.begin is None:
            text = self._text(row)
        else:
            record, begin = int(self.record[row]), int(self.begin[row])
            if self.kept[0] != record:
                self.kept = (record, self._text(record))
            text = self.kept[1][begin : begin + self.options.window]
        if not text:
            raise BadSample("holds no sequence")
        return {"inputs": {"sequence": np.array(text)}, "label": self.label_of(index)}

    def _text(self, record: int) -> str:
        number, place = self.places.part(record)
        return self.parts[number].texts(place)[0].strip()


class _WindowPlaces:
    """What to call a window."""

    def __init__(self, places: Places, record: np.ndarray, begin: np.ndarray, window: int) -> None:
        self.places, self.record, self.begin, self.window = places, record, begin, window

    def __call__(self, row: int) -> str:
        begin = int(self.begin[row])
        return f"{self.places(int(self.record[row]))} letters {begin + 1} to {begin + self.window}"


class ProteinFiles(SequenceFiles):
    """Your own proteins (FASTA, a sequence a line, CSV, Parquet); long sequences whole or in windows."""

    modality = "protein"


def _by_name(item: Item, pattern: str | None) -> Item:
    """The item with what `pattern` says of its name."""
    if pattern is None:
        return item
    return by_pattern([item], pattern)[0]


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SequenceFiles, ProteinFiles]
