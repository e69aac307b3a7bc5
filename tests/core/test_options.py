"""Options: conversion of values from `--set`, and errors that name the option."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from ssl_core import ConfigError
from ssl_core.config.resolve import parse_setting, validate
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.options import Options


class Base(Options):
    """Options of several types."""

    names: tuple[str, ...] = Field(())
    sizes: tuple[float, ...] = Field((0.5,), min_length=1)
    probes: tuple[Literal["linear", "knn"], ...] = Field(("linear", "knn"))
    pair: tuple[int, int] | int | None = Field(3)
    label: str | None = Field(None)
    root: str = Field("here")


class Derived(Base):
    """A subclass, like the options of every plugin."""

    bands: tuple[int, ...] = Field(())


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("names=.tif", (".tif",)),
        ("names=-999", ("-999",)),
        ("names=a, b", ("a", "b")),
        ('names=["a, b", 7]', ("a, b", "7")),
        ("names=2024-01-31", ("2024-01-31",)),
        ("names=", ()),
        ("sizes=3", (3.0,)),
        ("sizes=0.1,0.2", (0.1, 0.2)),
        ("probes=knn", ("knn",)),
        ("probes=knn,linear", ("knn", "linear")),
        ("bands=4", (4,)),
        ("pair=4", 4),
        ("pair=[1, 2]", (1, 2)),
        ("pair=1, 2", (1, 2)),
        ("pair=none", None),
        ("label=2019", "2019"),
        ("label=2024-01-31", "2024-01-31"),
        ("label=none", None),
        ("root=7", "7"),
    ],
)
def test_setting_is_converted_to_the_type_of_the_option(setting, expected):
    name, value = parse_setting(setting)
    options = Derived(**{name: value})
    assert getattr(options, name) == expected
    assert Derived(**json.loads(options.model_dump_json())) == options


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("probes=knm", "option 'part.probes.0': input should be 'linear' or 'knn', got 'knm'"),
        ("sizes=0.1,x", "option 'part.sizes.1': input should be a valid number.*got 'x'"),
        ("sizes=", "option 'part.sizes': tuple should have at least 1 item"),
        ("names=true", "option 'part.names': input should be a valid tuple, got True"),
        ("names=none", "option 'part.names': input should be a valid tuple, got None"),
        ("names=[true]", "option 'part.names.0': input should be a valid string, got True"),
        ("label=true", "option 'part.label': input should be a valid string, got True"),
        ("root=none", "option 'part.root': input should be a valid string, got None"),
    ],
)
def test_invalid_value_raises_an_error_with_the_name_of_the_option(setting, message):
    name, value = parse_setting(setting)
    with pytest.raises(ConfigError, match=message):
        validate("part", Derived, {name: value})


def test_options_are_frozen_and_have_no_extra_keys():
    options = Base(names="a")
    with pytest.raises(ValidationError, match="frozen"):
        options.names = ("b",)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Base(name="a")


def test_single_value_for_a_tuple_of_literals():
    assert EvaluateOptions(probes="knn").probes == ("knn",)


def test_none_is_text_if_the_literal_contains_it():
    class Part(Options):
        norm: Literal["none", "mean"] | None = "mean"
        rate: int | None = 1

    assert Part(norm="none").norm == "none"
    assert Part(rate="none").rate is None
