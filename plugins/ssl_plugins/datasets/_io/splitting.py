"""Sample metadata (label, group, split) as integer arrays, and the rules that split samples into train and test.

All rules work on whole arrays, so that millions of samples are split in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ssl_core import ConfigError, DataError, nearest

SPLIT_SEED = 42
TRAIN, TEST, EXCLUDED = 0, 1, -1
SPLITS = ("train", "test")

DescribeRow = Callable[[int], str]
"""Maps a row index to the name of the sample in messages."""


@dataclass(frozen=True)
class Codes:
    """A categorical column: the value of row i is `names[codes[i]]`. codes: (n,) int32."""

    codes: np.ndarray
    names: tuple[str, ...]

    def take(self, rows: np.ndarray) -> Codes:
        """Select rows; `names` stays the same."""
        return Codes(self.codes[rows], self.names)

    def remove_unused(self) -> Codes:
        """Drop the names that no row has."""
        present, codes = np.unique(self.codes, return_inverse=True)
        return Codes(codes.astype(np.int32), tuple(self.names[code] for code in present))


class LabelEncoder:
    """Encodes names as integers, chunk by chunk; -1 is a missing name. `index` maps each name to its integer."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.chunks: list[np.ndarray] = []

    def append(self, column: Any) -> None:
        """Encode a pyarrow string array; null is a missing name."""
        encoded = column.dictionary_encode()
        table = np.array([self._code(name) for name in encoded.dictionary.to_pylist()] or [0], np.int32)
        indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        self.chunks.append(np.where(indices < 0, np.int32(-1), table[indices]))

    def append_constant(self, name: str | None, count: int) -> None:
        """Encode `count` rows of one name."""
        self.chunks.append(np.full(count, -1 if name is None else self._code(name), np.int32))

    def append_names(self, names: Iterable[str | None]) -> None:
        """Encode one row for each name."""
        self.chunks.append(np.array([-1 if name is None else self._code(name) for name in names], np.int32))

    def _code(self, name: str) -> int:
        return self.index.setdefault(normalize_name(name), len(self.index))

    @property
    def codes(self) -> np.ndarray:
        """(n,) int32, the codes of all chunks in the order in which the names first occurred."""
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int32)

    def sorted_codes(self, kind: str, describe: DescribeRow) -> Codes | None:
        """All rows with the names in natural order, or None if every name is missing.

        Args:
            kind: what the names are ("label", "group", "split"), for the message.
            describe: names a row in the message.

        Raises:
            DataError: some rows have a name and others have none.
        """
        codes = self.codes
        missing = np.flatnonzero(codes < 0)
        if len(missing) == len(codes):
            return None
        if len(missing):
            raise DataError(f"{describe(int(missing[0]))} has no {kind}; fill it in everywhere or leave it out")
        names = natural_order(self.index)
        rank = np.empty(len(names), np.int32)
        rank[[self.index[name] for name in names]] = np.arange(len(names))
        return Codes(rank[codes], names)


@dataclass(frozen=True)
class SampleMetadata:
    """Label, group and split of `count` samples, where the data name them; `describe` names a row in messages."""

    count: int
    describe: DescribeRow
    label: Codes | None = None
    group: Codes | None = None
    split: Codes | None = None

    def take(self, rows: np.ndarray) -> SampleMetadata:
        """Select rows."""

        def describe(row: int) -> str:
            return self.describe(int(rows[row]))

        label, group, split = (
            None if codes is None else codes.take(rows) for codes in (self.label, self.group, self.split)
        )
        return SampleMetadata(len(rows), describe, label, group, split)


class SplitOptions(Protocol):
    """The options that a split depends on."""

    @property
    def test_fraction(self) -> float: ...

    @property
    def test_groups(self) -> tuple[str, ...]: ...

    @property
    def train_groups(self) -> tuple[str, ...]: ...


