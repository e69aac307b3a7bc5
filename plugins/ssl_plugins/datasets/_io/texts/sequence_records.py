"""Reads files of sequences: FASTA, FASTQ, GenBank, a sequence a line. One pass finds the position of each record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import Column, DataError
from ssl_plugins.datasets._io.texts.encodings import Encoding, FileBytes, with_compressions
from ssl_plugins.datasets._io.texts.lines import TextLines, TextSource

FASTA_EXTENSIONS = with_compressions(
    (".fasta", ".fa", ".fas", ".fsa", ".fna", ".faa", ".ffn", ".frn", ".mpfa", ".fastq", ".fq", ".gb", ".gbk", ".gbff",
     ".genbank", ".gp", ".gpff")
)  # fmt: skip
"""Files of records with a header. What a file holds is decided by its first byte, not by its ending."""
LINE_EXTENSIONS = with_compressions((".txt", ".seq"))
"""Files of a sequence a line, unless their first byte is that of another format."""
NUCLEOTIDE_EXTENSIONS = with_compressions((".fna", ".ffn", ".frn", ".fastq", ".fq"))
PROTEIN_EXTENSIONS = with_compressions((".faa", ".mpfa", ".gp", ".gpff"))
SCAN_BYTES = 4 << 20
COUNT_BYTES = 32 << 20
HEADER_START, LINE_FEED, CARRIAGE_RETURN = ord(">"), ord("\n"), ord("\r")
BLANKS = b" \t\r\n"


class SequenceRecords:
    """Records with a header and a sequence. A subclass sets where the sequence of each record lies in the file.

    Args:
        path: the file.
        file: its bytes.
    """

    line_numbers, unit = None, "record"
    encoding: Encoding | None = None
    columns: tuple[Column, ...] = ()
    starts: np.ndarray
    stops: np.ndarray

    def __init__(self, path: Path, file: FileBytes) -> None:
        self.path, self.file = path, file

    def __len__(self) -> int:
        return len(self.starts)

    def header(self, index: int) -> str:
        """The name and description of a record."""
        raise NotImplementedError

    def texts(self, index: int) -> list[str]:
        """The sequence, its lines joined."""
        sequence: bytes = self.file.data[self.starts[index] : self.stops[index]].translate(None, BLANKS)
        return [sequence.decode("latin-1")]

    def sequence_lengths(self) -> np.ndarray:
        """(n,) int64, the number of letters of each sequence."""
        lengths = np.zeros(len(self), np.int64)
        first = 0
        while first < len(self):
            limit = self.starts[first] + COUNT_BYTES
            last = max(first + 1, int(np.searchsorted(self.stops, limit, side="right")))
            base = int(self.starts[first])
            is_letter = self.file.array[base : int(self.stops[last - 1])] > ord(" ")
            edges = np.stack([self.starts[first:last], self.stops[first:last]], axis=1).ravel() - base
            counts = np.add.reduceat(np.append(is_letter, False), edges, dtype=np.int64)[::2]
            lengths[first:last] = np.where(self.stops[first:last] > self.starts[first:last], counts, 0)
            first = last
        return lengths


class FastaRecords(SequenceRecords):
    """FASTA: a header after '>', then a sequence on one or several lines. Lines end with LF, CR LF or CR."""

    def __init__(self, path: Path, file: FileBytes) -> None:
        super().__init__(path, file)
        data, array, first = file.data, file.array, file.text_start
        chunks = []
        for begin in range(0, len(array), SCAN_BYTES):
            candidates = np.flatnonzero(array[begin : begin + SCAN_BYTES] == HEADER_START) + begin
            before = array[np.maximum(candidates - 1, 0)]
            starts_line = (candidates == first) | (before == LINE_FEED) | (before == CARRIAGE_RETURN)
            chunks.append(candidates[starts_line])
        self.headers = np.concatenate(chunks) if chunks else np.zeros(0, np.int64)
        head = bytes(data[first : self.headers[0] if len(self.headers) else len(array)])
        if any(line.strip() and not line.startswith(b";") for line in head.splitlines()):
            raise DataError(f"{path} line 1 is no FASTA header; each record begins with a line '>name'")
        newline = bytes([file.newline])
        ends = [data.find(newline, header) for header in self.headers.tolist()]
        self.starts = np.array([end if end >= 0 else len(array) for end in ends], np.int64)
        self.stops = np.append(self.headers[1:], len(array))[: len(self.headers)].astype(np.int64)

    def header(self, index: int) -> str:
        """The header without its '>'."""
        return str(self.file.data[self.headers[index] + 1 : self.starts[index]], "utf-8", "replace").strip()


class FastqRecords(SequenceRecords):
    """FASTQ: four lines a record, '@name', the sequence, '+' and the quality, which is not used."""

    def __init__(self, path: Path, file: FileBytes) -> None:
        super().__init__(path, file)
        array, newline = file.array, file.newline
        chunks = [
            np.flatnonzero(array[begin : begin + SCAN_BYTES] == newline) + begin
            for begin in range(0, len(array), SCAN_BYTES)
        ]
        stops = np.concatenate([*chunks, [len(array)]]).astype(np.int64)
        starts = np.concatenate([[file.text_start], stops[:-1] + 1]).astype(np.int64)
        stripped = stops - (array[np.maximum(stops - 1, 0)] == CARRIAGE_RETURN)
        while len(starts) and starts[-1] >= stripped[-1]:
            starts, stops, stripped = starts[:-1], stops[:-1], stripped[:-1]
        count = len(starts) // 4
        marks = [array[np.minimum(starts[line : 4 * count : 4], len(array) - 1)] for line in (0, 2)]
        bad = np.flatnonzero((marks[0] != ord("@")) | (marks[1] != ord("+")))
        if len(bad) or len(starts) % 4:
            line = 4 * int(bad[0] if len(bad) else count) + 1
            raise DataError(
                f"{path} line {line} begins no FASTQ record of four lines (@name, sequence, +, quality); write it so, "
                f"or convert it to FASTA"
            )
        self.headers, self.header_stops = starts[::4], stripped[::4]
        self.starts, self.stops = starts[1::4], stripped[1::4]

    def header(self, index: int) -> str:
        """The header without its '@'."""
        return str(self.file.data[self.headers[index] + 1 : self.header_stops[index]], "utf-8", "replace").strip()


class GenbankRecords(SequenceRecords):
    """GenBank and GenPept: from LOCUS to '//', the sequence after ORIGIN.

    The header is accession, definition and organism. A record without a sequence, as those that only name their
    contigs, is empty.
    """

    ORIGIN, END = re.compile(rb"^ORIGIN[^\r\n]*", re.MULTILINE), re.compile(rb"^//", re.MULTILINE)
    FIELDS = re.compile(rb"^(?:ACCESSION|DEFINITION|  ORGANISM) +((?:.*)(?:\r?\n {12}[^\r\n]*)?)", re.MULTILINE)

    def __init__(self, path: Path, file: FileBytes) -> None:
        super().__init__(path, file)
        data, size = file.data, len(file.array)
        headers, starts, stops, position = [], [], [], file.text_start
        while position < size and (locus := data.find(b"LOCUS", position)) >= 0:
            end = self.END.search(data, locus)
            stop = end.start() if end else size
            origin = self.ORIGIN.search(data, locus, stop)
            headers.append(locus)
            starts.append(origin.end() if origin else stop)
            stops.append(stop)
            position = stop + 2
        self.headers, self.starts, self.stops = (np.array(x, np.int64) for x in (headers, starts, stops))

    def header(self, index: int) -> str:
        """Accession, definition and organism."""
        head = bytes(self.file.data[self.headers[index] : min(self.starts[index], self.headers[index] + 65536)])
        fields = [match[1].decode("utf-8", "replace") for match in self.FIELDS.finditer(head)]
        return " ".join(" ".join(fields).split())

    def texts(self, index: int) -> list[str]:
        """The sequence, without the numbers of its lines."""
        return [super().texts(index)[0].translate(_NO_DIGITS).upper()]

    def sequence_lengths(self) -> np.ndarray:
        """(n,) int64, the number of letters of each sequence."""
        return np.array([len(self.texts(index)[0]) for index in range(len(self))], np.int64)


_NO_DIGITS = str.maketrans("", "", "0123456789")


def read_sequences(path: Path, encoding: str | None) -> TextSource:
    """Read a file of sequences that is no table. Its first byte decides on its format.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    file = FileBytes(path, encoding, detect=False)
    head = bytes(file.data[file.text_start : file.text_start + 4096]).lstrip()
    if head.startswith(b"@"):
        return FastqRecords(path, file)
    if head.startswith(b"LOCUS "):
        return GenbankRecords(path, file)
    if head[:1] in (b">", b";") or not path.name.lower().endswith(LINE_EXTENSIONS):
        return FastaRecords(path, file)
    return TextLines(path, encoding)


