"""Preprocessing of a data set into the cache, on all threads; an interrupted run continues where it stopped."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.contracts import Dataset, Inputs, Tokenizer
from ssl_core.errors import BadSample, ConfigError, DataError
from ssl_core.utils.cache_entries import MAKING, guard_file, write_about
from ssl_core.utils.children import end_with_parent
from ssl_core.utils.console import Console
from ssl_core.utils.digests import file_digest, json_digest
from ssl_core.utils.files import write_json
from ssl_core.utils.locks import file_lock
from ssl_core.utils.seeds import generator
from ssl_core.utils.units import size_text

CHUNK_SIZE = 256  # samples
MIN_FOR_WORKERS = 1024  # samples; for fewer, starting worker processes takes longer than it saves
SAVE_EVERY = 2.0  # seconds
STATE = "state.json"
META = "meta.json"
DIGESTS, LABELS, LABELLED, INDEX = "digests.npy", "labels.npy", "labelled.npy", "index.npy"
DIGEST, FILES = "digest", "files"
"""Entries of meta.json: the digest of its other entries; size and digest of each other file, by name."""
PARTS = "part-*.npz"
LARGE = 1 << 30  # bytes of prepared data that are announced
WAITING = "waiting for another run that prepares the same data"
ALWAYS_CHECKED = 2**26  # bytes; larger arrays are read whole where a run is resumed or evaluated
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
MAX_SKIPPED_LINES = 1000  # skipped samples with a line of their own; all are counted


class DamagedCache(Exception):
    """A file of prepared data is missing, or is not as it was written; the message says which."""


@dataclass
class Chunk:
    """Consecutive preprocessed samples: arrays (n, ...) by field, a digest (n,) of each sample and its number in the
    data set, labels and the numbers of the samples that have one, one line per skipped sample, or an error."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    error: DataError | None = None


class Chunks(torch.utils.data.Dataset[Chunk]):
    """The chunks of a data set, each preprocessed on access."""

    def __init__(
        self, dataset: Dataset, tokenizer: Tokenizer, first: int, strict: bool, order: np.ndarray | None = None
    ) -> None:
        self.dataset, self.tokenizer, self.first, self.strict, self.order = dataset, tokenizer, first, strict, order

    def __len__(self) -> int:
        return chunk_count(self.dataset) - self.first

    def __getitem__(self, number: int) -> Chunk:
        if number >= len(self):
            raise IndexError(number)
        place = self.first + number
        start = (place if self.order is None else int(self.order[place])) * CHUNK_SIZE
        chunk = Chunk()
        rows: dict[str, list[np.ndarray]] = {}
        for index in range(start, min(start + CHUNK_SIZE, len(self.dataset))):
            try:
                sample = self.dataset[index]
                inputs = prepare_sample(self.tokenizer, sample["inputs"])
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
            chunk.index.append(index)
        chunk.arrays = {name: np.stack(values) for name, values in rows.items()}
        return chunk


