"""Classical hand-made features of raw samples, as one more kind of features beside those of encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ssl_core.contracts import Dataset, Tokenizer
from ssl_core.data import Split
from ssl_core.errors import BadSample, PluginError
from ssl_core.pipeline.cache import PreprocessedSplit

TREES = "trees"
"""The probe that is fitted to classical features beside the probes of the run."""
MOST_COLUMNS = 512
"""Most features that boosted trees are fitted to: their cost grows with the number, and sparse counts suit them ill."""


def has_classical(tokenizer: Tokenizer, dataset: Dataset) -> bool:
    """Whether a tokenizer has hand-made features of a data set, found by its first usable sample.

    Raises:
        ConfigError: a library is missing.
    """
    for index in range(len(dataset)):
        try:
            inputs = dataset[index]["inputs"]
            tokenizer.preprocess(inputs)
        except BadSample:
            continue
        return tokenizer.handmade(inputs) is not None
    return False


@dataclass
class ClassicalFeatures:
    """Hand-made features of samples, read from the data sets when they are asked for.

    splits: the data sets. data: their preprocessed samples, which lack the bad ones.
    """

    tokenizer: Tokenizer
    splits: Mapping[Split, Dataset]
    data: Mapping[Split, PreprocessedSplit]
    _usable: dict[Split, np.ndarray] = field(default_factory=dict)

    def __call__(self, split: PreprocessedSplit, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Features (n, F) float32 and labels of the samples at `index` of a preprocessed split.

        Raises:
            PluginError: the features differ in number, or are not finite.
        """
        name = next(name for name, known in self.data.items() if known is split)
        dataset, numbers = self.splits[name], self._numbers(name)[index]
        rows: list[np.ndarray] = []
        for number in numbers.tolist():
            row = np.asarray(self.tokenizer.handmade(dataset[number]["inputs"]), dtype=np.float32)
            if row.ndim != 1 or (rows and row.shape != rows[0].shape) or not np.isfinite(row).all():
                problem = "not finite" if row.ndim == 1 and np.isnan(row).any() else f"of shape {row.shape}"
                raise PluginError(
                    f"tokenizer '{self.tokenizer.name}': handmade features of {dataset.describe(number)} are "
                    f"{problem}; return (F,) finite numbers, of all samples the same F"
                )
            rows.append(row)
        return np.stack(rows), None if split.labels is None else split.labels[index]

    def _numbers(self, name: Split) -> np.ndarray:
        """The number in the data set of each preprocessed sample."""
        if name not in self._usable:
            dataset, prepared = self.splits[name], self.data[name]
            usable = np.arange(len(dataset)) if not prepared.bad else self._find_usable(dataset)
            if len(usable) != len(prepared):
                raise PluginError(f"the {name} split gave {len(prepared)} samples before and {len(usable)} now")
            self._usable[name] = usable
        return self._usable[name]

    def _find_usable(self, dataset: Dataset) -> np.ndarray:
        usable = []
        for number in range(len(dataset)):
            try:
                self.tokenizer.preprocess(dataset[number]["inputs"])
            except BadSample:
                continue
            usable.append(number)
        return np.array(usable)
