"""Options of plugins and engine (pydantic models), choices of a plugin, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, Literal, get_args, get_origin

import pydantic
from pydantic import ConfigDict


class Options(pydantic.BaseModel):
    """Base of every plugin's nested `Options`: frozen, without unknown keys, with validated defaults.

    `sslx show` prints the `description` of each `Field`. Values from the command line are converted: "a, b" to a tuple,
    a single value to a tuple of variable length, and a number to text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, coerce_numbers_to_str=True)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _convert(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Convert values of `--set` to the option's type: a single value to a tuple, "none" to None, a date to text."""
        kind = cls.model_fields[str(info.field_name)].annotation
        members = get_args(kind)
        if isinstance(value, str) and value.lower() in ("none", "null") and value not in _choices(kind):
            return None
        is_text = str in (kind, *members)
        if get_origin(kind) is tuple and members[-1:] == (Ellipsis,):
            values = _split(value)
            return tuple(map(_date_as_text, values)) if is_text and isinstance(values, list | tuple) else values
        if isinstance(value, str) and "," in value and any(get_origin(member) is tuple for member in (kind, *members)):
            return _split(value)  # a pair such as "1, 99"
        return _date_as_text(value) if is_text else value


def _choices(kind: Any) -> set[Any]:
    """The values of every `Literal` in an annotation."""
    members = get_args(kind)
    return set(members) if get_origin(kind) is Literal else set().union(*map(_choices, members))


def _split(value: Any) -> Any:
    """Split "a, b" into a tuple and put a single number or date into one. Other values are returned unchanged."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    single = isinstance(value, int | float | date | time) and not isinstance(value, bool)
    return (value,) if single else value


def _date_as_text(value: Any) -> Any:
    """Convert a date or time to text: TOML parses some texts as dates."""
    return value.isoformat() if isinstance(value, date | time) else value


@dataclass(frozen=True)
class Choice:
    """The name of a plugin and values for some of its options."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """Option values for runs, with their source.

    A preset matches a run with its objective, modality and data set; None matches every one. With `default` it is
    applied automatically to all runs that it matches, otherwise if `--preset NAME` names it. A preset that names more
    of objective, modality and data set overrides one that names fewer. If two name equally many, the one that names the
    data set takes precedence.

    A preset with a `domain` describes one domain of the benchmark whose name is the preset's: the encoder is pretrained
    on `modality` and `dataset` and evaluated on the data sets in `transfer`, which have the same modality.

    Args:
        name: Name of the preset; several presets may share it.
        values: Option paths and values, e.g. {"objective.alpha": 0.1, "train.steps": 100_000}.
        source: The paper, table or measurement behind the values.
        objective: Objective of matching runs.
        modality: Modality of matching runs.
        dataset: Data set of matching runs.
        default: Whether the preset is applied automatically.
        domain: Domain of a benchmark.
        transfer: Transfer data sets of the domain.
        deviations: What a run with the preset does other than its source, a line each, with the option or command for
            the other side where there is one. `sslx show NAME` prints the lines of all presets of a name once.

    Raises:
        ValueError: If a preset with a domain has no modality or data set, or one without a domain has transfer sets.
    """

    name: str
    values: Mapping[str, Any]
    source: str
    objective: str | None = None
    modality: str | None = None
    dataset: str | None = None
    default: bool = False
    domain: str | None = None
    transfer: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.domain is not None and (self.modality is None or self.dataset is None):
            raise ValueError(f"domain '{self.domain}' of preset '{self.name}' must name a modality and a dataset")
        if self.domain is None and self.transfer:
            raise ValueError(f"preset '{self.name}' has transfer sets, so it needs a domain")

    def matches(self, objective: str, modality: str, dataset: str) -> bool:
        """Whether the preset matches a run of this objective, modality and data set."""
        pairs = ((self.objective, objective), (self.modality, modality), (self.dataset, dataset))
        return all(own is None or own == other for own, other in pairs)

    @property
    def specificity(self) -> int:
        """How many of objective, modality and data set the preset names."""
        return sum(part is not None for part in (self.objective, self.modality, self.dataset))
