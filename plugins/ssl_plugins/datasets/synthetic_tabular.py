"""Embedded tables: numbers and categories whose dependence on each other is the class; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Discrete, Sample, Split, Task, hookimpl

SPLITS: tuple[Split, ...] = ("train", "test")
WORLD, ROWS = 0, 1  # what a random generator is for
FACTORS = 2  # whose loadings differ from class to class
COMMON = 3  # factors that move all classes alike
LEVELS = 4
UNKNOWN = LEVELS  # the last entry of a category's vocabulary: missing


class SyntheticTabular(Dataset):
    """Columns moved by hidden factors; the class is how, so that no column alone tells it; embedded, no download.

    A mixture of factor models: each class has its own loadings of every column on two hidden factors of mean zero, so
    that each column is distributed alike in all classes, and the products of columns tell them apart. Other factors
    move all classes alike, so that rows that are near each other need not be of one class. Numeric columns go through
    their own monotone curve and units; categorical ones are four ranges of the signal under shuffled names. Numbers
    and categories are missing at random. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "tabular"
    pretrain_default = True

    class Options(Dataset.Options):
        """Options of the synthetic table."""

        n_train: int = Field(2000, ge=1, description="rows for training")
        n_test: int = Field(500, ge=1, description="rows for the test")
        numeric: int = Field(20, ge=1, description="numeric columns")
        categorical: int = Field(3, ge=0, description="categorical columns, of four categories and one for missing")
        classes: int = Field(4, ge=2, description="classes")
        noise: float = Field(0.3, ge=0, description="deviation of a column's own noise; that of its signal is 1")
        nuisance: float = Field(1.25, ge=0, description="deviation of what moves the columns alike in all classes")
        missing: float = Field(0.05, ge=0, lt=1, description="share of the values that are missing")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        columns = options.numeric + options.categorical
        self.fields = {"numeric": Continuous((options.numeric,)), "missing": Discrete(options.numeric, 2)}
        self.fields |= {f"category {k + 1}": Discrete(1, LEVELS + 1) for k in range(options.categorical)}
        self.task = Task("classes", options.classes, "accuracy", title="dependence")
        rng = np.random.default_rng([options.seed, WORLD])
        loadings = rng.standard_normal((options.classes, columns, FACTORS))
        common = rng.standard_normal((columns, COMMON))
        self.loadings = loadings / np.linalg.norm(loadings, axis=2, keepdims=True)
        self.common = options.nuisance * common / np.linalg.norm(common, axis=1, keepdims=True)
        self.bend, self.scale = rng.uniform(-0.8, 0.8, options.numeric), np.exp(rng.uniform(-2, 4, options.numeric))
        self.shift = rng.normal(0, 1, options.numeric) * self.scale
        self.names = np.stack([rng.permutation(LEVELS) for _ in range(options.categorical)] or [np.arange(LEVELS)])

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (columns,) float32, "missing": (columns,) 0 or 1, "category k": (1,)} and the class."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % self.options.classes
        rng = np.random.default_rng([options.seed, ROWS, SPLITS.index(self.split), index])
        factors = rng.standard_normal(FACTORS)
        factors *= np.sqrt(FACTORS) / np.linalg.norm(factors)  # on a circle: every row has as much to tell
        moved = self.loadings[label] @ factors + self.common @ rng.standard_normal(COMMON)
        moved += options.noise * rng.standard_normal(len(moved))
        gone = rng.random(len(moved)) < options.missing
        count = options.numeric
        numbers = np.sinh(moved[:count] * (1 + self.bend)) * self.scale + self.shift
        inputs = {
            "numeric": np.where(gone[:count], 0, numbers).astype(np.float32),
            "missing": gone[:count].astype(np.int64),
        }
        quarters = np.searchsorted((-0.9, 0.0, 0.9), moved[count:])
        for k, quarter in enumerate(quarters):
            entry = UNKNOWN if gone[count + k] else self.names[k, quarter]
            inputs[f"category {k + 1}"] = np.array([entry], dtype=np.int64)
        return {"inputs": inputs, "label": label}

    def describe(self, index: int) -> str:
        """Its class."""
        return f"synthetic row {index} of the {self.split} split (class {index % self.options.classes})"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticTabular]
