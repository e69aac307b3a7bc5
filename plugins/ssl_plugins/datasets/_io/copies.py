"""Finds samples that are copies of others: files of equal content, equal rows, equal series.

Copies are the same number in an array of codes. They are kept in one split; see `splitting.split_rows`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ssl_core import BadSample
from ssl_plugins.datasets._io.files.state import file_state

CHUNK = 1 << 20
END_BYTES = 4096  # of each end of a file, that are compared before its whole content
LOOK_ROWS = 10_000  # of which different values are counted
POSSIBLE_ROWS = 50


class Content(Protocol):
    """A file, or a part of one. It is a key of caches, so that it changes when its file does."""

    @property
    def size(self) -> int:
        """Bytes; 0 if it cannot be read."""

    def open(self) -> BinaryIO:
        """Open it for reading.

        Raises:
            BadSample, OSError: it cannot be read.
        """


@dataclass(frozen=True)
class FileContent:
    """A whole file. state: of the file, as `file_state` gives it."""

    path: Path
    state: str

    @property
    def size(self) -> int:
        """Bytes; 0 if it is no regular file."""
        try:
            return self.path.stat().st_size if self.path.is_file() else 0
        except (OSError, ValueError):
            return 0

    def open(self) -> BinaryIO:
        """The file."""
        return self.path.open("rb")


def copies_of_files(paths: Sequence[Path]) -> np.ndarray | None:
    """(n,) int64: files of one content have one number. None if no two are alike; see `copies_of_contents`."""
    return copies_of_contents([FileContent(path, file_state(path)) for path in paths])


def copies_of_contents(contents: Sequence[Content]) -> np.ndarray | None:
    """(n,) int64: equal contents have one number. None if no two are alike.

    Only contents of equal size are read, and of these at first the two ends alone. One that cannot be read is like no
    other.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        if size := content.size:
            by_size[size].append(index)
    codes = np.arange(len(contents))
    for rows in by_size.values():
        for alike in _alike(contents, rows, _digest_of_ends):
            for same in _alike(contents, alike, _digest):
                codes[same] = same[0]
    return codes if (codes != np.arange(len(contents))).any() else None


