"""Options of plugins and engine (pydantic), a named choice with values, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, Literal, get_args, get_origin

import pydantic
from pydantic import ConfigDict


class Options(pydantic.BaseModel):
    """Base of every plugin's nested `Options`: frozen, unknown keys refused, defaults checked too.

    `Field(description=...)` is the option's line in `sslx show`. A tuple may be given as "a, b", one of any length
    also as its one member, and a text as a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, coerce_numbers_to_str=True)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Convert what `--set` can express to the option's type: one value for several, `none`, a date as text."""
        kind = cls.model_fields[str(info.field_name)].annotation
        members = get_args(kind)
        if isinstance(value, str) and value.lower() in ("none", "null") and value not in _choices(kind):
            return None
        is_text = str in (kind, *members)
        if get_origin(kind) is tuple and members[-1:] == (Ellipsis,):
            several = _several(value)
            return tuple(map(_spelt, several)) if is_text and isinstance(several, list | tuple) else several
        if isinstance(value, str) and "," in value and any(get_origin(one) is tuple for one in (kind, *members)):
            return _several(value)  # a pair such as "1, 99"
        return _spelt(value) if is_text else value


def _choices(kind: Any) -> set[Any]:
    """The values of every `Literal` in an annotation."""
    members = get_args(kind)
    return set(members) if get_origin(kind) is Literal else set().union(*map(_choices, members))


def _several(value: Any) -> Any:
    """Members from "a, b" or from one of them; anything else stays."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    single = isinstance(value, int | float | date | time) and not isinstance(value, bool)
    return (value,) if single else value


def _spelt(value: Any) -> Any:
    """A day or an hour, for which TOML takes some names, as text."""
    return value.isoformat() if isinstance(value, date | time) else value


@dataclass(frozen=True)
class Choice:
    """A plugin chosen by name, with values for some of its options."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """ContinuousTarget for a run, where they come from, and for which runs they are meant.

    `values` maps option paths to values, e.g. {"objective.alpha": 0.1, "train.steps": 100_000}. A preset applies to
    a run whose objective, modality and data set match; None matches any. With `default` it applies unasked;
    otherwise when `--preset NAME` names it. More specific presets override less specific ones; of two that name as many
    of the three, the one that names the data set.
    `source` names the paper, table or measurement behind the numbers.

    A preset with a `domain` is one domain of the benchmark that is called like the preset: `modality` and `dataset` are
    what is pretrained on, `transfer` the data sets of the same modality on which the frozen encoder is measured then.
    Errors: ValueError for a domain that does not name what is pretrained on.
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

    def __post_init__(self) -> None:
        if self.domain is not None and (self.modality is None or self.dataset is None):
            raise ValueError(f"domain '{self.domain}' of preset '{self.name}' must name a modality and a dataset")
        if self.domain is None and self.transfer:
            raise ValueError(f"preset '{self.name}' has transfer sets, so it needs a domain")

    def matches(self, objective: str, modality: str, dataset: str) -> bool:
        """Whether it is meant for such a run."""
        wanted = ((self.objective, objective), (self.modality, modality), (self.dataset, dataset))
        return all(mine is None or mine == theirs for mine, theirs in wanted)

    @property
    def specificity(self) -> int:
        """How many of objective, modality and data set it names."""
        return sum(part is not None for part in (self.objective, self.modality, self.dataset))
