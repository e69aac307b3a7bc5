"""What may be wrong with labels: classes of one sample, and numbers that were read as classes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from ssl_plugins.datasets._io.splitting import TRAIN, Codes, SampleMetadata, split_by_name

FEWEST_CLASSES = 20
FEWEST_SAMPLES = 10  # of a class on average, from which on whole numbers may well be classes


def label_findings(label: Codes | None, title: str, task: str = "auto") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Doubts and warnings on classes.

    Args:
        label: the classes of all samples, -1 where there is none; None without labels.
        title: the name of the label.
        task: the option of this name; "classes" confirms that labels are classes.
    """
    if label is None or not len(label.codes) or task == "labels":
        return (), ()
    counts = np.bincount(label.codes[label.codes >= 0], minlength=len(label.names))
    present = counts > 0
    classes, samples, single = int(present.sum()), int(counts.sum()), np.flatnonzero(counts == 1)
    are_numbers = all(re.fullmatch(r"-?\d+", name) for name in label.names)
    most = samples / FEWEST_SAMPLES if are_numbers else samples / 2
    if classes >= FEWEST_CLASSES and classes > most and task == "auto":
        cure = "set dataset.task=number to predict it as a number, else dataset.task=classes"
        if not are_numbers:
            cure = "set dataset.label to the column of the classes, or dataset.task=classes if this is right"
        return (f"the label '{title}' has {classes} classes in {samples} samples; {cure}",), ()
    if len(single):
        shown = ", ".join(label.names[code] for code in single[:3]) + (", ..." if len(single) > 3 else "")
        return (), (
            f"{len(single)} of {classes} classes of the label '{title}' have a single sample, which is used for "
            f"training alone: {shown}",
        )
    return (), ()


def without_dots(metadata: SampleMetadata) -> tuple[SampleMetadata, tuple[str, ...]]:
    """Labels of the test split that are those of training but for a dot at the end, as in UCI's adult.test, without it.

    Returns:
        The metadata, and a line if they were changed.
    """
    label = metadata.label
    if label is None or metadata.split is None or not any(name.endswith(".") for name in label.names):
        return metadata, ()
    known = label.codes >= 0
    is_train = split_by_name(metadata) == TRAIN
    trained = {label.names[code] for code in np.unique(label.codes[known & is_train])}
    others = {label.names[code] for code in np.unique(label.codes[known & ~is_train])}
    if not others or not all(name.endswith(".") and name[:-1] in trained for name in others) or others & trained:
        return metadata, ()
    names = tuple(name for name in label.names if name not in others)
    index = np.array([names.index(name[:-1] if name in others else name) for name in label.names] + [-1], np.int32)
    example = min(others)
    line = f"the labels of the test split end in a dot, and are read without it: '{example}' as '{example[:-1]}'"
    return replace(metadata, label=Codes(index[label.codes], names)), (line,)
