"""Text files of nothing but numbers, read in pieces of bounded size; what is wrong is named by its row."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssl_core import DataError

if TYPE_CHECKING:
    import pandas as pd

UNREADABLE = (ValueError, EOFError, OSError, zlib.error)  # pandas' own errors are ValueErrors


def numbers(path: Path, columns: int, separator: str, rows: int, missing: bool = False) -> Iterator[np.ndarray]:
    """Pieces of a table without a header: (m, columns) float64, m at most `rows`. A path that ends in .gz is unpacked.

    separator: "," or " " for any blanks. missing: whether "NaN" may stand for a value. Errors: DataError that names
    the file and the row (from 1) of another number of columns, of what is no number, or of a damaged file.
    """
    import pandas as pd  # slow to import, and most data sets need none

    done = 0
    try:
        pieces = pd.read_csv(  # type: ignore[call-overload]
            path, sep=r"\s+" if separator == " " else separator, header=None, chunksize=rows, engine="c",
            # As text, so that "NaN" and a row that ends early can be told apart.
            dtype=dict.fromkeys(range(columns - 1), np.float64) | {columns - 1: str},
            keep_default_na=False, na_values={column: ["NaN"] for column in range(columns - 1)},
            compression="gzip" if path.suffix == ".gz" else None,
        )  # fmt: skip
        with pieces:
            for piece in pieces:
                yield _checked(piece, columns, missing)
                done += len(piece)
    except UNREADABLE as error:
        raise _diagnosis(path, columns, separator, missing, done, error) from None
    if done == 0:
        raise DataError(f"{path} is empty")


def _checked(piece: pd.DataFrame, columns: int, missing: bool) -> np.ndarray:
    """Errors: ValueError where the piece is not what it should be."""
    width = piece.shape[1]
    if width != columns:
        raise ValueError(f"{width} columns")
    last = piece.pop(columns - 1)  # type: ignore[arg-type]
    if last.isna().any() or (last == "").any():
        raise ValueError("a short row")
    table = np.empty((len(last), columns))
    table[:, :-1] = piece.to_numpy()
    table[:, -1] = last.to_numpy().astype(np.float64)
    if np.isinf(table).any() or (not missing and np.isnan(table).any()):
        raise ValueError("a missing or infinite value")
    return table


def _diagnosis(
    path: Path, columns: int, separator: str, missing: bool, done: int, error: Exception
) -> DataError:  # fmt: skip
    """The first row at fault, looked for line by line from the piece that failed. Blank lines are no rows."""
    try:
        with (
            gzip.open(path, "rt", encoding="latin-1") if path.suffix == ".gz" else path.open(encoding="latin-1") as file
        ):
            lines = (line for line in file if line.strip())
            for row, line in enumerate(itertools.islice(lines, done, None), start=done + 1):
                problem = _problem(line, columns, separator, missing)
                if problem:
                    return DataError(f"{path} row {row}: {problem}")
    except UNREADABLE as broken:
        error = broken
    said = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read: {said}")


def _problem(line: str, columns: int, separator: str, missing: bool) -> str | None:
    values = line.split() if separator == " " else line.strip("\r\n").split(separator)
    if len(values) != columns:
        return f"{len(values)} columns, not {columns}"
    for column, value in enumerate(values, start=1):
        try:
            number = float(value)
        except ValueError:
            return f"column {column} is '{value[:40]}', not a number"
        if np.isinf(number) or (np.isnan(number) and not missing):
            return f"column {column} is '{value}'"
    return None
