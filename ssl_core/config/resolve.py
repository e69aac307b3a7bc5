"""The configuration of a run, resolved from layers: class defaults < presets < file < flags and --set."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

import pydantic
from pydantic import ValidationError

from ssl_core.config.auto import AUTO, DEFAULT, is_own_data, open_paths
from ssl_core.config.benchmarks import expand, find_domain
from ssl_core.config.schema import Part, RunConfig
from ssl_core.contracts import Dataset, Masking, Objective, Probe, Tokenizer
from ssl_core.errors import ConfigError, nearest
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import probe_values
from ssl_core.nn.encoder import Encoder, EncoderOptions
from ssl_core.options import Choice, Options, Preset
from ssl_core.plugins import Catalogue
from ssl_core.training.options import InitOptions, TrainOptions
from ssl_core.utils.console import as_utf8
from ssl_core.utils.units import parse_time

PLUGIN_SECTIONS = ("objective", "masking", "tokenizer", "dataset")
ENGINE_SECTIONS: dict[str, type[Options]] = {
    "encoder": EncoderOptions,
    "train": TrainOptions,
    "evaluate": EvaluateOptions,
    "init": InitOptions,
}
DEFAULT_ENCODER = "transformer"
NO_LIMIT = 10**9  # steps, where the time decides
TOP_LEVEL = ("modality", "seed", "device", "strict", "preset", "label", "data_label", "benchmark", "domain")
NAMES = ("modality", "preset", "benchmark", "domain")
DERIVED = ("preset_sources", "auto")
"""Keys of a configuration that say where its values come from."""
TRANSFER = "transfer"  # section of a benchmark's options for its transfer sets


@dataclass(frozen=True)
class Plugins:
    """The classes that a configuration names."""

    objective: type[Objective]
    tokenizer: type[Tokenizer]
    dataset: type[Dataset]
    encoder: type[Encoder]
    maskings: Mapping[str, type[Masking]]
    probes: Mapping[str, type[Probe]] = field(default_factory=dict)


def resolve(catalogue: Catalogue, options: Mapping[str, Any], file: Path | None = None) -> tuple[RunConfig, Plugins]:
    """Resolve a configuration: options by dotted path, over a file, over presets, over class defaults.

    Raises:
        ConfigError: an unknown name or key (the message names the nearest), or a value that does not fit.
    """
    overrides = (read_file(file) if file else {}) | dict(options)
    _check_sections(overrides)
    _check_names(overrides)
    all_presets = [entry.value for entry in catalogue.presets]
    overrides = expand(all_presets, overrides)

    objective_name = overrides.get("objective.name")
    if objective_name is None:
        raise ConfigError(f"no objective named; use --objective with one of {', '.join(catalogue.objectives)}")
    objective = catalogue.objective(objective_name)
    dataset = _dataset(catalogue, overrides)
    modality = dataset.modality
    tokenizer = catalogue.tokenizer(overrides.get("tokenizer.name", modality))

    presets = matching(all_presets, objective.name, modality, dataset.name, overrides.get("preset"))
    base: dict[str, Any] = {}
    for preset in presets:
        base |= preset.values
    encoder = catalogue.encoder(overrides.get("encoder.name", base.get("encoder.name", DEFAULT_ENCODER)))
    choices = objective.masking_choices()
    maskings = _maskings(catalogue, objective.name, choices, base | overrides)
    sections: dict[str, tuple[str | None, type[Options]]] = {
        "objective": (objective.name, objective.Options),
        "tokenizer": (tokenizer.name, tokenizer.Options),
        "dataset": (dataset.name, dataset.Options),
        "encoder": (encoder.name, encoder.Options),
        **{name: (None, options) for name, options in ENGINE_SECTIONS.items() if name != "encoder"},
    }
    base = {f"{masking_section(name)}.{key}": v for name, c in choices.items() for key, v in c.values.items()} | base
    sections |= {masking_section(name): (masking.name, masking.Options) for name, masking in maskings.items()}
    # defaults and presets may have been written for another masking or encoder: keep the options that this one has
    replaceable = [masking_section(name) for name in maskings] + ["encoder"]
    known = {f"{section}.{key}" for section in replaceable for key in sections[section][1].model_fields}
    base = {path: v for path, v in base.items() if path.split(".")[0] not in ("masking", "encoder") or path in known}

    values = base | overrides
    _check_masking_paths(overrides, objective.name, maskings)
    parts: dict[str, Any] = {}
    for section, (name, cls) in sections.items():
        mine = {path.removeprefix(f"{section}."): v for path, v in values.items() if path.startswith(f"{section}.")}
        mine.pop("name", None)
        resolved = validate(section, cls, mine)
        parts[section] = resolved if name is None else Part(name=name, **resolved.model_dump(mode="json"))
    by_name = {name: parts.pop(masking_section(name)) for name in maskings}
    parts["masking"] = by_name.get("mask") if set(by_name) <= {"mask"} else by_name
    top = {key: overrides[key] for key in TOP_LEVEL if key in overrides} | {"modality": modality}
    top[TRANSFER] = _transfer(catalogue, all_presets, overrides)
    if overrides.get("preset") == AUTO or ("preset" not in overrides and is_own_data(dataset)):
        top["auto"] = open_paths(encoder.name, values)
    sources = tuple(f"{preset.name}: {preset.source}" for preset in presets)
    try:
        config = RunConfig(**parts, **top, preset_sources=sources)
    except ValidationError as error:
        raise ConfigError(explain("", error)) from None
    probes = _probes(catalogue, config.evaluate, config.seed)
    return config, Plugins(objective, tokenizer, dataset, encoder, maskings, probes)


def plugins_of(config: RunConfig, catalogue: Catalogue) -> Plugins:
    """The classes that a saved configuration names.

    Raises:
        ConfigError: one is not installed.
    """
    return Plugins(
        catalogue.objective(config.objective.name),
        catalogue.tokenizer(config.tokenizer.name),
        catalogue.dataset(config.dataset.name, config.modality),
        catalogue.encoder(config.encoder.name),
        {name: catalogue.masking(part.name) for name, part in config.maskings.items()},
        _probes(catalogue, config.evaluate, config.seed),
    )


def masking_section(name: str) -> str:
    """The section of a masking's options: "masking" for the only one, "masking.NAME" for one of several."""
    return "masking" if name == "mask" else f"masking.{name}"


