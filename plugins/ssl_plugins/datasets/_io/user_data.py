"""Base classes of the data sets that read the user's files: common options, split and task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ssl_core import Column, DataError, Dataset, DataSummary, Recognition, Split, Task
from ssl_plugins.datasets._io.files.archives import open_archives
from ssl_plugins.datasets._io.files.entry import FileEntry
from ssl_plugins.datasets._io.files.listing import root_parts
from ssl_plugins.datasets._io.files.state import file_state_digest
from ssl_plugins.datasets._io.label_kinds import joined_doubt, take_labels
from ssl_plugins.datasets._io.splitting import (
    SPLITS,
    Codes,
    DescribeRow,
    SampleMetadata,
    needs_test_split,
    split_rows,
    split_windows,
)
from ssl_plugins.datasets._io.summaries import ReadTable, summarise
from ssl_plugins.datasets._io.tables.options import TableOptions


def absolute_root(value: str) -> str:
    """A path, a pattern, or several paths with commas between them, as absolute paths."""
    return ",".join(str(Path(part).expanduser().absolute()) for part in root_parts(value))


class UserDataOptions(Dataset.Options):
    """Options common to all of the user's data."""

    root: str = Field(
        description="a file, a folder of files, a pattern such as data/*.csv, or several files with commas between them"
    )
    label_pattern: str | None = Field(
        None,
        description="regular expression over each file's path below root, with the named groups label, group, split; "
        "without it, sub-folders are the labels if every file is in one",
    )
    test_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the groups, or of the samples without groups, for the test split; 0 = pretrain on all",
    )
    exclude: tuple[str, ...] = Field(
        (), description="files and folders below root that are not read; * stands for any letters, as in *_draft.csv"
    )
    test_groups: tuple[str, ...] = Field((), description="names of the groups of the test split")
    train_groups: tuple[str, ...] = Field(
        (), description="names of the groups of the training split; by default all others"
    )

    validation_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training part for the validation split; 0 = none, unless the data name one",
    )
    validation_groups: tuple[str, ...] = Field((), description="names of the groups of the validation split")

    @field_validator("root", mode="after")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """A saved configuration can be used from another folder."""
        return absolute_root(value)


class FileOptions(TableOptions, UserDataOptions):
    """Options common to data with one sample a file."""

    extensions: tuple[str, ...] = Field((), description="endings of the files to read")
    path_column: str | None = Field(
        None, description="column of the path in a table of files; by default path, file, filename, image or the like"
    )
    label: str | None = Field(
        None,
        description="column of the label in a table of files, by default label; for tar files the ending of the member "
        "or the key of the JSON, by default cls, else label",
    )
    group: str | None = Field(
        None, description="column of the group in a table of files, or key of the JSON in tar files; by default group"
    )
    split: str | None = Field(
        None,
        description="column of train, val or test in a table of files, or key of the JSON in tar files; by default "
        "split",
    )

    @field_validator("extensions", mode="after")
    @classmethod
    def _with_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("." + extension.lower().lstrip(".") for extension in value)


class RowOptions(TableOptions, UserDataOptions):
    """Options common to data with many samples a file."""

    test_root: str | None = Field(
        None, description="file or folder of the test split; all of root is then the training split"
    )
    label: str | None = Field(None, description="column of the label; by default the one called label")
    group: str | None = Field(None, description="column of the group; by default the one called group")
    split: str | None = Field(None, description="column of train, val or test; by default the one called split")
    id: str | None = Field(
        None, description="column of ids, which is no input: tables of features and predictions name the rows by it"
    )
    task: Literal["auto", "classes", "number", "labels"] = Field(
        "auto",
        description="type of the label; labels = several, joined by | (or ; or ,); auto = a number if it has decimals, "
        "else a class",
    )

    @field_validator("test_root", mode="after")
    @classmethod
    def _absolute_test(cls, value: str | None) -> str | None:
        return None if value is None else absolute_root(value)


