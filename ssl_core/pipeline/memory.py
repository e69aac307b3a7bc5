"""Data in memory: arrays, tensors, sequences and data sets of other libraries, as samples and as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Option
from torch import Tensor

from ssl_core.contracts import Dataset, Inputs
from ssl_core.data import Continuous, Discrete, Field, Fields, Sample, Split, Task, Text
from ssl_core.errors import ConfigError, DataError, nearest

MEMORY = "memory"
"""The name of data sets in memory."""
ORIGIN = "memory:data"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LABEL = "label"


def is_tensor_input(x: Any) -> torch.device | None:
    """The device of a tensor or a dict of tensors; None for anything else."""
    first = next(iter(x.values()), None) if isinstance(x, Mapping) else x
    return first.device if isinstance(first, Tensor) else None


class SampleInputs:
    """n samples as dicts of numpy arrays by field, read one at a time.

    Args:
        x: an array or tensor (n, ...), a sequence of samples or a data set with `len` and `[i]`, or a dict of arrays or
            sequences by field. A sample of a sequence is an array, a text, a dict by field, or a pair (sample, label).
        fields: what the samples must hold. Without a dict, samples hold the first field.

    Raises:
        ConfigError: `x` is of another kind, its parts differ in length, or a field's name is unknown.
    """

    def __init__(self, x: Any, fields: Fields, *, more_fields: bool = False) -> None:
        self.fields = fields
        self.labels: list[Any] = []
        if isinstance(x, Mapping):
            lengths = {name: len(part) for name, part in x.items()}
            if not lengths or len(set(lengths.values())) > 1:
                raise ConfigError(f"the arrays by field must have one length and not be none, got {lengths}")
            for name in x:
                if name not in fields and not more_fields:
                    raise ConfigError(f"unknown field '{name}'; {nearest(name, fields, 'field')}")
            self.columns: Mapping[str, Any] | None = x
            self.length = next(iter(lengths.values()))
        elif not hasattr(x, "__len__") or not hasattr(x, "__getitem__") or isinstance(x, str):
            raise ConfigError(
                f"x is a {type(x).__name__}; give an array, a tensor, a dict of arrays by field, a sequence of "
                f"samples, or a data set with a length"
            )
        elif hasattr(x, "columns") and hasattr(x, "iloc"):
            raise ConfigError(
                "a DataFrame is embedded by sslx.embed(run, frame); here give frame[columns].to_numpy(), with the "
                "columns trained on"
            )
        else:
            self.columns, self.length = None, len(x)
        self.x = x

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int) -> tuple[Inputs, Any]:
        """Inputs and label of sample `index`; the label is None where there is none."""
        if self.columns is not None:
            return {name: self._array(name, part[index]) for name, part in self.columns.items()}, None
        item, label = self.x[index], None
        if isinstance(item, tuple | list) and len(item) == 2 and not isinstance(item[0], int | float | str):
            item, label = item
        if isinstance(item, Mapping):
            label = item.get(LABEL, label)
            parts = item["inputs"] if isinstance(item.get("inputs"), Mapping) else item
            inputs = {name: self._array(name, value) for name, value in parts.items() if name != LABEL}
            return inputs, label
        name = next(iter(self.fields))
        return {name: self._array(name, item)}, label

    def __getitem__(self, index: int) -> Inputs:
        return self.sample(index)[0]

    def _array(self, name: str, value: Any) -> np.ndarray:
        """One value as an array; a channel axis of 1 is added where the field has one and the value lacks it."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        field = self.fields.get(name)
        if isinstance(field, Continuous) and array.dtype.kind not in "SUO" and array.ndim == len(field.shape) - 1:
            array = array[np.newaxis]
        return array


