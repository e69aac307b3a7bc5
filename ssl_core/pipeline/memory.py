"""Data in memory: arrays, tensors, sequences and data sets of other libraries, as samples and as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field as Option
from torch import Tensor

from ssl_core.contracts import Dataset, Inputs
from ssl_core.data import Continuous, Discrete, Field, Fields, Sample, Split, Task, Text
from ssl_core.errors import BadSample, ConfigError, DataError, nearest
from ssl_core.pipeline.columns import LABEL, Columns, is_hugging_face, match_columns, open_hugging_face
from ssl_core.pipeline.values import ValueReader, as_array, check_container, is_recording

MEMORY = "memory"
"""The name of data sets in memory."""
ORIGIN = "memory:data"
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NUMERIC, MISSING = "numeric", "missing"
"""Fields of tables: numbers, and which of them are missing. NaN in the first stands for an entry in the second."""
EXACT = ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16")
"""Types whose numbers float32 holds."""
COARSE = 0.01
"""Share of a column's deviation that float32's step at its mean may be."""
PRECISION_SAMPLES, PRECISION_VALUES = 1000, 2**22
"""Samples and values that are looked at for it."""
MIN_TEXT_PAIRS, TEXT_PAIRS = 8, 1000
"""Samples that are looked at for labels among pairs of texts."""


def is_tensor_input(x: Any) -> torch.device | None:
    """The device of a tensor or a dict of tensors; None for anything else."""
    first = next(iter(x.values()), None) if isinstance(x, Mapping) else x
    return first.device if isinstance(first, Tensor) else None


class SampleInputs:
    """n samples as dicts of numpy arrays by field, read one at a time.

    Args:
        x: an array or tensor (n, ...), a sequence of samples or a data set with `len` and `[i]`, or a dict of arrays or
            sequences by field. A sample of a sequence is an array, a text, an image, a recording, a dict by field, or
            a tuple (sample, label). In dicts "label" is the label. Names of columns need not be those of fields where
            the kind of values tells.
        fields: what the samples must hold. Without a dict, samples hold the first field.
        known: whether the fields are those of a trained encoder; else samples may have other channels, sizes and
            further fields.

    Raises:
        ConfigError: `x` is of another kind, its parts differ in length, or a field's name is unknown.
    """

    def __init__(self, x: Any, fields: Fields, *, known: bool = True) -> None:
        self.fields, self.known, self.reader = fields, known, ValueReader(known)
        self.columns: Mapping[str, Any] | None = None
        self.labels: Any = None
        self.matched: Columns | None = None
        x = check_container(x)
        if isinstance(x, Mapping):
            x = self._by_field({name: check_container(part) for name, part in x.items()})
        elif not hasattr(x, "__len__") or not hasattr(x, "__getitem__") or isinstance(x, str | bytes):
            raise ConfigError(
                f"x is a {type(x).__name__}; give an array, a tensor, a dict of arrays by field, a sequence of "
                f"samples, or a data set with a length"
            )
        elif hasattr(x, "columns") and hasattr(x, "iloc"):
            raise ConfigError("a DataFrame is embedded by sslx.embed(run, frame), or sslx.embed(encoder, frame)")
        elif is_hugging_face(x):
            x, self.matched = open_hugging_face(x, fields)
            self.reader = ValueReader(known, self.matched.rates)
        if known and self.columns is None and isinstance(x, np.ndarray | Tensor):
            _check_single_image(x, *next(iter(fields.items())))
        self.x = x
        self.length = len(next(iter(x.values()))) if self.columns is not None else len(x)
        self.pairs = self.columns is None and not isinstance(x, np.ndarray | Tensor)
        if self.pairs and self.length and self.matched is None:
            first = x[0]
            row = split_pair(first)[0]
            if isinstance(row, Mapping) and not is_recording(row):
                self.matched = Columns(self._names(row))
            if _is_text_pair(first):
                check_text_pairs(x)
        if known and self.columns is None and self.matched is None:
            check_names([next(iter(fields))], fields)

    def _by_field(self, x: dict[str, Any]) -> dict[str, Any]:
        """A dict of arrays with the names of fields."""
        lengths = {name: len(part) for name, part in x.items()}
        if not lengths or len(set(lengths.values())) > 1:
            raise ConfigError(f"the arrays by field must have one length and not be none, got {lengths}")
        if LABEL not in self.fields and len(x) > 1:
            self.labels = x.pop(LABEL, None)
        if next(iter(lengths.values())):
            names = self._names({name: part[0] for name, part in x.items()})
            x = {names.get(name, name): part for name, part in x.items()}
        if self.known:
            check_names(x, self.fields)
        self.columns = x
        return x

    def _names(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Field names by column of a row; columns that are no known field keep their name."""
        return {name: name for name in row if name != LABEL} | match_columns(row, self.fields)

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int) -> tuple[Inputs, Any]:
        """Inputs and label of sample `index`; the label is None where there is none.

        Raises:
            BadSample: a value does not fit its field.
            ConfigError: a field is missing.
        """
        if self.columns is not None:
            label = None if self.labels is None else self.labels[index]
            return {name: self._array(name, part[index]) for name, part in self.columns.items()}, label
        if not self.pairs:
            return {next(iter(self.fields)): self._array(next(iter(self.fields)), self.x[index])}, None
        item, label = split_pair(self.x[index])
        if not isinstance(item, Mapping) or is_recording(item):
            name = next(iter(self.fields))
            return {name: self._array(name, item)}, label
        matched = self.matched or Columns(self._names(item))
        label = matched.label_of(item) if matched.label in item else label
        item = item["inputs"] if isinstance(item.get("inputs"), Mapping) else item
        names = {name: matched.fields.get(name, name) for name in item if name != matched.label}
        if self.known:
            check_names(names.values(), self.fields)
        return {field: self._array(field, item[name]) for name, field in names.items()}, label

    def __getitem__(self, index: int) -> Inputs:
        return self.sample(index)[0]

    def _array(self, name: str, value: Any) -> np.ndarray:
        return self.reader.read(name, value, self.fields.get(name))

    def adapt_to(self, fields: Fields) -> None:
        """From now on, read values in the form of fields that were inferred from the samples."""
        moved = self.reader.moved
        self.fields, self.reader = fields, ValueReader(True, self.reader.resample)
        self.reader.moved = moved

    def notes(self) -> tuple[str, ...]:
        """What was done to values, in a line each."""
        return tuple(f"the channels of '{name}' are last; they are moved to the front" for name in self.reader.moved)


