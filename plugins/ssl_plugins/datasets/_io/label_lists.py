"""Several labels of each sample, from lists of names or from vectors of 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.splitting import DescribeRow, natural_order, normalize_name


class LabelLists:
    """Collects the lists of all files. values: a list of each sample of these, None where it has no label."""

    def __init__(self) -> None:
        self.values: list[Sequence[Any] | None] = []
        self.is_used = False

    def append(self, values: Sequence[Any], describe: DescribeRow) -> bool:
        """Append the labels of consecutive samples, lists, single labels, or None, if there is a list among them.

        Returns:
            Whether there is one.

        Raises:
            DataError: a label is an object, or a list of lists or objects.
        """
        if not any(isinstance(value, list | tuple) for value in values):
            return False
        self.is_used = True
        for row, value in enumerate(values):
            parts = [value] if value is not None and not isinstance(value, list | tuple) else value
            if parts is not None and any(isinstance(part, list | tuple | dict) or part is None for part in parts):
                raise DataError(f"{describe(row)}: the label {value!s:.60} is no list of names or of numbers")
            self.values.append(parts)
        return True

    def target(self, describe: DescribeRow, count: int) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """The labels of all samples, (n, k) int64 of 0 and 1 with -1 in rows without a label, and the k names.

        None if no sample has a list.

        Args:
            describe: names a sample in the message.
            count: number of all samples.

        Raises:
            DataError: some files have lists and others none.
        """
        if not self.is_used:
            return None
        if len(self.values) != count:
            raise DataError(
                f"labels of some files are lists of names and of others single names; make them all lists "
                f"({describe(0)})"
            )
        labelled = [row for row, value in enumerate(self.values) if value is not None]
        lists = [self.values[row] or () for row in labelled]
        if _are_vectors(lists):
            out = np.full((len(self.values), len(lists[0])), -1, np.int64)
            out[labelled] = np.array(lists, np.int64)
            return out, tuple(map(str, range(len(lists[0]))))
        named = [{normalize_name(str(part)) for part in value} for value in lists]
        names = natural_order(set().union(*named))
        index = {name: number for number, name in enumerate(names)}
        out = np.full((len(self.values), len(names)), -1, np.int64)
        for row, parts in zip(labelled, named, strict=True):
            out[row] = 0
            out[row, [index[name] for name in parts]] = 1
        return out, names


def _are_vectors(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether lists are vectors of 0 and 1: all of one length, and of one that is no list of different names."""
    if len({len(value) for value in lists}) != 1 or len(lists[0]) < 2:
        return False
    if not all(isinstance(part, int | float) and part in (0, 1) for value in lists for part in value):
        return False
    return any(len(set(value)) < len(value) for value in lists)