def sequence_lengths(source: TextSource) -> np.ndarray:
    """(n,) int64, the number of letters of each sequence of a file."""
    if isinstance(source, SequenceRecords):
        return source.sequence_lengths()
    return np.array([len(source.texts(index)[0].strip()) for index in range(len(source))], np.int64)


# --- what the letters are -------------------------------------------------------------------------------------------

NUCLEOTIDES = "ACGTUN"
AMBIGUOUS = "RYSWKMBDHV"  # of two or three bases, by IUPAC
RESIDUES_ALONE = "EFILPQ"  # residues whose letters stand for no base
ENOUGH_LETTERS = 100
RARE = 0.001
SHOWN_LETTERS = 40
LOOK_RECORDS, LOOK_LETTERS = 5, 4000  # of each file


def letter_counts(source: TextSource) -> np.ndarray:
    """(256,) int64, how often each byte occurs in the beginning of some sequences of a file, in upper case."""
    counts = np.zeros(256, np.int64)
    for index in np.unique(np.linspace(0, len(source) - 1, LOOK_RECORDS).astype(int)).tolist():
        text = _beginning(source, index).upper()
        counts += np.bincount(np.frombuffer(text.encode("latin-1", "replace"), np.uint8), minlength=256)
    return counts


def _beginning(source: TextSource, index: int) -> str:
    """The first letters of a sequence; does not read a whole genome."""
    if type(source) in (FastaRecords, FastqRecords) and isinstance(source, SequenceRecords):
        stop = min(int(source.stops[index]), int(source.starts[index]) + LOOK_LETTERS)
        text: bytes = source.file.data[source.starts[index] : stop].translate(None, BLANKS)
        return text.decode("latin-1")
    return source.texts(index)[0].strip()[:LOOK_LETTERS]


