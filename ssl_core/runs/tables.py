"""Tables that are written a batch at a time, as Parquet or CSV, completely or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ssl_core.errors import ConfigError, DataError
from ssl_core.utils.files import new_file

Written = TypeVar("Written")


@dataclass(frozen=True)
class TablePart:
    """Some rows of a table: columns of equal length by name, and the number of samples that they are of."""

    columns: Mapping[str, Any]
    samples: int


def stem_of(path: str | os.PathLike[str]) -> str:
    """What results on a file, a folder or the files of a pattern are called: of a pattern, the folder's name."""
    whole = Path(path).resolve()
    return whole.parent.name if any(letter in whole.name for letter in "*?[") and not whole.exists() else whole.stem


def written_line(path: Path, samples: int, existed: bool) -> str:
    """What a command says of a table that it wrote."""
    return f"written: {path} ({samples:,} samples{', in place of an earlier file' * existed})"


def check_ending(path: Path, endings: Collection[str]) -> None:
    """Raises:
    ConfigError: a path ends in none of the endings.
    """
    if path.suffix.lower() not in endings:
        raise ConfigError(f"--out {path} must end in {', '.join(endings)}")


def write_whole(path: Path, write: Callable[[Path], Written]) -> Written:
    """Call `write` with a path beside `path` that takes its place at the end, and make the folder.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part:
            return write(part)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; free space or name another file") from None


def write_parquet(
    parts: Iterator[TablePart], path: Path, texts: Sequence[str] = (), numbers: Sequence[str] = ()
) -> int:  # fmt: skip
    """Write a Parquet file and return the number of samples.

    Args:
        parts: the rows.
        path: the file.
        texts: columns of texts, in which values may be None.
        numbers: columns of float64, in which values may be None.
    """
    import pyarrow
    import pyarrow.parquet

    count, writer = 0, None
    kinds: dict[str, Any] = dict.fromkeys(texts, pyarrow.string()) | dict.fromkeys(numbers, pyarrow.float64())
    convert: dict[str, Callable[[Any], Any]] = dict.fromkeys(texts, str) | dict.fromkeys(numbers, float)
    try:
        for part in parts:
            columns = dict(part.columns)
            for name, kind in kinds.items():
                if name in columns:
                    values = [None if value is None else convert[name](value) for value in columns[name]]
                    columns[name] = pyarrow.array(values, kind)
            table = pyarrow.table(columns)
            writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            count += part.samples
    finally:
        if writer is not None:
            writer.close()
    return count


def write_csv(parts: Iterator[TablePart], path: Path) -> int:
    """Write a CSV file, with nothing for None, and return the number of samples."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for part in parts:
            if not count:
                writer.writerow(part.columns)
            writer.writerows(zip(*part.columns.values(), strict=True))
            count += part.samples
    return count
