"""Finds samples that are copies of others: files of equal content, equal rows, equal series.

Copies are the same number in an array of codes. They are kept in one split; see `splitting.split_rows`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ssl_core import BadSample
from ssl_plugins.datasets._io.files.state import file_state

CHUNK = 1 << 20
END_BYTES = 4096  # of each end of a file, that are compared before its whole content
LOOK_ROWS = 10_000  # of which different values are counted
POSSIBLE_ROWS = 50


def copies_of_files(paths: Sequence[Path]) -> np.ndarray | None:
    """(n,) int64: files of one content have one number. None if no two are alike.

    Only files of equal size are read, and of these at first the two ends alone. A file that cannot be read is like no
    other.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        try:
            size = path.stat().st_size
        except (OSError, ValueError):
            continue
        if size and path.is_file():
            by_size[size].append(index)
    codes = np.arange(len(paths))
    for rows in by_size.values():
        for alike in _alike(paths, rows, _digest_of_ends):
            for same in _alike(paths, alike, _digest):
                codes[same] = same[0]
    return codes if (codes != np.arange(len(paths))).any() else None


def _alike(paths: Sequence[Path], rows: Sequence[int], digest: Callable[[Path, str], bytes]) -> Iterable[list[int]]:
    """The rows in groups of one digest, of two files or more."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row in rows if len(rows) > 1 else ():
        try:
            groups[digest(paths[row], file_state(paths[row]))].append(row)
        except OSError:
            continue
    return [group for group in groups.values() if len(group) > 1]


@lru_cache(maxsize=1 << 18)
def _digest_of_ends(path: Path, state: str) -> bytes:
    """Of the first and last bytes of a file. state: of the file, as `file_state` gives it, so that results are kept."""
    with path.open("rb") as file:
        head = file.read(END_BYTES)
        size = int(state.split("\0")[0])
        file.seek(max(len(head), size - END_BYTES))
        return hashlib.blake2b(head + b"\0" + file.read(END_BYTES), digest_size=16).digest()


@lru_cache(maxsize=1 << 16)
def _digest(path: Path, state: str) -> bytes:
    """Of the content of a file. state: as of `_digest_of_ends`."""
    digest = hashlib.blake2b(state.split("\0")[0].encode(), digest_size=16)
    with path.open("rb") as file:
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