def _maskings(
    catalogue: Catalogue, objective: str, choices: Mapping[str, Choice], values: Mapping[str, Any]
) -> dict[str, type[Masking]]:
    """The classes of an objective's maskings, by name.

    Raises:
        ConfigError: an unknown masking, or one for an objective that masks nothing or has several.
    """
    if "masking.name" in values and set(choices) != {"mask"}:
        if choices:
            names = " and ".join(f"masking.{name}.name" for name in choices)
            raise ConfigError(f"objective '{objective}' has several maskings; set {names} instead of masking.name")
        raise ConfigError(f"objective '{objective}' uses no masking, so masking.name cannot be set")
    return {
        name: catalogue.masking(values.get(f"{masking_section(name)}.name", choice.name))
        for name, choice in choices.items()
    }


def _check_masking_paths(overrides: Mapping[str, Any], objective: str, maskings: Mapping[str, type[Masking]]) -> None:
    """Raises:
    ConfigError: an option of a masking that the objective does not have.
    """
    if set(maskings) == {"mask"}:
        return
    for path in overrides:
        name = path.removeprefix("masking.").partition(".")[0]
        if path.startswith("masking.") and name not in maskings:
            if not maskings:
                raise ConfigError(f"objective '{objective}' uses no masking, so {path} cannot be set")
            raise ConfigError(f"unknown option '{path}'; {nearest(name, maskings, 'masking')}")


