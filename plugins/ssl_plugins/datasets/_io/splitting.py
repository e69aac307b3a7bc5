"""Sample metadata (label, group, split) as integer arrays, and the rules that split samples.

All rules work on whole arrays, so that millions of samples are split in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssl_core import ConfigError, DataError, Split, nearest
from ssl_plugins.datasets._io.arrow import pa

SPLIT_SEED = 42
MAX_DIGITS = 300  # of names that are read as numbers
TRAIN, VALIDATION, TEST, EXCLUDED = 0, 1, 2, -1
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
VALIDATION_NAMES = ("val", "valid", "validation", "dev")
SPLIT_NAMES: dict[str, Split] = {"train": "train", "test": "test", **dict.fromkeys(VALIDATION_NAMES, "validation")}
"""Maps the lower-case names of splits in the user's data to splits."""

UNLABELLED_NAMES = ("unlabeled", "unlabelled", "unsup", "unsupervised")
"""Folders whose files are for pretraining alone."""
VALIDATION_CONFLICT = "the data name the validation split; leave dataset.validation_fraction and validation_groups out"
GROUP_CURE = "name them by (?P<group>...) or a column"

DescribeRow = Callable[[int], str]
"""Maps a row index to the name of the sample in messages."""


@dataclass(frozen=True)
class Codes:
    """A categorical column: the value of row i is `names[codes[i]]`. codes: (n,) int32, -1 for no value."""

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

        A label may be missing in some rows, whose code is then -1: they are for pretraining alone.

        Args:
            kind: what the names are ("label", "group", "split"), for the message.
            describe: names a row in the message.

        Raises:
            DataError: some rows have a group or split and others have none.
        """
        codes = self.codes
        missing = np.flatnonzero(codes < 0)
        if len(missing) == len(codes):
            return None
        if len(missing) and kind != "label":
            raise DataError(f"{describe(int(missing[0]))} has no {kind}; fill it in everywhere or leave it out")
        names = natural_order(self.index)
        rank = np.full(len(names) + 1, -1, np.int32)  # the last entry is for code -1
        rank[[self.index[name] for name in names]] = np.arange(len(names))
        return Codes(rank[codes], names)


@dataclass(frozen=True)
class SampleMetadata:
    """Label, group and split of `count` samples, where the data name them; `describe` names a row in messages.

    copies: (count,) numbers that samples of one content share, so that a random split does not divide them; or None.
    ids: (count,) texts or None, Arrow: the ids of samples in tables of features; or None.
    """

    count: int
    describe: DescribeRow
    label: Codes | None = None
    group: Codes | None = None
    split: Codes | None = None
    copies: np.ndarray | None = None
    ids: Any = None

    @property
    def draws_test(self) -> bool:
        """Whether the test split is drawn here, so that copies matter: the data do not name it."""
        return self.split is None or needs_test_split(self.split)

    def take(self, rows: np.ndarray) -> SampleMetadata:
        """Select rows."""

        def describe(row: int) -> str:
            return self.describe(int(rows[row]))

        label, group, split = (
            None if codes is None else codes.take(rows) for codes in (self.label, self.group, self.split)
        )
        copies = None if self.copies is None else self.copies[rows]
        ids = None if self.ids is None else self.ids.take(pa.array(rows))
        return SampleMetadata(len(rows), describe, label, group, split, copies, ids)

    def remove_unused_groups(self) -> SampleMetadata:
        """Drop the groups without a sample, so that a random choice of groups cannot take only these."""
        return self if self.group is None else replace(self, group=self.group.remove_unused())


class SplitOptions(Protocol):
    """The options that a split depends on."""

    @property
    def test_fraction(self) -> float: ...

    @property
    def test_groups(self) -> tuple[str, ...]: ...

    @property
    def train_groups(self) -> tuple[str, ...]: ...

    @property
    def validation_fraction(self) -> float: ...

    @property
    def validation_groups(self) -> tuple[str, ...]: ...


def normalize_name(name: str) -> str:
    """Strip a name; a whole number loses its decimals ("1.0" becomes "1")."""
    name = name.strip()
    if (
        len(name) <= MAX_DIGITS
        and re.fullmatch(r"-?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?", name)
        and float(name).is_integer()
    ):
        return str(int(float(name)))
    return name


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Unique names in alphabetical order, or in numerical order if all are whole numbers."""
    unique = set(names)
    numeric = all(len(name) <= MAX_DIGITS and re.fullmatch(r"-?[0-9]+", name) for name in unique)
    return tuple(sorted(unique, key=lambda name: (int(name) if numeric else 0, name)))


