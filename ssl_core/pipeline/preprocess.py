"""Data made ready once, on all cores; a stopped preparation goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.contracts import Dataset, Tokenizer
from ssl_core.errors import BadSample, DataError
from ssl_core.utils.console import Console
from ssl_core.utils.files import write_json
from ssl_core.utils.locks import file_lock

PIECE = 256
WORTH_WORKERS = 1024  # samples; below, starting processes takes longer than they save
SAVE_EVERY = 2.0  # seconds
STATE = "state.json"
META = "meta.json"
PARTS = "labels-*.npy"
NAMED = 1000  # skipped samples that are kept by name; all are counted


@dataclass
class Chunk:
    """A stretch of samples made ready: arrays (n, ...) by field, labels, what was skipped, or why nothing may go on."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    labels: list[Any] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    refused: DataError | None = None


class Chunks(torch.utils.data.Dataset[Chunk]):
    """The pieces of a data set, each prepared when it is asked for."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, first: int, strict: bool) -> None:
        self.dataset, self.tokenizer, self.first, self.strict = dataset, tokenizer, first, strict

    def __len__(self) -> int:
        return -(-len(self.dataset) // PIECE) - self.first

    def __getitem__(self, number: int) -> Chunk:
        if number >= len(self):
            raise IndexError(number)
        start = (self.first + number) * PIECE
        made = Chunk()
        rows: dict[str, list[np.ndarray]] = {}
        for index in range(start, min(start + PIECE, len(self.dataset))):
            try:
                sample = self.dataset[index]
                inputs = self.tokenizer.preprocess(sample["inputs"])
                check_finite(inputs)
            except BadSample as error:
                what = f"{self.dataset.describe(index)}: {error}"
                if self.strict:
                    return Chunk(refused=BadSample(f"{what} (strict: no sample may be skipped)"))
                made.skipped.append(what)
                continue
            except DataError as error:
                return Chunk(refused=error)
            for name, value in inputs.items():
                rows.setdefault(name, []).append(np.asarray(value))
            if sample["label"] is not None:
                made.labels.append(sample["label"])
        made.arrays = {name: np.stack(values) for name, values in rows.items()}
        return made


def check_finite(inputs: Mapping[str, np.ndarray]) -> None:
    """Errors: BadSample naming the field that holds NaN or infinity."""
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadSample(f"'{name}' holds NaN or infinity")


def build_cache(folder: Path, dataset: Dataset, tokenizer: Tokenizer, console: Console, strict: bool) -> None:
    """Make the folder of prepared data: field-0.npy and so on, labels.npy, meta.json. It appears whole or not at all.

    Another process that makes the same is waited for. Errors: DataError, with nothing left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".making-{folder.name}"
    with file_lock(
        work.with_suffix(".lock"), lambda: console.info("waiting for another run that prepares the same data")
    ):
        if (folder / META).exists():
            return
        work.mkdir(exist_ok=True)
        try:
            if not (work / META).exists():
                write_json(work / META, _write(work, dataset, tokenizer, console, strict))
        except DataError:
            (work / STATE).unlink(missing_ok=True)  # first, or a kill would leave it without what it counts
            shutil.rmtree(work)
            raise
        # a kill from here on loses nothing: META says that all else is there, so nothing is read again
        for path in [*work.glob(PARTS), work / STATE]:
            path.unlink(missing_ok=True)
        os.rename(work, folder)


def array_file(folder: Path, number: int) -> Path:
    """Where the `number`-th field of meta.json is kept. Not by its name: a field may be called anything."""
    return folder / f"field-{number}.npy"


