"""Checks of every plugin class: its options and its documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from ssl_core.testing.check import CheckFailed, CheckSpec, expect, expect_equal, registrar

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)


@dataclass(frozen=True)
class OptionsSubject:
    """A plugin class and the option values that the checks use."""

    plugin: Any
    values: Mapping[str, Any]


def make_options(plugin: Any, values: Mapping[str, Any]) -> Any:
    """The options of a plugin class.

    Raises:
        CheckFailed: If the values do not suffice or are refused.
    """
    try:
        return plugin.Options(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise CheckFailed(
            f"{plugin.__name__}.Options({dict(values)}) is refused: {path}: {first['msg']}; "
            f"pass options=... that suffice to the kit, or give every option a default"
        ) from None


@check("Options")
def options_refuse_an_unknown_key(subject: OptionsSubject) -> None:
    """An option that does not exist is refused, so that a misspelt one is not silently ignored."""
    make_options(subject.plugin, subject.values)
    try:
        subject.plugin.Options(**subject.values, no_such_option=1)
    except pydantic.ValidationError:
        return
    raise CheckFailed("Options accepted no_such_option=1; keep model_config's extra='forbid'")


@check("Options")
def options_survive_json(subject: OptionsSubject) -> None:
    """Options written as JSON and read back are equal. A run's configuration is saved and resumed this way."""
    options = make_options(subject.plugin, subject.values)
    again = subject.plugin.Options(**json.loads(options.model_dump_json()))
    expect_equal(repr(options), repr(again), "options")
    expect(options == again, f"{options!r} became {again!r}")


@check("Options")
def options_are_described(subject: OptionsSubject) -> None:
    """Every option has a description, its line in `sslx show`."""
    names = [name for name, field in subject.plugin.Options.model_fields.items() if not field.description]
    expect(not names, f"no Field(description=...) for {', '.join(names)}")


@check("__doc__")
def class_is_described(subject: OptionsSubject) -> None:
    """The class has a docstring; its first line is the class's line in `sslx list`."""
    first = (subject.plugin.__doc__ or "").strip().partition("\n")[0]
    expect(first, "there is no docstring")
    expect(len(first) <= 120, f"the first line has {len(first)} characters; use at most 120")
