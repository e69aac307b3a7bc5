"""Bytes of text files: decompressed, with their encoding detected, as UTF-8."""

from __future__ import annotations

import codecs
import lzma
import mmap
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar
from weakref import ReferenceType, ref

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.files.kind import COMPRESSION_ENDINGS, COMPRESSIONS, open_decompressed
from ssl_plugins.datasets._io.tables.encoding import guess_encoding

READ_ERRORS = (OSError, EOFError, ValueError, lzma.LZMAError)
MAX_UNPACKED = 8 << 30  # bytes; an unpacked file is held in memory
BLOCK_BYTES = 4 << 20
SAMPLE_BYTES = 256 << 10  # of text, to guess an encoding
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
MAX_OPEN = 64


@dataclass(frozen=True)
class Encoding:
    """An encoding by Python's name. is_guess: neither the file nor an option names it, and it is not UTF-8."""

    name: str
    is_guess: bool = False


def with_compressions(extensions: Iterable[str]) -> tuple[str, ...]:
    """Each extension alone and followed by that of a compression."""
    return tuple(extension + suffix for extension in extensions for suffix in ("", *COMPRESSION_ENDINGS))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked if its first bytes are those of a compression.

    Raises:
        DataError: the file cannot be read, or unpacks to more than `MAX_UNPACKED` bytes.
    """
    try:
        with open_decompressed(path, compression_of(path)) as file:
            return _bounded(path, file)
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def compression_of(path: Path) -> str | None:
    """The compression that the first bytes of a file name."""
    with path.open("rb") as file:
        start = file.read(16)
    return next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), None)


def _bounded(path: Path, file: IO[Any]) -> bytes:
    chunks, size = [], 0
    while chunk := file.read(BLOCK_BYTES):
        size += len(chunk)
        if size > MAX_UNPACKED:
            raise DataError(f"{path} unpacks to more than {MAX_UNPACKED >> 30} GiB; unpack it, and use the file")
        chunks.append(chunk)
    return b"".join(chunks)


def encoding_of(data: Any) -> Encoding:
    """The encoding of a text: named by its byte order mark, UTF-8, UTF-16 without a mark, or a guess.

    Text that is mostly UTF-8 is UTF-8 with damaged lines.

    Args:
        data: bytes or mmap.

    Raises:
        ValueError: the data is no text.
    """
    head = bytes(data[:4096])
    for bom, name in BOMS:
        if head.startswith(bom):
            return Encoding(name)
    if b"\0" in head:
        zeros = [head[start::2].count(0) / max(1, len(head[start::2])) for start in (0, 1)]
        if max(zeros) > 0.3 and min(zeros) < 0.05:
            return Encoding("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le", is_guess=True)
        raise ValueError("it is no text, since it holds zero bytes")
    if is_utf8(data):
        return Encoding("utf-8")
    sample = _foreign_bytes(data)
    text = sample.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) > 2 * damaged:
        return Encoding("utf-8")
    return Encoding(guess_encoding(sample), is_guess=True)


def is_utf8(data: Any) -> bool:
    """Whether bytes are valid UTF-8; blocks of ASCII are skipped quickly."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    array = np.frombuffer(data, np.uint8)
    try:
        for begin in range(0, len(array), BLOCK_BYTES):
            block = array[begin : begin + BLOCK_BYTES]
            if decoder.getstate()[0] or (block >= 0x80).any():
                decoder.decode(block.tobytes())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _foreign_bytes(data: Any) -> bytes:
    """The beginning of the lines that are not ASCII alone, at most `SAMPLE_BYTES`."""
    out, size, position = [], 0, 0
    for begin in range(0, len(data), BLOCK_BYTES):
        block = np.frombuffer(data, np.uint8, min(BLOCK_BYTES, len(data) - begin), begin)
        for offset in np.flatnonzero(block >= 0x80).tolist():
            if begin + offset < position:
                continue
            first = max(position, begin + offset - 1024)
            start = max(first, data.rfind(b"\n", first, begin + offset) + 1)
            stop = data.find(b"\n", begin + offset)
            position = min(stop + 1 if stop >= 0 else len(data), start + 4096)
            out.append(bytes(data[start:position]))
            size += position - start
            if size >= SAMPLE_BYTES:
                return b"".join(out)
    return b"".join(out)


