"""The user's texts: documents, lines, JSON, or a column of a table, with or without labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import BadSample, DataError, Dataset, Sample, Split, Text, hookimpl
from ssl_plugins.datasets._io.class_names import class_names, conform_classes
from ssl_plugins.datasets._io.copies import copies_of_files, copies_of_texts
from ssl_plugins.datasets._io.files.listing import TABLE_EXTENSIONS, FileEntry, FileList, list_sources
from ssl_plugins.datasets._io.files.tar import TarShards, check_archive, has_tars
from ssl_plugins.datasets._io.label_checks import label_findings
from ssl_plugins.datasets._io.label_lists import LabelLists
from ssl_plugins.datasets._io.splitting import draws_split, is_unlabelled
from ssl_plugins.datasets._io.tables.other_tables import without_other_tables
from ssl_plugins.datasets._io.tables.reader import check_columns, open_tables
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector, check_extensions
from ssl_plugins.datasets._io.texts.encodings import with_compressions
from ssl_plugins.datasets._io.texts.facts import (
    count_encodings,
    findings_of,
    merge_columns,
    names_in_words,
    sampled_lengths,
    spread,
)
from ssl_plugins.datasets._io.texts.lines import TextLines, TextSource
from ssl_plugins.datasets._io.texts.sequence_records import lengths_in_words
from ssl_plugins.datasets._io.texts.texts import (
    JSON_EXTENSIONS,
    TextDocument,
    TextMembers,
    locations_of,
    read_text_source,
)
from ssl_plugins.datasets._io.user_data import RowOptions, UserData

MEMBER_EXTENSIONS = (".txt", ".text", ".md", ".log")
PLAIN_EXTENSIONS = with_compressions(MEMBER_EXTENSIONS)
EXTENSIONS = (*PLAIN_EXTENSIONS, *JSON_EXTENSIONS, *TABLE_EXTENSIONS)
ABOUT_FILES = tuple(
    "*".join(["", "".join(f"[{letter}{letter.upper()}]" for letter in name)]) + ".*"
    for name in ("readme", "license", "licence", "notice")
)
"""Files of a folder that tell about the data, as patterns of `dataset.exclude`."""
FEW_FILES, LONG_TEXT = 100, 50_000
"""Fewer files of more characters than that are rather books or logs than single samples."""
LANGUAGE = re.compile(r"[a-z]{2}(-[A-Za-z]{2,4})?")
"""The code of a language, as in de or pt-BR."""
LOOK_LINES = 1000  # lines that are searched for tabs


class TextFiles(UserData):
    """Your own texts (txt or md by line or by file, JSON, CSV, Parquet, tar): one text or a pair of texts a sample."""

    modality = "text"
    sources: list[TextSource]

    class Options(RowOptions):
        """Options of the user's texts."""

        text: str = Field("text", description="column or key of the text; a.b is the key b of the object a")
        pair: str | None = Field(None, description="column or key of the second text of a pair")
        document: Literal["auto", "line", "file"] = Field(
            "auto",
            description="sample unit of a .txt, .text, .md or .log; auto = the file in a folder, the line in a single "
            "file. README and LICENSE files of a folder are not read",
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        options = self.options
        listing = options.model_copy(update={"exclude": (*options.exclude, *ABOUT_FILES)})
        check_archive(options.root)
        collector, lists = MetadataCollector(options.task), LabelLists()
        shards = self._shards(listing)
        if shards is not None:
            entries = shards.entries
            self._members(shards, collector)
        else:
            entries = list_sources(options.root, options.test_root, EXTENSIONS, options.label_pattern, listing)
            check_extensions(entries, EXTENSIONS, "file of text")
            entries = without_other_tables(entries, "text", options)
            entries = self._with_labels(entries)
            self._check_labels(entries)
            self._open(entries, collector, lists)
        self.locations = locations_of(self.sources, [entry.path for entry in entries])
        if not self.locations.starts[-1]:
            raise DataError(f"dataset.root {options.root} holds no text")
        metadata, title = collector.metadata(self.locations), options.label or "label"
        is_drawn = draws_split(metadata.split, options)
        if is_drawn and len(self.sources) == metadata.count:  # a file is a sample
            metadata = replace(metadata, copies=copies_of_files([entry.path for entry in entries]))
        elif is_drawn and not any(isinstance(source, TextLines) for source in self.sources):
            rows = (partial(source.texts, row) for source in self.sources for row in range(len(source)))
            metadata = replace(metadata, copies=copies_of_texts(rows))
        several = lists.target(self.locations, metadata.count)
        if several is None:
            self.assign_split(metadata, target=collector.target(), title=title)
            if collector.target() is None:
                doubts, warnings = label_findings(metadata.label, title, options.task)
                self.doubts, self.warnings = self.doubts + doubts, self.warnings + warnings
        else:
            self.assign_split(replace(metadata, label=None), target=several[0], label_names=several[1], title=title)
        self.fields = {"text": Text()}
        self._describe_files(entries)
        self.record_files(self.locations.paths)

    def _shards(self, options: Any) -> TarShards | None:
        """The tar files that the root names; None if it names other files. Indices in JSON may lie beside them."""
        rivals = tuple(ending for ending in EXTENSIONS if ending not in JSON_EXTENSIONS)
        return TarShards(options, MEMBER_EXTENSIONS, "text") if has_tars(options.root, rivals, options) else None

    def _members(self, shards: TarShards, collector: MetadataCollector) -> None:
        """Open tar files in which each text is a member."""
        if self.options.pair:
            raise DataError(f"{shards.paths[0]} holds plain texts, which are no pairs; leave dataset.pair out")
        if self.options.document == "line":
            raise DataError(f"each text of {shards.paths[0]} is a member; leave dataset.document=line out")
        self.sources = [TextMembers(tar, self.options.encoding) for tar in shards.tars]
        shards.collect(collector)

    def _open(self, entries: FileList, collector: MetadataCollector, lists: LabelLists) -> None:
        """Open the files as sources of texts."""
        options = self.options
        column_of = {"text": options.text} | ({"pair": options.pair} if options.pair else {})
        is_single_file = Path(options.root).is_file()
        whole_files = options.document == "file" or (options.document == "auto" and not is_single_file)
        fallback = self._legacy_encoding(entries) if whole_files else None
        self.sources = []
        for entry in entries:
            if options.columns or not entry.path.name.lower().endswith(PLAIN_EXTENSIONS):
                self.sources.append(read_text_source(entry, column_of, options, collector, lists))
                continue
            if options.pair:
                raise DataError(f"{entry.path} is plain text, which holds no pairs; leave dataset.pair out")
            source: TextSource = (
                TextDocument(entry.path, options.encoding, fallback)
                if whole_files
                else TextLines(entry.path, options.encoding)
            )
            collector.append_file(entry, len(source))
            self.sources.append(source)

    def _check_labels(self, entries: FileList) -> None:
        """Check that a table has the label column that the others have, for its rows would not be labelled.

        Raises:
            DataError: one has not, and neither its name nor its folder says its label, or that it has none.
        """
        chosen = [
            entry
            for entry in entries
            if entry.path.name.lower().endswith(TABLE_EXTENSIONS)
            and not entry.path.name.lower().endswith(JSON_EXTENSIONS)
            and entry.label is None
            and not any(map(is_unlabelled, (entry.path.stem, entry.path.parent.name)))
        ]
        if len(chosen) < 2:
            return
        reference, tables = open_tables(chosen, self.options)
        label = reference.metadata_columns(self.options.label, None, None).get("label")
        if label is not None:
            common = [name for name in reference.columns if all(name in table.columns for table in tables)]
            check_columns(tables, reference, [*common, label], label, self.options.test_root)

    def _with_labels(self, entries: FileList) -> FileList:
        """The files with the labels that their names may say."""
        return entries

    def _legacy_encoding(self, entries: Sequence[FileEntry]) -> str | None:
        """The encoding of the documents of a folder that are not UTF-8: the guess that most of some of them give."""
        if self.options.encoding:
            return None
        paths = [entry.path for entry in entries if entry.path.name.lower().endswith(PLAIN_EXTENSIONS)]
        guesses: Counter[str] = Counter()
        for index in spread(len(paths)) if paths else ():
            document = TextDocument(paths[index])
            try:
                document.texts(0)
            except BadSample:
                continue
            if document.encoding is not None and document.encoding.is_guess:
                guesses[document.encoding.name] += 1
        return guesses.most_common(1)[0][0] if guesses else None

    def _describe_files(self, entries: Sequence[FileEntry]) -> None:
        """Set the summary; doubt a guessed encoding, and lines that look like the rows of a table."""
        locate = self.locations.locate
        places = [locate(int(row)) for row in spread(int(self.locations.starts[-1]))]
        lengths = sampled_lengths((self.sources[file], index) for file, index in places)
        encodings = [source.encoding for source in self.sources]
        facts = {}
        if any(encodings):
            facts["encoding"] = count_encodings(encodings)
        if lengths:
            whole = "" if len(places) == self.locations.starts[-1] else f" (of {len(places)} texts)"
            facts["length"] = lengths_in_words(lengths, "characters") + whole
        guessed = [
            entry.name for entry, found in zip(entries, encodings, strict=True) if found is not None and found.is_guess
        ]
        if guessed:
            names = sorted({found.name for found in encodings if found is not None and found.is_guess})
            are = "is" if len(guessed) == 1 else "are"
            self.doubts += (
                f"{names_in_words(guessed)} {are} no UTF-8, and read as {', '.join(names)}; "
                f"dataset.encoding={names[0]} says so, or names another",
            )
        if self.options.document == "auto" and lengths and len(self.sources) < FEW_FILES:
            documents = [source for source in self.sources if isinstance(source, TextDocument)]
            if len(documents) == len(self.sources) and float(np.median(lengths)) > LONG_TEXT:
                self.doubts += (
                    f"each of the {len(documents)} files is one sample, of {np.median(lengths):,.0f} characters in the "
                    f"median; dataset.document=line makes each line a sample, dataset.document=file keeps the files",
                )
        tabbed = [
            entry.name
            for entry, source in zip(entries, self.sources, strict=True)
            if self.options.document == "auto" and isinstance(source, TextLines) and _has_columns(source)
        ]
        if tabbed:
            self.doubts += (
                f"each line of {names_in_words(tabbed)} has a tab in it, as the rows of a table; dataset.columns=label,"
                f"text names its columns, dataset.document=line says that a line is a text",
            )
        self.record_summary(entries, merge_columns(self.sources), findings_of(self.sources), facts)

    def schema(self) -> dict[str, Any]:
        """The classes, and whether a sample is one text or a pair."""
        return {**super().schema(), "classes": class_names(self.task), "texts": 2 if self.options.pair else 1}

    def conform(self, schema: Mapping[str, Any]) -> None:
        """Match the classes by name. Say so if samples were pairs in training and are not now, or the reverse."""
        super().conform(schema)
        conform_classes(self, schema)
        trained, given = schema.get("texts"), self.schema()["texts"]
        if trained is not None and trained != given:
            words = {1: "single texts", 2: "pairs of texts"}
            self.warnings += (
                f"the samples are {words[given]}, and the encoder was trained on {words[trained]}; dataset.pair names "
                f"the second text",
            )

    def __getitem__(self, index: int) -> Sample:
        """{"text": the text, or (2,) texts of a pair}.

        Raises:
            BadSample: the text is empty or not UTF-8.
        """
        file, index_in_file = self.locations.locate(int(self.rows[index]))
        texts = self.sources[file].texts(index_in_file)
        if not any(text.strip() for text in texts):
            raise BadSample("holds no text")
        return {"inputs": {"text": np.array(texts if len(texts) > 1 else texts[0])}, "label": self.label_of(index)}


def languages_of_names(names: Sequence[str]) -> list[str] | None:
    """The code of a language in each of several file names, at the same place; None if there is none."""
    parts = [re.split(r"[._]", name)[:-1] for name in names]
    if len(parts) < 2 or len({len(each) for each in parts}) > 1:
        return None
    codes = [column for column in zip(*parts, strict=True) if all(map(LANGUAGE.fullmatch, column))]
    return list(codes[0]) if len(codes) == 1 and len(set(codes[0])) > 1 else None


def _has_columns(source: TextLines) -> bool:
    """Whether several lines, and all that are looked at, have the same number of tabs."""
    counts = set()
    places = spread(len(source), LOOK_LINES) if len(source) > 1 else []
    for index in places:
        try:
            counts.add(source.line(index).strip("\r\n").count("\t"))
        except BadSample:
            continue
    return len(counts) == 1 and 0 not in counts


class MultilingualTextFiles(TextFiles):
    """Your own texts in any languages (txt or md by line or by file, JSON, CSV, Parquet): a text or a pair a sample."""

    modality = "multilingual-text"

    def _with_labels(self, entries: FileList) -> FileList:
        """The languages that the names of several files say, as xquad.de.json and xquad.en.json do, as labels."""
        languages = languages_of_names([entry.path.name for entry in entries])
        if languages is None or self.options.label_pattern or self.options.label or any(e.label for e in entries):
            return entries
        entries.facts["label"] = "the language in the name of each file"
        return entries.with_entries(
            replace(entry, label=language) for entry, language in zip(entries, languages, strict=True)
        )


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [TextFiles, MultilingualTextFiles]
