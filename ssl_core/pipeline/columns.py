"""Which column of samples by name is which field: by the field's name, else the only column of the field's kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ssl_core.data import Continuous, Discrete, Field, Fields, Text
from ssl_core.errors import ConfigError
from ssl_core.pipeline.values import as_array, is_file, is_image, is_recording

LABEL = "label"
UNLABELLED = -1
"""The id by which Hugging Face data sets mark a sample without a class."""


@dataclass(frozen=True)
class Columns:
    """How samples by column are read.

    Attributes:
        fields: field name by column, for the columns that are read.
        label: the column of labels; None without one.
        classes: names of the classes by id, if they are known.
        rates: by field, samples per second that recordings are resampled to.
    """

    fields: Mapping[str, str]
    label: str | None = LABEL
    classes: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)

    def label_of(self, row: Mapping[str, Any]) -> Any:
        """The label of a row; None without one."""
        value = None if self.label is None else row.get(self.label)
        if value is None or not self.classes:
            return value
        return None if value == UNLABELLED else self.classes[int(value)]


def match_columns(row: Mapping[str, Any], fields: Fields, skip: Iterable[str] = (LABEL,)) -> dict[str, str]:
    """Field names by column of one row of samples; columns that fit no field are left out.

    Args:
        row: values by column.
        fields: the fields to find.
        skip: columns that hold no input.

    Raises:
        ConfigError: several columns could be a field.
    """
    left = [name for name in row if name not in {*skip, *fields}]
    names = {name: name for name in row if name in fields}
    for name, one in fields.items():
        if name in row:
            continue
        fitting = [column for column in left if fits(row[column], one)]
        if len(fitting) > 1:
            raise ConfigError(
                f"the columns {', '.join(fitting)} could each be the field '{name}'; rename one of them to '{name}'"
            )
        if fitting:
            names[fitting[0]] = name
            left.remove(fitting[0])
    return names


def fits(value: Any, one: Field) -> bool:
    """Whether a value is of a field's kind: text, an image, a recording, numbers with as many axes."""
    if isinstance(value, str):
        return isinstance(one, Text) or (isinstance(one, Discrete) and one.length > 1)
    if is_image(value):
        return isinstance(one, Continuous) and len(one.shape) == 3
    if is_recording(value) and not is_file(value):
        return isinstance(one, Continuous) and len(one.shape) == 2
    if is_file(value):
        return isinstance(one, Continuous) and len(one.shape) in (2, 3)
    if not isinstance(value, Tensor | np.ndarray | list | tuple):
        return False
    array = as_array(value)
    if array.dtype.kind in "SUO":
        return isinstance(one, Text) and array.dtype.kind != "O"
    if isinstance(one, Continuous):
        return array.ndim in (len(one.shape), len(one.shape) - 1)
    return False  # ids may be of any column


# --- Hugging Face data sets -------------------------------------------------------------------------------------------


def is_hugging_face(x: Any) -> bool:
    """Whether data is a data set of the library `datasets` whose columns are known."""
    known = all(hasattr(x, name) for name in ("features", "column_names", "select_columns", "cast_column"))
    return known and x.format["type"] != "custom"  # with a transform, rows hold other columns


def open_hugging_face(x: Any, fields: Fields) -> tuple[Any, Columns]:
    """A Hugging Face data set with the columns that are needed, and which they are.

    Recordings are left encoded, so that nothing but soundfile is needed to decode them. The label is the column
    `label`, else the only one of the type ClassLabel.

    Raises:
        ConfigError: several columns could be a field.
    """
    rates = {}
    for name, feature in x.features.items():
        if type(feature).__name__ == "Audio":
            rates[name] = feature.sampling_rate
            x = x.cast_column(name, type(feature)(decode=False))
    classes = {name: feature for name, feature in x.features.items() if type(feature).__name__ == "ClassLabel"}
    label = LABEL if LABEL in x.column_names else next(iter(classes)) if len(classes) == 1 else None
    names_of_classes = tuple(classes[label].names) if label in classes else ()
    names = match_columns(x[0], fields, [label] if label else []) if len(x) else {}
    if not names:
        names = {name: name for name in x.column_names if name != label}
    rates_of_fields = {names[name]: float(rate) for name, rate in rates.items() if rate and name in names}
    columns = Columns(names, label, names_of_classes, rates_of_fields)
    return x.select_columns([*names, *([label] if label else [])]), columns
