"""Several files of one set of sequences: a letter for each residue in files of their own, and other splits of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.splitting import SPLIT_NAMES, SampleMetadata, split_name_of
from ssl_plugins.datasets._io.texts.lines import TextSource
from ssl_plugins.datasets._io.texts.sequence_records import FastaRecords

SPLIT_ATTRIBUTE = re.compile(rf"(?i)\b(?:set|split|subset|partition)=({'|'.join(SPLIT_NAMES)})\b")
VALIDATION_ATTRIBUTE = re.compile(r"(?i)\bvalidation=true\b")
LOOK_RECORDS = 50  # whose lengths and letters are compared
FEWER_LETTERS = 0.6  # of the sequences' own letters: annotations have at most this share
MOST_COMPARED = 2_000_000  # sequences whose splits are compared across files


def splits_in_headers(source: FastaRecords) -> list[str] | None:
    """The split of each record that its header names, as `SET=train VALIDATION=False` does; None if not all do."""
    if not len(source) or SPLIT_ATTRIBUTE.search(source.header(0)) is None:
        return None
    found: list[str] = []
    for index in range(len(source)):
        header = source.header(index)
        match = SPLIT_ATTRIBUTE.search(header)
        if match is None:
            return None
        split = SPLIT_NAMES[match[1].lower()]
        found.append("validation" if split == "train" and VALIDATION_ATTRIBUTE.search(header) else split)
    return found


@dataclass(frozen=True)
class Annotations:
    """Files that hold a letter for each residue of another one.

    Args:
        entries: these files.
        of: the file of the sequences.
        splits: the split of each of its records by the headers of the annotations; None where no single one says so.
    """

    entries: tuple[FileEntry, ...]
    of: FileEntry
    splits: list[str] | None


def find_annotations(entries: Sequence[FileEntry], sources: Sequence[TextSource]) -> list[Annotations]:
    """The annotations among FASTA files: all records are named like some of another file, as long, of fewer letters."""
    records = [
        (entry, source)
        for entry, source in zip(entries, sources, strict=True)
        if isinstance(source, FastaRecords) and len(source)
    ]
    if len(records) < 2:
        return []
    names = [{_name(source, i): i for i in range(len(source))} for _, source in records]
    found: dict[int, list[int]] = {}
    for one, (_, annotation) in enumerate(records):
        for other, (_, sequences) in enumerate(records):
            is_other = one != other and names[one].keys() <= names[other].keys()
            if is_other and _annotates(annotation, sequences, names[other]):
                found.setdefault(other, []).append(one)
    annotations = {one for ones in found.values() for one in ones}
    out = []
    for other, ones in found.items():
        if other in annotations:
            continue
        named = [(one, splits) for one in ones if (splits := splits_in_headers(records[one][1])) is not None]
        splits = None
        if len(named) == 1:
            one, of_annotation = named[0]
            splits = ["train"] * len(records[other][1])  # a sequence without an annotation is for pretraining
            for name, index in names[one].items():
                splits[names[other][name]] = of_annotation[index]
        out.append(Annotations(tuple(records[one][0] for one in ones), records[other][0], splits))
    return out


def _name(source: FastaRecords, index: int) -> str:
    return source.header(index).split(" ", 1)[0]


def _annotates(annotation: FastaRecords, sequences: FastaRecords, index_of: dict[str, int]) -> bool:
    own: set[str] = set()
    theirs: set[str] = set()
    for index in np.unique(np.linspace(0, len(annotation) - 1, LOOK_RECORDS).astype(int)).tolist():
        letters = annotation.texts(index)[0]
        residues = sequences.texts(index_of[_name(annotation, index)])[0]
        if len(letters) != len(residues):
            return False
        own |= set(letters)
        theirs |= set(residues)
    return len(own) <= FEWER_LETTERS * len(theirs)


def check_one_split(sources: Sequence[TextSource], metadata: SampleMetadata, paths: Sequence[str]) -> None:
    """Refuse files that put the same sequence into different splits: each is one way to split the same data.

    Args:
        sources: the files.
        metadata: the samples of all of them.
        paths: the paths of the files, for the message.

    Raises:
        DataError: they do; the message names one to read.
    """
    if metadata.split is None or len(sources) < 2 or metadata.count > MOST_COMPARED:
        return
    splits = [split_name_of(name) for name in metadata.split.names]
    codes, edges = metadata.split.codes, np.cumsum([0, *map(len, sources)])
    whole = [file for file in range(len(sources)) if len(np.unique(codes[edges[file] : edges[file + 1]])) > 1]
    if len(whole) < 2:  # of files that are one split each, or a part of one
        return
    known: dict[bytes, tuple[int, str | None]] = {}
    for file in whole:
        source = sources[file]
        for index in range(len(source)):
            row = int(edges[file]) + index
            digest = hashlib.blake2b(source.texts(index)[0].encode("utf-8", "replace"), digest_size=16).digest()
            split = splits[codes[row]]
            other_file, other = known.setdefault(digest, (file, split))
            if other_file != file and other != split:
                raise DataError(
                    f"{metadata.describe(row)} is in the {split} split, and the same sequence in that of {other} in "
                    f"another file: the files are several splits of one data set; name one of them, as in --data "
                    f"{paths[other_file]}"
                )


def with_splits(entry: FileEntry, splits: Sequence[str]) -> list[FileEntry]:
    """An entry for each record of a file, with its split."""
    return [replace(entry, split=split) for split in splits]
