"""Reads what a run starts from: an earlier run, a saved encoder, or a ViT of timm or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_core.config.benchmarks import expand
from ssl_core.config.schema import RunConfig
from ssl_core.errors import CheckpointError, ConfigError
from ssl_core.pipeline.memory import MEMORY
from ssl_core.plugins import Catalogue
from ssl_core.runs.build import load_checkpoint
from ssl_core.runs.init import InitSource
from ssl_core.runs.init_vit import is_vit, read_vit
from ssl_core.runs.run_dir import CONFIG
from ssl_core.runs.saved import is_saved
from ssl_core.runs.trained import load_trained
from ssl_core.training import checkpoint

PREFIX = "objective."
SOURCE = "init.source"


def read_source(path: Path, catalogue: Catalogue) -> InitSource:
    """The encoder at a path, with its weights.

    Args:
        path: folder of a run or of a saved encoder, or a ViT: a folder, .safetensors, .pth, .pt or .bin.
        catalogue: the installed plugins.

    Raises:
        CheckpointError: there is nothing that can be read as such, or it is damaged.
        ConfigError: a plugin that it needs is missing.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give the folder of a run, or a file of weights")
    if is_vit(path):
        return read_vit(path, catalogue)
    if not is_saved(path) and not (path / CONFIG).is_file():
        raise CheckpointError(
            f"{path} holds no run ({CONFIG}), no saved encoder (sslx.json), and no ViT of timm or transformers "
            f"(config.json with model.safetensors); name another folder or file"
        )
    model = load_trained(path, catalogue)
    config = model.config
    source = InitSource(
        path, "encoder", model.tokenizer, model.encoder, config.tokenizer, config.encoder, model.fields,
        options_of(config), objective=config.objective.name, schema=model.schema, stats=model.stats,
        steps=model.provenance.steps, trained_on=f"{config.modality}/{config.dataset.name}",
        history=model.provenance.history,
    )  # fmt: skip
    if is_saved(path):
        return source
    tensors = checkpoint.read_model(load_checkpoint(path))
    objective = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    return replace(source, kind="run", objective_tensors=objective)


def options_of(config: RunConfig) -> dict[str, Any]:
    """The options of a configuration that a run from its encoder takes over, by dotted path."""
    sections = {"encoder": config.encoder, "tokenizer": config.tokenizer, "dataset": config.dataset}
    options = {f"{name}.{key}": value for name, part in sections.items() for key, value in part.options.items()}
    options |= {f"{name}.name": part.name for name, part in sections.items()}
    return {"modality": config.modality, "objective.name": config.objective.name, **options}


def inherit(source: InitSource, overrides: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Options of a run that starts from a source: those that are set, over those of the source.

    The encoder's are taken over, and the tokenizer's if it is the same. Objective and modality are where none is named,
    and the data where neither data nor modality are.

    Args:
        source: the source.
        overrides: the options that are set, by dotted path.
        catalogue: the installed plugins.

    Raises:
        ConfigError: no data is named, and the source was trained on data in memory.
    """
    own = source.options
    expanded = expand([entry.value for entry in catalogue.presets], overrides)
    out: dict[str, Any] = {}
    for path in ("modality", "objective.name"):
        if path in own:
            out[path] = own[path]
    named = expanded.get("dataset.name")
    modality = expanded.get("modality") or own.get("modality")
    if named is not None and catalogue.find("dataset", str(named), modality) is None:
        modality = catalogue.dataset(str(named), expanded.get("modality")).modality
    out["modality"] = modality
    sections = []
    if "modality" not in expanded and not any(path.startswith("dataset.") for path in expanded):
        if own.get("dataset.name") == MEMORY:
            raise ConfigError(f"{source.path} was trained on data in memory; give the data, as --data or data=")
        if "dataset.name" in own:
            sections.append("dataset")
    if expanded.get("encoder.name", own["encoder.name"]) == own["encoder.name"]:
        sections.append("encoder")
    if expanded.get("tokenizer.name", modality) == own["tokenizer.name"]:
        sections.append("tokenizer")
    out |= {path: value for path, value in own.items() if path.partition(".")[0] in sections}
    return out | dict(overrides)


def check_digest(config: RunConfig, source: InitSource) -> RunConfig:
    """The configuration with the digest of the source's weights.

    Raises:
        ConfigError: it names another digest.
    """
    expected, found = config.init.digest, source.digest
    if expected is not None and not found.startswith(expected):
        raise ConfigError(
            f"{source.path} holds weights with the digest {found[:12]}, not {expected[:12]} as init.digest says: they "
            f"have changed; name the earlier weights, or leave init.digest out and start anew"
        )
    return config.model_copy(update={"init": config.init.model_copy(update={"digest": found})})


def check_distillation(config: RunConfig) -> None:
    """Raises:
    ConfigError: a distillation without initial weights.
    """
    if config.init.distill is not None and config.init.source is None:
        raise ConfigError(
            "init.distill is for further pretraining: teacher and student start from the same weights; name them by "
            "--init-from"
        )