def normalize_name(name: str) -> str:
    """Strip a name; a whole number loses its decimals ("1.0" becomes "1")."""
    name = name.strip()
    if re.fullmatch(r"-?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?", name) and float(name).is_integer():
        return str(int(float(name)))
    return name


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Unique names in alphabetical order, or in numerical order if all are whole numbers."""
    unique = set(names)
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in unique)
    return tuple(sorted(unique, key=lambda name: (int(name) if numeric else 0, name)))


def split_rows(metadata: SampleMetadata, options: SplitOptions) -> np.ndarray:
    """(n,) int8: the split of each sample (TRAIN or TEST), or EXCLUDED.

    The first rule that applies decides: the split that the data name; the groups that the options name; a random
    choice of whole groups; a random choice of samples, within each class if there are labels. Random choices are
    seeded.

    Raises:
        ConfigError: an option contradicts the data, or names an unknown group.
        DataError: the data name an unknown split, or the result fails `check_split`.
    """
    if metadata.split is not None:
        if options.test_groups or options.train_groups:
            raise ConfigError("the data name each sample's split; leave dataset.test_groups and train_groups out")
        split = _split_by_name(metadata)
    elif metadata.group is not None:
        split = _split_by_group(metadata.group, options)
    elif options.test_groups or options.train_groups:
        raise ConfigError("dataset.test_groups and train_groups need groups; name them by (?P<group>...) or a column")
    else:
        split = np.where(_draw_samples(metadata, options.test_fraction), TEST, TRAIN).astype(np.int8)
    check_split(metadata, split)
    return split


def check_split(metadata: SampleMetadata, split: np.ndarray) -> None:
    """Check that no split is empty and that training covers every class.

    Raises:
        DataError: a split is empty, or a class of the test split has no training sample.
    """
    for code, name in enumerate(SPLITS):
        if not (split == code).any():
            raise DataError(f"no sample is left for the {name} split; change dataset.test_fraction or the groups")
    if metadata.label is None:
        return
    codes, names = metadata.label.codes, metadata.label.names
    trained = np.bincount(codes[split == TRAIN], minlength=len(names)) > 0
    tested = np.bincount(codes[split == TEST], minlength=len(names)) > 0
    untrained = np.flatnonzero(tested & ~trained)
    if len(untrained):
        row = int(np.flatnonzero((codes == untrained[0]) & (split == TEST))[0])
        raise DataError(
            f"class '{names[untrained[0]]}' is only in the test split (e.g. {metadata.describe(row)}); hold out other "
            f"groups, or leave the class out"
        )


def _split_by_name(metadata: SampleMetadata) -> np.ndarray:
    assert metadata.split is not None
    codes, names = metadata.split.codes, metadata.split.names
    unknown = [code for code, name in enumerate(names) if name not in SPLITS]
    if unknown:
        row = int(np.flatnonzero(codes == unknown[0])[0])
        raise DataError(f"{metadata.describe(row)}: split is '{names[unknown[0]]}', it must be train or test")
    return np.array([SPLITS.index(name) for name in names], np.int8)[codes]


def _split_by_group(group: Codes, options: SplitOptions) -> np.ndarray:
    groups = sorted(group.names)
    test, train = set(options.test_groups), set(options.train_groups)
    for option, names in (("test_groups", options.test_groups), ("train_groups", options.train_groups)):
        for name in names:
            if name not in groups:
                raise ConfigError(f"dataset.{option}: no group '{name}'; {nearest(name, groups, 'group')}")
    if test & train:
        raise ConfigError(f"group '{min(test & train)}' is in both dataset.test_groups and dataset.train_groups")
    if not test:
        test = set(groups) - train if train else _draw_groups(groups, options.test_fraction)
    train = train or set(groups) - test
    codes = [TEST if name in test else TRAIN if name in train else EXCLUDED for name in group.names]
    return np.array(codes, np.int8)[group.codes]


def _draw_groups(groups: Sequence[str], fraction: float) -> set[str]:
    """A random share of the groups: at least one, and not all."""
    if len(groups) < 2:
        raise DataError(f"there is one group only ('{groups[0]}'), so none can be held out; name another group")
    order = np.random.RandomState(SPLIT_SEED).permutation(len(groups))
    return {groups[i] for i in order[: _share(fraction, len(groups))]}


def _draw_samples(metadata: SampleMetadata, fraction: float) -> np.ndarray:
    """(n,) bool: a random share of the samples, within each class if there are labels."""
    random = np.random.RandomState(SPLIT_SEED)
    drawn = np.zeros(metadata.count, bool)
    label = metadata.label or Codes(np.zeros(metadata.count, np.int32), ("",))
    by_class = np.argsort(label.codes, kind="stable")
    edges = np.searchsorted(label.codes[by_class], np.arange(len(label.names) + 1))
    for code in sorted(range(len(label.names)), key=lambda code: label.names[code]):
        rows = by_class[edges[code] : edges[code + 1]]
        order = random.permutation(len(rows))
        drawn[rows[order[: _share(fraction, len(rows))]]] = True
    return drawn


def _share(fraction: float, count: int) -> int:
    """How many of `count` to hold out: at least one and not all, or none of a single one."""
    return min(max(1, round(fraction * count)), count - 1) if count > 1 else 0
