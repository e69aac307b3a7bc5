"""Large public data as memory-mapped arrays: written once in chunks, then read row by row."""

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
    """A .npy file that rows are appended to. Its array is (n, *shape) once the file is closed."""

    def __init__(self, path: Path, dtype: Any, shape: Sequence[int] = ()) -> None:
        self.dtype, self.shape, self.count = np.dtype(dtype), tuple(shape), 0
        self.file = path.open("wb")
        self.file.write(bytes(HEADER))

    def append(self, rows: Any) -> None:
        """Append rows, (m, *shape)."""
        block = np.ascontiguousarray(rows, dtype=self.dtype)
        if block.shape[1:] != self.shape:
            raise ValueError(f"rows of shape {block.shape[1:]}, not {self.shape}")
        self.file.write(block.tobytes())
        self.count += len(block)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write the header into the reserved bytes. The npy format allows padding it with blanks."""
        fields = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        text = repr(fields | {"shape": (self.count, *self.shape)})
        start = np.lib.format.magic(1, 0) + struct.pack("<H", HEADER - 10)
        self.file.seek(0)
        self.file.write(start + text.ljust(HEADER - 11).encode("latin-1") + b"\n")
        self.file.close()


class LazyMemmap:
    """A .npy file that is memory-mapped at first use and pickled as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: np.ndarray | None = None

    @property
    def array(self) -> np.ndarray:
        """The memory-mapped array, read-only.

        Raises:
            DataError: if the file is missing or damaged.
        """
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

    def state(self) -> str:
        """Name, size and time of modification of the file."""
        status = self.path.stat()
        return f"{self.path.name}:{status.st_size}:{status.st_mtime_ns}"


@contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """A temporary folder to write into. It is renamed to `target` on success and removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        work.chmod(0o755)
        yield work
        try:
            os.rename(work, target)
        except OSError:
            if not target.is_dir():  # if it exists, another process has finished first
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def shuffled_order(count: int) -> np.ndarray:
    """(count,) a permutation by RandomState(42), the seed of the published splits."""
    return np.random.RandomState(SPLIT_SEED).permutation(count)


class NinetyTenOptions(PublicDataset.Options):
    """Options of data sets that are split 90/10."""

    protocol: Literal["fixed", "published"] = Field(
        "fixed",
        description="published: one test sample fewer where a tenth of the samples is a whole number, as MetaMAE",
    )


def head_tail(rows: np.ndarray, split: Split, protocol: Literal["fixed", "published"]) -> np.ndarray:
    """The first ceil(0.9 n) rows for training, the last floor(0.1 n) for the test.

    With "published" the test split is the last int((1 - 0.9) * n) rows, as in MetaMAE's code. In floating point that
    is one row fewer where 0.1 n is a whole number.
    """
    count = len(rows)
    if split == "train":
        return rows[: count - count // 10]
    test_count = count // 10 if protocol == "fixed" else int((1 - 0.9) * count)
    return rows[count - test_count :]
