"""The `sslx run` line for data that were inspected."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ssl_core.config.resolve import parse_setting
from ssl_core.contracts import Tokenizer
from ssl_core.data import Fields
from ssl_core.errors import ConfigError, SslxError
from ssl_core.runs.inspection.candidates import OWN, Candidate

FLAGS = {
    "objective.name": "--objective", "modality": "--modality", "dataset.name": "--dataset", "dataset.root": "--data",
    "preset": "--preset", "train.steps": "--steps",
}  # fmt: skip
"""Options with a flag of their own."""
SAID = ("size", "patch", "length", "seconds", "normalise")
"""Options of a tokenizer that a proposal spells out, if the tokenizer has them."""
ATTRIBUTES = {"size": "shape"}
"""Attributes of tokenizers that hold such options once they are settled, where these have another name."""
FULL = 0.95
"""Share of the samples that a proposed length holds whole."""
LONGEST = 512
"""Tokens of the longest length that is proposed."""
STEP = 8


def command_of(options: Mapping[str, Any]) -> list[str]:
    """The arguments of `sslx` for options by path."""
    arguments = ["run"]
    for path, value in options.items():
        if path == "dataset.name" and value == OWN:
            continue
        flag = FLAGS.get(path)
        if flag is None:
            arguments += ["--set", setting(path, value)]
        elif str(value).startswith("-"):
            arguments.append(f"{flag}={value}")
        else:
            arguments += [flag, str(value)]
    return arguments


def quoted(arguments: list[str]) -> str:
    """The line that is typed."""
    return shlex.join(["sslx", *arguments])


def setting(path: str, value: Any) -> str:
    """The value of `--set` for an option, read back as the same value."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        try:
            plain = parse_setting(f"{path}={value}")[1]
        except ConfigError:
            plain = None
        special = plain != value or "," in value or value.lower() in ("none", "null")
        text = json.dumps(value) if special else value
    elif isinstance(value, list | tuple):
        text = json.dumps(list(value))
        if len(value) == 1 and isinstance(value[0], str) and setting(path, value[0]) == f"{path}={value[0]}":
            text = value[0]
    else:
        text = "none" if value is None else str(value)
    return f"{path}={text}"


def tokenizer_options(tokenizer: Tokenizer, valid: np.ndarray | None, cropped: float) -> dict[str, Any]:
    """Options of a tokenizer by name that a proposal spells out: as they were settled for the data, or better ones.

    Args:
        tokenizer: built for the data, with its defaults.
        valid: number of valid tokens of some samples; None if all are.
        cropped: share of the input that is left out.
    """
    known = type(tokenizer).Options.model_fields
    out = {}
    for name in SAID:
        if name in known:
            value = getattr(tokenizer.options, name)
            value = _settled(tokenizer, name) if value is None else value
            if value is not None:
                out[name] = value
    length = out.get("length")
    if isinstance(length, int) and valid is not None and len(valid) and tokenizer.layout.length > 0:
        share = float(np.quantile(valid, FULL)) / tokenizer.layout.length
        if share <= 0.5 and not cropped:
            out["length"] = max(STEP, -(-int(np.ceil(share * length)) // STEP) * STEP)
    return out


def _settled(tokenizer: Tokenizer, name: str) -> Any:
    """The value that a tokenizer chose for an option that was left to it; None if it does not say."""
    value = getattr(tokenizer, ATTRIBUTES.get(name, name), None)
    if isinstance(value, tuple) and value and all(isinstance(part, int) for part in value):
        return value[0] if len(set(value)) == 1 and len(value) != 2 else value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def settle_options(
    kind: type[Tokenizer], fields: Fields, proposed: Mapping[str, Any], dim: int, tokens: int
) -> dict[str, Any]:
    """The proposed options with which the tokenizer can be built; those that it refuses are left out.

    An option that changes nothing but is refused, such as one that cannot be set beside another, is no loss. With a
    shorter `length`, a patch that no longer divides it is left to the tokenizer.

    Args:
        kind: the tokenizer's class.
        fields: the fields of the data.
        proposed: options by name.
        dim: width of a token.
        tokens: number of tokens with the defaults, which a proposal must not exceed.
    """
    kept: dict[str, Any] = {}
    for name, value in proposed.items():
        trial = {**kept, name: value}
        try:
            with torch.random.fork_rng(devices=[]):
                tokenizer = kind(kind.Options(**trial), fields, dim)
        except (SslxError, ValueError):
            continue
        if tokenizer.layout.length <= tokens:
            kept = trial
    return kept


def base_options(candidate: Candidate, path: str, objective: str) -> dict[str, Any]:
    """The options that name objective and data."""
    return {
        "objective.name": objective, "modality": candidate.modality, "dataset.name": candidate.dataset,
        "dataset.root": candidate.root or path, **{f"dataset.{name}": v for name, v in candidate.options.items()},
    }  # fmt: skip
