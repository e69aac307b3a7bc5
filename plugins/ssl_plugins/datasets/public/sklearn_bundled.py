"""Small real data that come with scikit-learn: handwritten digits and breast cancer cells; no download."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from pydantic import Field

from ssl_core import Continuous, Dataset, Fields, Sample, Split, Task, hookimpl


class Bundled(Dataset):
    """Rows that scikit-learn bundles, divided once by a seeded shuffle within each class."""

    class Options(Dataset.Options):
        """Options of a bundled data set."""

        test_fraction: float = Field(0.2, gt=0, lt=1, description="share of each class that is held out")
        seed: int = Field(0, ge=0, description="seed of the division")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.values, self.labels, names = _load(self.name)
        train, test = _divide(self.labels, options.test_fraction, options.seed)
        self.rows = train if split == "train" else test
        self.fields = self.offered()
        self.task = Task("classes", len(names), "accuracy", names=names, title=self.name)

    def offered(self) -> Fields:
        """What a sample holds."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> int:
        """The row of scikit-learn's table. Errors: IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(self.rows[index])

    def describe(self, index: int) -> str:
        """The row of scikit-learn's table."""
        return f"row {self.row(index)} of scikit-learn's {self.name}"


class Digits(Bundled):
    """Handwritten digits, 8 x 8, 1797 of them (UCI; bundled with scikit-learn, no download)."""

    name = "digits"
    modality = "image"

    def offered(self) -> Fields:
        """Grey images."""
        return {"image": Continuous((1, 8, 8))}

    def __getitem__(self, index: int) -> Sample:
        """{"image": (1, 8, 8) bytes} and the digit. The levels 0..16 become 0..255."""
        row = self.row(index)
        image = np.rint(self.values[row].reshape(1, 8, 8) * (255 / 16)).astype(np.uint8)
        return {"inputs": {"image": image}, "label": int(self.labels[row])}


class BreastCancer(Bundled):
    """Breast cancer cell nuclei, 30 numbers on 569 patients (Wisconsin; bundled with scikit-learn, no download)."""

    name = "breast_cancer"
    modality = "tabular"

    def offered(self) -> Fields:
        """Numbers only."""
        return {"numeric": Continuous((self.values.shape[1],))}

    def __getitem__(self, index: int) -> Sample:
        """{"numeric": (30,) float32} and 0 (malignant) or 1 (benign)."""
        row = self.row(index)
        return {"inputs": {"numeric": self.values[row].astype(np.float32)}, "label": int(self.labels[row])}


@functools.lru_cache(maxsize=2)
def _load(name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """ContinuousTarget (n, columns), labels (n,), class names."""
    from sklearn import datasets  # slow to import

    found: Any = datasets.load_digits() if name == "digits" else datasets.load_breast_cancer()
    return found.data, found.target, tuple(str(each) for each in found.target_names)


def _divide(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and of the test split, ascending; at least one of each class in both."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        held[mine[: min(max(1, round(share * len(mine))), len(mine) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Digits, BreastCancer]
