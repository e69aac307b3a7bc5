"""Tables of the user in any format, their columns, and the label, group and split of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError
from ssl_plugins.datasets._io.arrow import pa, pc
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.splitting import VALIDATION_NAMES, DescribeRow, LabelEncoder, SampleMetadata
from ssl_plugins.datasets._io.tables.columns import (
    MISSING,
    NUMBER,
    as_names,
    as_numbers,
    as_text,
    has_decimals,
    number_error,
    numeric_share,
    shown,
)
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS
from ssl_plugins.datasets._io.tables.table import Block, Table

__all__ = [
    "MISSING", "Block", "MetadataCollector", "Table", "as_names", "as_numbers", "as_text", "check_extensions",
    "has_decimals", "number_error", "numeric_share",
]  # fmt: skip

NUMERIC_LABEL_CURE = "name a column or an array of numbers label, set dataset.label, or leave dataset.task=number out"


class MetadataCollector:
    """Collects label, group and split of all rows of several files, from columns or else from each file's entry.

    Labels with decimals are regression targets, unless `task` is "classes": where the first block has some, and where
    all labels of all rows are numbers and one has some. Rows without a label are for pretraining alone.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.encoders = {kind: LabelEncoder() for kind in METADATA_COLUMNS}
        self.target_chunks: list[np.ndarray] | None = None
        self.label_names: tuple[str, ...] = ()
        self.row_count = 0
        self.is_decided = False  # whether labels are numbers or classes
        self.id_chunks: list[Any] = []  # of all rows if a column names them
        self.are_columns = False  # whether labels come from columns, not from the names of files or folders

    def append(self, block: Block, columns: dict[str, str], entry: FileEntry, describe: DescribeRow) -> None:
        """Append a block of rows of one file.

        Args:
            block: the rows.
            columns: maps "label", "group" and "split" to columns of the block, "id" to one that names the rows.
            entry: the file, whose metadata holds for rows without such a column. Its split overrides the column, but
            for rows of the validation split in a file of the training split.
            describe: names a row of the block in messages.

        Raises:
            DataError: a label is not a number where others are.
        """
        count = len(next(iter(block.values())))
        columns = dict(columns)
        for kind, name in columns.items():
            if pa.types.is_nested(block[name].type):
                raise DataError(
                    f"{describe(0)}: column '{name}' holds lists or structures, and the {kind} is one value; write one "
                    f"value a row, or name another column in dataset.{kind}"
                )
        self._append_ids(count, as_names(block[columns.pop("id")]) if "id" in columns else None)
        if "label" in columns and not self.is_decided:
            self._decide(block[columns["label"]])
        if self.target_chunks is not None:
            label = columns.pop("label", None)
            self.target_chunks.append(
                np.full(count, np.nan) if label is None else self._targets_of(block[label], describe)
            )
        for kind, encoder in self.encoders.items():
            name = getattr(entry, kind)
            if kind in columns and (kind != "split" or name is None):
                encoder.append(as_names(block[columns[kind]]))
            elif kind in columns and name == "train":
                encoder.append(_train_or_validation(block[columns[kind]]))
            else:
                encoder.append_constant(None if kind == "label" and self.target_chunks is not None else name, count)
        self.row_count += count

    def append_file(self, entry: FileEntry, count: int) -> None:
        """Append `count` samples of a file that has no columns."""
        for kind, encoder in self.encoders.items():
            encoder.append_constant(getattr(entry, kind), count)
        self._append_ids(count)
        self._append_without_target(count)

    def append_entries(self, entries: Sequence[FileEntry]) -> None:
        """Append one sample for each entry."""
        for kind, encoder in self.encoders.items():
            encoder.append_names(getattr(entry, kind) for entry in entries)
        self._append_ids(len(entries))
        self._append_without_target(len(entries))

    def set_label_sets(self, sets: np.ndarray, names: Sequence[str] = ()) -> None:
        """Give the rows that were appended last several labels each.

        Args:
            sets: (n, k) 0 or 1, -1 where there is none.
            names: names of the k labels.
        """
        if self.target_chunks is None:
            self.target_chunks = [np.full(self.row_count - len(sets), np.nan), sets]
        else:
            self.target_chunks[-1] = sets
        self.is_decided = True
        self.label_names = tuple(names) or self.label_names

    def _append_ids(self, count: int, names: Any = None) -> None:
        self.id_chunks.append(pa.nulls(count, pa.string()) if names is None else names.cast(pa.string()))

    def _append_without_target(self, count: int) -> None:
        if self.target_chunks is not None:
            self.target_chunks.append(np.full(count, np.nan))
        self.row_count += count

    def _decide(self, label: Any) -> None:
        """Decide by the first labels whether they are numbers. Rows before have no number."""
        if self.task != "number" and as_names(label).null_count == len(label):
            return
        self.is_decided = self.are_columns = True
        if self.task == "number" or (self.task == "auto" and has_decimals(label)):
            self.target_chunks = [np.full(self.row_count, np.nan)]
            self.encoders["label"] = LabelEncoder()
            self.encoders["label"].append_constant(None, self.row_count)

    def _targets_of(self, column: Any, describe: DescribeRow) -> np.ndarray:
        values, invalid = as_numbers(column)
        if invalid is not None:
            raise DataError(
                f"{describe(invalid)}: the label {shown(column[invalid].as_py())} is not a number as the others are; "
                f"fix it, or set dataset.task=classes"
            )
        infinite = np.flatnonzero(np.isinf(values))
        if len(infinite):
            raise DataError(f"{describe(int(infinite[0]))}: the label is infinite; fix it, or leave it empty")
        return values

    def metadata(self, describe: DescribeRow) -> SampleMetadata:
        """The metadata of all rows.

        Raises:
            ConfigError: labels must be numbers and there are none.
            DataError: some rows have a group or split and others have none.
        """
        target = self.target()  # before the codes: names that are numbers become one
        if self.row_count and self.task == "number" and (target is None or np.isnan(target).all()):
            raise ConfigError(f"{describe(0)} has no label that is a number; {NUMERIC_LABEL_CURE}")
        columns = {kind: encoder.sorted_codes(kind, describe) for kind, encoder in self.encoders.items()}
        ids = pa.chunked_array(self.id_chunks, pa.string())
        return SampleMetadata(
            self.row_count, describe, columns["label"], columns["group"], columns["split"],
            ids=None if ids.null_count == len(ids) else ids,
        )  # fmt: skip

    def target(self) -> np.ndarray | None:
        """(n,) float64, labels that are numbers, NaN where there is none; or (n, k), those of `set_label_sets`."""
        if self.are_columns and self.task == "auto" and self.target_chunks is None:
            self._take_decimals()
        if self.target_chunks is None:
            return None
        width = max(chunk.shape[1] if chunk.ndim == 2 else 0 for chunk in self.target_chunks)
        if not width:
            return np.concatenate(self.target_chunks)
        chunks = [chunk if chunk.ndim == 2 else np.full((len(chunk), width), -1) for chunk in self.target_chunks]
        return np.concatenate(chunks)

    def _take_decimals(self) -> None:
        """Take the names of all labels as numbers if all are numbers and one has decimals.

        The first block may hold whole numbers alone, so that what labels are would depend on the size of blocks and on
        the order of files.
        """
        encoder = self.encoders["label"]
        names = [name for name in encoder.index if name not in MISSING]
        if not names or not all(map(NUMBER.fullmatch, names)):
            return
        values = np.full(len(encoder.index) + 1, np.nan)  # the last entry is for code -1
        values[[encoder.index[name] for name in names]] = [float(name) for name in names]
        known = values[~np.isnan(values)]
        if np.isinf(known).any() or (known == np.rint(known)).all():
            return
        self.target_chunks = [values[encoder.codes]]
        self.encoders["label"] = LabelEncoder()
        self.encoders["label"].append_constant(None, self.row_count)


def _train_or_validation(column: Any) -> Any:
    """The split of the rows of a training file: "validation" where the column says so, else "train"."""
    names = pc.utf8_lower(as_names(column))
    return pc.if_else(pc.is_in(names, value_set=pa.array(VALIDATION_NAMES, pa.string())), "validation", "train")


def check_extensions(entries: Sequence[FileEntry], extensions: Sequence[str], kind: str) -> None:
    """Check the file names. kind: what the files must be, for the message.

    Raises:
        DataError: a file ends in none of the extensions.
    """
    for entry in entries:
        if not entry.path.name.lower().endswith(tuple(extensions)):
            raise DataError(f"dataset.root {entry.path} is no {kind}; these end in {', '.join(extensions)}")
