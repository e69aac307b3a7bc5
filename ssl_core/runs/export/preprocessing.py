"""preprocessing.json: what a caller of an exported encoder must do to raw samples, and what the program does itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.pipeline.measure import InputSpec
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.export.program import BATCH, FEATURES, TOKENS, VALID, Program
from ssl_core.runs.fields import describe_field, fields_to_json
from ssl_core.utils.files import write_json

FILE, FILES = "preprocessing.json", "files"
FORMAT = 1


def write_preprocessing(program: Program, folder: Path, checked: Mapping[str, Any]) -> None:
    """Write preprocessing.json of an exported program, and the files that it names, into a folder.

    Args:
        program: the exported encoder.
        folder: where to.
        checked: how the written program was compared with the original.

    Raises:
        OSError: they cannot be written.
    """
    about = {
        "inputs": {name: _array(spec) for name, spec in program.inputs.items()},
        "not_needed": list(program.unused), "outputs": _outputs(program), "checked": dict(checked),
    }  # fmt: skip
    write_description(program.module.source, folder, about)


def write_description(encoder: PretrainedEncoder, folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write preprocessing.json of an encoder, and the files that it names, into a folder.

    Args:
        encoder: the encoder.
        folder: where to.
        about: further entries.

    Raises:
        OSError: they cannot be written.
    """
    described = encoder.tokenizer.describe_preprocessing()
    for name, content in described.files.items():
        (folder / FILES).mkdir(exist_ok=True)
        (folder / FILES / name).write_bytes(content)
    by_sslx = "sslx.load(FOLDER).preprocess(x) returns the inputs of raw samples x, by name"
    entries = {
        "format": FORMAT,
        "modality": encoder.config.modality,
        "by_sslx": by_sslx,
        "samples": samples_in_words(encoder),
        "steps": list(described.steps) or [{"do": f"not described by its tokenizer: {by_sslx}"}],
        "inputs": {name: _array(spec) for name, spec in encoder.inputs.items()},
        "inside": list(described.inside),
        "layout": [
            {"name": one.name, "grid": list(one.grid), "target": one.target, "size": one.size}
            for one in encoder.tokenizer.layout.segments
        ],
        "tokenizer": {"name": encoder.config.tokenizer.name, "options": _options(encoder)},
        "schema": dict(encoder.schema),
    }
    write_json(folder / FILE, entries | dict(about or {}))


def samples_in_words(encoder: PretrainedEncoder) -> dict[str, Any]:
    """The raw fields that the encoder was trained on, with a line in words."""
    entries = fields_to_json(encoder.fields)
    return {name: {**entries[name], "words": describe_field(field)} for name, field in encoder.fields.items()}


def _array(spec: InputSpec) -> dict[str, Any]:
    return {"dtype": spec.dtype, "shape": [BATCH, *spec.shape], "range_in_training": [spec.low, spec.high]}


def _outputs(program: Program) -> dict[str, Any]:
    expected = program.expected(program.batches[0])
    words = {
        FEATURES: f"one feature vector for each sample{_read_from(program)}",
        TOKENS: "one feature vector for each token, in the order of `layout`, row by row",
        VALID: "which tokens hold data; the others are padding",
    }
    return {
        name: {"dtype": value.dtype.name, "shape": [BATCH, *value.shape[1:]], "words": words[name]}
        for name, value in expected.items()
    }


def _read_from(program: Program) -> str:
    """What the features are read from, where it is not the encoder's output."""
    layers, readout = program.module.layers, program.module.readout
    if layers is not None:
        return f", of layers {', '.join(map(str, layers))}"
    return "" if readout is None else f", read out as {readout}"


def _options(encoder: PretrainedEncoder) -> dict[str, Any]:
    """The options of the tokenizer; of files the names."""
    options: dict[str, Any] = json.loads(json.dumps(encoder.config.tokenizer.options, default=str))
    for name in type(encoder.tokenizer).file_options:
        if options.get(name):
            options[name] = Path(options[name]).name
    return options
