"""TAPE's protein files (Rao et al., 2019): each a JSON array of records, read in bounded memory.

A file is converted to letters.npy, the concatenated sequences; offsets.npy, the start of each sequence and the end of
the last; and labels.npy, one label for each sequence or for each residue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import Archive, DataError, PublicDataset, Sample, Source, Split, Text
from ssl_plugins.datasets._io.texts.texts import open_text
from ssl_plugins.datasets.public._arrays import LazyMemmap, NpyWriter

READ = 1 << 24  # characters to read at once
LONGEST = 1 << 28  # characters of a record; beyond that the file counts as damaged
BATCH = 1 << 16  # sequences to write at once
SEPARATOR = re.compile(r"[\s,]*")


def tape_source(archive: str, required_paths: Sequence[str], sample_counts: dict[str, int]) -> Source:
    """One of TAPE's archives of raw data, and the arrays that it is converted to."""
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
        required_paths=tuple(required_paths),
        sample_counts=sample_counts,
    )  # fmt: skip


class SequenceArrays:
    """The memory-mapped arrays of one file."""

    def __init__(self, folder: Path) -> None:
        self.letters, self.offsets, self.labels = (
            LazyMemmap(folder / f"{name}.npy") for name in ("letters", "offsets", "labels")
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, row: int) -> np.ndarray:
        """The sequence as an array of type str and shape ()."""
        return np.array(self.letters.array[self._span(row)].tobytes().decode("latin-1"))

    def residues(self, row: int) -> np.ndarray:
        """The labels of a sequence whose residues are labelled."""
        return self.labels.array[self._span(row)]

    def _span(self, row: int) -> slice:
        return slice(*self.offsets.array[row : row + 2].tolist())


class ProteinDataset(PublicDataset):
    """Rows of one file. A subclass sets `sequences`, `file` and, for a part of the file, `rows` in its `__init__`."""

    modality = "protein"
    sequences: SequenceArrays
    file: str
    rows: np.ndarray | None = None

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"sequence": Text()}

    def __len__(self) -> int:
        return len(self.sequences) if self.rows is None else len(self.rows)

    def row(self, index: int) -> int:
        """The number of a sample's record, from 0.

        Raises:
            IndexError: for an index outside the split.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index if self.rows is None else int(self.rows[index])

    def label(self, row: int) -> Any:
        """The label of a record."""
        return int(self.sequences.labels.array[row])

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": the letters} and the label."""
        row = self.row(index)
        return {"inputs": {"sequence": self.sequences.text(row)}, "label": self.label(row)}

    def describe(self, index: int) -> str:
        """File and number of the record, from 1."""
        return f"{self.folder / self.file} record {self.row(index) + 1}"

    def fingerprint(self) -> str:
        """Changes with the options and the arrays."""
        arrays = (self.sequences.letters, self.sequences.offsets, self.sequences.labels)
        return ":".join([super().fingerprint(), *(array.state() for array in arrays)])


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON array, one at a time.

    Raises:
        DataError: for a damaged file, with the number of the record, from 1.
    """
    decoder = json.JSONDecoder()
    with open_text(path) as file:
        text = file.read(READ).lstrip()
        if not text.startswith("["):
            raise DataError(f"{path} is not a JSON array of records")
        at, done, more = 1, 0, True
        while True:
            at = SEPARATOR.match(text, at).end()  # type: ignore[union-attr]  # it always matches
            if text.startswith("]", at):
                return
            try:
                record, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                if not more or len(text) - at > LONGEST:
                    raise DataError(f"{path} record {done + 1}: no JSON, or cut off ({error.msg})") from None
                # The text at least doubles, so that a long record is not parsed many times.
                chunk = file.read(max(READ, len(text) - at))
                text, at, more = text[at:] + chunk, 0, bool(chunk)
                continue
            done += 1
            if not isinstance(record, dict):
                raise DataError(f"{path} record {done}: not an object")
            yield record


def write_arrays(path: Path, folder: Path, column: str, dtype: type[np.generic], per_residue: bool = False) -> None:
    """Write letters.npy, offsets.npy and labels.npy of a file.

    Args:
        path: JSON file.
        folder: folder to write into.
        column: key of the label in a record: a number or a list of one, or, with `per_residue`, one for each residue.
        dtype: type of the labels.
        per_residue: whether residues are labelled.

    Raises:
        DataError: for a damaged record, with file and record.
    """
    done, end = 0, 0
    with (
        NpyWriter(folder / "letters.npy", np.uint8) as letters,
        NpyWriter(folder / "offsets.npy", np.int64) as offsets,
        NpyWriter(folder / "labels.npy", dtype) as labels,
    ):
        offsets.append([0])
        for batch in _batches(path, column):
            sequences = [sequence for sequence, _ in batch]
            lengths = np.fromiter(map(len, sequences), np.int64, len(batch))
            counts = lengths if per_residue else np.ones(len(batch), np.int64)
            labels.append(_labels(path, column, done, [label for _, label in batch], counts, dtype))
            letters.append(np.frombuffer("".join(sequences).encode("latin-1", "replace"), dtype=np.uint8))
            offsets.append(end + np.cumsum(lengths))
            done, end = done + len(batch), end + int(lengths.sum())
    if done == 0:
        raise DataError(f"{path} holds no record")


def _batches(path: Path, column: str) -> Iterator[list[tuple[str, Any]]]:
    """Sequence and label of each record, in batches."""
    batch: list[tuple[str, Any]] = []
    for number, record in enumerate(read_records(path), start=1):
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
    path: Path, column: str, done: int, values: list[Any], counts: np.ndarray, dtype: type[np.generic]
) -> np.ndarray:
    """The labels of a batch, concatenated: counts[i] labels of record i.

    Raises:
        DataError: for a record with another number of labels, or with labels that are not finite.
    """
    rows = [_to_vector(value) for value in values]
    for number, (row, count) in enumerate(zip(rows, counts, strict=True), start=done + 1):
        if row is None or len(row) != count or not np.isfinite(row).all():
            what = "no finite numbers" if row is None or len(row) == count else f"{len(row)} numbers, not {count}"
            raise DataError(f"{path} record {number}: '{column}' holds {what}")
    return np.concatenate(rows).astype(dtype)  # type: ignore[arg-type]


def _to_vector(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return None