def needs_test_split(split: Codes | None) -> bool:
    """Whether the data name training and validation but no test split, so that it is cut from the training part."""
    return split is not None and {SPLIT_NAMES.get(name.lower()) for name in split.names} == {"train", "validation"}


def split_rows(metadata: SampleMetadata, options: SplitOptions) -> np.ndarray:
    """(n,) int8: the split of each sample (TRAIN, VALIDATION or TEST), or EXCLUDED.

    For the test split, the first rule that applies decides: the split that the data name; the groups that the options
    name; a random choice of whole groups; a random choice of samples, within each class if there are labels. The same
    rules then cut a validation split from the training part, if an option asks for one and the data name none. Random
    choices are seeded, and the test split does not depend on the options of the validation split.

    Raises:
        ConfigError: an option contradicts the data, or names an unknown group.
        DataError: the data name an unknown split, or the result fails `check_split`.
    """
    if metadata.split is None:
        split = _cut_test(metadata, options)
    else:
        split = split_by_name(metadata)
        if needs_test_split(metadata.split) and (split == TRAIN).any():
            train = np.flatnonzero(split == TRAIN)
            split[train] = _cut_test(metadata.take(train).remove_unused_groups(), options)
        elif options.test_groups or options.train_groups:
            raise ConfigError("the data name each sample's split; leave dataset.test_groups and train_groups out")
    _cut_validation(metadata, options, split)
    check_split(metadata, split, options)
    return split


def draws_split(split: Codes | None, options: SplitOptions) -> bool:
    """Whether any part is drawn at random, so that copies and samples of one origin must be kept together."""
    return split is None or needs_test_split(split) or wants_validation(options)


def wants_validation(options: SplitOptions) -> bool:
    """Whether the options ask for a validation split."""
    return options.validation_fraction > 0 or bool(options.validation_groups)


def wants_test(options: SplitOptions) -> bool:
    """Whether there must be a test split."""
    return options.test_fraction > 0 or bool(options.test_groups or options.train_groups)


def check_split(metadata: SampleMetadata, split: np.ndarray, options: SplitOptions) -> None:
    """Check that no split is empty and that training covers every class.

    Args:
        metadata: the samples.
        split: (n,) split codes.
        options: which say what splits there must be.

    Raises:
        DataError: a split is empty, or a class of another split has no training sample.
    """
    for code, name in enumerate(SPLITS):
        is_needed = {TRAIN: True, VALIDATION: wants_validation(options), TEST: wants_test(options)}[code]
        if is_needed and not (split == code).any():
            raise DataError(_empty_split(metadata, split, name))
    if metadata.label is None:
        return
    codes, names = metadata.label.codes, metadata.label.names
    counts = np.array(
        [np.bincount(codes[(split == code) & (codes >= 0)], minlength=len(names)) for code in range(len(SPLITS))]
    )
    untrained = np.flatnonzero((counts[TRAIN] == 0) & counts.any(axis=0))
    if len(untrained) and not counts[TRAIN].any():
        row = int(np.flatnonzero((codes >= 0) & (split != EXCLUDED))[0])
        raise DataError(
            f"no sample of the training split has a label, and {int(counts.sum())} of the others have (e.g. "
            f"{metadata.describe(row)}); label samples of the training split too, or change the split"
        )
    if len(untrained):
        row = int(np.flatnonzero((codes == untrained[0]) & (split != EXCLUDED))[0])
        where = " and ".join(name for code, name in enumerate(SPLITS) if counts[code, untrained[0]])
        raise DataError(
            f"class '{names[untrained[0]]}' is only in the {where} split (e.g. {metadata.describe(row)}); hold out "
            f"other groups, or leave the class out"
        )