def infer_fields(samples: SampleInputs, rate: float | None = None) -> Fields:
    """The fields that samples hold: shapes and kinds read from the samples, an axis that varies as None.

    Raises:
        DataError: there is no sample, or samples differ in their fields or axes.
    """
    if len(samples) == 0:
        raise DataError("there is no sample to train on")
    whole = samples.columns
    if whole is None and isinstance(samples.x, np.ndarray | Tensor):
        whole = {next(iter(samples.fields)): samples.x}
    uniform = whole is not None and all(isinstance(part, np.ndarray | Tensor) for part in whole.values())
    fields: dict[str, Field] = {}
    for index in range(1 if uniform else len(samples)):
        inputs = samples[index]
        if index and inputs.keys() != fields.keys():
            raise DataError(f"sample {index} holds {sorted(inputs)}, sample 0 holds {sorted(fields)}")
        for name, array in inputs.items():
            field = _field(array, samples.fields.get(name), rate)
            fields[name] = field if not index else _merge(name, index, fields[name], field)
    if uniform and whole is not None:
        for name, found in fields.items():
            if isinstance(found, Discrete):
                fields[name] = Discrete(found.length, max(found.vocab, int(whole[name].max()) + 1))
    return fields


def _field(array: np.ndarray, template: Field | None, rate: float | None) -> Field:
    """The field of one sample's array; `template` is the modality's own field of that name."""
    if array.dtype.kind in "SUO":
        return Text()
    if isinstance(template, Discrete) or (template is None and array.dtype.kind in "iub"):
        vocab = template.vocab if isinstance(template, Discrete) else 1
        return Discrete(array.size, max(vocab, int(array.max(initial=0)) + 1))
    return Continuous(array.shape, rate, array.dtype.name)


def _merge(name: str, index: int, one: Field, other: Field) -> Field:
    """The field of both, an axis in which they differ as None."""
    if isinstance(one, Continuous) and isinstance(other, Continuous) and len(one.shape) == len(other.shape):
        shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
        return Continuous(shape, one.rate, one.dtype if one.dtype == other.dtype else None)
    if isinstance(one, Discrete) and isinstance(other, Discrete) and one.length == other.length:
        return Discrete(one.length, max(one.vocab, other.vocab))
    if isinstance(one, Text) and isinstance(other, Text):
        return one
    raise DataError(f"sample {index}: '{name}' is {other!r}, in sample 0 it is {one!r}")


def infer_task(labels: np.ndarray) -> tuple[Task, np.ndarray]:
    """The task of labels and the labels as numbers.

    (n,) numbers with decimals are a number to predict, anything else of shape (n,) is classes; (n, k) of 0 and 1 is k
    labels.

    Raises:
        DataError: the labels have another shape.
    """
    if labels.ndim == 2:
        return Task("labels", labels.shape[1], "auroc"), labels.astype(np.int64)
    if labels.ndim != 1:
        raise DataError(f"y has shape {labels.shape}; give (n,), or (n, k) of 0 and 1")
    if labels.dtype.kind == "f" and (labels % 1 != 0).any():
        return Task("number", 1, "spearman"), labels.astype(np.float64)
    values, codes = np.unique(labels, return_inverse=True)
    return Task("classes", len(values), "accuracy", names=tuple(map(str, values))), codes.astype(np.int64)


