"""Write an encoder in one of the formats, completely or not at all."""

from __future__ import annotations

from pathlib import Path

import torch

from ssl_core.errors import CheckpointError, ConfigError, nearest
from ssl_core.report import REPORT
from ssl_core.runs.build import load_checkpoint
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.export import preprocessing, program
from ssl_core.runs.export.request import FORMATS, Export, ExportRequest
from ssl_core.runs.run_dir import load_config
from ssl_core.runs.saved import is_saved, save_encoder
from ssl_core.utils.files import new_folder

TORCH_FILE, ONNX_FILE = "encoder.pt2", "encoder.onnx"
KNOWN = {TORCH_FILE, ONNX_FILE, f"{ONNX_FILE}.data", preprocessing.FILE, preprocessing.FILES}
"""The files of an exported program."""
PER_TOKEN_FORMATS = ("torch", "onnx")


def export_encoder(encoder: PretrainedEncoder, request: ExportRequest) -> Export:
    """Write an encoder to a folder, and check what was written against it.

    Raises:
        ConfigError: an unknown format, a library that is missing, a folder that cannot be used, an option that does not
            fit the format, or an encoder that cannot be traced.
        SslxError: the written program differs from the encoder.
    """
    folder = request.folder
    check_request(request)
    difference: float | None = None
    notes: tuple[str, ...] = ()
    if request.format == "safetensors":
        save_encoder(encoder, folder, overwrite=request.overwrite)
    elif request.format == "hf":
        from ssl_core.runs.export.huggingface import write_hf

        difference, notes = write_hf(encoder, folder, overwrite=request.overwrite)
    else:
        difference = _write_program(encoder, request)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Export(request.format, folder, tuple(files), difference, notes)


def check_finished(folder: Path) -> None:
    """Check that the run in a folder is finished; a saved encoder always is.

    Raises:
        CheckpointError: it is not.
    """
    if is_saved(folder) or (folder / REPORT).exists():
        return
    config, start = load_config(folder), load_checkpoint(folder)
    raise CheckpointError(
        f"{folder} is not finished ({start.step:,} of {config.train.steps:,} steps); go on with sslx run --resume "
        f"--out {folder}, or export it as it is from Python: sslx.load(folder).export(format, path)"
    )


def check_request(request: ExportRequest) -> None:
    """Raises:
    ConfigError: the format is unknown, does not take an option, or lacks a library; or the folder is named as a file.
    """
    if request.format not in FORMATS:
        raise ConfigError(f"unknown format '{request.format}'; {nearest(request.format, FORMATS, 'format')}")
    if request.format == "onnx":
        program.check_onnx_libraries()
    if request.format not in PER_TOKEN_FORMATS:
        given = [
            name
            for name in ("per_token", "layers", "readout", "example")
            if getattr(request, name) not in (None, False)
        ]
        if given:
            raise ConfigError(
                f"{given[0]} is for the formats {' and '.join(PER_TOKEN_FORMATS)}; a {request.format} folder holds the "
                f"whole encoder"
            )
    if request.per_token and request.readout is not None:
        raise ConfigError(f"per_token and readout={request.readout} are for two programs; export one after the other")
    if request.folder.suffix.lower() in (".onnx", ".pt2", ".pt", ".pth", ".safetensors"):
        raise ConfigError(
            f"{request.folder} is to be a folder with several files; name it without {request.folder.suffix}"
        )


def _write_program(encoder: PretrainedEncoder, request: ExportRequest) -> float:
    """Write a program, its check and preprocessing.json. Returns the largest difference."""
    options = {"overwrite": request.overwrite, "marker": preprocessing.FILE, "known": KNOWN}
    with new_folder(request.folder, **options) as work:  # type: ignore[arg-type]
        traced = program.trace(encoder, request.per_token, request.layers, request.example, request.readout)
        if request.format == "onnx":
            path = work / ONNX_FILE
            program.write_onnx(traced, path)
            difference = program.check(traced, program.run_onnx(path), path)
        else:
            path = work / TORCH_FILE
            program.write_torch(traced, path)
            difference = program.check(traced, program.run_torch(path), path)
        checked = {
            "max_difference": difference, "samples": [len(next(iter(batch.values()))) for batch in traced.batches],
            "data": "random arrays in the range of the training data" if request.example is None else "given samples",
            "torch": torch.__version__,
        }  # fmt: skip
        preprocessing.write_preprocessing(traced, work, checked)
    return difference
