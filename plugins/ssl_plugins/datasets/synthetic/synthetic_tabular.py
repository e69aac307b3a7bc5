"""Synthetic tables: the last visits of an account, with an amount and a code for each."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Discrete, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._random_runs import draw_runs


class SyntheticTabular(SyntheticDataset):
    """Accounts with their last visits as columns; the class is how long an interest lasts; embedded, no download.

    A row is an account with some of several interests, of which one rules each run of visits. A visit has a numeric
    column, the amount, drawn about the level of its interest, and a categorical column, one of the codes of its
    interest. The class is the mean number of visits in a run. Every interest is equally likely at every visit in every
    class, so no single column predicts the class, while other columns predict a masked one. Numeric columns have
    different units, some visits have a random interest, and values are missing at random.
    """

    modality = "tabular"
    noun = "row"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic table."""

        numeric: int = Field(10, ge=1, description="number of numeric columns, one for each visit")
        categorical: int = Field(10, ge=0, description="number of categorical columns, one for each visit")
        run_lengths: tuple[float, ...] = Field(
            (1.0, 2.0, 5.0), min_length=2, description="mean visits before the interest changes, one for each class"
        )
        interests: int = Field(6, ge=2, description="number of interests")
        interests_per_row: int = Field(3, ge=2, description="interests of an account")
        codes: int = Field(4, ge=1, description="codes of an interest; one more code stands for a missing value")
        stray: float = Field(0.1, ge=0, lt=1, description="share of visits with a random interest")
        noise: float = Field(
            1.0, ge=0, description="standard deviation of amounts within an interest; that of the levels is 1"
        )
        missing: float = Field(0.05, ge=0, lt=1, description="share of missing values")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"numeric": Continuous((options.numeric,)), "missing": Discrete(options.numeric, 2)}
        self.missing_code = options.interests * options.codes
        if options.categorical:
            self.fields["codes"] = Discrete(options.categorical, self.missing_code + 1)
        names = tuple(f"visits in runs of {mean:g}" for mean in options.run_lengths)
        self.task = Task("classes", len(names), "accuracy", names=names, title="habit")
        rng = self.shared_rng()
        self.codes = rng.permutation(self.missing_code).reshape(options.interests, options.codes)
        levels = np.linspace(-1, 1, options.interests)
        self.levels = levels / levels.std()
        self.scale = np.exp(rng.uniform(-2, 4, options.numeric))
        self.shift = rng.normal(0, 1, options.numeric) * self.scale

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"numeric": (columns,) float32, "missing": (columns,) 0 or 1, "codes": (columns,) ids} and the class."""
        options, label = self.options, self.label(index)
        visits = max(options.numeric, options.categorical)
        interests = rng.permutation(options.interests)[: options.interests_per_row]
        interest = interests[draw_runs(visits, len(interests), options.run_lengths[label], rng)]
        stray = rng.random(visits) < options.stray
        interest = np.where(stray, rng.integers(0, options.interests, visits), interest)
        amounts = self.levels[interest] + options.noise * rng.standard_normal(visits)
        codes = self.codes[interest, rng.integers(0, options.codes, visits)]
        missing_amount, missing_code = rng.random((2, visits)) < options.missing
        missing_amount = missing_amount[: options.numeric]
        numbers = np.where(missing_amount, 0, amounts[: options.numeric] * self.scale + self.shift)
        inputs = {"numeric": numbers.astype(np.float32), "missing": missing_amount.astype(np.int64)}
        if options.categorical:
            ids = np.where(missing_code, self.missing_code, codes)
            inputs["codes"] = ids[: options.categorical].astype(np.int64)
        return {"inputs": inputs, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticTabular]
