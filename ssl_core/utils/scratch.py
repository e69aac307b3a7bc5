"""Large arrays outside of the memory: they lie in a file of the cache that disappears with them."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.errors import ConfigError
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.units import size_text

IN_MEMORY = 256 << 20
"""Bytes of an array that is still in memory."""
FOLDER = "scratch"


def scratch_array(shape: Sequence[int], dtype: Any, in_memory: int = IN_MEMORY) -> np.ndarray:
    """An array to fill: in memory, or memory-mapped in the cache if it has more than `in_memory` bytes.

    The system writes pages of a mapped array to disk when memory is short. The file has no name where the system allows
    it, so that a process that is killed leaves none.

    Raises:
        ConfigError: the disk of the cache has no room for it.
    """
    shape, dtype = tuple(shape), np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size <= in_memory:
        return np.empty(shape, dtype)
    folder = cache_dir() / FOLDER
    folder.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here; on writing a page it is a crash
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        array: np.ndarray = np.memmap(name, dtype, "r+", shape=shape)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise ConfigError(
            f"{size_text(size)} of data larger than memory find no room in {folder} ({error.strerror}); "
            f"`sslx cache prune --older-than 30d` makes room, or set SSLX_CACHE_DIR to a folder on a larger disk"
        ) from None
    finally:
        os.close(handle)
    try:
        Path(name).unlink()
    except OSError:  # Windows keeps the file while it is mapped
        weakref.finalize(array, _unlink, name)
    return array


def _unlink(name: str) -> None:
    with contextlib.suppress(OSError):
        Path(name).unlink(missing_ok=True)
