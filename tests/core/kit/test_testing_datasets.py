"""The conformance kit for data sets: each check detects a broken data set."""

import numpy as np
import pytest
from pydantic import Field

from ssl_core import (
    Continuous,
    Dataset,
    Discrete,
    Task,
    testing,
)
from ssl_core.tokenizers import GridTokenizer


class Numbers(Dataset):
    """Random numbers and ids."""

    name, modality = "numbers", "nothing"

    class Options(Dataset.Options):
        size: int = Field(50, description="samples in a split")

    def __init__(self, options, split):
        super().__init__(options, split)
        self.fields = {"x": Continuous((2, None)), "y": Discrete(4, 6)}
        self.task = Task("classes", 3, "accuracy", names=("a", "b", "c"))

    def __len__(self):
        return self.options.size

    def __getitem__(self, index):
        rng = np.random.default_rng([index, self.split == "test"])
        x, y = rng.normal(size=(2, 3 + index % 2)), rng.integers(0, 6, 4)
        return {"inputs": {"x": x, "y": y}, "label": int(rng.integers(3))}


def sample(change, **attributes):
    class Changed(Numbers):
        """Changed."""

        def __getitem__(self, index):
            return change(self, super().__getitem__(index), index)

    for name, value in attributes.items():
        setattr(Changed, name, value)
    return Changed


def inputs(**changed):
    return sample(lambda self, made, index: made | {"inputs": made["inputs"] | changed})


def labelled(task, label):
    class Changed(Numbers):
        """Changed."""

        def __init__(self, options, split):
            super().__init__(options, split)
            self.task = task

        def __getitem__(self, index):
            return super().__getitem__(index) | {"label": label}

    return Changed


class Needy(Numbers):
    """Needs a folder."""

    class Options(Numbers.Options):
        root: str = Field(description="a folder")


class FieldsDiffer(Numbers):
    """Other fields in test."""

    def __init__(self, options, split):
        super().__init__(options, split)
        if split == "test":
            self.fields = {"x": Continuous((3, None)), "y": Discrete(4, 6)}


class Unpicklable(Numbers):
    """Holds a function."""

    def __init__(self, options, split):
        super().__init__(options, split)
        self.helper = lambda: 3


class CountsReads(Numbers):
    """Counts how often it was read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        made = super().__getitem__(index)
        return made | {"inputs": {"x": made["inputs"]["x"] + self.reads, "y": made["inputs"]["y"]}}


RANDOM_PRINT = type("Changed", (Numbers,), {"fingerprint": lambda self: str(np.random.default_rng().random())})
BROKEN_DATASETS = [
    ("both_splits_open", type("Empty", (Numbers,), {"__len__": lambda self: 0}), "the train split is empty"),
    ("both_splits_open", FieldsDiffer, "(3, None)"),
    ("samples_fit_the_fields", sample(lambda s, made, i: made["inputs"]), "sample 0 has the keys ['x', 'y']"),
    ("samples_fit_the_fields", inputs(z=np.zeros(3)), "sample 0 has ['x', 'y', 'z'], not ['x', 'y']"),
    ("samples_fit_the_fields", inputs(x=np.zeros((1, 3))), "has shape (1, 3), not (2, None)"),
    ("samples_fit_the_fields", inputs(x=np.full((2, 3), np.nan)), "'x' of sample 0 of train is not finite"),
    ("samples_fit_the_fields", inputs(x=[[1.0]]), "is list, not an array"),
    ("samples_fit_the_fields", inputs(y=np.zeros(4)), "float64, not integer"),
    ("samples_fit_the_fields", inputs(y=np.array([0, 1, 2, 6])), "is outside 0..5"),
    ("labels_fit_the_task", labelled(None, 1), "label 1 without a task"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), None), "no label among"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), 3), "label 3 is outside 0..2"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), -1), "label -1 is outside 0..2"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy"), 1.5), "float64, not integer"),
    ("labels_fit_the_task", labelled(Task("labels", 3, "auroc"), np.array([0, 1])), "the label has shape (2,)"),
    ("labels_fit_the_task", labelled(Task("labels", 3, "auroc"), np.array([0, 1, 2])), "is outside 0..1"),
    ("labels_fit_the_task", labelled(Task("number", 1, "pearson"), float("inf")), "is not one finite number"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy", per_token=True), 1), "the label has shape ()"),
    ("labels_fit_the_task", labelled(Task("classes", 3, "accuracy", names=("a",)), 1), "1 names for 3 classes"),
    ("same_index_same_sample", CountsReads, "samples read again"),
    ("splits_differ", sample(lambda s, made, i: type(s).__mro__[1](s.options, "train")[i]), "same in both splits"),
    ("can_be_pickled", Unpicklable, "got:  "),
    ("fingerprint_is_stable", RANDOM_PRINT, "the fingerprint of train"),
    ("fingerprint_is_stable", type("Changed", (Numbers,), {"fingerprint": lambda self: "x"}), "both splits have the"),
    (
        "describe_tells_samples_apart",
        type("Changed", (Numbers,), {"describe": lambda self, i: "a file"}),
        "for several samples",
    ),
    ("options_survive_json", type("Changed", (Numbers,), {"Options": None}), "got:  "),
]

CORRECT_LABELS = [
    (None, None),
    (Task("labels", 3, "auroc"), np.array([0, 1, 1])),
    (Task("number", 1, "spearman"), 2.5),
    (Task("classes", 3, "accuracy", per_token=True, ignore=-1), np.array([0, 2, -1])),
]


def test_correct_dataset_passes(assert_all_pass):
    assert_all_pass(Numbers)


@pytest.mark.parametrize(("task", "label"), CORRECT_LABELS)
def test_correct_labels_pass(task, label):
    (check,) = (c for c in testing.checks(labelled(task, label)) if c.name == "labels_fit_the_task")
    check()


@pytest.mark.parametrize(("name", "plugin", "got"), BROKEN_DATASETS)
def test_broken_dataset_fails(error_of, name, plugin, got):
    assert got in error_of(plugin, name)


def test_dataset_that_its_tokenizer_refuses_fails(error_of, monkeypatch):
    from ssl_core import hookimpl, plugins

    class Waves(GridTokenizer):
        """Reads a field that does not exist."""

        name = "nothing"

        def __init__(self, options, fields, dim):
            super().__init__(options, fields, dim, field="waves", channels=2, shape=(8,), patch=(4,))

        def preprocess(self, inputs):
            return {"waves": inputs["waves"]}

    class Plugin:
        @hookimpl
        def register_tokenizers(self):
            return [Waves]

    catalogue = plugins.Catalogue.from_plugins({"a:b": Plugin()})
    assert not catalogue.problems
    monkeypatch.setattr(plugins, "load", lambda: catalogue)
    assert "KeyError: 'waves'" in error_of(Numbers, "fits_its_modality")


def test_options_that_do_not_suffice_are_named(error_of, assert_all_pass):
    message = error_of(Needy, "both_splits_open")
    assert "Needy.Options({}) is refused: root: Field required; pass options=..." in message
    assert_all_pass(Needy, options={"root": "here"})
