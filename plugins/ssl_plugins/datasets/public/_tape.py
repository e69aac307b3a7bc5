"""TAPE's protein files (Rao et al., 2019): one JSON array of records each, read in bounded memory (protocol 2.9).

A file becomes letters.npy, all sequences one after the other; offsets.npy, where each begins and the last ends; and
labels.npy, one for each sequence, or one for each residue beside its letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import Archive, DataError, PublicDataset, Sample, Source, Split, Text
from ssl_plugins.datasets._io.texts import open_text
from ssl_plugins.datasets.public._arrays import Mapped, NpyWriter

READ = 1 << 24  # characters that are read at once
LONGEST = 1 << 28  # characters of a record; a longer one is no record
BATCH = 1 << 16  # sequences that are written at once
BETWEEN = re.compile(r"[\s,]*")


def tape_source(archive: str, needs: Sequence[str], counts: dict[str, int]) -> Source:
    """One of TAPE's archives of raw data, and the arrays made of it."""
    return Source(
        homepage="https://github.com/songlab-cal/tape",
        terms="not stated; TAPE's code is BSD-3-Clause",
        folder="proteins",
        archives=(
            Archive(
                url=f"http://s3.amazonaws.com/songlabdata/proteindata/data_raw_pytorch/{archive}.tar.gz",
                file=f"{archive}.tar.gz", kind="tar", produces=archive,
            ),
        ),
        needs=tuple(needs),
        counts=counts,
    )  # fmt: skip


class Sequences:
    """Proteins of one file, memory-mapped."""

    def __init__(self, place: Path) -> None:
        self.letters, self.offsets, self.labels = (
            Mapped(place / f"{name}.npy") for name in ("letters", "offsets", "labels")
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, row: int) -> np.ndarray:
        """The sequence, whole, as an array of type str and shape ()."""
        return np.array(self.letters.array[self._span(row)].tobytes().decode("latin-1"))

    def residues(self, row: int) -> np.ndarray:
        """Its labels, where there is one for each residue."""
        return self.labels.array[self._span(row)]

    def _span(self, row: int) -> slice:
        return slice(*self.offsets.array[row : row + 2].tolist())


class Proteins(PublicDataset):
    """Rows of one file. A subclass sets `sequences`, `rows` (None for all) and `file` before this one's methods."""

    modality = "protein"
    sequences: Sequences
    file: str
    rows: np.ndarray | None = None

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"sequence": Text()}

    def __len__(self) -> int:
        return len(self.sequences) if self.rows is None else len(self.rows)

    def row(self, index: int) -> int:
        """Its place in the file, from 0."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index if self.rows is None else int(self.rows[index])

    def label(self, row: int) -> Any:
        """What is to be predicted of a row of the file."""
        return int(self.sequences.labels.array[row])

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": the letters} and the label."""
        row = self.row(index)
        return {"inputs": {"sequence": self.sequences.text(row)}, "label": self.label(row)}

    def describe(self, index: int) -> str:
        """File and record, counted from 1."""
        return f"{self.folder / self.file} record {self.row(index) + 1}"

    def fingerprint(self) -> str:
        """Changes with the arrays."""
        arrays = (self.sequences.letters, self.sequences.offsets, self.sequences.labels)
        return ":".join([super().fingerprint(), *(array.stamp() for array in arrays)])


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON array, one after the other. Errors: DataError with the record's number, from 1."""
    decoder = json.JSONDecoder()
    with open_text(path) as file:
        text = file.read(READ).lstrip()
        if not text.startswith("["):
            raise DataError(f"{path} is not a JSON array of records")
        at, done, more = 1, 0, True
        while True:
            at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if text.startswith("]", at):
                return
            try:
                record, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                if not more or len(text) - at > LONGEST:
                    raise DataError(f"{path} record {done + 1}: no JSON, or cut off ({error.msg})") from None
                # At least doubled, so that a record is not tried again and again.
                fresh = file.read(max(READ, len(text) - at))
                text, at, more = text[at:] + fresh, 0, bool(fresh)
                continue
            done += 1
            if not isinstance(record, dict):
                raise DataError(f"{path} record {done}: not an object")
            yield record


def to_arrays(path: Path, place: Path, column: str, dtype: type[np.generic], per_residue: bool = False) -> None:
    """Write letters.npy, offsets.npy and labels.npy of a file. Errors: DataError that names file and record.

    column: the records' entry that is the label: a number or a list of one, or with `per_residue` one for each residue.
    """
    done, end = 0, 0
    with (
        NpyWriter(place / "letters.npy", np.uint8) as letters,
        NpyWriter(place / "offsets.npy", np.int64) as offsets,
        NpyWriter(place / "labels.npy", dtype) as labels,
    ):
        offsets.append([0])
        for batch in _batches(path, column):
            sequences = [sequence for sequence, _ in batch]
            lengths = np.fromiter(map(len, sequences), np.int64, len(batch))
            wanted = lengths if per_residue else np.ones(len(batch), np.int64)
            labels.append(_labels(path, column, done, [label for _, label in batch], wanted, dtype))
            letters.append(np.frombuffer("".join(sequences).encode("latin-1", "replace"), dtype=np.uint8))
            offsets.append(end + np.cumsum(lengths))
            done, end = done + len(batch), end + int(lengths.sum())
    if done == 0:
        raise DataError(f"{path} holds no record")


def _batches(path: Path, column: str) -> Iterator[list[tuple[str, Any]]]:
    """What is used of the records, which hold much more."""
    batch: list[tuple[str, Any]] = []
    for number, record in enumerate(records(path), start=1):
        try:
            sequence, label = record["primary"], record[column]
        except KeyError as error:
            raise DataError(f"{path} record {number} has no {error}, only {', '.join(record)}") from None
        if not isinstance(sequence, str) or not sequence:
            raise DataError(f"{path} record {number}: 'primary' is no sequence but {sequence!r:.40}")
        batch.append((sequence, label))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _labels(
    path: Path, column: str, done: int, values: list[Any], wanted: np.ndarray, dtype: type[np.generic]
) -> np.ndarray:
    """One label, or as many as `wanted`, of each value, one after the other."""
    rows = [_flat(value) for value in values]
    for number, (row, count) in enumerate(zip(rows, wanted, strict=True), start=done + 1):
        if row is None or len(row) != count or not np.isfinite(row).all():
            what = "no finite numbers" if row is None or len(row) == count else f"{len(row)} numbers, not {count}"
            raise DataError(f"{path} record {number}: '{column}' holds {what}")
    return np.concatenate(rows).astype(dtype)  # type: ignore[arg-type]


def _flat(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
