"""What was read of files of texts and sequences, in words: columns, files, encodings, lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ssl_core import BadSample, Column
from ssl_plugins.datasets._io.texts.encodings import Encoding
from ssl_plugins.datasets._io.texts.json_records import JsonRecords
from ssl_plugins.datasets._io.texts.lines import Findings, TextSource
from ssl_plugins.datasets._io.texts.texts import TextColumns

LOOK_TEXTS = 200  # texts whose length is measured
NAMED = 3  # files that a message names


def merge_columns(sources: Iterable[TextSource]) -> tuple[Column, ...]:
    """The columns of all files, each name once."""
    return tuple({column.name: column for source in sources for column in source.columns}.values())


def findings_of(sources: Iterable[TextSource]) -> list[Findings]:
    """What was found in the tables and files of JSON among the files."""
    return [source.findings for source in sources if isinstance(source, TextColumns | JsonRecords)]


def names_in_words(names: Sequence[str]) -> str:
    """The first names, and how many there are more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def count_encodings(encodings: Iterable[Encoding | None]) -> str:
    """The encodings of all files, the most frequent first: "utf-8", or "utf-8 (18 files), cp1252 (2 files)"."""
    names = Counter(_label(encoding) for encoding in encodings if encoding is not None).most_common()
    if len(names) == 1:
        return names[0][0]
    return ", ".join(f"{name} ({count} file{'s' * (count > 1)})" for name, count in names)


def _label(encoding: Encoding) -> str:
    name = encoding.name.replace("_", "-").removesuffix("-sig")
    return f"{name} guessed" if encoding.is_guess else name


def spread(count: int, most: int = LOOK_TEXTS) -> list[int]:
    """At most `most` indices, evenly spaced over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def sampled_lengths(source_of: Iterable[tuple[TextSource, int]]) -> list[int]:
    """Characters of each text that can be read."""
    lengths = []
    for source, index in source_of:
        try:
            lengths += [len(text) for text in source.texts(index) if text.strip()]
        except BadSample:
            continue
    return lengths
