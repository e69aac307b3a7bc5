"""Base class of the synthetic data sets: sizes, seeds, bounds, labels and fingerprint."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task

SPLIT_KEYS: dict[Split, int] = {"train": 0, "test": 1, "validation": 2}
SHARED_KEY = 0


class SyntheticDataset(Dataset):
    """Samples generated when they are read. Sample i is a pure function of (seed, split, i).

    A subclass sets `fields` and `task` in `__init__` and implements `generate`. The three splits differ only in the
    random generators of their samples. Classes are balanced: sample i has the class i modulo the number of classes.
    """

    name = "synthetic"
    is_default = True
    splits = ("train", "validation", "test")
    task: Task
    noun: ClassVar[str] = "sample"
    """What `describe` calls a sample."""
    sample_key: ClassVar[tuple[int, ...]] = ()
    """Part of each sample's seed. A subclass that calls `shared_rng` sets (1,), so that the two streams differ."""

    class Options(Dataset.Options):
        """Options of every synthetic data set."""

        n_train: int = Field(2000, ge=1, description="samples of the training split")
        n_validation: int = Field(500, ge=1, description="samples of the validation split")
        n_test: int = Field(500, ge=1, description="samples of the test split")
        seed: int = Field(0, ge=0, description="seed of all random numbers")

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """Sample `index`. All randomness comes from `rng`."""
        raise NotImplementedError

    def label(self, index: int) -> Any:
        """The label of a sample: its class by default."""
        return index % self.task.size

    def label_name(self, index: int) -> str:
        """The label of a sample, in words."""
        return self.task.names[self.label(index)]

    def shared_rng(self, *key: int) -> np.random.Generator:
        """A generator for parameters that all splits share, such as a vocabulary."""
        return np.random.default_rng([self.options.seed, SHARED_KEY, *key])

    def __len__(self) -> int:
        return getattr(self.options, f"n_{self.split}")

    def __getitem__(self, index: int) -> Sample:
        """Generate sample `index`.

        Raises:
            IndexError: for an index outside the split.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        key = [self.options.seed, *self.sample_key, SPLIT_KEYS[self.split], index]
        return self.generate(index, np.random.default_rng(key))

    def describe(self, index: int) -> str:
        """Index, split and label of a sample."""
        return f"synthetic {self.noun} {index} of the {self.split} split ({self.label_name(index)})"

    def fingerprint(self) -> str:
        """Changes with every option except the sizes of the other splits."""
        other_sizes = {f"n_{split}" for split in get_args(Split) if split != self.split}
        return f"{self.modality}/{self.name}:{self.split}:{self.options.model_dump_json(exclude=other_sizes)}"
