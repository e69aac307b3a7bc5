"""Texts by line. One pass finds the position of each line; a line is read when it is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ssl_core import BadSample, Column
from ssl_plugins.datasets._io.texts.encodings import Encoding, FileBytes

SCAN_BYTES = 4 << 20
NEWLINE = ord("\n")


@dataclass(frozen=True)
class Findings:
    """What was found while a table or a file of JSON was read, by kind; see `summaries.ReadTable`."""

    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)


class TextSource(Protocol):
    """The samples of one file."""

    @property
    def line_numbers(self) -> np.ndarray | None:
        """(n,) line of each sample from 1; None if every line or row is a sample."""

    @property
    def unit(self) -> str:
        """What a sample is called in messages; empty if the file is one sample."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns or keys; empty if it has none."""

    @property
    def encoding(self) -> Encoding | None:
        """Its encoding, where that is known."""

    def __len__(self) -> int: ...

    def texts(self, index: int) -> list[str]:
        """The texts of one sample.

        Raises:
            BadSample: the sample is not text.
        """


class TextLines:
    """A text on each line that is not blank.

    Args:
        path: the file.
        encoding: its encoding; None = it is detected.
    """

    unit = "line"
    columns: tuple[Column, ...] = ()

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.file = FileBytes(path, encoding)
        begin = self.file.text_start
        starts, stops, self.line_numbers = scan_lines(self.file.array[begin:], self.file.newline)
        self.starts, self.stops = starts + begin, stops + begin

    @property
    def encoding(self) -> Encoding | None:
        """The encoding of the file."""
        return self.file.encoding

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, index: int) -> str:
        """One line as text.

        Raises:
            BadSample: the line is not UTF-8.
        """
        try:
            return str(self.file.data[self.starts[index] : self.stops[index]], "utf-8")
        except UnicodeDecodeError:
            raise BadSample("is not UTF-8 text") from None

    def texts(self, index: int) -> list[str]:
        """The stripped line.

        Raises:
            BadSample: the line is not UTF-8.
        """
        return [self.line(index).strip().removeprefix("\ufeff")]


def columns_of(names: Sequence[str], texts: Collection[str], metadata: Mapping[str, str]) -> tuple[Column, ...]:
    """Names and roles of the columns or keys of a file of texts.

    Args:
        names: all columns.
        texts: those that are read as texts.
        metadata: maps "label", "group", "split" and "id" to columns.
    """
    roles: dict[str, Any] = dict.fromkeys(texts, "input")
    roles |= {name: kind for kind, name in metadata.items() if kind != "id"}
    return tuple(
        Column(name, roles.get(name, "left out"), "text" if name in texts else "category")
        for name in dict.fromkeys([*names, *texts])
    )


def scan_lines(data: np.ndarray, newline: int = NEWLINE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends and numbers (from 1) of the lines that are not blank. data: (size,) uint8."""
    ends, counts_at_ends, total = [], [], 0
    for begin in range(0, len(data), SCAN_BYTES):
        chunk = data[begin : begin + SCAN_BYTES]
        nonblank = np.cumsum(chunk > ord(" "), dtype=np.int64) + total
        newlines = np.flatnonzero(chunk == newline)
        ends.append(newlines + begin)
        counts_at_ends.append(nonblank[newlines])
        total = int(nonblank[-1])
    stops = np.concatenate([*ends, [len(data)]]).astype(np.int64)
    counts = np.concatenate([*counts_at_ends, [total]]).astype(np.int64)
    starts = np.concatenate([[0], stops[:-1] + 1])
    lines = np.flatnonzero(np.diff(counts, prepend=0) > 0)
    return starts[lines], stops[lines], lines + 1
