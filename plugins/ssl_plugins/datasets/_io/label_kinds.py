"""Labels that are read as names, taken as the option `dataset.task` says: several labels of a sample, or numbers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.splitting import Codes, SampleMetadata, natural_order

SEPARATORS = ("|", ";", ",")
"""Separators of the names of several labels, the first that occurs."""
DECIMAL = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][-+]?\d+)")


def take_labels(
    metadata: SampleMetadata, task: str, title: str = "label"
) -> tuple[SampleMetadata, np.ndarray | None, tuple[str, ...]]:
    """The labels of samples as numbers or as several labels, if `task` asks for them.

    Args:
        metadata: the samples, with names as labels.
        task: the option of this name.
        title: the name of the label, for messages.

    Returns:
        The metadata, without labels if they became a target; the target: (n,) float64, NaN where there is none, or
        (n, k) int64 of 0 and 1, -1 where there is none; None if labels stay names. The names of the k labels.

    Raises:
        DataError: the labels are no numbers, or no sample has several.
    """
    label = metadata.label
    if label is None or task not in ("labels", "number"):
        return metadata, None, ()
    if task == "number":
        return replace(metadata, label=None), _numbers(label, title), ()
    target, names = _sets(label, title)
    return replace(metadata, label=None), target, names


def look_decimal(label: Codes) -> bool:
    """Whether all names are numbers and one of them has decimals."""
    decimal = [bool(DECIMAL.fullmatch(name.strip())) for name in label.names]
    return any(decimal) and all(
        known or name.strip().lstrip("+-").isdigit() for known, name in zip(decimal, label.names, strict=True)
    )


def joined_doubt(label: Codes, title: str) -> tuple[str, ...]:
    """A doubt if classes look like several labels."""
    name = _joined_name(label)
    cure = "set dataset.task=labels if these are several labels, else dataset.task=classes"
    return () if name is None else (f"the label '{title}' is '{name:.60}' in some samples; {cure}",)


def _joined_name(label: Codes) -> str | None:
    """A name that seems to hold several labels: its parts are those of other names, too. None if there is none."""
    for separator in SEPARATORS[:2]:
        parts = [set(_parts(name, separator)) for name in label.names]
        counts = Counter(part for own in parts for part in own)  # names that each part is in
        for name, own in zip(label.names, parts, strict=True):
            if len(own) > 1 and any(counts[part] > 1 for part in own):
                return name
    return None


def _numbers(label: Codes, title: str) -> np.ndarray:
    values = np.full(len(label.names) + 1, np.nan)
    for number, name in enumerate(label.names):
        try:
            values[number] = float(name)
        except ValueError:
            values[number] = np.inf
        if not np.isfinite(values[number]):
            raise DataError(f"the {title} '{name:.60}' is no finite number; leave dataset.task=number out")
    return values[label.codes]


def _sets(label: Codes, title: str) -> tuple[np.ndarray, tuple[str, ...]]:
    separator = next((one for one in SEPARATORS if any(one in name for name in label.names)), None)
    if separator is None:
        raise DataError(
            f"no {title} names several labels, joined by {' or '.join(SEPARATORS)}, e.g. '{label.names[0]:.60}'; leave "
            f"dataset.task=labels out"
        )
    parts = [_parts(name, separator) for name in label.names]
    names = natural_order(set().union(*parts))
    index = {name: number for number, name in enumerate(names)}
    sets = np.zeros((len(parts) + 1, len(names)), np.int64)
    sets[-1] = -1  # of samples without a label
    for row, own in enumerate(parts):
        sets[row, [index[name] for name in own]] = 1
    return sets[label.codes], names


def _parts(name: str, separator: str) -> list[str]:
    return [part.strip() for part in name.split(separator) if part.strip()]
