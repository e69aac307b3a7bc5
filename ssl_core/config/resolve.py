"""The configuration of a run, resolved from layers: class defaults < presets < file < flags and --set."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ValidationError

from ssl_core.config.benchmarks import expand, find_domain
from ssl_core.config.schema import Part, RunConfig
from ssl_core.contracts import Dataset, Masking, Objective, Tokenizer
from ssl_core.errors import ConfigError, nearest
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.nn.encoder import EncoderOptions
from ssl_core.options import Options, Preset
from ssl_core.plugins import Catalogue
from ssl_core.training.options import TrainOptions

PLUGIN_SECTIONS = ("objective", "masking", "tokenizer", "dataset")
ENGINE_SECTIONS: dict[str, type[Options]] = {
    "encoder": EncoderOptions,
    "train": TrainOptions,
    "evaluate": EvaluateOptions,
}
NO_LIMIT = 10**9  # steps, where the time decides
TOP_LEVEL = ("modality", "seed", "device", "strict", "preset", "label", "data_label", "benchmark", "domain")
TRANSFER = "transfer"  # section of a benchmark's options for its transfer sets


@dataclass(frozen=True)
class Plugins:
    """The classes that a configuration names."""

    objective: type[Objective]
    tokenizer: type[Tokenizer]
    dataset: type[Dataset]
    masking: type[Masking] | None


@dataclass
class Layer:
    """ContinuousTarget of one origin, by dotted path."""

    origin: str
    values: dict[str, Any] = field(default_factory=dict)


def resolve(catalogue: Catalogue, given: Mapping[str, Any], file: Path | None = None) -> tuple[RunConfig, Plugins]:
    """The configuration for `given` dotted paths (flags and --set) over a file over presets over class defaults.

    Errors: ConfigError for an unknown name or key (naming the nearest) or a value that does not fit.
    """
    layers = [Layer(str(file), read_file(file))] if file else []
    layers.append(Layer("the command line", dict(given)))
    asked: dict[str, Any] = {}
    for layer in layers:
        asked |= layer.values
    _check_sections(asked)
    offered = [entry.value for entry in catalogue.presets]
    asked = expand(offered, asked)

    objective_name = asked.get("objective.name")
    if objective_name is None:
        raise ConfigError(f"no objective named; use --objective with one of {', '.join(catalogue.objectives)}")
    objective = catalogue.objective(objective_name)
    dataset = _dataset(catalogue, asked)
    modality = dataset.modality
    tokenizer = catalogue.tokenizer(asked.get("tokenizer.name", modality))

    wanted = asked.get("preset")
    presets = matching(offered, objective.name, modality, dataset.name, wanted)
    base: dict[str, Any] = {}
    for preset in presets:
        base |= preset.values
    default = objective.default_masking
    masking_name = asked.get("masking.name", base.get("masking.name", default.name if default else None))
    masking = catalogue.masking(masking_name) if masking_name is not None and default is not None else None
    if default is None and "masking.name" in asked:
        raise ConfigError(f"objective '{objective.name}' uses no masking, so masking.name cannot be set")

    sections: dict[str, tuple[str | None, type[Options]]] = {
        "objective": (objective.name, objective.Options),
        "tokenizer": (tokenizer.name, tokenizer.Options),
        "dataset": (dataset.name, dataset.Options),
        **{name: (None, options) for name, options in ENGINE_SECTIONS.items()},
    }
    if masking is not None and default is not None:
        sections["masking"] = (masking.name, masking.Options)
        # a masking's defaults and presets were written for another masking, perhaps: keep what this one knows
        base = {f"masking.{key}": value for key, value in default.values.items()} | base
        known = {f"masking.{key}" for key in masking.Options.model_fields}
        base = {path: value for path, value in base.items() if not path.startswith("masking.") or path in known}
    else:
        base = {path: value for path, value in base.items() if not path.startswith("masking.")}

    values = base | asked
    made: dict[str, Any] = {"masking": None}
    for section, (name, options) in sections.items():
        mine = {path.split(".", 1)[1]: value for path, value in values.items() if path.startswith(section + ".")}
        mine.pop("name", None)
        resolved = validate(section, options, mine)
        made[section] = resolved if name is None else Part(name=name, **resolved.model_dump(mode="json"))
    top = {key: asked[key] for key in TOP_LEVEL if key in asked} | {"modality": modality}
    top[TRANSFER] = _transfer(catalogue, offered, asked)
    sources = tuple(f"{preset.name}: {preset.source}" for preset in presets)
    try:
        config = RunConfig(**made, **top, preset_sources=sources)
    except ValidationError as error:
        raise ConfigError(explain("", error)) from None
    return config, Plugins(objective, tokenizer, dataset, masking)


def plugins_of(config: RunConfig, catalogue: Catalogue) -> Plugins:
    """The classes that a saved configuration names. Errors: ConfigError if one is not installed."""
    return Plugins(
        catalogue.objective(config.objective.name),
        catalogue.tokenizer(config.tokenizer.name),
        catalogue.dataset(config.dataset.name, config.modality),
        catalogue.masking(config.masking.name) if config.masking else None,
    )


def _dataset(catalogue: Catalogue, asked: Mapping[str, Any]) -> type[Dataset]:
    name, modality = asked.get("dataset.name"), asked.get("modality")
    if name is not None:
        return catalogue.dataset(name, modality)
    if modality is None:
        raise ConfigError("no modality named; use --modality, or --dataset")
    return catalogue.default_dataset(modality)


def _transfer(catalogue: Catalogue, offered: Iterable[Preset], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options for transfer sets. Errors: ConfigError for one that none of them has."""
    given = {path.partition(".")[2]: value for path, value in asked.items() if path.startswith(f"{TRANSFER}.")}
    if given:
        domain = find_domain(offered, asked["benchmark"], asked["domain"])
        entries = [catalogue.find("dataset", name, domain.modality) for name in domain.transfer]
        known = {key for entry in entries if entry for key in entry.value.Options.model_fields}
        for key in given:
            if key not in known:
                paths = [f"{TRANSFER}.{name}" for name in known]
                raise ConfigError(f"unknown option '{TRANSFER}.{key}'; {nearest(f'{TRANSFER}.{key}', paths, 'option')}")
    return given


