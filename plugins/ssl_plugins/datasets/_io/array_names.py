"""Reads the labels and groups that arrays hold, in whatever type their format stores names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa

MOST_SHOWN = 40


def names_of_array(path: Path, array_name: str, count: int, kind: str, values: np.ndarray) -> Any:
    """The name of each of `count` samples, a pyarrow array of texts; NaN and empty cells are missing.

    Bytes are texts in UTF-8.

    Args:
        path: the file, for messages.
        array_name: what its samples are called in messages.
        count: number of samples.
        kind: "label" or "group".
        values: an array of numbers or texts, or the cells of an array of objects.

    Raises:
        DataError: there is another number of values, or one of them is no name.
    """
    if values.size != count:
        raise DataError(f"{path}: {array_name} has {count} samples, but {values.size} {kind}s")
    flat = values.reshape(-1)
    names: list[str | None]
    if flat.dtype.kind in "uibU":
        names = flat.astype(str).tolist()
    elif flat.dtype.kind == "f":
        names = [
            None if is_nan else name for name, is_nan in zip(flat.astype(str).tolist(), np.isnan(flat), strict=True)
        ]
    elif flat.dtype.kind in "SO":
        names = [_name_of_cell(path, kind, number, cell) for number, cell in enumerate(flat.tolist(), start=1)]
    else:
        raise DataError(f"{path}: the {kind}s are {flat.dtype}; save them as texts or numbers, one for each sample")
    return pa.array(names, pa.string())


def _name_of_cell(path: Path, kind: str, number: int, cell: Any) -> str | None:
    """The text of a cell, which may be an array of one value; None if it is empty or NaN."""
    while isinstance(cell, np.ndarray) and cell.size == 1:
        cell = cell.reshape(-1)[0]
    if cell is None or (isinstance(cell, np.ndarray) and not cell.size):
        return None
    if isinstance(cell, bytes):
        try:
            return cell.decode("utf-8")
        except UnicodeDecodeError:
            shown = cell.decode("utf-8", "backslashreplace")
            raise DataError(
                f"{path}: the {kind} of sample {number} is '{shown:.{MOST_SHOWN}}', which is not UTF-8; save the "
                f"{kind}s as text in UTF-8"
            ) from None
    if isinstance(cell, str | bool | int | float | np.number | np.bool_):
        return None if isinstance(cell, float | np.floating) and np.isnan(cell) else str(cell)
    what = f"an array of shape {cell.shape}" if isinstance(cell, np.ndarray) else f"of type {type(cell).__name__}"
    raise DataError(f"{path}: the {kind} of sample {number} is {what}; save a text or a number for each sample")
