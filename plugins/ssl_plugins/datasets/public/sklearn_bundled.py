"""Small real data sets that scikit-learn contains: handwritten digits and breast cancer cells."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from pydantic import Field

from ssl_core import ConfigError, Continuous, Dataset, Fields, Sample, Split, Task, hookimpl


class BundledDataset(Dataset):
    """Rows of a data set of scikit-learn, split by a seeded shuffle within each class."""

    class Options(Dataset.Options):
        """Options of a bundled data set."""

        test_fraction: float = Field(0.2, gt=0, lt=1, description="share of each class in the test split")
        validation_fraction: float = Field(
            0.0, ge=0, lt=1, description="share of each class in the validation split, taken from the training rows"
        )
        seed: int = Field(0, ge=0, description="seed of the split")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        if options.validation_fraction:
            self.splits = ("train", "validation", "test")
        if split not in self.splits:
            raise ConfigError(f"'{self.name}' has no validation split; set dataset.validation_fraction=0.1")
        if options.test_fraction + options.validation_fraction >= 1:
            raise ConfigError(
                f"dataset.test_fraction={options.test_fraction} and dataset.validation_fraction="
                f"{options.validation_fraction} leave no training rows; their sum must be below 1"
            )
        self.values, self.labels, names = _load(self.name)
        fractions = (options.test_fraction, options.validation_fraction)
        self.rows = _split_rows(self.labels, *fractions, options.seed)[split]
        self.fields = self.describe_fields()
        self.task = Task("classes", len(names), "accuracy", names=names, title=self.name)

    def describe_fields(self) -> Fields:
        """The fields of a sample."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> int:
        """The row of scikit-learn's table.

        Raises:
            IndexError: for an index outside the split.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(self.rows[index])

    def describe(self, index: int) -> str:
        """The row of scikit-learn's table."""
        return f"row {self.row(index)} of scikit-learn's {self.name}"


class Digits(BundledDataset):
    """Handwritten digits, 8 x 8, 1797 of them (UCI; bundled with scikit-learn, no download)."""

    name = "digits"
    modality = "image"

    def describe_fields(self) -> Fields:
        """One channel."""
        return {"image": Continuous((1, 8, 8))}

    def __getitem__(self, index: int) -> Sample:
        """{"image": (1, 8, 8) uint8} and the digit. The levels 0 to 16 become 0 to 255."""
        row = self.row(index)
        image = np.rint(self.values[row].reshape(1, 8, 8) * (255 / 16)).astype(np.uint8)
        return {"inputs": {"image": image}, "label": int(self.labels[row])}


class BreastCancer(BundledDataset):
    """Breast cancer cell nuclei, 30 numbers on 569 patients (Wisconsin; bundled with scikit-learn, no download)."""

    name = "breast_cancer"
    modality = "tabular"

    def describe_fields(self) -> Fields:
        """Numeric columns only."""
        return {"numeric": Continuous((self.values.shape[1],))}

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (30,) float32} and 0 (malignant) or 1 (benign)."""
        row = self.row(index)
        return {"inputs": {"numeric": self.values[row].astype(np.float32)}, "label": int(self.labels[row])}


@functools.lru_cache(maxsize=2)
def _load(name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values (n, columns), labels (n,) and class names."""
    from sklearn import datasets  # slow to import

    bunch: Any = datasets.load_digits() if name == "digits" else datasets.load_breast_cancer()
    return bunch.data, bunch.target, tuple(str(target) for target in bunch.target_names)


def _split_rows(
    labels: np.ndarray, test_fraction: float, validation_fraction: float, seed: int
) -> dict[Split, np.ndarray]:
    """Ascending rows of each split.

    Every class has at least one row in each split with a fraction above 0, as far as it has rows.
    The test split does not depend on `validation_fraction`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    splits = np.zeros(len(labels), dtype=np.int8)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        test = min(max(1, round(test_fraction * len(rows))), len(rows) - 1)
        validation = 0
        if validation_fraction:
            validation = min(max(1, round(validation_fraction * len(rows))), len(rows) - test - 1)
        splits[rows[:test]] = 2
        splits[rows[test : test + validation]] = 1
    return {"train": np.flatnonzero(splits == 0), "validation": np.flatnonzero(splits == 1),
            "test": np.flatnonzero(splits == 2)}  # fmt: skip


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Digits, BreastCancer]
