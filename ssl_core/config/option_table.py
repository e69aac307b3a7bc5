"""Options of a plugin or of an engine section as rows of a table: path, type, default and description."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from ssl_core.options import Options
from ssl_core.plugins import Entry, Kind


class OptionRow(NamedTuple):
    """One option. `path` is what `--set` takes; `default` is "required" for an option without one."""

    path: str
    type: str
    default: str
    description: str


def option_rows(section: str, options: type[Options], evaluate_options: Collection[str] = ()) -> list[OptionRow]:
    """A row for each option of a class, in the order of the class.

    Args:
        section: The section of the options.
        options: The class.
        evaluate_options: Names of options whose default is the value of the option of this name in `evaluate`
            (`Probe.evaluate_options`).
    """
    rows = []
    for key, info in options.model_fields.items():
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        default = f"evaluate.{key}" if key in evaluate_options else default
        kind = type_name(info.annotation) + "".join(f", {limit}" for limit in _limits(info.metadata))
        rows.append(OptionRow(f"{section}.{key}", kind, default, info.description or ""))
    return rows


def section_of(kind: Kind, name: str) -> str:
    """The section in which the options of a plugin of that kind and name are set."""
    return f"evaluate.probe_options.{name}" if kind == "probe" else kind


def option_rows_of(entry: Entry[Any]) -> list[OptionRow]:
    """A row for each option of a plugin other than a preset or command."""
    section = section_of(entry.kind, entry.name)
    return option_rows(section, entry.value.Options, getattr(entry.value, "evaluate_options", ()))


def type_name(annotation: Any) -> str:
    """A type as a user would write it: `int`, `near | hidden`, `int or none`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else type_name(part) for part in arguments)
    if origin is tuple:
        inner = [type_name(part) for part in arguments if part is not ...]
        return f"list of {inner[0]}" if ... in arguments else f"[{', '.join(inner)}]"
    return getattr(annotation, "__name__", str(annotation))


def _limits(metadata: list[Any]) -> Iterator[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    for part in metadata:
        for attribute, sign in signs.items():
            if getattr(part, attribute, None) is not None:
                yield f"{sign} {getattr(part, attribute)}"