def _empty_split(metadata: SampleMetadata, split: np.ndarray, name: str) -> str:
    """The message for a split without a sample: what is so, and what to do."""
    option = f"dataset.{'validation' if name == 'validation' else 'test'}_fraction"
    pretrain = ", or set dataset.test_fraction=0 to pretrain on everything" if name == "test" else ""
    count = int((split != EXCLUDED).sum())
    if count < 2:
        return (
            f"the data are {'one sample' if count else 'no sample'} ({metadata.describe(0)}), and none is left for the "
            f"{name} split; add data, or cut it into windows{pretrain}"
        )
    label = metadata.label
    if label is not None and metadata.group is None and metadata.split is None:
        sizes = np.bincount(label.codes[label.codes >= 0], minlength=len(label.names))
        if sizes.max(initial=0) < 2:
            return (
                f"each of the {len(sizes)} classes has one sample (e.g. {metadata.describe(0)}), so none is left for "
                f"the {name} split; if the label is a number set dataset.task=number, if it is a name use no "
                f"label{pretrain}"
            )
    return (
        f"no sample is left for the {name} split (of {count}, e.g. {metadata.describe(0)}); change {option} or the "
        f"groups{pretrain}"
    )


def split_windows(
    metadata: SampleMetadata, record: np.ndarray, begin: np.ndarray, window: int, length: np.ndarray,
    options: SplitOptions,
) -> np.ndarray:  # fmt: skip
    """(n,) int8: split codes of windows that are cut from sequences. The end of each sequence is the test split.

    The end of the training part is the validation split, if the options ask for one. A window that crosses a border is
    EXCLUDED. If the data name training and validation sequences, only the training sequences are cut.

    Args:
        metadata: the sequences.
        record: (n,) index of each window's sequence.
        begin: (n,) position of each window in its sequence.
        window: length of a window.
        length: (n,) length of each window's sequence.
        options: the shares.

    Raises:
        ConfigError: the options ask for a validation split and the data name one.
    """
    test_start = np.floor(length * (1 - options.test_fraction)).astype(np.int64)
    validation_start = np.floor(test_start * (1 - options.validation_fraction)).astype(np.int64)
    end = begin + window
    conditions = [begin >= test_start, (begin >= validation_start) & (end <= test_start), end <= validation_start]
    split = np.select(conditions, [TEST, VALIDATION, TRAIN], EXCLUDED).astype(np.int8)
    if metadata.split is not None:
        if wants_validation(options):
            raise ConfigError(VALIDATION_CONFLICT)
        split[split_by_name(metadata)[record] == VALIDATION] = VALIDATION
    return split


def split_by_name(metadata: SampleMetadata) -> np.ndarray:
    """(n,) int8: the splits that the data name.

    Raises:
        DataError: a name is not in `SPLIT_NAMES`.
    """
    assert metadata.split is not None
    codes, names = metadata.split.codes, metadata.split.names
    unknown = [code for code, name in enumerate(names) if name.lower() not in SPLIT_NAMES]
    if unknown:
        row = int(np.flatnonzero(codes == unknown[0])[0])
        raise DataError(f"{metadata.describe(row)}: {split_name_error(names[unknown[0]])}")
    return np.array([SPLITS.index(SPLIT_NAMES[name.lower()]) for name in names], np.int8)[codes]


def split_of_folder(name: str) -> Split | None:
    """The split that a folder such as train, VAL or train_images holds; None if its name says none."""
    name = name.lower()
    first = re.match(r"([a-z]+)[ _.-]", name)
    return SPLIT_NAMES.get(name) or (SPLIT_NAMES.get(first[1]) if first else None)


