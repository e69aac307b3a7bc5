"""A trained encoder in a folder of its own, which needs no run, no training data and no objective to be loaded.

    FOLDER/
      sslx.json            format, configuration, fields, schema, statistics, provenance
      model.safetensors    weights and buffers of tokenizer and encoder, what `Tokenizer.fit` learned included
      constants.safetensors    mean and std of the tokenizer, where the weights have the form of a ViTModel
      files/               copies of the files that options of the tokenizer name, such as a vocabulary

There is no pickle in it, and no path of the machine that wrote it: paths in the configuration are cut to their names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Tokenizer
from ssl_core.data import Fields
from ssl_core.errors import CheckpointError, ConfigError
from ssl_core.nn.encoder import Encoder
from ssl_core.pipeline.measure import InputSpec
from ssl_core.plugins import Catalogue, Kind
from ssl_core.report.schema import HistoryRow
from ssl_core.runs.build import versions
from ssl_core.runs.encoder import PretrainedEncoder, Provenance
from ssl_core.runs.export import vit
from ssl_core.runs.fields import fields_from_json, fields_to_json
from ssl_core.runs.resume import check_plugins
from ssl_core.training.checkpoint import Checkpoint
from ssl_core.utils.digests import file_digest
from ssl_core.utils.files import apply_umask, new_folder, write_json

ENTRIES, WEIGHTS, CONSTANTS, FILES = "sslx.json", "model.safetensors", "constants.safetensors", "files"
DIGESTS = "digests"
"""The entry of sslx.json with the digests of other files."""
OWN = "own"
"""The form of weights that are named as in the encoder's state dict; `vit.FORM` is the other."""
FORMAT = 1
KIND = "encoder"
"""What sslx.json says that the folder holds."""
PARTS: tuple[Kind, ...] = ("tokenizer", "encoder")


# --- writing ---------------------------------------------------------------------------------------------------------


