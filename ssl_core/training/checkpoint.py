"""Checkpoints without pickle: safetensors for tensors, JSON for the rest; each is written completely or not at all.

checkpoints/step-00000500/{model.safetensors, optimizer.safetensors, state.json}
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_core.errors import CheckpointError
from ssl_core.training.learner import Learner
from ssl_core.utils.old_versions import first_version_message

FOLDER = "checkpoints"
FORMAT = 2
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """One saved state: its folder and what state.json says."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])


def save(
    run: Path,
    step: int,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Save everything that the rest of the run depends on, then delete all but the newest `keep` checkpoints.

    Raises:
        CheckpointError: the folder cannot be written; earlier checkpoints stay.
    """
    root = run / FOLDER
    final = root / f"step-{step:08d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(".saving-*"):  # of a save that was killed: only one process trains in a run's folder
            shutil.rmtree(stale, ignore_errors=True)
        work = root / f".saving-{final.name}"
        work.mkdir()
        try:
            _write_tensors(work / "model.safetensors", learner.state_dict())
            _write_tensors(work / "optimizer.safetensors", _flatten(learner, optimizer))
            with (work / "state.json").open("w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "step": step, **state}, file, indent=2, default=str)
                _sync(file.fileno())
            _put_in_place(work, final)
            _sync_folder(root)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        for old in (*_saved(root)[:-keep], *root.glob(".old-*")):
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot save a checkpoint in {root}: {error}; free space or choose another --out"
        ) from None
    return final


def _put_in_place(work: Path, final: Path) -> None:
    """Rename; if the same step is there from before a resume, it stays until the new one is in its place."""
    if not final.exists():
        os.rename(work, final)
        return
    old = work.with_name(f".old-{final.name}")
    os.rename(final, old)
    try:
        os.rename(work, final)
    except OSError:
        os.rename(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def latest(run: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a run folder, None if there is none.

    Raises:
        CheckpointError: it is damaged or has another format.
    """
    saved = _saved(run / FOLDER)
    if not saved:
        return None
    folder = saved[-1]
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); delete it to go on from the one before") from None
    if state.get("format") == 1:
        raise CheckpointError(first_version_message(folder))
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has format {state.get('format')}, this sslx reads {FORMAT}; use the sslx that made it"
        )
    return Checkpoint(folder, state)


def is_latest(checkpoint: Checkpoint | None, run: Path) -> bool:
    """Whether no newer checkpoint has appeared in a run folder since this one was read."""
    saved = _saved(run / FOLDER)
    return (saved[-1] if saved else None) == (checkpoint.folder if checkpoint else None)


def load_model(checkpoint: Checkpoint, learner: nn.Module) -> None:
    """Put the saved weights and buffers into a learner of the same configuration, strictly.

    Raises:
        CheckpointError: the file is damaged, or its tensors differ in name or shape from the learner's.
    """
    tensors = read_model(checkpoint)
    if isinstance(learner, Learner) and any(name.startswith("teacher.") for name in tensors):
        learner.start_teacher()  # its weights are then replaced by the saved ones
    load_tensors(checkpoint, learner, tensors)


def read_model(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the saved weights and buffers by name, on the CPU.

    Raises:
        CheckpointError: the file is damaged.
    """
    return _read_tensors(checkpoint.folder / "model.safetensors")


def load_tensors(checkpoint: Checkpoint, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of a checkpoint into a module, strictly.

    Raises:
        CheckpointError: the tensors differ in name or shape from the module's.
    """
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1:2] or [str(error)]
        raise CheckpointError(f"{checkpoint.folder} does not fit this configuration: {first[0].strip()}") from None


def load_optimizer(checkpoint: Checkpoint, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved optimiser state back, bit for bit.

    Raises:
        CheckpointError: the file is damaged, or names a parameter that the learner lacks.
    """
    tensors = _read_tensors(checkpoint.folder / "optimizer.safetensors")
    parameters = dict(learner.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.rpartition("|")
        if name not in parameters:
            raise CheckpointError(f"{checkpoint.folder} holds optimiser state for unknown parameter '{name}'")
        parameter = parameters[name]
        # step counts stay where torch keeps them: on the CPU, but for fused and capturable optimisers
        place = parameter.device if value.dim() or optimizer.defaults.get("fused") else value.device
        optimizer.state[parameter][entry] = value.to(place)


def _flatten(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, parameter in learner.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}|{entry}"] = torch.as_tensor(value)
    return out


def _saved(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name) and (path / "state.json").exists())


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    with path.open("rb") as file:
        _sync(file.fileno())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); delete {path.parent} to go on from the one before"
        ) from None


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
