"""Checks of a data set, on samples of both splits."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ssl_core import plugins
from ssl_core.contracts import Dataset
from ssl_core.data import Continuous, Recognition, Sample, Split, Task, Text
from ssl_core.testing.check import Check, CheckSpec, expect, expect_equal, registrar
from ssl_core.testing.layouts import DIM
from ssl_core.testing.options import make_options
from ssl_core.testing.tokenizers import batch, stack

SAMPLES = 8  # samples of a split that most checks read
COMPARED = 32  # first samples of the splits that are compared with each other
SPLITS: tuple[Split, ...] = ("train", "test")

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)


@dataclass
class Setting:
    """A data set class and the option values that the checks use."""

    dataset: type[Dataset]
    values: Mapping[str, Any]
    cache: dict[Split, Dataset] = field(default_factory=dict)

    def open(self, split: Split) -> Dataset:
        """One split, opened once."""
        if split not in self.cache:
            self.cache[split] = self.reopen(split)
        return self.cache[split]

    def reopen(self, split: Split) -> Dataset:
        """One split, opened again."""
        return self.dataset(make_options(self.dataset, self.values), split)


def checks(dataset: type[Dataset], values: Mapping[str, Any]) -> list[Check]:
    """All checks of a data set class."""
    setting = Setting(dataset, values)
    return [Check(dataset, spec, setting) for spec in CHECKS]


def spread_indices(dataset: Dataset) -> list[int]:
    """Indices spread evenly over the data set, including the first and the last."""
    return sorted({int(index) for index in np.linspace(0, len(dataset) - 1, SAMPLES)})


def as_dict(sample: Sample) -> dict[str, Any]:
    """A sample as a plain dictionary."""
    return {"inputs": dict(sample["inputs"]), "label": sample["label"]}


# --- checks ----------------------------------------------------------------------------------------------------------


@check("__init__")
def both_splits_open(setting: Setting) -> None:
    """Both splits open, are not empty, and have the same fields and task."""
    train, test = (setting.open(split) for split in SPLITS)
    for dataset in (train, test):
        expect(len(dataset) > 0, f"the {dataset.split} split is empty")
        expect(dataset.fields, "fields is empty")
        task = dataset.task
        expect(task is None or isinstance(task, Task), f"task is {type(task).__name__}, not Task or None")
    expect(dict(train.fields) == dict(test.fields), f"fields {train.fields} in train, {test.fields} in test")
    expect(train.task == test.task, f"task {train.task} in train, {test.task} in test")


@check("__getitem__")
def samples_fit_the_fields(setting: Setting) -> None:
    """Each sample holds an array for each field: finite and of the field's shape, or ids within the vocabulary."""
    for split in SPLITS:
        dataset = setting.open(split)
        for index in spread_indices(dataset):
            sample = dataset[index]
            expect(set(sample) == {"inputs", "label"}, f"sample {index} has the keys {sorted(sample)}")
            inputs = sample["inputs"]
            expect(
                set(inputs) == set(dataset.fields), f"sample {index} has {sorted(inputs)}, not {sorted(dataset.fields)}"
            )
            for name, array in inputs.items():
                label = f"'{name}' of sample {index} of {split}"
                expect(isinstance(array, np.ndarray), f"{label} is {type(array).__name__}, not an array")
                spec = dataset.fields[name]
                if isinstance(spec, Text):
                    expect(array.dtype.kind == "U", f"{label} is of type {array.dtype}, not str")
                    expect(array.ndim <= 1 and array.size, f"{label} has shape {array.shape}, not () or (n,)")
                    continue
                shape = spec.shape if isinstance(spec, Continuous) else (spec.length,)
                fits = len(shape) == array.ndim and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
                expect(fits, f"{label} has shape {array.shape}, not {shape}")
                if isinstance(spec, Continuous):
                    expect(array.dtype.kind in "fiu", f"{label} is of type {array.dtype}")
                    expect(np.isfinite(array).all(), f"{label} is not finite")
                else:
                    expect(array.dtype.kind in "iu", f"{label} is of type {array.dtype}, not integer")
                    expect(array.min() >= 0 and array.max() < spec.vocab, f"{label} is outside 0..{spec.vocab - 1}")


@check("__getitem__")
def labels_fit_the_task(setting: Setting) -> None:
    """Labels are in the range of the task, or None for a sample without one; without a task all are None."""
    for split in SPLITS:
        dataset = setting.open(split)
        labels = {index: dataset[index]["label"] for index in spread_indices(dataset)}
        for index, label in labels.items():
            problem = label_problem(dataset.task, label)
            expect(not problem, f"sample {index} of {split}: {problem}")
        some = dataset.task is None or any(label is not None for label in labels.values())
        expect(some, f"no label among {len(labels)} samples of {split}, with task {dataset.task}; set `task` to None")
    task = setting.open("train").task
    if task is not None and task.names:
        expect(len(task.names) == task.size, f"{len(task.names)} names for {task.size} classes or labels")


