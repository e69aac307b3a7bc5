"""Checkpoints without pickle: safetensors for tensors, JSON for the rest; each is written completely or not at all.

checkpoints/step-00000500/{model.safetensors, optimizer.safetensors, state.json}

state.json holds digests of the other files and of itself, so that a damaged file is found when it is read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_core.errors import CheckpointError
from ssl_core.training.learner import Learner
from ssl_core.training.optim import GROUP, state_form
from ssl_core.training.shard import place_like
from ssl_core.utils.digests import file_digest, json_digest
from ssl_core.utils.files import apply_umask
from ssl_core.utils.old_versions import first_version_message

FOLDER = "checkpoints"
FORMAT = 2
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
DIGEST, DIGESTS = "digest", "file_digests"
"""Entries of state.json: the digest of its other entries, and those of the other files."""
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """One saved state.

    Attributes:
        folder: its folder.
        state: what state.json says.
        skipped: newer checkpoints, which are damaged.
    """

    folder: Path
    state: Mapping[str, Any]
    skipped: tuple[Path, ...] = ()

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return int(self.state["step"])


class DamagedCheckpoint(CheckpointError):
    """A file of a checkpoint is missing, or is not as it was written."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"{folder} is damaged ({reason}); sslx run --resume goes on from the checkpoint before it, or delete the "
            f"folder to use that one"
        )
        self.folder, self.reason = folder, reason