def chunk_count(dataset: Dataset) -> int:
    """Number of chunks of a data set."""
    return -(-len(dataset) // CHUNK_SIZE)


def chunk_order(count: int) -> np.ndarray:
    """The order in which `count` chunks are prepared if it is random; always the same."""
    return torch.randperm(count, generator=generator(0, "chunks")).numpy()


def prepare_sample(tokenizer: Tokenizer, inputs: Inputs) -> Inputs:
    """One sample as a tokenizer prepares it, for training and for features alike.

    Raises:
        BadSample: the tokenizer cannot use it, or a field holds NaN or infinity.
    """
    prepared = tokenizer.preprocess(inputs)
    check_finite(prepared)
    return prepared


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


class LostWorker(DataError):
    """A process that prepares data has ended. What is prepared stays."""


class PreparationStopped(Exception):
    """The preparation was asked to stop; its progress is saved."""


def build_cache(
    folder: Path,
    dataset: Dataset,
    tokenizer: Tokenizer,
    console: Console,
    strict: bool,
    *,
    shuffled: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the folder of preprocessed data: field-0.npy and so on, digests.npy, labels.npy, meta.json.

    If some samples have a label and others have none, labels.npy holds zeros for these, and labelled.npy says which.

    The folder appears complete or not at all. If another process writes the same folder, wait for it.

    Args:
        folder: The folder.
        dataset: The data set.
        tokenizer: The tokenizer, fitted.
        console: Where progress goes.
        strict: Refuse bad samples.
        shuffled: Prepare the chunks in random order; the samples of a chunk stay together.
        stop: Tells after each chunk whether to stop.

    Raises:
        DataError: if the data cannot be used; nothing is left on disk.
        PreparationStopped, WaitStopped: `stop` has returned True, the second while another process was waited for.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_unused_locks(folder.parent)
    work = work_folder(folder)
    order = chunk_order(chunk_count(dataset)) if shuffled else None
    with file_lock(guard_file(folder), lambda: console.info(WAITING), stop=stop):
        if (folder / META).exists():
            return
        work.mkdir(exist_ok=True)
        try:
            write_about(work, _about(dataset))
            if not (work / META).exists():
                try:
                    meta = _write(work, dataset, tokenizer, console, strict, order, stop)
                except DamagedCache:  # what an interrupted run left
                    _remove(work)
                    work.mkdir()
                    write_about(work, _about(dataset))
                    meta = _write(work, dataset, tokenizer, console, strict, order, stop)
                write_json(work / META, meta)
        except LostWorker:
            raise
        except DataError:
            _remove(work)
            raise
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            _remove(work)
            raise DataError(
                f"cannot prepare the {dataset.split} data in {folder.parent}: {error.strerror}; free space, or set "
                f"SSLX_CACHE_DIR to a folder with more"
            ) from None
        # a kill from here on loses nothing: META exists, so the next process only renames the folder
        for path in [work / STATE, *work.glob(PARTS), *work.glob(".*.json-*")]:  # without STATE nobody reads the parts
            path.unlink(missing_ok=True)
        os.rename(work, folder)


def work_folder(folder: Path) -> Path:
    """Where the folder of prepared data lies until it is complete."""
    return folder.parent / f"{MAKING}{folder.name}"


def _about(dataset: Dataset) -> dict[str, str]:
    """What the cache says of prepared data in its list."""
    about = {"data": f"{dataset.modality}/{dataset.name}", "split": dataset.split}
    root = getattr(dataset.options, "root", None)
    return about | ({"source": str(root)} if root else {})


def _remove(work: Path) -> None:
    (work / STATE).unlink(missing_ok=True)  # first, so that a kill leaves no state without the arrays it counts
    shutil.rmtree(work)


def _remove_unused_locks(parent: Path) -> None:
    """Remove lock files of killed processes. That of work that can be continued stays, with its folder."""
    for path in parent.glob(".making-*.lock"):
        if path.with_suffix("").exists():
            continue
        with contextlib.suppress(_Busy, ConfigError), file_lock(path, _raise_busy, timeout=0):
            pass  # it is removed on release


class _Busy(Exception):
    pass


def _raise_busy() -> None:
    raise _Busy


def open_meta(folder: Path) -> dict[str, Any]:
    """What meta.json of a folder of prepared data says.

    Raises:
        DamagedCache: it is missing, or is not as it was written.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        digest = meta.pop(DIGEST)
        if digest != json_digest(meta):
            raise DamagedCache(f"{META} is not as it was written")
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedCache(f"{META} cannot be read ({type(error).__name__})") from None
    return meta


def check_files(folder: Path, meta: Mapping[str, Any], whole: bool) -> None:
    """Compare the files of a folder of prepared data with what meta.json says of them.

    Args:
        folder: The folder.
        meta: The content of meta.json.
        whole: Read large arrays, too; else of these only the size is compared.

    Raises:
        DamagedCache: a file is missing, or is not as it was written.
    """
    for name, (size, digest) in meta[FILES].items():
        try:
            if (folder / name).stat().st_size != size:
                raise DamagedCache(f"{name} has another size than when it was written")
            if (whole or size <= ALWAYS_CHECKED) and file_digest(folder / name) != digest:
                raise DamagedCache(f"{name} is not as it was written")
        except OSError as error:
            raise DamagedCache(f"{name}: {error.strerror}") from None


def discard(folder: Path) -> None:
    """Move a folder of prepared data away and delete it; other processes may still have its arrays open.

    Raises:
        DataError: it cannot be moved.
    """
    aside = folder.with_name(f".damaged-{folder.name}-{os.getpid()}")
    try:
        folder.rename(aside)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise DataError(
            f"the prepared data in {folder} are damaged and cannot be replaced ({error.strerror}); delete the folder"
        ) from None
    shutil.rmtree(aside, ignore_errors=True)


def array_file(folder: Path, number: int) -> Path:
    """The file of field `number` of meta.json. Numbered, since the name of a field can be any string."""
    return folder / f"field-{number}.npy"


@dataclass
class Part:
    """Digests, numbers and labels since the last save. labelled: numbers of the samples that have a label."""

    digests: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    labelled: list[int] = field(default_factory=list)

    def append(self, chunk: Chunk, first: int) -> None:
        """Add a chunk. first: number of its first sample."""
        self.digests += chunk.digests
        self.index += chunk.index
        self.labels += chunk.labels
        self.labelled += [first + number for number in chunk.labelled]

    def clear(self) -> None:
        """Forget everything."""
        self.digests.clear()
        self.index.clear()
        self.labels.clear()
        self.labelled.clear()


@dataclass
class State:
    """Progress of a preprocessing run.

    skipped: lines for the first `bad` samples, at most MAX_SKIPPED_LINES. host: name of the machine that runs it.
    """

    chunks: int = 0
    count: int = 0
    labelled: int = 0
    bad: int = 0
    fields: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    host: str = ""


def _write(
    work: Path,
    dataset: Dataset,
    tokenizer: Tokenizer,
    console: Console,
    strict: bool,
    order: np.ndarray | None,
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Write arrays and labels, and return the content of META.

    Raises:
        DataError: if the data cannot be used.
        DamagedCache: if what an interrupted run left cannot be continued.
        PreparationStopped: `stop` has returned True.
    """
    arrays: dict[str, np.memmap[Any, Any]] = {}
    try:
        state = _load_state(work)
        for number, name in enumerate(state.fields):
            arrays[name] = np.lib.format.open_memmap(array_file(work, number), mode="r+")
    except (ValueError, TypeError, AttributeError, FileNotFoundError) as error:
        raise DamagedCache(str(error)) from None
    if strict and state.skipped:
        raise BadSample(f"{state.skipped[0]} (strict: no sample may be skipped)")
    state.host = socket.gethostname()
    total, done = len(dataset), min(state.chunks * CHUNK_SIZE, len(dataset))
    part = Part()
    saved = time.monotonic()
    with console.progress(f"preparing {dataset.split} data", total, done) as progress:
        for chunk in _iterate(Chunks(dataset, tokenizer, state.chunks, strict, order)):
            if chunk.error is not None:
                raise chunk.error
            part.append(chunk, state.count)
            if not arrays and chunk.arrays:
                check_space(work, chunk, dataset, console)
            _append(work, chunk, state, arrays, total)
            progress.advance(min(CHUNK_SIZE, total - done))
            done += CHUNK_SIZE
            stopped = stop()
            if stopped or time.monotonic() - saved > SAVE_EVERY:
                _save(work, state, arrays, part)
                saved = time.monotonic()
            if stopped:
                raise PreparationStopped
    _save(work, state, arrays, part)
    if state.count == 0:
        raise DataError(
            f"no usable sample in the {dataset.split} split of '{dataset.name}'"
            + (f": {state.bad} skipped, the first: {state.skipped[0]}" if state.skipped else "")
        )
    parts = read_parts(work)
    digests = np.concatenate([one["digests"] for one in parts])
    if len(digests) != state.count:
        raise DataError(
            f"internal error: {len(digests)} digests are kept of {state.count} samples of the {dataset.split} split of "
            f"'{dataset.name}'; what was prepared is removed, so repeat the command"
        )
    np.save(work / DIGESTS, digests)
    np.save(work / INDEX, np.concatenate([one["index"] for one in parts]))
    if state.labelled:
        labels, labelled = join_labels(state.count, parts)
        np.save(work / LABELS, labels)
        if labelled is not None:
            np.save(work / LABELLED, labelled)
    meta = {
        "count": state.count,
        "fields": state.fields,
        "labelled": bool(state.labelled),
        "partly_labelled": (work / LABELLED).exists(),
        "bad": state.bad,
        "skipped": state.skipped,
        FILES: {path.name: [path.stat().st_size, file_digest(path)] for path in sorted(work.glob("*.npy"))},
    }
    return {**meta, DIGEST: json_digest(meta)}


def check_space(work: Path, chunk: Chunk, dataset: Dataset, console: Console) -> None:
    """Say how large the prepared data will be, if they are large; before any of them is written.

    Raises:
        DataError: the disk has less room. (Writing to a memory map on a full disk would kill the process.)
    """
    need = len(dataset) * sum(value[0].nbytes for value in chunk.arrays.values())
    free = free_bytes(work)
    if need > free:
        raise DataError(
            f"the prepared samples of the {dataset.split} split need {size_text(need)} in {work.parent}, which has "
            f"{size_text(free)} free; `sslx cache prune --older-than 30d` makes room, or set SSLX_CACHE_DIR to a "
            f"folder on a larger disk"
        )
    if need >= LARGE:
        console.info(
            f"preparing  {len(dataset):,} samples of the {dataset.split} split into {size_text(need)} of cache"
        )


def free_bytes(folder: Path) -> int:
    """Bytes that can be written to the disk of a folder."""
    return shutil.disk_usage(folder).free


def read_parts(work: Path, chunks: int | None = None) -> list[Mapping[str, np.ndarray]]:
    """What the parts in a folder hold, in order; those up to a number of chunks."""
    paths = sorted(work.glob(PARTS))
    return [_read_part(path) for path in paths if chunks is None or _chunks_of(path) <= chunks]


def _read_part(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as part:  # closed: there may be more parts than files that a process may open
        return dict(part)


def _chunks_of(part: Path) -> int:
    """The number of chunks up to the end of a part."""
    return int(part.stem.removeprefix("part-"))


def join_labels(count: int, parts: Sequence[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of `count` samples, and a mask of those that have one if only some have; others have zeros."""
    parts = [one for one in parts if len(one["labelled"])]
    index = np.concatenate([one["labelled"] for one in parts])
    labels = np.concatenate([one["labels"] for one in parts])
    if len(index) == count:
        return labels, None
    whole, mask = np.zeros((count, *labels.shape[1:]), labels.dtype), np.zeros(count, bool)
    whole[index], mask[index] = labels, True
    return whole, mask


def _load_state(work: Path) -> State:
    """The saved progress; removes parts that were written after it was saved."""
    path = work / STATE
    state = State(**json.loads(path.read_text())) if path.exists() else State()
    for part in work.glob(PARTS):
        if _chunks_of(part) > state.chunks:
            part.unlink()
    return state


def _iterate(chunks: Chunks) -> Iterator[Chunk]:
    """All chunks in order, from one worker process per thread of the run; not from this one beside a training.

    Of several processes on this machine the others wait meanwhile, so there are workers for their threads, too.
    """
    threads, alone = torch.get_num_threads(), threading.current_thread() is threading.main_thread()
    if alone:
        threads *= int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    use = (threads > 1 or not alone) and len(chunks) * CHUNK_SIZE >= MIN_FOR_WORKERS
    workers = min(threads, len(chunks)) if use else 0
    loader: Any = torch.utils.data.DataLoader(
        chunks, batch_size=None, num_workers=workers, collate_fn=_identity,
        worker_init_fn=functools.partial(_begin_worker, alone),
    )  # fmt: skip
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise LostWorker(
            f"a process that prepares data ended ({reason:.200}), perhaps since memory ran out; SSLX_THREADS=1 "
            f"prepares them in one process"
        ) from None


def _begin_worker(alone: bool, worker: int) -> None:
    """Called in each worker process.

    It is killed with its parent: by itself it would wait for ever for a reader of its results. Ctrl-C, which all
    processes of a terminal get, is left to the training, if there is one, which then stops the preparation.
    """
    end_with_parent(signal.SIGKILL)
    if not alone:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _identity(chunk: Any) -> Any:
    return chunk


def _append(work: Path, chunk: Chunk, state: State, arrays: dict[str, np.memmap[Any, Any]], total: int) -> None:
    """Append a chunk. After a kill, chunks beyond the saved state are overwritten."""
    count = len(next(iter(chunk.arrays.values()))) if chunk.arrays else 0
    for name, value in chunk.arrays.items():
        if name not in arrays:
            shape = (total, *value.shape[1:])
            path = array_file(work, len(state.fields))
            array = np.lib.format.open_memmap(path, mode="w+", dtype=value.dtype, shape=shape)
            _reserve(path)
            arrays[name] = array
            state.fields.append(name)
        arrays[name][state.count : state.count + count] = value
    state.chunks += 1
    state.count += count
    state.labelled += len(chunk.labels)
    state.bad += len(chunk.skipped)
    state.skipped += chunk.skipped[: MAX_SKIPPED_LINES - len(state.skipped)]


def _reserve(path: Path) -> None:
    """Allocate the disk space of a new array: writing to a mapped file on a full disk kills the process.

    Raises:
        OSError: there is not enough.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _save(work: Path, state: State, arrays: Mapping[str, np.memmap[Any, Any]], part: Part) -> None:
    """Save the progress, after everything that it counts is on disk."""
    for array in arrays.values():
        array.flush()
    if part.digests:
        np.savez(
            work / f"part-{state.chunks:012d}.npz",
            digests=np.array(part.digests, np.uint64),
            index=np.array(part.index, np.int64),
            labels=np.asarray(part.labels),
            labelled=np.array(part.labelled, np.int64),
        )
        part.clear()
    write_json(work / STATE, vars(state))