def label_problem(task: Task | None, label: Any) -> str | None:
    """The problem with a label, or None."""
    if label is None:
        return None
    if task is None:
        return f"label {label!r} without a task"
    array = np.asarray(label)
    axes = (1 if task.per_token else 0) + (1 if task.kind == "labels" else 0)
    if array.ndim != axes or (task.kind == "labels" and array.shape[-1] != task.size):
        return f"the label has shape {array.shape}"
    if task.kind == "number":
        valid = array.dtype.kind in "fiu" and task.size == 1 and bool(np.isfinite(array).all())
        return None if valid else f"label {label!r} is not one finite number"
    if array.dtype.kind not in "iub":
        return f"the label is of type {array.dtype}, not integer"
    counted = array[array != task.ignore] if task.ignore is not None else array
    size = task.size if task.kind == "classes" else 2
    if counted.size and (counted.min() < 0 or counted.max() >= size):
        return f"label {label!r} is outside 0..{size - 1}"
    return None


@check("__getitem__")
def same_index_same_sample(setting: Setting) -> None:
    """An index gives the same sample each time, also from a data set that is opened again."""
    for split in SPLITS:
        dataset = setting.open(split)
        first = [copy.deepcopy(as_dict(dataset[index])) for index in spread_indices(dataset)]
        torch.manual_seed(17)
        random.seed(17)
        np.random.seed(17)
        expect_equal(first, [as_dict(dataset[index]) for index in spread_indices(dataset)], "samples read again")
        again = setting.reopen(split)
        expect_equal(
            first, [as_dict(again[index]) for index in spread_indices(again)], "samples of a data set opened again"
        )


@check("__init__")
def splits_differ(setting: Setting) -> None:
    """The training and the test split do not hold the same samples."""
    contents = []
    for split in SPLITS:
        dataset = setting.open(split)
        count = min(COMPARED, len(dataset))
        contents.append({_input_bytes(dataset[index]) for index in range(count)})
    shared = len(contents[0] & contents[1])
    expect(
        2 * shared < min(map(len, contents)), f"{shared} of the first {COMPARED} samples are the same in both splits"
    )


def _input_bytes(sample: Sample) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(sample["inputs"][name]).tobytes() for name in sorted(sample["inputs"]))


@check("__init__")
def can_be_pickled(setting: Setting) -> None:
    """It can be pickled, as worker processes require, and the copy gives the same samples."""
    dataset = setting.open("train")
    again = pickle.loads(pickle.dumps(dataset))
    expect_equal(as_dict(dataset[0]), as_dict(again[0]), "the first sample after pickling")


@check("fingerprint")
def fingerprint_is_stable(setting: Setting) -> None:
    """`fingerprint` is the same each time the data set is opened, and differs between the splits."""
    prints = {split: setting.open(split).fingerprint() for split in SPLITS}
    for split, text in prints.items():
        expect(isinstance(text, str) and text, f"the fingerprint of {split} is {text!r}")
        expect_equal(text, setting.reopen(split).fingerprint(), f"the fingerprint of {split}")
    expect(prints["train"] != prints["test"], f"both splits have the fingerprint {prints['train']!r}")


@check("describe")
def describe_tells_samples_apart(setting: Setting) -> None:
    """`describe` returns a one-line name for each sample, and no two are equal."""
    dataset = setting.open("train")
    names = [dataset.describe(index) for index in spread_indices(dataset)]
    expect(all(isinstance(text, str) and text and "\n" not in text for text in names), f"it returned {names[0]!r}")
    expect(len(set(names)) == len(names), f"it returned {names[0]!r} for several samples")


@check("recognise")
def recognises_paths(setting: Setting) -> None:
    """`recognise` returns the same Recognition or None each time, with known options, and None for an absent path."""
    cls = setting.dataset
    absent = cls.recognise("/sslx-kit/there is no such file")
    expect(absent is None, f"it returned {absent!r} for a path that does not exist")
    root = make_options(cls, setting.values).model_dump().get("root")
    if not isinstance(root, str):
        return
    found = cls.recognise(root)
    expect(
        found is None or isinstance(found, Recognition), f"it returned {type(found).__name__}, not Recognition or None"
    )
    if found is None:
        return
    expect(found == cls.recognise(root), "it returned something else when it was asked again")
    expect(bool(found.why) and "\n" not in found.why, f"why is {found.why!r}, not one line")
    unknown = [name for name in found.options if name not in cls.Options.model_fields]
    expect(not unknown, f"it returned the unknown options {', '.join(unknown)}")


@check("__init__")
def fits_its_modality(setting: Setting) -> None:
    """The tokenizer of its modality, if one is installed, accepts its fields and samples."""
    entry = plugins.load().tokenizers.get(setting.dataset.modality)
    if entry is None:
        return
    dataset = setting.open("train")
    tokenizer = entry.value(make_options(entry.value, {}), dataset.fields, DIM)
    tokenizer.fit([dict(dataset[index]["inputs"]) for index in spread_indices(dataset)])
    arrays = stack([tokenizer.preprocess(dict(dataset[index]["inputs"])) for index in spread_indices(dataset)[:2]])
    embeddings = tokenizer(batch(arrays)).embeddings
    expect(embeddings.isfinite().all(), f"tokenizer '{entry.name}' returns embeddings that are not finite")
