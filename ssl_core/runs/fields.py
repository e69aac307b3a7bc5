"""The fields of a data set as JSON, so that a saved encoder needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_core.contracts import Dataset
from ssl_core.data import Continuous, Discrete, Field, Fields, Text
from ssl_core.errors import CheckpointError, DataError

KINDS: dict[str, type[Field]] = {"continuous": Continuous, "discrete": Discrete, "text": Text}


def fields_to_json(fields: Fields) -> dict[str, Any]:
    """Each field as its kind and its attributes."""
    kinds = {cls: kind for kind, cls in KINDS.items()}
    return {name: {"kind": kinds[type(field)], **vars(field)} for name, field in fields.items()}


def fields_from_json(entries: Mapping[str, Mapping[str, Any]]) -> Fields:
    """The inverse of `fields_to_json`.

    Raises:
        CheckpointError: an entry has an unknown kind.
    """
    fields: dict[str, Field] = {}
    for name, entry in entries.items():
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        kind = values.pop("kind", None)
        if kind not in KINDS:
            raise CheckpointError(f"field '{name}' has the unknown kind '{kind}'; use the sslx that saved it")
        fields[name] = KINDS[kind](**values)
    return fields


def check_fields(expected: Fields, dataset: Dataset) -> None:
    """Check that a data set has the fields that a run was made for.

    Raises:
        DataError: they differ; the message shows both.
    """
    if dict(dataset.fields) != dict(expected):
        raise DataError(
            f"'{dataset.name}' ({dataset.split}) offers {dict(dataset.fields)!r}, the run needs {dict(expected)!r}; "
            f"use a data set of the same form, or an option such as dataset.rate that makes it so"
        )