class MemoryDataset(Dataset):
    """Samples in memory, divided at random by a seed. `memory_dataset` makes the class for certain samples."""

    name = MEMORY
    samples: ClassVar[SampleInputs]
    y: ClassVar[np.ndarray | None]
    known_labels: ClassVar[np.ndarray | None]
    """(n,) bool: which samples have a label, where only some have."""
    known_task: ClassVar[Task | None]
    known_fields: ClassVar[Fields]

    class Options(Dataset.Options):
        """Options of data in memory."""

        digest: str = Option("", description="digest of the samples; set by sslx")
        test_fraction: float = Option(
            0.2, ge=0, lt=1, description="share of the labelled samples, or of all without labels, for the test split"
        )
        validation_fraction: float = Option(0.0, ge=0, lt=1, description="share of the samples for validation")
        split_seed: int = Option(0, ge=0, description="seed of the division")

    def __init__(self, options: Any, split: Split) -> None:
        super().__init__(options, split)
        self.fields, self.task = self.known_fields, self.known_task
        wanted = {"test": options.test_fraction, "validation": options.validation_fraction}
        self.splits = tuple(name for name in SPLITS if wanted.get(name, 1))
        self.inputs, self.labels, self.is_labelled = type(self).samples, type(self).y, type(self).known_labels
        labelled = np.arange(len(self.samples)) if self.is_labelled is None else np.flatnonzero(self.is_labelled)
        count = len(labelled)
        order = np.random.default_rng(options.split_seed).permutation(labelled)
        test = max(1, round(count * options.test_fraction)) if options.test_fraction else 0
        validation = round(count * options.validation_fraction)
        if count - test - validation < 1:
            raise DataError(f"{count} samples leave none to train on; lower dataset.test_fraction or give more data")
        parts = dict(zip(("test", "validation", "train"), np.split(order, [test, test + validation]), strict=True))
        if self.is_labelled is not None:  # samples without a label are for pretraining alone
            parts["train"] = np.append(parts["train"], np.flatnonzero(~self.is_labelled))
        self.rows = np.sort(parts[split])

    def __reduce__(self) -> Any:
        """For worker processes: as an instance of this class, since the class made for the samples has no module."""
        state = {**vars(self), "modality": self.modality, "known_task": self.task, "known_fields": self.fields}
        return _restored, (state,)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the split."""
        row = int(self.rows[index])
        is_labelled = self.is_labelled is None or bool(self.is_labelled[row])
        label = self.labels[row] if self.labels is not None and is_labelled else None
        return {"inputs": self.inputs[row], "label": label}

    def describe(self, index: int) -> str:
        """Its place among all samples."""
        return f"sample {self.rows[index]} of the data in memory"


def _label_array(y: Any) -> np.ndarray:
    """Labels as an array; of objects if some are None."""
    values = list(y)
    return np.array(values, dtype=object) if any(value is None for value in values) else np.asarray(y)


def _known(labels: np.ndarray) -> np.ndarray:
    """(n,) bool: the labels that are not None or NaN."""
    if labels.dtype == object:
        return np.array([value is not None and value == value for value in labels], bool)
    if labels.dtype.kind == "f":
        return ~np.isnan(labels).any(axis=tuple(range(1, labels.ndim)))
    return np.ones(len(labels), bool)


def _restored(state: dict[str, Any]) -> MemoryDataset:
    dataset = MemoryDataset.__new__(MemoryDataset)
    dataset.__dict__.update(state)
    return dataset


def memory_dataset(
    x: Any, y: Any, modality: str, template: Fields, rate: float | None = None
) -> tuple[type[MemoryDataset], str]:
    """A data set class for samples in memory, and the digest of the samples.

    Args:
        x: samples, in any form that `SampleInputs` takes.
        y: labels (n,) or (n, k); None for those in the samples, if any.
        modality: the modality's name.
        template: the fields of the modality's default data set; they name the field of bare arrays.
        rate: samples per second of continuous fields, where the modality needs it.

    Raises:
        ConfigError: `x` has another form.
        DataError: samples differ in form, or labels do not fit them.
    """
    samples = SampleInputs(x, template, more_fields=True)
    fields = infer_fields(samples, rate)
    digest = hashlib.blake2b(digest_size=16)
    labels: list[Any] = []
    for index in range(len(samples)):
        inputs, label = samples.sample(index)
        for name, array in inputs.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes() if array.dtype.kind != "O" else repr(array).encode())
        labels.append(label.item() if isinstance(label, Tensor) and not label.dim() else label)
    if y is None and any(label is not None for label in labels):
        y = labels
    task, codes, known = None, None, None
    if y is not None:
        given = y.detach().cpu().numpy() if isinstance(y, Tensor) else _label_array(y)
        if len(given) != len(samples):
            raise DataError(
                f"there are {len(samples)} samples and {len(given)} labels; give None for a sample without a label"
            )
        known = _known(given)
        if not known.any():
            raise DataError("no sample has a label; leave y out")
        task, some = infer_task(np.array(given[known].tolist()) if given.dtype == object else given[known])
        codes = np.zeros((len(given), *some.shape[1:]), some.dtype)
        codes[known] = some
        known = None if known.all() else known
        digest.update(codes.tobytes() + repr(task).encode() + (b"" if known is None else known.tobytes()))
    values = {
        "__doc__": "Samples in memory.", "modality": modality, "samples": samples, "y": codes, "known_task": task,
        "known_fields": fields, "known_labels": known,
    }  # fmt: skip
    return type("MemoryDataset", (MemoryDataset,), values), digest.hexdigest()
