"""Preprocessing of a data set into the cache, on all threads; an interrupted run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
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

CHUNK_SIZE = 256  # samples
MIN_FOR_WORKERS = 1024  # samples; for fewer, starting worker processes takes longer than it saves
SAVE_EVERY = 2.0  # seconds
STATE = "state.json"
META = "meta.json"
DIGESTS, LABELS, LABELLED = "digests.npy", "labels.npy", "labelled.npy"
PARTS = "part-*.npz"
MAX_SKIPPED_LINES = 1000  # skipped samples with a line of their own; all are counted


@dataclass
class Chunk:
    """Consecutive preprocessed samples: arrays (n, ...) by field, a digest (n,) of each sample, labels and the numbers
    of the samples that have one, one line per skipped sample, or an error."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    error: DataError | None = None


class Chunks(torch.utils.data.Dataset[Chunk]):
    """The chunks of a data set, each preprocessed on access."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, first: int, strict: bool) -> None:
        self.dataset, self.tokenizer, self.first, self.strict = dataset, tokenizer, first, strict

    def __len__(self) -> int:
        return -(-len(self.dataset) // CHUNK_SIZE) - self.first

    def __getitem__(self, number: int) -> Chunk:
        if number >= len(self):
            raise IndexError(number)
        start = (self.first + number) * CHUNK_SIZE
        chunk = Chunk()
        rows: dict[str, list[np.ndarray]] = {}
        for index in range(start, min(start + CHUNK_SIZE, len(self.dataset))):
            try:
                sample = self.dataset[index]
                inputs = self.tokenizer.preprocess(sample["inputs"])
                check_finite(inputs)
            except BadSample as error:
                what = f"{self.dataset.describe(index)}: {error}"
                if self.strict:
                    return Chunk(error=BadSample(f"{what} (strict: no sample may be skipped)"))
                chunk.skipped.append(what)
                continue
            except DataError as error:
                return Chunk(error=error)
            for name, value in inputs.items():
                rows.setdefault(name, []).append(np.asarray(value))
            if sample["label"] is not None:
                chunk.labels.append(sample["label"])
                chunk.labelled.append(len(chunk.digests))
            chunk.digests.append(sample_digest(inputs))
        chunk.arrays = {name: np.stack(values) for name, values in rows.items()}
        return chunk


def check_finite(inputs: Mapping[str, np.ndarray]) -> None:
    """Check that no field holds NaN or infinity.

    Raises:
        BadSample: naming the field that does.
    """
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadSample(f"'{name}' holds NaN or infinity")


def sample_digest(inputs: Mapping[str, np.ndarray]) -> int:
    """A 64-bit digest of the preprocessed inputs of one sample; equal samples have equal digests."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(inputs):
        array = np.ascontiguousarray(inputs[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return int.from_bytes(digest.digest(), "little")


def build_cache(folder: Path, dataset: Dataset, tokenizer: Tokenizer, console: Console, strict: bool) -> None:
    """Write the folder of preprocessed data: field-0.npy and so on, digests.npy, labels.npy, meta.json.

    If some samples have a label and others have none, labels.npy holds zeros for these, and labelled.npy says which.

    The folder appears complete or not at all. If another process writes the same folder, wait for it.

    Raises:
        DataError: if the data cannot be used; nothing is left on disk.
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
            (work / STATE).unlink(missing_ok=True)  # first, so that a kill leaves no state without the arrays it counts
            shutil.rmtree(work)
            raise
        # a kill from here on loses nothing: META exists, so the next process only renames the folder
        for path in [*work.glob(PARTS), work / STATE]:
            path.unlink(missing_ok=True)
        os.rename(work, folder)


def array_file(folder: Path, number: int) -> Path:
    """The file of field `number` of meta.json. Numbered, since the name of a field can be any string."""
    return folder / f"field-{number}.npy"


@dataclass
class Part:
    """Digests and labels since the last save. labelled: numbers of the samples that have a label."""

    digests: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)

    def append(self, chunk: Chunk, first: int) -> None:
        """Add a chunk. first: number of its first sample."""
        self.digests += chunk.digests
        self.labels += chunk.labels
        self.labelled += [first + number for number in chunk.labelled]

    def clear(self) -> None:
        """Forget everything."""
        self.digests.clear()
        self.labels.clear()
        self.labelled.clear()


@dataclass
class State:
    """Progress of a preprocessing run. skipped: lines for the first `bad` samples, at most MAX_SKIPPED_LINES."""

    chunks: int = 0
    count: int = 0
    labelled: int = 0
    bad: int = 0
    fields: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def _write(work: Path, dataset: Dataset, tokenizer: Tokenizer, console: Console, strict: bool) -> dict[str, Any]:
    """Write arrays and labels, and return the content of META.

    Raises:
        DataError: if the data cannot be used.
    """
    state = _load_state(work)
    if strict and state.skipped:
        raise BadSample(f"{state.skipped[0]} (strict: no sample may be skipped)")
    arrays: dict[str, np.memmap[Any, Any]] = {
        name: np.lib.format.open_memmap(array_file(work, number), mode="r+") for number, name in enumerate(state.fields)
    }
    total, done = len(dataset), min(state.chunks * CHUNK_SIZE, len(dataset))
    part = Part()
    saved = time.monotonic()
    with console.progress(f"preparing {dataset.split} data", total, done) as progress:
        for chunk in _iterate(Chunks(dataset, tokenizer, state.chunks, strict)):
            if chunk.error is not None:
                raise chunk.error
            part.append(chunk, state.count)
            _append(work, chunk, state, arrays, total)
            progress.advance(min(CHUNK_SIZE, total - done))
            done += CHUNK_SIZE
            if time.monotonic() - saved > SAVE_EVERY:
                _save(work, state, arrays, part)
                saved = time.monotonic()
    _save(work, state, arrays, part)
    if state.count == 0:
        raise DataError(
            f"no usable sample in the {dataset.split} split of '{dataset.name}'"
            + (f": {state.bad} skipped, the first: {state.skipped[0]}" if state.skipped else "")
        )
    parts = [np.load(path) for path in sorted(work.glob(PARTS))]
    digests = np.concatenate([one["digests"] for one in parts])
    if len(digests) != state.count:
        raise DataError(
            f"internal error: {len(digests)} digests are kept of {state.count} samples of the {dataset.split} split of "
            f"'{dataset.name}'; what was prepared is removed, so repeat the command"
        )
    np.save(work / DIGESTS, digests)
    if state.labelled:
        _save_labels(work, state.count, [one for one in parts if len(one["labelled"])])
    return {
        "count": state.count,
        "fields": state.fields,
        "labelled": bool(state.labelled),
        "bad": state.bad,
        "skipped": state.skipped,
    }


def _save_labels(work: Path, count: int, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write labels.npy and, if only some samples have a label, labelled.npy."""
    index = np.concatenate([one["labelled"] for one in parts])
    labels = np.concatenate([one["labels"] for one in parts])
    if len(index) < count:
        whole = np.zeros((count, *labels.shape[1:]), labels.dtype)
        whole[index] = labels
        labels, mask = whole, np.zeros(count, bool)
        mask[index] = True
        np.save(work / LABELLED, mask)
    np.save(work / LABELS, labels)


def _load_state(work: Path) -> State:
    """The saved progress; removes parts that were written after it was saved."""
    path = work / STATE
    state = State(**json.loads(path.read_text())) if path.exists() else State()
    for part in work.glob(PARTS):
        if int(part.stem.removeprefix("part-")) > state.chunks:
            part.unlink()
    return state


def _iterate(chunks: Chunks) -> Iterator[Chunk]:
    """All chunks in order, from one worker process per thread of the run."""
    threads = torch.get_num_threads()
    workers = min(threads, len(chunks)) if threads > 1 and len(chunks) * CHUNK_SIZE >= MIN_FOR_WORKERS else 0
    loader: Any = torch.utils.data.DataLoader(chunks, batch_size=None, num_workers=workers, collate_fn=_identity)
    yield from loader


def _identity(chunk: Any) -> Any:
    return chunk


def _append(work: Path, chunk: Chunk, state: State, arrays: dict[str, np.memmap[Any, Any]], total: int) -> None:
    """Append a chunk. After a kill, chunks beyond the saved state are overwritten."""
    count = len(next(iter(chunk.arrays.values()))) if chunk.arrays else 0
    for name, value in chunk.arrays.items():
        if name not in arrays:
            shape = (total, *value.shape[1:])
            path = array_file(work, len(state.fields))
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=value.dtype, shape=shape)
            state.fields.append(name)
        arrays[name][state.count : state.count + count] = value
    state.chunks += 1
    state.count += count
    state.labelled += len(chunk.labels)
    state.bad += len(chunk.skipped)
    state.skipped += chunk.skipped[: MAX_SKIPPED_LINES - len(state.skipped)]


def _save(work: Path, state: State, arrays: Mapping[str, np.memmap[Any, Any]], part: Part) -> None:
    """Save the progress, after everything that it counts is on disk."""
    for array in arrays.values():
        array.flush()
    if part.digests:
        np.savez(
            work / f"part-{state.chunks:012d}.npz",
            digests=np.array(part.digests, np.uint64),
            labels=np.asarray(part.labels),
            labelled=np.array(part.labelled, np.int64),
        )
        part.clear()
    write_json(work / STATE, vars(state))