def kind_of_letters(counts: np.ndarray) -> str:
    """ "DNA", "RNA" or "protein" by counts of letters; "" if they are too few or neither."""
    of = {letter: int(counts[ord(letter)]) for letter in NUCLEOTIDES + RESIDUES_ALONE}
    total = int(counts[ord("A") : ord("Z") + 1].sum())
    if total < ENOUGH_LETTERS:
        return ""
    if sum(of[letter] for letter in NUCLEOTIDES) >= 0.98 * total and of["N"] < total:
        return "RNA" if of["U"] and not of["T"] else "DNA"
    return "protein" if sum(of[letter] for letter in RESIDUES_ALONE) > 0.02 * total else ""


def describe_letters(counts: np.ndarray) -> str:
    """The letters in words, rare ones last with their share: "A, C, G, T, N 0.1 %"."""
    shares = {byte: counts[byte] / counts.sum() for byte in np.flatnonzero(counts).tolist()}
    rare = sorted((byte for byte, share in shares.items() if share < RARE), key=lambda byte: -shares[byte])
    parts = [_letter(byte) for byte in shares if byte not in rare]
    parts += [f"{_letter(byte)} {100 * shares[byte]:.2g} %" for byte in rare]
    return ", ".join(parts[:SHOWN_LETTERS]) + (", ..." if len(parts) > SHOWN_LETTERS else "")


def _letter(byte: int) -> str:
    return chr(byte) if 32 < byte < 127 else f"byte {byte}"


def lengths_in_words(lengths: Sequence[int] | np.ndarray, unit: str) -> str:
    """Smallest, median and largest length."""
    values: Any = np.asarray(lengths)
    if values.min() == values.max():
        return f"{values[0]:,} {unit}"
    return f"{values.min():,} to {values.max():,} {unit}, median {int(np.median(values)):,}"