def save_encoder(encoder: PretrainedEncoder, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write an encoder to a folder, completely or not at all.

    Args:
        encoder: the encoder.
        folder: a new or empty folder.
        overwrite: replace a folder that an earlier save wrote.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
    """
    path = Path(folder)
    with new_folder(path, overwrite=overwrite, marker=ENTRIES, known={WEIGHTS, FILES}) as work:
        write_encoder(encoder, work)
    return path


def write_encoder(encoder: PretrainedEncoder, folder: Path, form: str = OWN) -> None:
    """Write the files of an encoder into an existing folder, its weights as they are named here or as a ViTModel's.

    Raises:
        ConfigError: a file that an option of the tokenizer names is gone.
        OSError: the folder cannot be written.
    """
    entries = {**encoder_entries(encoder), "weights": form}
    for name, source in _files(encoder).items():
        target = folder / entries["files"][name]
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:
            raise ConfigError(f"tokenizer.{name} {source} does not exist; put it back to save the encoder") from None
    if form == vit.FORM:
        write_tensors(folder / WEIGHTS, vit.to_vit(encoder))
        write_tensors(folder / CONSTANTS, {name: encoder.state_dict()[name] for name in vit.CONSTANTS})
    else:
        write_tensors(folder / WEIGHTS, encoder.state_dict())
        entries[DIGESTS] = digests_of(folder, [WEIGHTS, *entries["files"].values()])
    write_json(folder / ENTRIES, entries)


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Digests of files of a folder by name, for sslx.json. Not of those that other programs may write again."""
    return {name: file_digest(folder / name) for name in names}


def check_digests(folder: Path, entries: Mapping[str, Any]) -> None:
    """Compare the files of a folder with their digests in its sslx.json, if there are any.

    Raises:
        CheckpointError: a file is missing, or is not as it was written.
    """
    for name, digest in dict(entries.get(DIGESTS, {})).items():
        path = folder / name
        try:
            if file_digest(path) != digest:
                raise CheckpointError(f"{path} is damaged (it is not as it was written); save the encoder anew")
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing; save the encoder anew") from None
        except OSError as error:
            raise CheckpointError(f"{path} is damaged ({error.strerror}); save the encoder anew") from None


def encoder_entries(encoder: PretrainedEncoder) -> dict[str, Any]:
    """What sslx.json says of an encoder."""
    config = encoder.config.model_dump(mode="json")
    files = _names_of_copies(encoder)
    for name in files:
        config["tokenizer"][name] = files[name]
    for section in ("dataset", "init"):
        config[section] = {name: _without_folder(value) for name, value in (config[section] or {}).items()}
    origin = encoder.provenance
    return {
        "format": FORMAT, "kind": KIND, "modality": encoder.config.modality, "dim": encoder.dim,
        "config": config, "files": files, "fields": fields_to_json(encoder.fields), "schema": dict(encoder.schema),
        "stats": dict(encoder.stats), "inputs": {name: spec.to_json() for name, spec in encoder.inputs.items()},
        "provenance": {
            "run": origin.folder.name, "steps": origin.steps, "versions": dict(origin.versions),
            "origins": origins_of_parts(encoder), "history": _history(origin),
        },
        "evaluation": dict(origin.evaluation),
        "saved_with": versions(),
    }  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors in the safetensors format, flushed to disk.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        # clones, since tensors that share memory are refused
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(None, str(error)) from None
    apply_umask(path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _files(encoder: PretrainedEncoder) -> dict[str, Path]:
    """The files that options of the tokenizer name, by option."""
    options = encoder.config.tokenizer.options
    return {name: Path(options[name]) for name in type(encoder.tokenizer).file_options if options.get(name)}


def _names_of_copies(encoder: PretrainedEncoder) -> dict[str, str]:
    """Where the files that options name are copied to, by option: each to a path of its own.

    An export writes the files of `describe_preprocessing` to the same folder. A file of such a name gets the name of
    its option in front.
    """
    sources = _files(encoder)
    taken = {name.casefold() for name in encoder.tokenizer.describe_preprocessing().files} if sources else set()
    out = {}
    for option, source in sources.items():
        name = source.name
        while name.casefold() in taken:  # some file systems ignore case
            name = f"{option}-{name}"
        taken.add(name.casefold())
        out[option] = f"{FILES}/{name}"
    return out


def _without_folder(value: Any) -> Any:
    """The last part of an absolute path, also in a list; anything else as it is."""
    if isinstance(value, list):
        return [_without_folder(one) for one in value]
    for kind in (PurePosixPath, PureWindowsPath):
        if isinstance(value, str) and kind(value).is_absolute():
            return kind(value).name
    return value


def _history(origin: Provenance) -> list[dict[str, Any]]:
    """The sources of the weights, without the folders of this machine."""
    return [{**row.model_dump(mode="json"), "source": Path(row.source).name} for row in origin.history]


def origins_of_parts(encoder: PretrainedEncoder) -> dict[str, dict[str, str]]:
    """The plugins that the features come from, of those that the provenance names."""
    config, known = encoder.config, encoder.provenance.origins
    names = {
        "objectives": [config.objective.name], "maskings": [part.name for part in config.maskings.values()],
        "tokenizers": [config.tokenizer.name], "encoders": [config.encoder.name],
        "datasets": [f"{config.modality}/{config.dataset.name}"],
    }  # fmt: skip
    return {
        kind: {name: known[kind][name] for name in wanted if name in known.get(kind, {})}
        for kind, wanted in names.items()
    }


# --- reading ---------------------------------------------------------------------------------------------------------


def is_saved(folder: Path) -> bool:
    """Whether a folder is one that `save_encoder` or another save of sslx wrote."""
    return (folder / ENTRIES).is_file()


def read_entries(folder: Path, kind: str = KIND) -> dict[str, Any]:
    """What sslx.json says.

    Raises:
        CheckpointError: it is damaged, of a later format, or of another kind.
    """
    path = folder / ENTRIES
    try:
        entries = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({str(error).splitlines()[0]}); save the encoder anew") from None
    if entries.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {entries.get('format')}, this sslx reads {FORMAT}; use the sslx that saved it"
        )
    if entries.get("kind") != kind:
        cure = f"name {folder / 'encoder'}" if is_saved(folder / "encoder") else "name another folder"
        raise CheckpointError(f"{folder} holds a saved {entries.get('kind')}, not a saved {kind}; {cure}")
    return entries


def load_encoder(folder: Path, catalogue: Catalogue) -> PretrainedEncoder:
    """The encoder that `save_encoder` wrote, on the CPU. torch's random generators stay as they are.

    Raises:
        CheckpointError: the folder is damaged, or another version of sslx wrote it.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed.
    """
    entries = read_entries(folder)
    check_digests(folder, entries)
    tensors, form = read_tensors(folder / WEIGHTS), entries.get("weights", OWN)
    if form == vit.FORM:
        try:
            tensors = vit.from_vit(tensors, read_tensors(folder / CONSTANTS), _learns_positions(entries))
        except KeyError as error:
            raise CheckpointError(f"{folder / WEIGHTS} lacks {error}; save the encoder anew") from None
    elif form != OWN:
        raise CheckpointError(f"{folder} holds weights in the unknown form '{form}'; use the sslx that saved it")
    return encoder_from(entries, folder, tensors, catalogue)


def _learns_positions(entries: Mapping[str, Any]) -> bool:
    return bool(entries["config"]["encoder"]["positions"] == "learned")


def encoder_from(
    entries: Mapping[str, Any], folder: Path, tensors: Mapping[str, Tensor], catalogue: Catalogue
) -> PretrainedEncoder:
    """An encoder from the entries of its sslx.json and from its tensors by name.

    Raises:
        CheckpointError: they are damaged or do not fit each other.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed.
    """
    path = folder / ENTRIES
    try:
        config = RunConfig(**entries["config"])
        files = {name: str(folder / part) for name, part in entries["files"].items()}
        options = config.tokenizer.model_copy(update=files)
        config = config.model_copy(update={"tokenizer": options})
        fields = fields_from_json(entries["fields"])
        about = entries["provenance"]
        provenance = Provenance(
            Path(about["run"]),
            int(about["steps"]),
            about["versions"],
            about["origins"],
            dict(entries.get("evaluation", {})),
            tuple(HistoryRow(**row) for row in about.get("history", ())),
        )
        schema, stats = dict(entries["schema"]), dict(entries["stats"])
        inputs = {name: InputSpec.from_json(entry) for name, entry in entries.get("inputs", {}).items()}
    except (LookupError, TypeError, ValueError, AttributeError, ValidationError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise CheckpointError(f"{path} cannot be read ({reason}); save the encoder anew") from None
    check_plugins(folder, config, catalogue, Checkpoint(folder, {"origins": provenance.origins}), PARTS)
    tokenizer, encoder = build_parts(config, fields, catalogue)
    model = PretrainedEncoder(tokenizer, encoder, fields, config, provenance, schema)
    model.stats, model.inputs = stats, inputs
    try:
        model.load_state_dict(dict(tensors), strict=True)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        first = lines[1] if len(lines) > 1 else lines[0]
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit {path} ({first.strip()}); save the encoder anew"
        ) from None
    return model.eval()


def build_parts(config: RunConfig, fields: Fields, catalogue: Catalogue) -> tuple[Tokenizer, Encoder]:
    """Tokenizer and encoder of a configuration, with initial weights. torch's random generators stay as they are.

    Raises:
        ConfigError: the plugin of one of them is not installed, or an option does not fit.
    """
    tokenizer_class = catalogue.tokenizer(config.tokenizer.name)
    encoder_class = catalogue.encoder(config.encoder.name)
    with torch.random.fork_rng(devices=[]):
        tokenizer = tokenizer_class(tokenizer_class.Options(**config.tokenizer.options), fields, config.dim)
        encoder = encoder_class(encoder_class.Options(**config.encoder.options), tokenizer.layout)
    return tokenizer, encoder


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; save the encoder anew") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); save the encoder anew") from None