def decode(path: Path, data: Any, encoding: str | None) -> tuple[str, Encoding]:
    """A whole file as text, and its encoding, which is detected unless it is given.

    Raises:
        DataError: the file is no text in this encoding.
    """
    try:
        found = Encoding(encoding) if encoding else encoding_of(data)
        return str(data, found.name), found
    except (UnicodeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text: {_reason(error)}; {_cure(encoding)}") from None


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not {error.encoding.upper()}"
    return " ".join(str(error).split())


def _cure(encoding: str | None) -> str:
    return "set dataset.encoding to another" if encoding else "set dataset.encoding, or remove the file"


class FileBytes:
    """The bytes of a text file as UTF-8: memory-mapped if the file is that, else held in memory; pickled by its path.

    At most `MAX_OPEN` files are mapped at a time; others are mapped again when they are used.

    Args:
        path: the file.
        encoding: its encoding; None = it is detected.
        detect: without it, only a byte order mark is looked for, and other bytes are taken as they are.
    """

    _mapped: ClassVar[deque[ReferenceType[FileBytes]]] = deque()

    def __init__(self, path: Path, encoding: str | None = None, detect: bool = True) -> None:
        self.path = path
        self.option, self.detect = encoding, detect
        self.encoding: Encoding | None = None
        self._data: Any = None

    @property
    def data(self) -> Any:
        """bytes or mmap.

        Raises:
            DataError: the file cannot be read, or is no text in its encoding.
        """
        if self._data is None:
            self._data = self._load()
        return self._data

    def _load(self) -> Any:
        try:
            if compression_of(self.path) is not None:
                data: Any = read_bytes(self.path)
            else:
                with self.path.open("rb") as file:
                    is_empty = self.path.stat().st_size == 0  # an empty file cannot be mapped
                    data = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except READ_ERRORS as error:
            raise DataError(f"{self.path} cannot be read: {' '.join(str(error).split())}") from None
        if self.encoding is None:
            self.encoding = self._find_encoding(data)
        if codecs.lookup(self.encoding.name).name not in ("utf-8", "utf-8-sig", "ascii"):
            try:
                data = str(data, self.encoding.name).removeprefix("\ufeff").encode("utf-8", "replace")
            except (UnicodeError, ValueError) as error:
                raise DataError(f"{self.path} cannot be read as text: {_reason(error)}; {_cure(self.option)}") from None
        elif isinstance(data, mmap.mmap):
            self._keep_few_open()
        return data

    def _find_encoding(self, data: Any) -> Encoding:
        if self.option:
            return Encoding(self.option)
        if not self.detect:
            head = bytes(data[:4])
            return Encoding(next((name for bom, name in BOMS if head.startswith(bom)), "utf-8"))
        try:
            return encoding_of(data)
        except ValueError as error:
            raise DataError(f"{self.path} cannot be read as text: {error}; {_cure(None)}") from None

    def _keep_few_open(self) -> None:
        self._mapped.append(ref(self))
        while len(self._mapped) > MAX_OPEN:
            other = self._mapped.popleft()()
            if other is not None and other is not self:
                other._data = None

    @property
    def text_start(self) -> int:
        """Position of the first byte after the UTF-8 byte order mark that some editors write."""
        return len(codecs.BOM_UTF8) if self.data[: len(codecs.BOM_UTF8)] == codecs.BOM_UTF8 else 0

    @property
    def array(self) -> np.ndarray:
        """(size,) uint8."""
        return np.frombuffer(self.data, np.uint8)

    @property
    def newline(self) -> int:
        """The byte that ends a line: a line feed, or a carriage return where the file has no line feed."""
        return ord("\r") if self.data.find(b"\n") < 0 and self.data.find(b"\r") >= 0 else ord("\n")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_data": None}
