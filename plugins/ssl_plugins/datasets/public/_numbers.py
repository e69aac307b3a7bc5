"""Tables of numbers in text files, read in chunks; error messages name the row."""

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

READ_ERRORS = (ValueError, EOFError, OSError, zlib.error)  # the errors of pandas are ValueErrors


def read_numbers(path: Path, columns: int, separator: str, rows: int, allow_nan: bool = False) -> Iterator[np.ndarray]:
    """Chunks of a table without a header: (m, columns) float64, where m is at most `rows`.

    Args:
        path: text file; decompressed if it ends in .gz.
        columns: number of columns.
        separator: "," or " ", which stands for any blanks.
        rows: rows of a chunk.
        allow_nan: whether a value may be "NaN".

    Raises:
        DataError: for a damaged file, or a row with another number of columns or a value that is not a number. The
            message names file and row, counted from 1.
    """
    import pandas as pd  # slow to import, and few data sets need it

    done = 0
    try:
        chunks = pd.read_csv(  # type: ignore[call-overload]
            path, sep=r"\s+" if separator == " " else separator, header=None, chunksize=rows, engine="c",
            # The last column is text, which distinguishes "NaN" from a row that ends early.
            dtype=dict.fromkeys(range(columns - 1), np.float64) | {columns - 1: str},
            keep_default_na=False, na_values={column: ["NaN"] for column in range(columns - 1)},
            compression="gzip" if path.suffix == ".gz" else None,
        )  # fmt: skip
        with chunks:
            for chunk in chunks:
                yield _validate(chunk, columns, allow_nan)
                done += len(chunk)
    except READ_ERRORS as error:
        raise _diagnose(path, columns, separator, allow_nan, done, error) from None
    if done == 0:
        raise DataError(f"{path} is empty")


def _validate(chunk: pd.DataFrame, columns: int, allow_nan: bool) -> np.ndarray:
    """The chunk as an array.

    Raises:
        ValueError: if it has other columns, a short row, or a value that is not allowed.
    """
    width = chunk.shape[1]
    if width != columns:
        raise ValueError(f"{width} columns")
    last = chunk.pop(columns - 1)  # type: ignore[arg-type]
    if last.isna().any() or (last == "").any():
        raise ValueError("a short row")
    table = np.empty((len(last), columns))
    table[:, :-1] = chunk.to_numpy()
    table[:, -1] = last.to_numpy().astype(np.float64)
    if np.isinf(table).any() or (not allow_nan and np.isnan(table).any()):
        raise ValueError("a missing or infinite value")
    return table


def _diagnose(
    path: Path, columns: int, separator: str, allow_nan: bool, done: int, error: Exception
) -> DataError:  # fmt: skip
    """The error of the first invalid row from row `done` on, found line by line. Blank lines do not count as rows."""
    try:
        with (
            gzip.open(path, "rt", encoding="latin-1") if path.suffix == ".gz" else path.open(encoding="latin-1") as file
        ):
            lines = (line for line in file if line.strip())
            for row, line in enumerate(itertools.islice(lines, done, None), start=done + 1):
                problem = _find_problem(line, columns, separator, allow_nan)
                if problem:
                    return DataError(f"{path} row {row}: {problem}")
    except READ_ERRORS as second_error:
        error = second_error
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read: {reason}")


def _find_problem(line: str, columns: int, separator: str, allow_nan: bool) -> str | None:
    values = line.split() if separator == " " else line.strip("\r\n").split(separator)
    if len(values) != columns:
        return f"{len(values)} columns, not {columns}"
    for column, value in enumerate(values, start=1):
        try:
            number = float(value)
        except ValueError:
            return f"column {column} is '{value[:40]}', not a number"
        if np.isinf(number) or (np.isnan(number) and not allow_nan):
            return f"column {column} is '{value}'"
    return None