def _probes(catalogue: Catalogue, options: EvaluateOptions, seed: int) -> dict[str, type[Probe]]:
    """The probe classes that `evaluate.probes` names, by name; checks their options and the names of metrics.

    Raises:
        ConfigError: For an unknown probe, option of a probe or metric (naming the nearest), or a value that does not
            fit.
    """
    classes = {name: catalogue.probe(name) for name in options.probes}
    for name in options.probe_options:
        if name not in classes:
            raise ConfigError(
                f"evaluate.probe_options has options of probe '{name}', which evaluate.probes does not name; "
                f"{nearest(name, classes, 'probe')}"
            )
    for name, probe_class in classes.items():
        values = probe_values(name, probe_class, options, seed)
        validate(f"evaluate.probe_options.{name}", probe_class.Options, values)
    if options.metrics:
        from ssl_core.evaluation.metrics import check_names  # scikit-learn takes a second to import

        check_names(options.metrics)
    return classes


def _dataset(catalogue: Catalogue, overrides: Mapping[str, Any]) -> type[Dataset]:
    name, modality = overrides.get("dataset.name"), overrides.get("modality")
    if name is not None:
        return catalogue.dataset(name, modality)
    if modality is None:
        raise ConfigError("no modality named; use --modality, or --dataset")
    return catalogue.default_dataset(modality)


