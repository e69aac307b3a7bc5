"""Large public data as memory-mapped arrays: written once in pieces, then read a row at a time."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import DataError, PublicDataset, Split

HEADER = 256
SPLIT_SEED = 42


class NpyWriter:
    """A .npy file that grows row by row: (n, *shape) once it is closed, n not known before."""

    def __init__(self, path: Path, dtype: Any, shape: Sequence[int] = ()) -> None:
        self.dtype, self.shape, self.count = np.dtype(dtype), tuple(shape), 0
        self.file = path.open("wb")
        self.file.write(bytes(HEADER))

    def append(self, rows: Any) -> None:
        """Add rows, (m, *shape)."""
        block = np.ascontiguousarray(rows, dtype=self.dtype)
        if block.shape[1:] != self.shape:
            raise ValueError(f"rows of shape {block.shape[1:]}, not {self.shape}")
        self.file.write(block.tobytes())
        self.count += len(block)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write the header in the room left for it; npy lets it be filled up with blanks."""
        facts = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        text = repr(facts | {"shape": (self.count, *self.shape)})
        start = np.lib.format.magic(1, 0) + struct.pack("<H", HEADER - 10)
        self.file.seek(0)
        self.file.write(start + text.ljust(HEADER - 11).encode("latin-1") + b"\n")
        self.file.close()


class Mapped:
    """A .npy file that is opened when first used, and pickled by its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: np.ndarray | None = None

    @property
    def array(self) -> np.ndarray:
        """The array, memory-mapped, read only. Errors: DataError if the file is damaged."""
        if self._array is None:
            try:
                self._array = np.load(self.path, mmap_mode="r").view(np.ndarray)
            except (OSError, ValueError, EOFError):
                raise DataError(
                    f"{self.path} is missing or damaged; remove {self.path.parent} and run `sslx data prepare` again"
                ) from None
        return self._array

    def __len__(self) -> int:
        return len(self.array)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_array": None}

    def stamp(self) -> str:
        """Changes when the file does."""
        found = self.path.stat()
        return f"{self.path.name}:{found.st_size}:{found.st_mtime_ns}"


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` when all went well, and nothing otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        work.chmod(0o755)
        yield work
        try:
            os.rename(work, target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def shuffled(count: int) -> np.ndarray:
    """The order of rows that the protocol calls "pandas shuffle 42" (section 2.0)."""
    return np.random.RandomState(SPLIT_SEED).permutation(count)


class NinetyTen(PublicDataset.Options):
    """Options of what is cut 90/10 (section 2.0)."""

    protocol: Literal["fixed", "published"] = Field(
        "fixed", description="published: leave out a test sample, as MetaMAE's rounding does where 0.1 n is whole"
    )


def head_tail(rows: np.ndarray, split: Split, protocol: Literal["fixed", "published"]) -> np.ndarray:
    """The first ceil(0.9 n) rows for training, the last floor(0.1 n) for the test.

    As published MetaMAE tests on the last int((1 - 0.9) n), one fewer where 0.1 n is whole (D47).
    """
    count = len(rows)
    if split == "train":
        return rows[: count - count // 10]
    held = count // 10 if protocol == "fixed" else int((1 - 0.9) * count)
    return rows[count - held :]
