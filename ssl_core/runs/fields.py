"""The fields of a data set as JSON, so that a saved encoder needs no data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_core.contracts import Dataset, Tokenizer
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


def adapt_fields(
    expected: Fields, dataset: Dataset, tokenizer: type[Tokenizer], first: Dataset | None = None
) -> list[str]:
    """Check that a data set has the fields that a tokenizer was made for.

    Args:
        expected: the fields that the tokenizer was made for.
        dataset: the data set.
        tokenizer: its class; with `fits_sizes`, samples may have another size.
        first: the split that the fields come from, if they come from another split of the same data.

    Returns:
        A line for each field whose samples have another size.

    Raises:
        DataError: they differ in anything else; the message shows the first difference.
    """
    source = "the encoder was trained on" if first is None else f"the {first.split} split has"
    where = f"the {dataset.split} split of '{dataset.name}'"
    notes = []
    for name in (*expected, *(name for name in dataset.fields if name not in expected)):
        trained, given = expected.get(name), dataset.fields.get(name)
        if trained == given:
            continue
        if trained is None or given is None:
            raise DataError(
                f"{where} has {_names(dataset.fields)}, {source} {_names(expected)}; use data with the same fields"
            )
        if _same_but_size(trained, given) and (tokenizer.fits_sizes or None in _shape(trained)):
            notes.append(
                f"'{name}' of {where} is {_size(given)}, {source} {_size(trained)}: it is resized, cropped or padded"
            )
            continue
        cure = _mode_cure(trained, given, dataset) or "convert the data, or use data of the same form"
        raise DataError(f"'{name}' of {where} is {describe_field(given)}, {source} {describe_field(trained)}; {cure}")
    return notes


def _mode_cure(trained: Field, given: Field, dataset: Dataset) -> str | None:
    """The option that reads colour images as grey, or grey ones as colour, if the data set has it."""
    has_mode = hasattr(getattr(dataset, "options", None), "mode")
    if not (has_mode and isinstance(trained, Continuous) and isinstance(given, Continuous)):
        return None
    mode = {(1, 3): "grey", (3, 1): "rgb"}.get((trained.shape[0] or 0, given.shape[0] or 0))
    return mode and f"set dataset.mode={mode}"


def describe_field(field: Field) -> str:
    """A field in words: its channels and size, its vocabulary, or text."""
    if isinstance(field, Text):
        return "text"
    if isinstance(field, Discrete):
        several = f"{field.length} values, each " if field.length > 1 else ""
        return f"{several}one of {field.vocab} categories"
    if len(field.shape) == 1:
        return f"{field.shape[0]} numbers"
    rate = "" if field.rate is None else f" at {field.rate:g} per second"
    channels = "any number of" if field.shape[0] is None else str(field.shape[0])
    return f"{channels} channel{'' if field.shape[0] == 1 else 's'} of {_size(field)}{rate}"


def _shape(field: Field) -> tuple[int | None, ...]:
    """Sizes of a continuous field without its channels."""
    return field.shape[1:] if isinstance(field, Continuous) else ()


def _size(field: Field) -> str:
    return " x ".join("any size" if n is None else str(n) for n in _shape(field))


def _names(fields: Fields) -> str:
    return ", ".join(f"'{name}'" for name in fields) or "no field"


def _same_but_size(one: Field, other: Field) -> bool:
    """Whether both are continuous and differ in the sizes of their axes at most."""
    if not (isinstance(one, Continuous) and isinstance(other, Continuous)) or len(one.shape) != len(other.shape):
        return False
    return len(one.shape) > 1 and one.shape[0] == other.shape[0] and one.rate == other.rate