def split_name_of(name: str) -> Split | None:
    """The split that a name in the data stands for, in any case."""
    return SPLIT_NAMES.get(name.lower())


def is_unlabelled(folder: str) -> bool:
    """Whether the files of a folder, by its name, are for pretraining alone."""
    return folder.lower() in UNLABELLED_NAMES


def is_validation(name: str | None) -> bool:
    """Whether a name stands for the validation split."""
    return name is not None and name.lower() in VALIDATION_NAMES


def split_name_error(name: str) -> str:
    """The message for an unknown name of a split."""
    return f"split is '{name}', it must be train, validation or test"


def _cut_test(metadata: SampleMetadata, options: SplitOptions) -> np.ndarray:
    """(n,) int8: TRAIN, TEST or EXCLUDED for samples whose split the data do not name."""
    test_groups, train_groups = set(options.test_groups), set(options.train_groups)
    if metadata.group is None:
        if test_groups or train_groups:
            raise ConfigError(f"dataset.test_groups and train_groups need groups; {GROUP_CURE}")
        if not wants_test(options):
            return np.full(metadata.count, TRAIN, np.int8)
        drawn = _draw_samples(metadata.label, metadata.count, options.test_fraction)
        return np.where(_with_copies(drawn, metadata), TEST, TRAIN).astype(np.int8)
    if not wants_test(options):
        return np.full(metadata.count, TRAIN, np.int8)
    groups = sorted(metadata.group.names)
    _check_groups("test_groups", options.test_groups, groups)
    _check_groups("train_groups", options.train_groups, groups)
    _check_disjoint("test_groups", test_groups, "train_groups", train_groups)
    if not test_groups and not train_groups and metadata.copies is not None:
        drawn_groups = _draw_groups(groups, options.test_fraction)
        drawn = np.array([name in drawn_groups for name in metadata.group.names])[metadata.group.codes]
        return np.where(_with_copies(drawn, metadata), TEST, TRAIN).astype(np.int8)
    if not test_groups:
        test_groups = set(groups) - train_groups if train_groups else _draw_groups(groups, options.test_fraction)
    train_groups = train_groups or set(groups) - test_groups
    codes = [
        TEST if name in test_groups else TRAIN if name in train_groups else EXCLUDED for name in metadata.group.names
    ]
    return np.array(codes, np.int8)[metadata.group.codes]


def _cut_validation(metadata: SampleMetadata, options: SplitOptions, split: np.ndarray) -> None:
    """Move samples of the training part to the validation split, in place, if the options ask for it."""
    if not wants_validation(options):
        return
    if (split == VALIDATION).any():
        raise ConfigError(VALIDATION_CONFLICT)
    if options.validation_groups:
        split[_rows_of_validation_groups(metadata, options, split)] = VALIDATION
        return
    train = np.flatnonzero(split == TRAIN)
    part = metadata.take(train).remove_unused_groups()
    if part.group is None:
        drawn = _draw_samples(part.label, part.count, options.validation_fraction)
    elif len(part.group.names) < 2:
        raise DataError(
            "fewer than two groups are left for training, so that no validation split can be cut from them; lower "
            "dataset.test_fraction, or leave dataset.validation_fraction out"
        )
    else:
        groups = _draw_groups(sorted(part.group.names), options.validation_fraction)
        drawn = np.array([name in groups for name in part.group.names])[part.group.codes]
    split[train[_with_copies(drawn, part)]] = VALIDATION


