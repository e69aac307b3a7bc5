"""Zarr stores: folders that hold arrays, and are listed and read as one file."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError

ENDING = ".zarr"
MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Files at the top of a store: of version 3, and of a group or an array of version 2."""
CURE = "pip install 'sslx[zarr]'"
ARRAY = "data"  # what the only array of a store without groups is called


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return path.name.lower().endswith(ENDING) and any((path / mark).is_file() for mark in MARKS)


def is_group(path: Path) -> bool:
    """Whether a store holds named arrays, as an .npz file does, and is no single array."""
    try:
        node = json.loads((path / MARKS[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (path / MARKS[1]).is_file()
    return isinstance(node, dict) and node.get("node_type") == "group"


def store_state(path: Path) -> str:
    """Names, sizes and modification times of all files of a store, as one text."""
    found = []
    for folder, _, files in os.walk(path):
        for name in files:
            status = os.stat(os.path.join(folder, name))
            found.append((os.path.relpath(os.path.join(folder, name), path), status.st_size, status.st_mtime_ns))
    return repr(sorted(found))


def load_store(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a store by their paths in it, in memory.

    Raises:
        DataError: zarr is not installed, or the store cannot be read.
    """
    try:
        zarr = importlib.import_module("zarr")
    except ImportError:
        raise DataError(f"{path} is a Zarr store, which needs {CURE}") from None
    arrays: dict[str, np.ndarray] = {}

    def visit(node: Any, name: str) -> None:
        if not hasattr(node, "members") and not hasattr(node, "groups"):
            arrays[name or ARRAY] = np.asarray(node[...])
            return
        for key in sorted(node.keys()):
            visit(node[key], f"{name}/{key}" if name else key)

    try:
        visit(zarr.open(str(path), mode="r"), "")
    except Exception as error:  # a damaged chunk raises what its codec does
        raise DataError(f"{path} cannot be read as a Zarr store: {' '.join(str(error).split()):.200}") from None
    return arrays
