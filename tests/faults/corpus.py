"""The corpus of faults: what users' files held, and what must come of them. A row is one `Fault`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, Dataset, Split, SslxError, plugins

DIM = 16
CATALOGUE = functools.cache(plugins.load)
"""The plugins, read once: a load takes a tenth of a second."""


@dataclass
class Read:
    """What was read of the files: a data set for each split that it has."""

    datasets: dict[Split, Dataset]

    @property
    def train(self) -> Dataset:
        """The training split."""
        return self.datasets["train"]

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each split."""
        return {split: len(dataset) for split, dataset in self.datasets.items()}

    @property
    def columns(self) -> dict[str, str]:
        """Role of each column by name."""
        return {column.name: column.role for column in self.train.summary.columns}

    def samples(self, split: Split = "train") -> list[dict[str, np.ndarray]]:
        """Inputs of all samples of a split that can be used."""
        return [sample["inputs"] for sample in self._usable(split)]

    def labels(self, split: Split = "train") -> list[Any]:
        """Labels of all samples of a split that can be used; class names where there are some."""
        task = self.train.task
        names = task.names if task is not None and task.kind == "classes" else ()
        found = [sample["label"] for sample in self._usable(split)]
        return [names[label] if names and label is not None else label for label in found]

    def array(self, name: str, split: Split = "train") -> np.ndarray:
        """One field of all samples, stacked."""
        return np.stack([inputs[name] for inputs in self.samples(split)])

    def bad(self, split: Split = "train") -> list[str]:
        """Messages of the samples that cannot be used."""
        dataset, messages = self.datasets[split], []
        for index in range(len(dataset)):
            try:
                dataset[index]
            except BadSample as error:
                messages.append(f"{dataset.describe(index)}: {error}")
        return messages

    def prepared(self, split: Split = "train", **options: Any) -> list[Any]:
        """What the modality's tokenizer makes of each sample; a message instead of a sample that it refuses."""
        kind = CATALOGUE().tokenizer(self.train.modality)
        tokenizer = kind(kind.Options(**options), self.train.fields, DIM)
        tokenizer.fit(self.samples("train"))
        out: list[Any] = []
        for inputs in self.samples(split):
            try:
                out.append(tokenizer.preprocess(inputs))
            except BadSample as error:
                out.append(str(error))
        return out

    def _usable(self, split: Split) -> list[Any]:
        dataset, found = self.datasets[split], []
        for index in range(len(dataset)):
            try:
                found.append(dataset[index])
            except BadSample:
                continue
        return found


def read(modality: str, root: Path | str, options: Mapping[str, Any]) -> Read:
    """The data set `files` of a modality on a path, as `sslx run --data` opens it."""
    kind = CATALOGUE().dataset("files", modality)
    values = kind.Options(root=str(root), **options)
    train = kind(values, "train")
    return Read({split: train if split == "train" else kind(values, split) for split in train.splits})


@dataclass(frozen=True)
class Fault:
    """One input and its right outcome.

    Args:
        id: name of the row, "kind: input".
        modality: whose data set `files` reads it.
        make: writes the files into a folder; returns the path to read if it is another than the folder.
        expect: asserts what is right of what was read, after the cure if there is one.
        options: options of the data set from the beginning.
        error: regular expression that the refusal must match; None where the input is read.
        cure: options that the refusal names; with them the input is read. Each is named in the message.
        doubt: regular expression that one of the doubts must match.
        warning: regular expression that one of the warnings must match.
        plain: whether there may be no doubt; a row with `doubt` may have others.
    """

    id: str
    modality: str
    make: Callable[[Path], Path | str | None]
    expect: Callable[[Read], None] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    cure: Mapping[str, Any] | None = None
    doubt: str | None = None
    warning: str | None = None
    plain: bool = True


def check(fault: Fault, folder: Path) -> None:
    """Read the input of a row and compare with its outcome."""
    folder.mkdir()
    root = fault.make(folder) or folder
    options = dict(fault.options)
    if fault.error is not None:
        try:
            found = read(fault.modality, root, options)
        except SslxError as error:
            message = str(error)
        else:
            raise AssertionError(f"it was read: {found.sizes}, {found.columns}")
        assert re.search(fault.error, message), message
        assert "\n" not in message
        if fault.cure is None:
            return
        for name in fault.cure:
            assert name in message, f"the message does not name {name}: {message}"
        options |= fault.cure
    found = read(fault.modality, root, options)
    for pattern, lines in ((fault.doubt, found.train.doubts), (fault.warning, found.train.warnings)):
        assert pattern is None or any(re.search(pattern, line) for line in lines), lines
    if fault.doubt is None and fault.plain:
        assert found.train.doubts == ()
    if fault.expect is not None:
        fault.expect(found)