def _transfer(catalogue: Catalogue, presets: Iterable[Preset], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options for transfer sets.

    Raises:
        ConfigError: an option that no transfer set has.
    """
    options = {path.partition(".")[2]: value for path, value in overrides.items() if path.startswith(f"{TRANSFER}.")}
    if options:
        domain = find_domain(presets, overrides["benchmark"], overrides["domain"])
        entries = [catalogue.find("dataset", name, domain.modality) for name in domain.transfer]
        known = {key for entry in entries if entry for key in entry.value.Options.model_fields}
        for key in options:
            if key not in known:
                paths = [f"{TRANSFER}.{name}" for name in known]
                raise ConfigError(f"unknown option '{TRANSFER}.{key}'; {nearest(f'{TRANSFER}.{key}', paths, 'option')}")
    return options


def matching(presets: Iterable[Preset], objective: str, modality: str, dataset: str, name: str | None) -> list[Preset]:
    """The presets that apply, the least specific first, those called `name` after those that apply automatically.

    Of two that name as many of objective, modality and data set, the one that names the data set comes later and so
    wins: values chosen for a data set override those of a method for a whole modality. A preset that applies
    automatically and names no objective sets the size of a run; a preset by name replaces it.

    Raises:
        ConfigError: no preset has that name, or none of that name fits the run.
    """
    name = None if name == DEFAULT else name
    everything = list(presets)
    fitting = [preset for preset in everything if preset.matches(objective, modality, dataset)]
    automatic = [preset for preset in fitting if preset.default and name != "none"]
    if name is not None:
        automatic = [preset for preset in automatic if preset.objective is not None]
    by_name = [preset for preset in fitting if preset.name == name and not preset.default]
    if name not in (None, "none", AUTO) and not by_name:
        names = {preset.name for preset in everything if not preset.default}
        if name in names:
            raise ConfigError(f"preset '{name}' has nothing for objective '{objective}' and modality '{modality}'")
        raise ConfigError(f"unknown preset '{name}'; {nearest(str(name), names | {'none', AUTO, DEFAULT}, 'preset')}")

    def rank(preset: Preset) -> tuple[int, bool]:
        return preset.specificity, preset.dataset is not None

    return sorted(automatic, key=rank) + sorted(by_name, key=rank)


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file, such as a saved config.json, as dotted paths.

    Raises:
        ConfigError: it cannot be read, is not valid, or holds no sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path} has lists or sections within each other too deeply to be read") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold sections, e.g. [train]")
    return flatten({key: value for key, value in tree.items() if key != "format"})


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Sections as dotted paths; values that are None or derived are left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key == "masking" and any(isinstance(v, Mapping) for v in value.values()):
            flat |= {f"{key}.{path}": item for path, item in flatten(value).items()}  # several maskings, by name
        elif isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        elif value is not None and key not in DERIVED:
            flat[key] = value
    return flat


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse `a.b=c` into ("a.b", value): a TOML value where `c` is one, else the text itself.

    Raises:
        ConfigError: there is no equals sign or no path.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text}: write it as section.option=value")
    value = value.strip()
    try:
        return path.strip(), tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return path.strip(), value


def budgeted(text: str | None) -> dict[str, Any]:
    """Options for `--budget`: a limit on the training time, and none on the steps.

    Raises:
        ConfigError: the text is no time.
    """
    if text is None:
        return {}
    seconds = parse_time(text, "--budget")
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--budget {text}: it must be more than nothing")
    return {"train.max_seconds": seconds, "train.steps": NO_LIMIT}


def _check_sections(overrides: Mapping[str, Any]) -> None:
    known = (*PLUGIN_SECTIONS, *ENGINE_SECTIONS, TRANSFER)
    for path in overrides:
        section, dot, _ = path.partition(".")
        if not dot and path in TOP_LEVEL:
            continue
        if section in known and not dot:
            option = "name" if section in (*PLUGIN_SECTIONS, "encoder") else "OPTION"
            raise ConfigError(f"'{path}' is a section of options; write {path}.{option} = ... in its place")
        if section not in known:
            raise ConfigError(f"unknown option '{path}'; {nearest(section, (*known, *TOP_LEVEL), 'section')}")


def _check_names(overrides: Mapping[str, Any]) -> None:
    """Raises:
    ConfigError: a name, as of a plugin or a preset, is no text.
    """
    for path, value in overrides.items():
        section = path.partition(".")[0]
        is_name = path in NAMES or (path.endswith(".name") and section in (*PLUGIN_SECTIONS, "encoder"))
        if is_name and value is not None and not isinstance(value, str):
            raise ConfigError(f"{path} is {value!r}, which is no name; write the name in quotation marks")


def validate(section: str, options: type[Options], values: Mapping[str, Any]) -> Options:
    """Typed options from plain values.

    Raises:
        ConfigError: an unknown option, or a value that does not fit.
    """
    values = _nest(options, values)
    for key in values:
        if key not in options.model_fields:
            paths = [f"{section}.{name}" for name in options.model_fields]
            raise ConfigError(f"unknown option '{section}.{key}'; {nearest(f'{section}.{key}', paths, 'option')}")
        if isinstance(text := values[key], str) and as_utf8(text) != text:  # it could not be saved
            raise ConfigError(f"{section}.{key} {as_utf8(text)}: the name is not UTF-8; rename it")
    try:
        return options(**values)
    except ValidationError as error:
        raise ConfigError(explain(section, error)) from None


def _nest(options: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """`probe_options.knn.k = 3` as `probe_options = {"knn": {"k": 3}}`, for options that are dictionaries."""
    dictionaries = {key for key, info in options.model_fields.items() if get_origin(info.annotation) is dict}
    nested: dict[str, Any] = {}
    for key, value in values.items():
        option, _, inner = key.partition(".")
        if inner and option in dictionaries and isinstance(nested.get(option, {}), Mapping):
            nested[option] = _with_path(nested.get(option, {}), inner, value)
        else:
            nested[key] = value
    return nested


def _with_path(values: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    key, _, inner = path.partition(".")
    below = values.get(key)
    return {**values, key: _with_path(below if isinstance(below, Mapping) else {}, inner, value) if inner else value}


def explain(section: str, error: pydantic.ValidationError) -> str:
    """The first error of pydantic in one line."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in (section, *first["loc"]) if part != "")
    got = first.get("input")
    message = first["msg"].removeprefix("Value error, ")
    return f"option '{path}': {message[0].lower()}{message[1:]}, got {got!r}"
