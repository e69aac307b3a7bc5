"""What is said of many samples (class, group, split), as numbers, and which of them are held out.

Rows are arrays, so that millions of them divide in seconds. The rules are those of `_listing.divide`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_core import ConfigError, DataError, nearest

SPLIT_SEED = 42
TRAIN, TEST, LEFT_OUT = 0, 1, -1
SPLITS = ("train", "test")

Where = Callable[[int], str]


@dataclass(frozen=True)
class Marks:
    """One name for each sample: names[codes[i]]. codes: (n,) int32."""

    codes: np.ndarray
    names: tuple[str, ...]

    def taken(self, rows: np.ndarray) -> Marks:
        """Those of some samples; the names stay."""
        return Marks(self.codes[rows], self.names)

    def used(self) -> Marks:
        """Without names that no sample has."""
        known, codes = np.unique(self.codes, return_inverse=True)
        return Marks(codes.astype(np.int32), tuple(self.names[code] for code in known))


class Coder:
    """Collects names block by block as numbers; -1 stands for none."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.parts: list[np.ndarray] = []

    def add(self, column: Any) -> None:
        """A pyarrow array of texts, null where there is none."""
        encoded = column.dictionary_encode()
        entries = encoded.dictionary.to_pylist()
        table = np.array([self.known.setdefault(tidy(name), len(self.known)) for name in entries] or [0], np.int32)
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        self.parts.append(np.where(places < 0, np.int32(-1), table[places]))

    def say(self, name: str | None, count: int) -> None:
        """One name `count` times."""
        code = -1 if name is None else self.known.setdefault(tidy(name), len(self.known))
        self.parts.append(np.full(count, code, np.int32))

    def each(self, names: Iterable[str | None]) -> None:
        """Names one by one."""
        known = self.known
        codes = [-1 if name is None else known.setdefault(tidy(name), len(known)) for name in names]
        self.parts.append(np.array(codes, np.int32))

    @property
    def codes(self) -> np.ndarray:
        """(n,) int32 of all blocks."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.int32)

    def marks(self, what: str, where: Where) -> Marks | None:
        """All, with the names in order; None if nothing was said. Errors: DataError if it was for some only."""
        codes = self.codes
        silent = np.flatnonzero(codes < 0)
        if len(silent) == len(codes):
            return None
        if len(silent):
            raise DataError(f"{where(int(silent[0]))} has no {what}; fill it in everywhere or leave it out")
        names = in_order(self.known)
        rank = np.empty(len(names), np.int32)
        rank[[self.known[name] for name in names]] = np.arange(len(names))
        return Marks(rank[codes], names)


@dataclass(frozen=True)
class Said:
    """What is said of `count` samples, and what to call each in a message."""

    count: int
    where: Where
    label: Marks | None = None
    group: Marks | None = None
    split: Marks | None = None


def tidy(name: str) -> str:
    """A name without blanks around it; a whole number without its decimals (1.0 is 1)."""
    name = name.strip()
    if re.fullmatch(r"-?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?", name) and float(name).is_integer():
        return str(int(float(name)))
    return name


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in order, whole numbers by size."""
    found = set(names)
    numbers = all(re.fullmatch(r"-?[0-9]+", name) for name in found)
    return tuple(sorted(found, key=lambda name: (int(name) if numbers else 0, name)))


def divide_rows(said: Said, fraction: float, test_groups: Sequence[str], train_groups: Sequence[str]) -> np.ndarray:
    """(n,) int8, TRAIN, TEST or LEFT_OUT: as the data say, by named groups, by random whole groups, or at random.

    At random means a seeded shuffle, within each class if there are classes. Errors: ConfigError, DataError.
    """
    if said.split is not None:
        if test_groups or train_groups:
            raise ConfigError("the data name each sample's split; leave dataset.test_groups and train_groups out")
        held = _as_said(said)
    elif said.group is not None:
        held = by_group(said.group, fraction, test_groups, train_groups)
    elif test_groups or train_groups:
        raise ConfigError("dataset.test_groups and train_groups need groups; name them by (?P<group>...) or a column")
    else:
        held = _at_random(said, fraction)
    check_classes(said, held)
    return held


def check_classes(said: Said, held: np.ndarray) -> None:
    """Errors: DataError if a split is empty, or if a class is in the test split alone."""
    for split, name in enumerate(SPLITS):
        if not (held == split).any():
            raise DataError(f"no sample is left for the {name} split; change dataset.test_fraction or the groups")
    if said.label is None:
        return
    count = len(said.label.names)
    taught = np.bincount(said.label.codes[held == TRAIN], minlength=count)
    asked = np.bincount(said.label.codes[held == TEST], minlength=count)
    lacking = np.flatnonzero((asked > 0) & (taught == 0))
    if len(lacking):
        row = int(np.flatnonzero((said.label.codes == lacking[0]) & (held == TEST))[0])
        raise DataError(
            f"class '{said.label.names[lacking[0]]}' is only in the test split (e.g. {said.where(row)}); "
            f"hold out other groups, or leave the class out"
        )


def by_group(group: Marks, fraction: float, test: Sequence[str], train: Sequence[str]) -> np.ndarray:
    """Whole groups held out: those named, or a random share of them. Errors: ConfigError, DataError."""
    groups = sorted(group.names)
    for option, named in (("test_groups", test), ("train_groups", train)):
        for one in named:
            if one not in groups:
                raise ConfigError(f"dataset.{option}: no group '{one}'; {nearest(one, groups, 'group')}")
    both = set(test) & set(train)
    if both:
        raise ConfigError(f"group '{min(both)}' is in both dataset.test_groups and dataset.train_groups")
    held = set(test)
    if not test and not train:
        if len(groups) < 2:
            raise DataError(f"there is one group only ('{groups[0]}'), so none can be held out; name another group")
        order = [groups[i] for i in np.random.RandomState(SPLIT_SEED).permutation(len(groups))]
        held = set(order[: min(max(1, round(fraction * len(groups))), len(groups) - 1)])
    elif not test:
        held = set(groups) - set(train)
    kept = set(train) if train else set(groups) - held
    place = [TEST if name in held else TRAIN if name in kept else LEFT_OUT for name in group.names]
    return np.array(place, np.int8)[group.codes]


def _as_said(said: Said) -> np.ndarray:
    assert said.split is not None
    wrong = [code for code, name in enumerate(said.split.names) if name not in SPLITS]
    if wrong:
        row = int(np.flatnonzero(said.split.codes == wrong[0])[0])
        raise DataError(f"{said.where(row)}: split is '{said.split.names[wrong[0]]}', it must be train or test")
    return np.array([SPLITS.index(name) for name in said.split.names], np.int8)[said.split.codes]


def _at_random(said: Said, fraction: float) -> np.ndarray:
    random = np.random.RandomState(SPLIT_SEED)
    held = np.full(said.count, TRAIN, np.int8)
    codes = np.zeros(said.count, np.int32) if said.label is None else said.label.codes
    names = ("",) if said.label is None else said.label.names
    starts = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[starts], np.arange(len(names) + 1))
    for code in sorted(range(len(names)), key=lambda code: names[code]):
        mine = starts[edges[code] : edges[code + 1]]
        order = random.permutation(len(mine))
        count = min(max(1, round(fraction * len(mine))), len(mine) - 1) if len(mine) > 1 else 0
        held[mine[order[:count]]] = TEST
    return held
