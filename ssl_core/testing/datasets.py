"""The promises of a data set, kept on the first samples of both splits."""

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
from ssl_core.data import Continuous, Sample, Split, Task, Text
from ssl_core.testing.check import Check, CheckSpec, expect, recorder, same
from ssl_core.testing.layouts import DIM
from ssl_core.testing.options import make_options
from ssl_core.testing.tokenizers import batch, stack

LOOKED_AT = 8
COMPARED = 32
SPLITS: tuple[Split, ...] = ("train", "test")

CHECKS: list[CheckSpec] = []
check = recorder(CHECKS)


@dataclass
class Setting:
    """A data set class with the option values that it is tested with."""

    dataset: type[Dataset]
    values: Mapping[str, Any]
    opened: dict[Split, Dataset] = field(default_factory=dict)

    def open(self, split: Split, anew: bool = False) -> Dataset:
        """One split."""
        if anew or split not in self.opened:
            made = self.dataset(make_options(self.dataset, self.values), split)
            if anew:
                return made
            self.opened[split] = made
        return self.opened[split]


def checks(dataset: type[Dataset], values: Mapping[str, Any]) -> list[Check]:
    """All checks of a data set class."""
    setting = Setting(dataset, values)
    return [Check(dataset, one, setting) for one in CHECKS]


def places(dataset: Dataset) -> list[int]:
    """Places spread over the data set, the first and the last among them."""
    return sorted({int(place) for place in np.linspace(0, len(dataset) - 1, LOOKED_AT)})


def plain(sample: Sample) -> dict[str, Any]:
    """A sample as an ordinary dictionary."""
    return {"inputs": dict(sample["inputs"]), "label": sample["label"]}


# --- the promises ----------------------------------------------------------------------------------------------------


@check("__init__")
def both_splits_open(setting: Setting) -> None:
    """Both splits open, are not empty, offer the same fields, and have the same task."""
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
    """Each sample holds an array for each field: of the shape given and finite, or ids within the vocabulary."""
    for split in SPLITS:
        dataset = setting.open(split)
        for index in places(dataset):
            sample = dataset[index]
            expect(set(sample) == {"inputs", "label"}, f"sample {index} has the keys {sorted(sample)}")
            inputs = sample["inputs"]
            expect(
                set(inputs) == set(dataset.fields), f"sample {index} has {sorted(inputs)}, not {sorted(dataset.fields)}"
            )
            for name, array in inputs.items():
                where = f"'{name}' of sample {index} of {split}"
                expect(isinstance(array, np.ndarray), f"{where} is {type(array).__name__}, not an array")
                form = dataset.fields[name]
                if isinstance(form, Text):
                    expect(array.dtype.kind == "U", f"{where} is of type {array.dtype}, not str")
                    expect(array.ndim <= 1 and array.size, f"{where} has shape {array.shape}, not () or (n,)")
                    continue
                shape = form.shape if isinstance(form, Continuous) else (form.length,)
                fits = len(shape) == array.ndim and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
                expect(fits, f"{where} has shape {array.shape}, not {shape}")
                if isinstance(form, Continuous):
                    expect(array.dtype.kind in "fiu", f"{where} is of type {array.dtype}")
                    expect(np.isfinite(array).all(), f"{where} is not finite")
                else:
                    expect(array.dtype.kind in "iu", f"{where} is of type {array.dtype}, not integer")
                    expect(array.min() >= 0 and array.max() < form.vocab, f"{where} leaves 0..{form.vocab - 1}")


@check("__getitem__")
def labels_fit_the_task(setting: Setting) -> None:
    """Labels are in the range that the task gives; without a task they are None."""
    for split in SPLITS:
        dataset = setting.open(split)
        for index in places(dataset):
            problem = label_problem(dataset.task, dataset[index]["label"])
            expect(not problem, f"sample {index} of {split}: {problem}")
    task = setting.open("train").task
    if task is not None and task.names:
        expect(len(task.names) == task.size, f"{len(task.names)} names for {task.size} classes or labels")