@dataclass
class State:
    """How far a preparation has come. skipped: the first of the `bad` samples, at most NAMED."""

    pieces: int = 0
    count: int = 0
    labelled: int = 0
    bad: int = 0
    fields: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def _write(work: Path, dataset: Dataset, tokenizer: Tokenizer, console: Console, strict: bool) -> dict[str, Any]:
    """Write arrays and labels, and return what META says of them. Errors: DataError."""
    state = _state(work)
    if strict and state.skipped:
        raise BadSample(f"{state.skipped[0]} (strict: no sample may be skipped)")
    arrays: dict[str, np.memmap[Any, Any]] = {
        name: np.lib.format.open_memmap(array_file(work, number), mode="r+") for number, name in enumerate(state.fields)
    }
    total, done = len(dataset), min(state.pieces * PIECE, len(dataset))
    labels: list[Any] = []
    saved = time.monotonic()
    with console.progress(f"preparing {dataset.split} data", total, done) as progress:
        for piece in _pieces(Chunks(dataset, tokenizer, state.pieces, strict)):
            if piece.refused is not None:
                raise piece.refused
            _keep(work, piece, state, arrays, total)
            labels += piece.labels
            progress.advance(min(PIECE, total - done))
            done += PIECE
            if time.monotonic() - saved > SAVE_EVERY:
                _save(work, state, arrays, labels)
                saved = time.monotonic()
    _save(work, state, arrays, labels)
    if state.count == 0:
        raise DataError(
            f"no usable sample in the {dataset.split} split of '{dataset.name}'"
            + (f": {state.bad} skipped, the first: {state.skipped[0]}" if state.skipped else "")
        )
    if state.labelled not in (0, state.count):
        raise DataError(f"'{dataset.name}': {state.labelled} of {state.count} samples have a label; label all or none")
    if state.labelled:
        parts = [np.load(path) for path in sorted(work.glob(PARTS))]
        kept = sum(map(len, parts))
        if kept != state.count:
            raise DataError(
                f"internal error: {kept} labels are kept of {state.count} samples of the {dataset.split} split of "
                f"'{dataset.name}'; what was prepared is removed, so repeat the command"
            )
        np.save(work / "labels.npy", np.concatenate(parts))
    return {
        "count": state.count,
        "fields": state.fields,
        "labelled": bool(state.labelled),
        "bad": state.bad,
        "skipped": state.skipped,
    }


def _state(work: Path) -> State:
    """How far it had come when it was stopped; labels that were written since are removed."""
    path = work / STATE
    state = State(**json.loads(path.read_text())) if path.exists() else State()
    for part in work.glob(PARTS):
        if int(part.stem.removeprefix("labels-")) > state.pieces:
            part.unlink()
    return state


def _pieces(pieces: Chunks) -> Iterator[Chunk]:
    """All pieces in order, from as many processes as the run has cores."""
    cores = torch.get_num_threads()
    workers = min(cores, len(pieces)) if cores > 1 and len(pieces) * PIECE >= WORTH_WORKERS else 0
    loader: Any = torch.utils.data.DataLoader(pieces, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    yield from loader


def _as_it_is(piece: Any) -> Any:
    return piece


def _keep(work: Path, piece: Chunk, state: State, arrays: dict[str, np.memmap[Any, Any]], total: int) -> None:
    """Append a piece: after a kill, what is not in the saved state is written over."""
    count = len(next(iter(piece.arrays.values()))) if piece.arrays else 0
    for name, value in piece.arrays.items():
        if name not in arrays:
            shape = (total, *value.shape[1:])
            path = array_file(work, len(state.fields))
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=value.dtype, shape=shape)
            state.fields.append(name)
        arrays[name][state.count : state.count + count] = value
    state.pieces += 1
    state.count += count
    state.labelled += len(piece.labels)
    state.bad += len(piece.skipped)
    state.skipped += piece.skipped[: NAMED - len(state.skipped)]


def _save(work: Path, state: State, arrays: Mapping[str, np.memmap[Any, Any]], labels: list[Any]) -> None:
    """Say how far it has come, after what it says is on disk."""
    for array in arrays.values():
        array.flush()
    if labels:
        np.save(work / f"labels-{state.pieces:012d}.npy", np.asarray(labels))
        labels.clear()
    write_json(work / STATE, vars(state))
