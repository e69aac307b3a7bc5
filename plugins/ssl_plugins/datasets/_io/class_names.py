"""Numbers classes as the data did that an encoder was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ssl_core import Task
from ssl_plugins.datasets._io.user_data import UserData


def class_names(task: Task | None) -> list[str]:
    """The names of the classes or labels of a task, for the schema of a data set."""
    return [] if task is None else list(task.names)


def conform_classes(dataset: UserData, schema: Mapping[str, Any]) -> None:
    """Give the classes of a data set the numbers that they had in training, if all of them occurred there.

    Otherwise the numbers stay, and a warning names classes that are new.

    Args:
        dataset: the data set, with its labels.
        schema: that of the data of the training; its "classes" are the names in order.
    """
    task, labels, trained = dataset.task, dataset.labels, tuple(schema.get("classes", ()))
    if task is None or labels is None or not trained or not task.names or task.names == trained:
        return
    unknown = [name for name in task.names if name not in trained]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        dataset.warnings += (f"classes that the data of the encoder did not have: {shown}",)
        return
    index = np.array([trained.index(name) for name in task.names])
    if task.kind == "classes":
        dataset.labels = np.append(index, -1)[labels]
    else:
        dataset.labels = np.zeros((len(labels), len(trained)), np.int64)
        dataset.labels[:, index] = labels
        dataset.labels[labels.min(axis=1) < 0] = -1
    dataset.task = replace(task, size=len(trained), names=trained)
    dataset.metadata_digest = hashlib.sha256(f"{dataset.metadata_digest}:{trained!r}".encode()).hexdigest()