def _alike(contents: Sequence[Content], rows: Sequence[int], digest: Callable[..., bytes]) -> Iterable[list[int]]:
    """The rows in groups of one digest, of two contents or more."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows if len(rows) > 1 else ():
        try:
            groups[digest(contents[row])].append(row)
        except (OSError, BadSample):
            continue
    return [group for group in groups.values() if len(group) > 1]


@lru_cache(maxsize=1 << 18)
def _digest_of_ends(content: Content) -> bytes:
    """Of the first and last bytes."""
    size = content.size
    with content.open() as file:
        head = file.read(END_BYTES)
        file.seek(max(len(head), size - END_BYTES))
        return hashlib.blake2b(head + b"\0" + file.read(END_BYTES), digest_size=16).digest()


@lru_cache(maxsize=1 << 16)
def _digest(content: Content) -> bytes:
    """Of the whole content."""
    digest = hashlib.blake2b(str(content.size).encode(), digest_size=16)
    with content.open() as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.digest()


def copies_of_rows(
    blocks: Iterable[Iterable[np.ndarray]], heads: Iterable[np.ndarray], count: int
) -> np.ndarray | None:
    """(n,) int64: equal rows have one number. None if no two are equal, or if equal rows may well be no copies.

    They are none if there are few different rows: if the columns, each with the values that it has, allow fewer than
    `POSSIBLE_ROWS` rows for each row that there is.

    Args:
        blocks: consecutive rows: of each block its columns, (rows,) numbers of 4 or 8 bytes each.
        heads: the first `LOOK_ROWS` values of each column.
        count: number of rows.
    """
    codes, start = np.zeros(count, np.uint64), 0
    for block in blocks:
        length = 0
        for column in block:
            length = len(column)
            part = codes[start : start + length]
            part ^= _bits(column)
            part *= np.uint64(0x9E3779B97F4A7C15)
            part ^= part >> np.uint64(29)
        start += length
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    if len(first) == count:
        return None
    possible, enough = 0.0, float(np.log(POSSIBLE_ROWS * count))  # logarithms of numbers of rows
    for column in heads:
        possible += float(np.log(len(np.unique(_bits(column)))))
        if possible >= enough:
            return first[inverse]
    return None


def _bits(column: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(column).view(f"u{column.dtype.itemsize}").astype(np.uint64)


def copies_of_arrays(arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    """(n,) int64: equal arrays have one number. None if no two are equal. Only arrays of one shape are compared."""
    codes, seen = np.arange(len(arrays)), dict[tuple[tuple[int, ...], bytes], int]()
    shapes: dict[tuple[int, ...], int] = defaultdict(int)
    for array in arrays:
        shapes[array.shape] += 1
    for index, array in enumerate(arrays):
        if shapes[array.shape] > 1:
            digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
            codes[index] = seen.setdefault((array.shape, digest), index)
    return codes if len(np.unique(codes)) < len(codes) else None


class Samples(Protocol):
    """Arrays by index."""

    def __len__(self) -> int: ...

    def view(self, index: int) -> np.ndarray:
        """One of them, as it lies in memory or in a file that is mapped into it."""


def copies_of_samples(parts: Sequence[Samples]) -> np.ndarray | None:
    """(n,) int64: equal samples of all parts have one number. None if no two are equal.

    One sample is in memory at a time. At first the two ends of each are compared, so that little of a large file is
    read.
    """
    places = [(part, index) for part in parts for index in range(len(part))]
    codes, groups = np.arange(len(places)), defaultdict[bytes, list[int]](list)
    for row, (part, index) in enumerate(places):
        groups[_digest_of_array(part.view(index), ends=True)].append(row)
    for rows in groups.values():
        first: dict[bytes, int] = {}
        for row in rows if len(rows) > 1 else ():
            part, index = places[row]
            codes[row] = first.setdefault(_digest_of_array(part.view(index)), row)
    return codes if (codes != np.arange(len(codes))).any() else None


def _digest_of_array(array: np.ndarray, ends: bool = False) -> bytes:
    """Of type, shape and values; ends: of the first and last of these alone."""
    digest = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    count = END_BYTES // array.dtype.itemsize
    if ends and array.size > 2 * count:
        flat = array.reshape(-1)
        digest.update(flat[:count].tobytes() + flat[-count:].tobytes())
    else:
        digest.update(array.tobytes())
    return digest.digest()


def copies_of_digests(digests: Iterable[bytes | None]) -> np.ndarray | None:
    """(n,) int64: samples of equal digests have one number. None if no two are equal. None is like no other."""
    seen: dict[bytes, int] = {}
    codes = [index if one is None else seen.setdefault(one, index) for index, one in enumerate(digests)]
    return np.array(codes, np.int64) if any(code != index for index, code in enumerate(codes)) else None


def digest_of_bytes(content: bytes) -> bytes:
    """As `digest_of_file` of a file of these bytes."""
    return hashlib.blake2b(str(len(content)).encode() + content, digest_size=16).digest()


def digest_of_file(path: Path) -> bytes | None:
    """Of a file's whole content; None if it cannot be read."""
    try:
        return _digest(FileContent(path, file_state(path)))
    except OSError:
        return None


def copies_of_texts(texts: Iterable[Callable[[], Sequence[str]]]) -> np.ndarray | None:
    """(n,) int64: equal texts, or pairs of texts, have one number. None if no two are equal.

    Args:
        texts: reads a text, or the texts of a pair. One that cannot be read is like no other.
    """
    seen: dict[bytes, int] = {}
    codes = []
    for index, read in enumerate(texts):
        try:
            parts = read()
        except BadSample:
            seen[str(index).encode()] = index  # no digest is this short
            codes.append(index)
            continue
        content = "\0".join(parts).encode("utf-8", "surrogatepass")
        codes.append(seen.setdefault(hashlib.blake2b(content, digest_size=16).digest(), index))
    return np.array(codes, np.int64) if len(seen) < len(codes) else None