def save(
    run: Path,
    step: int,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Save everything that the rest of the run depends on, then delete all but the newest `keep` checkpoints.

    Those of later steps are deleted, too: they are damaged, or of a run that went on with other rounding.

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
            _write_tensors(work / MODEL, learner.state_dict())
            _write_tensors(work / OPTIMIZER, _flatten(learner, optimizer))
            digests = {name: file_digest(work / name) for name in (MODEL, OPTIMIZER)}
            entries = {"format": FORMAT, "step": step, **state, DIGESTS: digests}
            with (work / STATE).open("w", encoding="utf-8") as file:
                json.dump({**entries, DIGEST: json_digest(entries)}, file, indent=2, default=str)
                _sync(file.fileno())
            _put_in_place(work, final)
            _sync_folder(root)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        saved = _saved(root)
        mine = saved.index(final) + 1
        for old in (*saved[: max(0, mine - keep)], *saved[mine:], *root.glob(".old-*")):
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
    return _read(saved[-1]) if saved else None


def latest_step(run: Path) -> int | None:
    """The step of the newest checkpoint of a run folder by its name, None if there is none."""
    saved = _saved(run / FOLDER)
    return int(saved[-1].name.removeprefix("step-")) if saved else None


def newest_whole(runs: Sequence[Path]) -> Checkpoint | None:
    """Return the newest checkpoint whose files are all as they were written, None if there is no checkpoint.

    Args:
        runs: run folders; a later one is searched if the earlier ones hold none.

    Raises:
        CheckpointError: all are damaged, or one has another format.
    """
    damaged: list[DamagedCheckpoint] = []
    for folder in (folder for run in runs for folder in reversed(_saved(run / FOLDER))):
        try:
            found = _read(folder)
            for name in (MODEL, OPTIMIZER):
                _check_digest(found, name)
                with safe_open(folder / name, "pt"):  # the header, for files without a digest
                    pass
            return replace(found, skipped=tuple(error.folder for error in damaged))
        except DamagedCheckpoint as error:
            damaged.append(error)
        except (OSError, SafetensorError) as error:
            damaged.append(DamagedCheckpoint(folder, str(error)))
    if damaged:
        raise CheckpointError(
            f"{damaged[0].folder} is damaged ({damaged[0].reason}), and there is no other checkpoint that is not; "
            f"start anew with --overwrite"
        )
    return None


def _read(folder: Path) -> Checkpoint:
    """Raises:
    CheckpointError: state.json is damaged or has another format.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        digest = state.pop(DIGEST, None)
    except FileNotFoundError:
        raise DamagedCheckpoint(folder, f"it has no {STATE}") from None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(folder, f"{STATE}: {str(error).splitlines()[0]}") from None
    if digest is not None and digest != json_digest(state):
        raise DamagedCheckpoint(folder, f"{STATE} is not as it was written")
    if state.get("format") == 1:
        raise CheckpointError(first_version_message(folder))
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has format {state.get('format')}, this sslx reads {FORMAT}; use the sslx that made it"
        )
    return Checkpoint(folder, state)


def _check_digest(checkpoint: Checkpoint, name: str) -> None:
    """Raises:
    DamagedCheckpoint: a file is missing, or is not as it was written.
    """
    digest = checkpoint.state.get(DIGESTS, {}).get(name)
    try:
        if digest is not None and digest != file_digest(checkpoint.folder / name):
            raise DamagedCheckpoint(checkpoint.folder, f"{name} is not as it was written")
    except OSError as error:
        raise DamagedCheckpoint(checkpoint.folder, f"{name}: {error.strerror}") from None


def is_latest(checkpoint: Checkpoint | None, run: Path) -> bool:
    """Whether no newer checkpoint has appeared in a run folder since this one was read."""
    saved = [folder for folder in _saved(run / FOLDER) if checkpoint is None or folder not in checkpoint.skipped]
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
    return _read_tensors(checkpoint, MODEL)


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
        CheckpointError: the file is damaged, names a parameter that the learner lacks, or holds other entries, shapes
            or types than the optimiser keeps.
    """
    tensors = _read_tensors(checkpoint, OPTIMIZER)
    parameters = dict(learner.named_parameters())
    saved: dict[str, dict[str, Tensor]] = {}
    for label, value in tensors.items():
        name, _, entry = label.rpartition("|")
        if name not in parameters:
            raise CheckpointError(f"{checkpoint.folder} holds optimiser state for unknown parameter '{name}'")
        saved.setdefault(name, {})[entry] = value
    forms: dict[tuple[Any, ...], dict[str, Tensor] | None] = {}
    for name, entries in saved.items():
        parameter = parameters[name]
        key = (parameter.shape, parameter.dtype, parameter.device)
        form = forms[key] if key in forms else forms.setdefault(key, state_form(optimizer, parameter))
        if (problem := _state_problem(entries, form)) is not None:
            raise CheckpointError(
                f"{checkpoint.folder / OPTIMIZER} does not fit this configuration: state of '{name}': {problem}"
            )
        for entry, value in entries.items():
            # step counts stay where torch keeps them: on the CPU, but for fused and capturable optimisers
            if value.dim():
                optimizer.state[parameter][entry] = place_like(value, parameter)
            else:
                place = parameter.device if optimizer.defaults.get("fused") else value.device
                optimizer.state[parameter][entry] = value.to(place)


def _state_problem(saved: Mapping[str, Tensor], form: Mapping[str, Tensor] | None) -> str | None:
    """How the saved state of a parameter differs from the state that the optimiser keeps of it; None if it fits."""
    if form is None:
        return None
    own = {entry for entry in saved if not entry.startswith(GROUP)}
    if own != form.keys():
        return f"it has {', '.join(sorted(own))}, and the optimiser keeps {', '.join(sorted(form))}"
    for entry, expected in form.items():
        for name, is_value, wanted in (
            ("shape", tuple(saved[entry].shape), tuple(expected.shape)),
            ("type", saved[entry].dtype, expected.dtype),
        ):
            if is_value != wanted:
                return f"{name} of {entry} is {is_value}, and the optimiser needs {wanted}"
    return None


def _flatten(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, parameter in learner.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            out[f"{name}|{entry}"] = torch.as_tensor(value)
    return out


def _saved(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)
    apply_umask(path)
    with path.open("rb") as file:
        _sync(file.fileno())


def _read_tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """Raises:
    DamagedCheckpoint: the file is missing, or is not as it was written.
    """
    _check_digest(checkpoint, name)
    try:
        return load_file(checkpoint.folder / name)
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpoint(checkpoint.folder, f"{name}: {error}") from None


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