def split_pair(item: Any) -> tuple[Any, Any]:
    """Sample and label of a tuple (sample, label), or of a list whose second entry is a single value."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        return item, None
    first, second = item
    if isinstance(first, bool | int | float | np.number):  # a sample of two numbers
        return item, None
    if isinstance(first, str) and isinstance(second, str):  # a sample of two texts
        return item, None
    is_single = second is None or isinstance(second, bool | int | float | str | np.generic)
    return (first, second) if isinstance(item, tuple) or is_single else (item, None)


def _is_text_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _check_single_image(x: np.ndarray | Tensor, name: str, field: Field) -> None:
    """Raises:
    ConfigError: the samples are rather one image with channels than several without.
    """
    channels = field.shape[0] if isinstance(field, Continuous) and len(field.shape) == 3 else None
    if channels in (None, 1) or len(x.shape) != 3:
        return
    if x.shape[0] == channels or x.shape[-1] == channels:
        raise ConfigError(
            f"x of shape {tuple(x.shape)} may be one image of {channels} channels or {x.shape[0]} images without "
            f"channels, and '{name}' has {channels} channels; give x[None] for one image, x[:, None] for several"
        )


def check_text_pairs(x: Any) -> None:
    """Raises:
    ConfigError: samples are tuples of two texts, the second of which is rather a label.
    """
    seen = [x[index] for index in range(min(len(x), TEXT_PAIRS))]
    if len(seen) >= MIN_TEXT_PAIRS and all(map(_is_text_pair, seen)):
        values = {second for _, second in seen}
        if len(values) <= len(seen) // 4 and len(values) < len({first for first, _ in seen}):
            raise ConfigError(
                f"the second text of the samples has {len(values)} different values and seems to be a label; give "
                f"labels as y=[...], or samples of two texts as lists [text, text]"
            )


def check_names(names: Iterable[str], fields: Fields) -> None:
    """Raises:
    ConfigError: a name is no field, or a field that samples must hold is missing.
    """
    names = list(names)
    for name in names:
        if name not in fields:
            raise ConfigError(f"unknown field '{name}'; {nearest(name, fields, 'field')}")
    for name in fields:
        if name not in names and name != MISSING:
            raise ConfigError(f"the samples lack the field '{name}'; they hold {', '.join(names) or 'none'}")


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
        try:
            inputs = samples[index]
            found = {name: _field(name, array, samples.fields.get(name), rate) for name, array in inputs.items()}
        except BadSample as error:
            raise DataError(f"sample {index}: {error}") from None
        if index and inputs.keys() != fields.keys():
            raise DataError(f"sample {index} holds {sorted(inputs)}, sample 0 holds {sorted(fields)}")
        for name, field in found.items():
            if index and name in samples.reader.grey & samples.reader.colour:
                field = _in_colour(field)
                fields[name] = _in_colour(fields[name])
            fields[name] = field if not index else _merge(name, index, fields[name], field)
    if uniform and whole is not None:
        for name, first in fields.items():
            if isinstance(first, Discrete):
                fields[name] = Discrete(first.length, max(first.vocab, _largest_id(as_array(whole[name])) + 1))
            elif isinstance(first, Text):
                fields[name] = Text()  # only the first was read
    return _with_rates(samples, fields, rate)


def _in_colour(field: Field) -> Field:
    """The field of images of which some are grey: with three channels."""
    if isinstance(field, Continuous) and field.shape[0] == 1:
        return replace(field, shape=(3, *field.shape[1:]))
    return field


def _with_rates(samples: SampleInputs, fields: dict[str, Field], rate: float | None) -> Fields:
    """Fields with the sampling rates that recordings name.

    Raises:
        DataError: recordings differ in their rate, or `rate` is another.
    """
    for name, rates in samples.reader.rates.items():
        field = fields[name]
        if len(rates | ({rate} - {None})) > 1:
            cure = f"resample them, e.g. with data.cast_column({name!r}, datasets.Audio(sampling_rate={max(rates):g}))"
            many = ", ".join(f"{one:g}" for one in sorted(rates))
            raise DataError(
                f"'{name}' has {many} samples per second{'' if rate is None else f', not {rate:g}'}; {cure}"
            )
        if isinstance(field, Continuous):
            fields[name] = replace(field, rate=next(iter(rates)))
    return fields


def _field(name: str, array: np.ndarray, template: Field | None, rate: float | None) -> Field:
    """The field of one sample's array; `template` is the modality's own field of that name.

    Raises:
        BadSample: the array holds objects that are no text.
    """
    if isinstance(template, Text) and not array.ndim and Text.is_missing(array.item()):
        return Text()
    if array.dtype.kind == "S":
        raise BadSample(f"'{name}' holds bytes; decode them to text, as value.decode()")
    if array.dtype.kind == "O":
        other = next((one for one in array.flat if not isinstance(one, str) and not Text.is_missing(one)), None)
        if other is not None:
            kind = type(other).__name__
            raise BadSample(f"'{name}' holds an object of type {kind}; give text, or numbers as x.astype('float64')")
    if array.dtype.kind in "UO":
        return Text(len(array.item()) if array.dtype.kind == "U" and not array.ndim else None)
    if isinstance(template, Discrete) or (template is None and array.dtype.kind in "iub"):
        vocab = template.vocab if isinstance(template, Discrete) else 1
        return Discrete(array.size, max(vocab, _largest_id(array) + 1))
    return Continuous(array.shape, rate, array.dtype.name)


def _largest_id(array: np.ndarray) -> int:
    """The largest id; a sample with NaN or infinity is refused by the tokenizer."""
    return int(array.max(initial=0, where=np.isfinite(array)))


def _merge(name: str, index: int, one: Field, other: Field) -> Field:
    """The field of both, an axis in which they differ as None."""
    if isinstance(one, Continuous) and isinstance(other, Continuous) and len(one.shape) == len(other.shape):
        shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
        return Continuous(shape, one.rate, one.dtype if one.dtype == other.dtype else None)
    if isinstance(one, Discrete) and isinstance(other, Discrete) and one.length == other.length:
        return Discrete(one.length, max(one.vocab, other.vocab))
    if isinstance(one, Text) and isinstance(other, Text):
        return one if one.length == other.length else Text()
    raise DataError(f"sample {index}: '{name}' is {other!r}, in sample 0 it is {one!r}")


def infer_task(labels: np.ndarray) -> tuple[Task, np.ndarray]:
    """The task of labels and the labels as numbers.

    (n,) numbers with decimals are a number to predict, anything else of shape (n,) is classes; (n, k) of 0 and 1 is k
    labels.

    Raises:
        DataError: the labels have another shape.
    """
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"y of shape {labels.shape} holds other values than 0 and 1; give y of shape (n,) for classes or "
                f"numbers"
            )
        return Task("labels", labels.shape[1], "auroc"), labels.astype(np.int64)
    if labels.ndim != 1:
        raise DataError(f"y has shape {labels.shape}; give (n,), or (n, k) of 0 and 1")
    if labels.dtype.kind == "f" and (labels % 1 != 0).any():
        return Task("number", 1, "spearman"), labels.astype(np.float64)
    values, codes = np.unique(labels, return_inverse=True)
    return Task("classes", len(values), "accuracy", names=tuple(map(str, values))), codes.astype(np.int64)


def doubts_about(fields: Fields) -> tuple[str, ...]:
    """Lines on axes that may have been given in another order; for values see `doubts_about_precision`."""
    lines = []
    for name, one in fields.items():
        shape = one.shape if isinstance(one, Continuous) else ()
        if len(shape) < 2 or None in shape:
            continue
        sizes = [size or 0 for size in shape]
        if len(sizes) == 2 and sizes[0] > max(8, 2 * sizes[1]):
            lines.append(
                f"'{name}' is read as {sizes[0]} channels of {sizes[1]} steps; if it is the other way round, give "
                f"x.transpose(0, 2, 1)"
            )
        if len(sizes) == 3 and sizes[0] == sizes[1] > 2 * sizes[2]:
            lines.append(
                f"'{name}' is read as {sizes[0]} channels of {sizes[1]} x {sizes[2]}; if the channels are last, give "
                f"x.transpose(0, 3, 1, 2)"
            )
    return tuple(lines)


def doubts_about_precision(samples: SampleInputs, fields: Fields) -> tuple[str, ...]:
    """Lines on columns and channels whose values differ by little more than float32 resolves at their mean.

    Samples are prepared in float32. Of numbers such as seconds since 1970 it would leave few different ones.
    """
    wide = [name for name, one in fields.items() if isinstance(one, Continuous) and one.dtype not in EXACT]
    if not wide or not len(samples):
        return ()
    size = max(np.size(array) for array in samples[0].values())
    count = min(len(samples), PRECISION_SAMPLES, max(2, PRECISION_VALUES // max(1, size)))
    index = np.unique(np.linspace(0, len(samples) - 1, count).astype(int)).tolist()
    chosen = [samples[number] for number in index]
    lines = []
    for name in wide:
        axis = "column" if name == NUMERIC else "channel"
        rows = [_by_channel(name, inputs[name]) for inputs in chosen]
        if any(row.dtype.kind not in "iuf" or len(row) != len(rows[0]) for row in rows):
            continue
        found = [(number, *one) for number, one in enumerate(map(_cut_by_float32, zip(*rows, strict=True))) if one]
        if found:
            number, mean, std, step = found[0]
            more = f" (and {len(found) - 1} more alike)" if len(found) > 1 else ""
            lines.append(
                f"{axis} {number} of '{name}'{more} has mean {mean:.6g} and standard deviation {std:.3g}, of which "
                f"float32 leaves steps of {step:.3g}; subtract a constant such as the mean from it in float64, here "
                f"and in later data"
            )
    return tuple(lines)


def _by_channel(name: str, array: np.ndarray) -> np.ndarray:
    """(channels or columns, values) of one sample."""
    return array.reshape(-1, 1) if name == NUMERIC or array.ndim < 2 else array.reshape(len(array), -1)


def _cut_by_float32(parts: Iterable[np.ndarray]) -> tuple[float, float, float] | None:
    """Mean, deviation and float32's step at the mean, if the step is more than a hundredth of the deviation."""
    values = np.concatenate(list(parts)).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size or values.min() == values.max():
        return None
    mean, std = float(values.mean()), float(values.std())
    if abs(mean) > np.finfo(np.float32).max:
        return None
    step = float(np.spacing(np.float32(abs(mean))))
    return (mean, std, step) if step > COARSE * std and step > np.finfo(np.float32).tiny else None