def label_problem(task: Task | None, label: Any) -> str | None:
    """What is wrong with a label, or None."""
    if task is None or label is None:
        return None if task is None and label is None else f"label {label!r} with task {task}"
    array = np.asarray(label)
    axes = (1 if task.per_token else 0) + (1 if task.kind == "labels" else 0)
    if array.ndim != axes or (task.kind == "labels" and array.shape[-1] != task.size):
        return f"the label has shape {array.shape}"
    if task.kind == "number":
        fine = array.dtype.kind in "fiu" and task.size == 1 and bool(np.isfinite(array).all())
        return None if fine else f"label {label!r} is not one finite number"
    if array.dtype.kind not in "iub":
        return f"the label is of type {array.dtype}, not integer"
    counted = array[array != task.ignore] if task.ignore is not None else array
    most = task.size if task.kind == "classes" else 2
    if counted.size and (counted.min() < 0 or counted.max() >= most):
        return f"label {label!r} leaves 0..{most - 1}"
    return None


@check("__getitem__")
def same_index_same_sample(setting: Setting) -> None:
    """An index gives the same sample each time, also from a data set opened anew, whatever else happened."""
    for split in SPLITS:
        dataset = setting.open(split)
        first = [copy.deepcopy(plain(dataset[index])) for index in places(dataset)]
        torch.manual_seed(17)
        random.seed(17)
        np.random.seed(17)
        same(first, [plain(dataset[index]) for index in places(dataset)], "samples read again")
        again = setting.open(split, anew=True)
        same(first, [plain(again[index]) for index in places(again)], "samples of a data set opened anew")


@check("__init__")
def splits_differ(setting: Setting) -> None:
    """Training and test split do not hold the same samples."""
    kept = []
    for split in SPLITS:
        dataset = setting.open(split)
        count = min(COMPARED, len(dataset))
        kept.append({_content(dataset[index]) for index in range(count)})
    shared = len(kept[0] & kept[1])
    expect(2 * shared < min(map(len, kept)), f"{shared} of the first {COMPARED} samples are the same in both splits")


def _content(sample: Sample) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(sample["inputs"][name]).tobytes() for name in sorted(sample["inputs"]))


@check("__init__")
def can_be_pickled(setting: Setting) -> None:
    """It can be pickled, as worker processes need, and then gives the same samples."""
    dataset = setting.open("train")
    again = pickle.loads(pickle.dumps(dataset))
    same(plain(dataset[0]), plain(again[0]), "the first sample after pickling")


@check("fingerprint")
def fingerprint_is_stable(setting: Setting) -> None:
    """`fingerprint` is the same each time the same data is opened, and differs between the splits."""
    prints = {split: setting.open(split).fingerprint() for split in SPLITS}
    for split, text in prints.items():
        expect(isinstance(text, str) and text, f"the fingerprint of {split} is {text!r}")
        same(text, setting.open(split, anew=True).fingerprint(), f"the fingerprint of {split}")
    expect(prints["train"] != prints["test"], f"both splits have the fingerprint {prints['train']!r}")


@check("describe")
def describe_tells_samples_apart(setting: Setting) -> None:
    """`describe` says in one line what a sample is to be called, each differently."""
    dataset = setting.open("train")
    said = [dataset.describe(index) for index in places(dataset)]
    expect(all(isinstance(text, str) and text and "\n" not in text for text in said), f"it says {said[0]!r}")
    expect(len(set(said)) == len(said), f"it says {said[0]!r} of several samples")


@check("__init__")
def fits_its_modality(setting: Setting) -> None:
    """The tokenizer of its modality, if one is installed, takes its fields and samples."""
    found = plugins.load().tokenizers.get(setting.dataset.modality)
    if found is None:
        return
    dataset = setting.open("train")
    tokenizer = found.value(make_options(found.value, {}), dataset.fields, DIM)
    tokenizer.fit([dict(dataset[index]["inputs"]) for index in places(dataset)])
    arrays = stack([tokenizer.preprocess(dict(dataset[index]["inputs"])) for index in places(dataset)[:2]])
    embeddings = tokenizer(batch(arrays)).embeddings
    expect(embeddings.isfinite().all(), f"tokenizer '{found.name}' makes tokens of it that are not finite")
