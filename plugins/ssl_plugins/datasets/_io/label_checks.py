"""What may be wrong with labels: classes of one sample, and numbers that were read as classes."""

from __future__ import annotations

import re

import numpy as np

from ssl_plugins.datasets._io.splitting import Codes

FEWEST_CLASSES = 20


def label_findings(label: Codes | None, title: str, task: str = "auto") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Doubts and warnings on classes.

    Args:
        label: the classes of all samples, -1 where there is none; None without labels.
        title: the name of the label.
        task: the option of this name; "classes" confirms that labels are classes.
    """
    if label is None or not len(label.codes):
        return (), ()
    counts = np.bincount(label.codes[label.codes >= 0], minlength=len(label.names))
    present = counts > 0
    classes, samples, single = int(present.sum()), int(counts.sum()), np.flatnonzero(counts == 1)
    if classes >= FEWEST_CLASSES and classes > samples / 2 and task == "auto":
        numbers = sum(bool(re.fullmatch(r"-?\d+", name)) for name in label.names)
        cure = "set dataset.task=number to predict it as a number, else dataset.task=classes"
        if numbers < len(label.names):
            cure = "set dataset.label to the column of the classes, or dataset.task=classes if this is right"
        return (f"the label '{title}' has {classes} classes in {samples} samples; {cure}",), ()
    if len(single):
        shown = ", ".join(label.names[code] for code in single[:3]) + (", ..." if len(single) > 3 else "")
        return (), (
            f"{len(single)} of {classes} classes of the label '{title}' have a single sample, which is used for "
            f"training alone: {shown}",
        )
    return (), ()