def matching(
    presets: Iterable[Preset], objective: str, modality: str, dataset: str, wanted: str | None
) -> list[Preset]:
    """The presets that apply, the least specific first; the one asked for by name after those that apply unasked.

    Of two that name as many of objective, modality and data set, the one that names the data set comes later and so
    wins: what was chosen for these very data beats what a method takes for their whole modality.
    An unasked preset for any objective is about the size of a run, and one asked for by name takes its place.

    Errors: ConfigError for a name that no preset has, or whose presets do not fit the run.
    """
    everything = list(presets)
    fitting = [preset for preset in everything if preset.matches(objective, modality, dataset)]
    unasked = [preset for preset in fitting if preset.default and wanted != "none"]
    if wanted is not None:
        unasked = [preset for preset in unasked if preset.objective is not None]
    named = [preset for preset in fitting if preset.name == wanted and not preset.default]
    if wanted not in (None, "none") and not named:
        names = {preset.name for preset in everything if not preset.default}
        if wanted in names:
            raise ConfigError(f"preset '{wanted}' has nothing for objective '{objective}' and modality '{modality}'")
        raise ConfigError(f"unknown preset '{wanted}'; {nearest(str(wanted), names | {'none'}, 'preset')}")

    def rank(preset: Preset) -> tuple[int, bool]:
        return preset.specificity, preset.dataset is not None

    return sorted(unasked, key=rank) + sorted(named, key=rank)


def read_file(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as dotted paths. A saved config.json can be read back."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold sections, e.g. [train]")
    return flatten({key: value for key, value in tree.items() if key != "format"})


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Sections as dotted paths; what is None or derived is left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif value is not None and key != "preset_sources":
            flat[key] = value
    return flat


def parse_setting(text: str) -> tuple[str, Any]:
    """`a.b=c` as ("a.b", value): a TOML value where it reads as one, else the text itself."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text}: write it as section.option=value")
    value = value.strip()
    try:
        return path.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path.strip(), value


def budgeted(text: str | None) -> dict[str, Any]:
    """`--budget` as options: so much training, and no limit on the steps. Errors: ConfigError."""
    if text is None:
        return {}
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        raise ConfigError(f"--budget {text}: write it as 90s, 10m or 1.5h") from None
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--budget {text}: it must be more than nothing")
    return {"train.max_seconds": seconds, "train.steps": NO_LIMIT}


def _check_sections(asked: Mapping[str, Any]) -> None:
    known = (*PLUGIN_SECTIONS, *ENGINE_SECTIONS, TRANSFER)
    for path in asked:
        section, dot, _ = path.partition(".")
        if not dot and path in TOP_LEVEL:
            continue
        if section not in known or not dot:
            raise ConfigError(f"unknown option '{path}'; {nearest(section, (*known, *TOP_LEVEL), 'section')}")


def validate(section: str, options: type[Options], values: Mapping[str, Any]) -> Options:
    """Typed options from plain values. Errors: ConfigError naming the option."""
    for key in values:
        if key not in options.model_fields:
            paths = [f"{section}.{name}" for name in options.model_fields]
            raise ConfigError(f"unknown option '{section}.{key}'; {nearest(f'{section}.{key}', paths, 'option')}")
    try:
        return options(**values)
    except ValidationError as error:
        raise ConfigError(explain(section, error)) from None


def explain(section: str, error: pydantic.ValidationError) -> str:
    """The first complaint of pydantic in one line."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in (section, *first["loc"]) if part != "")
    got = first.get("input")
    message = first["msg"].removeprefix("Value error, ")
    return f"option '{path}': {message[0].lower()}{message[1:]}, got {got!r}"
