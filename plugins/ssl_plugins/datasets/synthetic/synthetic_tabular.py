"""Embedded tables: accounts with their last visits, a number and a code each; made on the fly, no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Discrete, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._random_runs import draw_stretches

SPLITS: tuple[Split, ...] = ("train", "test")
WORLD, ROWS = 0, 1  # what a random generator is for


class SyntheticTabular(Dataset):
    """Accounts' last visits as columns; the class is how long one interest lasts; embedded, no download.

    A row is an account with some of several interests that take turns. Each visit is a numeric column, the amount
    spent, about its interest's level, and a categorical one, one of its interest's codes. The class is the mean number
    of visits before another interest takes over. Every interest is equally likely at every visit in every class, so
    that no column alone tells it, and other columns tell much of what a hidden one holds. Numeric columns have their
    own units (a visit's own prices), a few visits are of any interest, and numbers and codes are missing at random.
    Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "tabular"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic table."""

        n_train: int = Field(2000, ge=1, description="rows for training")
        n_test: int = Field(500, ge=1, description="rows for the test")
        numeric: int = Field(10, ge=1, description="numeric columns, the amounts of so many visits")
        categorical: int = Field(10, ge=0, description="categorical columns, the codes of so many visits")
        lasting: tuple[float, ...] = Field(
            (1.0, 2.0, 5.0), min_length=2, description="mean visits before the interest changes, for each class"
        )
        interests: int = Field(6, ge=2, description="different interests")
        own: int = Field(3, ge=2, description="interests of an account")
        codes: int = Field(4, ge=1, description="codes of an interest; one more, the last, says that it is missing")
        stray: float = Field(0.1, ge=0, lt=1, description="share of the visits that are of any interest")
        noise: float = Field(1.0, ge=0, description="deviation of amounts within an interest; that of the levels is 1")
        missing: float = Field(0.05, ge=0, lt=1, description="share of the values that are missing")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"numeric": Continuous((options.numeric,)), "missing": Discrete(options.numeric, 2)}
        self.unknown = options.interests * options.codes
        if options.categorical:
            self.fields["codes"] = Discrete(options.categorical, self.unknown + 1)
        names = tuple(f"visits in runs of {mean:g}" for mean in options.lasting)
        self.task = Task("classes", len(names), "accuracy", names=names, title="habit")
        rng = np.random.default_rng([options.seed, WORLD])
        self.codes = rng.permutation(self.unknown).reshape(options.interests, options.codes)
        levels = np.linspace(-1, 1, options.interests)
        self.levels = levels / levels.std()
        self.scale = np.exp(rng.uniform(-2, 4, options.numeric))
        self.shift = rng.normal(0, 1, options.numeric) * self.scale

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (columns,) float32, "missing": (columns,) 0 or 1, "codes": (columns,) ids} and the class."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(self.options.lasting)
        rng = np.random.default_rng([options.seed, ROWS, SPLITS.index(self.split), index])
        visits = max(options.numeric, options.categorical)
        own = rng.permutation(options.interests)[: options.own]
        interest = own[draw_stretches(visits, len(own), options.lasting[label], rng)]
        stray = rng.random(visits) < options.stray
        interest = np.where(stray, rng.integers(0, options.interests, visits), interest)
        amounts = self.levels[interest] + options.noise * rng.standard_normal(visits)
        codes = self.codes[interest, rng.integers(0, options.codes, visits)]
        gone, unknown = rng.random((2, visits)) < options.missing
        gone = gone[: options.numeric]
        numbers = np.where(gone, 0, amounts[: options.numeric] * self.scale + self.shift)
        inputs = {"numeric": numbers.astype(np.float32), "missing": gone.astype(np.int64)}
        if options.categorical:
            inputs["codes"] = np.where(unknown, self.unknown, codes)[: options.categorical].astype(np.int64)
        return {"inputs": inputs, "label": label}

    def describe(self, index: int) -> str:
        """Its class."""
        assert self.task is not None
        name = self.task.names[index % len(self.options.lasting)]
        return f"synthetic row {index} of the {self.split} split ({name})"


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticTabular]