class MemoryDataset(Dataset):
    """Samples in memory, divided at random by a seed. `memory_dataset` makes the class for certain samples."""

    name = MEMORY
    samples: ClassVar[SampleInputs]
    y: ClassVar[np.ndarray | None]
    known_labels: ClassVar[np.ndarray | None]
    """(n,) bool: which samples have a label, where only some have."""
    known_task: ClassVar[Task | None]
    label_kind: ClassVar[str | None] = None
    """numpy's kind of the labels as they were given."""
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
    if any(isinstance(value, Tensor) for value in values):
        y = values = [as_array(value) if isinstance(value, Tensor) else value for value in values]
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
    x: Any, y: Any, modality: str, template: Fields, rate: float | None = None, trained: Fields | None = None
) -> tuple[type[MemoryDataset], str]:
    """A data set class for samples in memory, and the digest of the samples.

    Args:
        x: samples, in any form that `SampleInputs` takes.
        y: labels (n,) or (n, k); None for those in the samples, if any.
        modality: the modality's name.
        template: the fields of the modality's default data set; they name the field of bare arrays.
        rate: samples per second of continuous fields, where the modality needs it; by default that of `trained`.
        trained: the fields of the encoder that reads the samples, to which they are adapted.

    Raises:
        ConfigError: `x` has another form.
        DataError: samples differ in form, or labels do not fit them.
    """
    samples = SampleInputs(x, template if trained is None else trained, known=trained is not None)
    if trained is not None and rate is None:
        rate = next((one.rate for one in trained.values() if isinstance(one, Continuous) and one.rate), None)
    fields = infer_fields(samples, rate)
    samples.adapt_to(fields)
    digest = hashlib.blake2b(digest_size=16)
    labels: list[Any] = []
    misses = False
    for index in range(len(samples)):
        try:
            inputs, label = samples.sample(index)
        except BadSample as error:
            raise DataError(f"sample {index}: {error}") from None
        for name, array in inputs.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes() if array.dtype.kind != "O" else repr(array).encode())
            misses = misses or (name == NUMERIC and array.dtype.kind == "f" and bool(np.isnan(array).any()))
        labels.append(label.item() if isinstance(label, Tensor) and not label.dim() else label)
    if MISSING in (trained or {}) or (trained is None and misses and MISSING in template):
        numbers = fields.get(NUMERIC)
        if isinstance(numbers, Continuous) and MISSING not in fields:
            fields = {NUMERIC: numbers, MISSING: Discrete(numbers.shape[-1] or 0, 2), **fields}
    if y is None and any(label is not None for label in labels):
        y = labels
    task, codes, known, kind = None, None, None, None
    if y is not None:
        given = as_array(y) if isinstance(y, Tensor) else _label_array(y)
        if len(given) != len(samples):
            raise DataError(
                f"there are {len(samples)} samples and {len(given)} labels; give None for a sample without a label"
            )
        known = _known(given)
        if not known.any():
            raise DataError("no sample has a label; leave y out")
        present = np.array(given[known].tolist()) if given.dtype == object else given[known]
        kind, (task, some) = present.dtype.kind, infer_task(present)
        codes = np.zeros((len(given), *some.shape[1:]), some.dtype)
        codes[known] = some
        known = None if known.all() else known
        digest.update(codes.tobytes() + repr(task).encode() + (b"" if known is None else known.tobytes()))
    values = {
        "__doc__": "Samples in memory.", "modality": modality, "samples": samples, "y": codes, "known_task": task,
        "known_fields": fields, "known_labels": known, "label_kind": kind, "warnings": samples.notes(),
        "doubts": doubts_about(fields) + (doubts_about_precision(samples, fields) if trained is None else ()),
    }  # fmt: skip
    return type("MemoryDataset", (MemoryDataset,), values), digest.hexdigest()