def _rows_of_validation_groups(metadata: SampleMetadata, options: SplitOptions, split: np.ndarray) -> np.ndarray:
    """(n,) bool: the samples of the groups that the options name for the validation split."""
    if options.validation_fraction > 0:
        raise ConfigError("dataset.validation_groups names the validation split; leave dataset.validation_fraction out")
    if metadata.group is None:
        raise ConfigError(f"dataset.validation_groups needs groups; {GROUP_CURE}")
    names = set(options.validation_groups)
    _check_groups("validation_groups", options.validation_groups, metadata.group.names)
    _check_disjoint("validation_groups", names, "test_groups", set(options.test_groups))
    _check_disjoint("validation_groups", names, "train_groups", set(options.train_groups))
    rows = np.array([name in names for name in metadata.group.names])[metadata.group.codes]
    in_test = np.flatnonzero(rows & (split == TEST))
    if len(in_test):
        name = metadata.group.names[metadata.group.codes[in_test[0]]]
        cure = "" if metadata.split is not None else ", or name the groups of the test split in dataset.test_groups"
        raise ConfigError(f"dataset.validation_groups: group '{name}' is in the test split; choose another{cure}")
    return rows


def _check_groups(option: str, names: Sequence[str], groups: Sequence[str]) -> None:
    for name in names:
        if name not in groups:
            raise ConfigError(f"dataset.{option}: no group '{name}'; {nearest(name, groups, 'group')}")


def _check_disjoint(option: str, names: set[str], other_option: str, other_names: set[str]) -> None:
    if names & other_names:
        raise ConfigError(
            f"group '{min(names & other_names)}' is in both dataset.{option} and dataset.{other_option}; keep one"
        )


def _draw_groups(groups: Sequence[str], fraction: float) -> set[str]:
    """A random share of the groups: at least one, and not all."""
    if len(groups) < 2:
        raise DataError(f"there is one group only ('{groups[0]}'), so none can be held out; name another group")
    order = np.random.RandomState(SPLIT_SEED).permutation(len(groups))
    return {groups[i] for i in order[: _share(fraction, len(groups))]}


def _draw_samples(label: Codes | None, count: int, fraction: float) -> np.ndarray:
    """(count,) bool: a random share of the samples, within each class if there are labels, of the labelled ones."""
    random = np.random.RandomState(SPLIT_SEED)
    drawn = np.zeros(count, bool)
    label = label or Codes(np.zeros(count, np.int32), ("",))
    by_class = np.argsort(label.codes, kind="stable")
    edges = np.searchsorted(label.codes[by_class], np.arange(len(label.names) + 1))
    for code in sorted(range(len(label.names)), key=lambda code: label.names[code]):
        rows = by_class[edges[code] : edges[code + 1]]
        order = random.permutation(len(rows))
        drawn[rows[order[: _share(fraction, len(rows))]]] = True
    return drawn


def _with_copies(drawn: np.ndarray, metadata: SampleMetadata) -> np.ndarray:
    """(n,) bool: what was drawn, with copies of samples where the first of each is. Groups with a copy in common count
    as one.

    A class of which this leaves nothing to the training split keeps all of its samples there. If nothing or everything
    would be drawn, copies are not looked at.
    """
    if metadata.copies is None:
        return drawn
    _, part = np.unique(metadata.copies, return_inverse=True)
    if metadata.group is not None:
        part = _connected(part, metadata.group.codes)
    _, first = np.unique(part, return_index=True)
    out = drawn[first][part]
    if metadata.label is not None:
        codes = metadata.label.codes
        known = codes >= 0
        kept = np.bincount(codes[known & ~out], minlength=len(metadata.label.names)) > 0
        lost = known & ~np.append(kept, True)[codes]
        out &= ~np.isin(part, part[lost])
    return out if out.any() and not out.all() else drawn


def _connected(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) int: numbers of the sets of rows that are connected by equal numbers in one array or the other."""
    count = int(one.max()) + 1
    size = count + int(other.max()) + 1
    edges = coo_array((np.ones(len(one), np.int8), (one, other + count)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return np.asarray(component[one])


def _share(fraction: float, count: int) -> int:
    """How many of `count` to hold out: at least one and not all, or none of a single one."""
    return min(max(1, round(fraction * count)), count - 1) if count > 1 else 0