class UserData(Dataset):
    """Samples from the user's files. A subclass calls `assign_split`, and reads sample `self.rows[index]`.

    In `options` the root of an archive is that of its unpacked content. `given_options` are the user's.
    """

    name = "files"
    describe_row: DescribeRow
    rows: np.ndarray
    """(len,) indices of the samples of this split among all samples."""
    labels: np.ndarray | None = None
    """(len,) class indices (-1 = no label) or numbers (NaN = no label), or (len, k) 0 and 1 (-1 = no label); None
    without a task."""
    split_codes: np.ndarray
    """(n,) index in SPLITS of the split of each of all samples."""
    ids: Any = None
    """(n,) Arrow texts or None: the ids of all samples, if a column names them."""
    files_digest: str = ""
    metadata_digest: str = ""

    def __init__(self, options: Any, split: Split) -> None:
        self.given_options = options
        super().__init__(open_archives(options), split)

    @classmethod
    def recognise(cls, root: str) -> Recognition | None:
        """How well the files of a path fit this modality, by their endings and the beginning of some of them."""
        from ssl_plugins.datasets._io.recognition.rules import recognise  # imports the readers of all modalities

        return recognise(root).get(cls.modality)

    def assign_split(
        self,
        metadata: SampleMetadata,
        split: np.ndarray | None = None,
        title: str = "label",
        target: np.ndarray | None = None,
        label_names: tuple[str, ...] = (),
    ) -> None:
        """Select the rows of this split, and set the task and its labels.

        The task is regression with a `target` of numbers, several labels with one of 0 and 1, else classification if
        there are two or more classes, else None. Samples without a label are for pretraining alone.

        Args:
            metadata: label, group and split of all samples.
            split: (n,) split codes; by default those of `split_samples`.
            title: name of the label in reports.
            target: (n,) numeric labels, NaN where there is none; or (n, k) labels of 0 and 1, -1 where there is none;
                by default what `dataset.task` makes of the names.
            label_names: names of the k labels.

        Raises:
            ConfigError: the split options contradict the data.
            DataError: the data cannot be split.
        """
        task = getattr(self.options, "task", "auto")
        if target is None and metadata.label is not None and task == "auto":
            self.doubts += joined_doubt(metadata.label, title)
        elif target is None:
            metadata, target, label_names = take_labels(metadata, task, title)
        if split is None:
            split = self.split_samples(metadata if target is None else with_known(metadata, target))
        self.splits = tuple(name for code, name in enumerate(SPLITS) if (split == code).any())
        if self.split not in self.splits:
            raise DataError(
                f"dataset.root {self.options.root} has no {self.split} split; set dataset.{self.split}_fraction, or "
                f"name the split in the data"
            )
        self.describe_row, self.ids = metadata.describe, metadata.ids
        self.metadata_digest = _metadata_digest(metadata, split, target)
        self.split_codes = split
        self.rows = np.flatnonzero(split == SPLITS.index(self.split))
        if target is not None and target.ndim == 2:
            self.task = Task("labels", target.shape[1], "auroc", names=label_names, title=title)
            self.labels = target[self.rows].astype(np.int64)
        elif target is not None:
            self.task, self.labels = Task("number", 1, "spearman", title=title), target[self.rows]
        elif metadata.label is not None:
            codes, names = metadata.label.codes, metadata.label.names
            present = np.bincount(codes[(split >= 0) & (codes >= 0)], minlength=len(names)) > 0
            classes = tuple(names[code] for code in np.flatnonzero(present))
            if len(classes) > 1:
                self.task = Task("classes", len(classes), "accuracy", names=classes, title=title)
                self.labels = np.append(np.cumsum(present) - 1, -1)[codes[self.rows]]
            elif classes:
                self.warnings += (f"all samples have the {title} '{classes[0]}', so that there is nothing to predict",)

    def split_samples(self, metadata: SampleMetadata) -> np.ndarray:
        """The split codes of `split_rows`. Adds a warning if the data name a validation but no test split.

        Raises:
            ConfigError: the split options contradict the data.
            DataError: the data cannot be split.
        """
        metadata = self.strata(metadata)
        split = split_rows(metadata, self.options)
        self._warn_of_test_split(metadata)
        if metadata.copies is not None:
            self._say_copies(metadata, split)
        return split

    def strata(self, metadata: SampleMetadata) -> SampleMetadata:
        """The samples with the classes that every split must hold; with several labels a sample has one or none."""
        label = metadata.label
        if label is None or getattr(self.options, "task", "auto") != "labels":
            return metadata
        return replace(metadata, label=Codes(np.minimum(label.codes, 0), ("",)))

    def _say_copies(self, metadata: SampleMetadata, split: np.ndarray) -> None:
        """Add a warning if copies changed the split."""
        try:
            plain = split_rows(replace(metadata, copies=None), self.options)
        except DataError:
            plain = np.full(len(split), -1, np.int8)
        moved = int((plain != split).sum())
        if not moved:
            return
        codes = np.asarray(metadata.copies)
        _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
        rows = np.flatnonzero((np.arange(len(codes)) != first[inverse]) & (counts[inverse] > 1))
        one, other = int(first[inverse[rows[0]]]), int(rows[0])
        self.warnings += (
            f"{len(rows)} samples are copies of others, e.g. {metadata.describe(other)} of {metadata.describe(one)}; "
            f"copies are kept in one split, which changed that of {moved} samples",
        )

    def split_windows(
        self, metadata: SampleMetadata, record: np.ndarray, begin: np.ndarray, window: int, length: np.ndarray
    ) -> np.ndarray:
        """The split codes of `splitting.split_windows`. Adds the same warning as `split_samples`.

        Raises:
            ConfigError: the options ask for a validation split and the data name one.
        """
        split = split_windows(metadata, record, begin, window, length, self.options)
        self._warn_of_test_split(metadata)
        return split

    def _warn_of_test_split(self, metadata: SampleMetadata) -> None:
        if needs_test_split(metadata.split):
            self.warnings += ("the data name a validation and no test split: the test split is cut from training",)

    def label_of(self, index: int) -> Any:
        """The label of a sample of this split: an int, a float, an array (k,) of 0 and 1, or None."""
        if self.labels is None or self.task is None:
            return None
        label = self.labels[index]
        is_missing = np.isnan(label) if self.task.kind == "number" else np.min(label) < 0
        return None if is_missing else label if label.ndim else label.item()

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self, index: int) -> str:
        """File and row."""
        return self.describe_row(int(self.rows[index]))

    def identify(self, index: int) -> str:
        """The id that a column names, else file and row."""
        name = None if self.ids is None else self.ids[int(self.rows[index])].as_py()
        return self.describe(index) if name is None else str(name)

    def record_files(self, paths: Iterable[Path]) -> None:
        """Store names, sizes and modification times of the files for the fingerprint; a file may be absent."""
        self.files_digest = file_state_digest(Path(), map(str, paths))

    def record_summary(
        self,
        files: Sequence[FileEntry],
        columns: Iterable[Column] = (),
        tables: Iterable[ReadTable] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Complete `summary`, and add to `warnings` and `doubts` what was found while files and tables were read.

        It may be called before or after `summary` is set: what `summary` holds is kept.

        Args:
            files: the files that hold the samples, as `list_files` and `list_sources` return them.
            columns: what was read of the samples.
            tables: those of the files that are tables.
            facts: other facts.
        """
        found, warnings, doubts = summarise(files, columns, tables, facts or {})
        self.summary = DataSummary(
            self.summary.columns or found.columns,
            self.summary.files or found.files,
            {**found.ignored, **self.summary.ignored},
            {**found.facts, **self.summary.facts},
        )
        self.warnings += tuple(line for line in warnings if line not in self.warnings)
        self.doubts += tuple(line for line in doubts if line not in self.doubts)

    def fingerprint(self) -> str:
        """Changes with the options, the split, the labels, and any file's name, size or modification time."""
        options = self.given_options.model_dump_json()
        return f"{self.modality}/{self.name}:{self.split}:{options}:{self.files_digest}:{self.metadata_digest}"


def with_known(metadata: SampleMetadata, target: np.ndarray) -> SampleMetadata:
    """Metadata in which the samples with a target have one label and the others none, so that these train."""
    known = np.isfinite(target) if target.ndim == 1 else (target >= 0).all(axis=1)
    return replace(metadata, label=Codes(np.where(known, 0, -1).astype(np.int32), ("",)))


def _metadata_digest(metadata: SampleMetadata, split: np.ndarray, target: np.ndarray | None) -> str:
    """SHA-256 over split and labels, wherever they come from: a path, the samples' file, or a table of paths."""
    digest = hashlib.sha256(split.tobytes())
    if target is not None:
        digest.update(target.tobytes())
    elif metadata.label is not None:
        digest.update(metadata.label.codes.tobytes())
        digest.update(repr(metadata.label.names).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
