"""The memory-mapped cache of preprocessed samples; a batch is one gather from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_core.contracts import Dataset, Inputs, Tokenizer
from ssl_core.data import Batch
from ssl_core.errors import BadSample
from ssl_core.pipeline.preprocess import (
    DIGESTS,
    INDEX,
    LABELLED,
    LABELS,
    META,
    STATE,
    WAITING,
    DamagedCache,
    PreparationStopped,
    State,
    array_file,
    build_cache,
    check_files,
    discard,
    join_labels,
    open_meta,
    read_parts,
    work_folder,
)
from ssl_core.pipeline.sampler import batch_index
from ssl_core.utils.cache_entries import Hold, hold_entry, keep_limit
from ssl_core.utils.console import Console
from ssl_core.utils.locks import WaitStopped
from ssl_core.utils.seeds import generator
from ssl_core.utils.source_digest import source_digest, source_files

FORMAT = 5
CHUNK = 1024


@dataclass(frozen=True)
class PreprocessedSplit:
    """Preprocessed samples of one split.

    arrays: (n, ...) by field. labels: (n, ...), or None. bad: number of skipped samples. skipped: one line for each
    of the first skipped samples. digests: (n,) uint64, equal for equal samples. labelled: (n,) bool where only some
    samples have a label; the others have zeros in `labels`. index: (n,) numbers of the samples in the data set. hold:
    while it lives, the cache keeps the arrays.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    skipped: tuple[str, ...] = ()
    bad: int = 0
    digests: np.ndarray | None = None
    labelled: np.ndarray | None = None
    index: np.ndarray | None = None
    hold: object = field(default=None, repr=False, compare=False)

    @property
    def labelled_rows(self) -> np.ndarray:
        """Indices of the samples that have a label, or of all samples if none has."""
        return np.arange(len(self)) if self.labelled is None else np.flatnonzero(self.labelled)

    def content_digest(self) -> str:
        """A digest of all samples and labels, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.digests, self.labels, self.labelled):
            digest.update(b"-" if array is None else f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def chunks(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays in chunks of at most `CHUNK` samples."""
        for start in range(0, len(self), CHUNK):
            yield {name: array[start : start + CHUNK] for name, array in self.arrays.items()}

    def take(self, index: np.ndarray, pinned: bool = False) -> Batch:
        """The samples at `index` as a batch; one gather for each field, into page-locked memory if `pinned`."""
        gather = _gather_pinned if pinned else _gather
        inputs = {name: gather(array, index) for name, array in self.arrays.items()}
        return Batch(inputs, None if self.labels is None else torch.from_numpy(self.labels[index]))

    def batch_index(
        self, seed: int, number: int, size: int, is_stopped: Callable[[], bool] = lambda: False
    ) -> np.ndarray:
        """The rows of batch `number` of a training, (size,). is_stopped: whether to end a wait for samples."""
        return batch_index(seed, number, len(self), size)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """A context in which the samples may still be prepared; here they are."""
        yield

    def number_of(self, row: int) -> int:
        """The number of a sample in the data set."""
        return row if self.index is None else int(self.index[row])

    def sweep(self, size: int, subset: np.ndarray | None = None) -> Iterator[Batch]:
        """All samples in order, or those at the indices `subset`, in batches of at most `size`."""
        index = range(len(self)) if subset is None else subset
        for start in range(0, len(index), size):
            yield self.take(np.asarray(index[start : start + size]))


def _gather(array: np.ndarray, index: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[index]))


def _gather_pinned(array: np.ndarray, index: np.ndarray) -> Tensor:
    """Gather directly into page-locked memory, which saves a second copy before the transfer to the GPU."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    out = torch.empty((len(index), *array.shape[1:]), dtype=dtype, pin_memory=True)
    np.take(array, index, axis=0, out=out.numpy(), mode="clip")  # mode "raise" needs a buffer
    return out


@dataclass(frozen=True)
class RawSamples:
    """Raw inputs of a data set in a fixed random order, read during iteration; bad samples are left out."""

    dataset: Dataset

    def __iter__(self) -> Iterator[Inputs]:
        for index in torch.randperm(len(self.dataset), generator=generator(0, "raw")).tolist():
            with contextlib.suppress(BadSample):
                yield self.dataset[index]["inputs"]


def preprocess_dataset(
    dataset: Dataset,
    tokenizer: Tokenizer,
    cache: Path,
    console: Console,
    strict: bool = False,
    *,
    check: bool = False,
    shuffled: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> PreprocessedSplit:
    """Preprocess all samples of a data set with `tokenizer.preprocess`, or open the cache of an earlier call.

    The cache depends on the data set, the options and the code. Preprocessing uses all threads of the run, and an
    interrupted one continues where it stopped. Bad samples are skipped and counted. If a file of the cache is not as it
    was written, a line says so, and the data are prepared anew.

    Args:
        dataset: The data set.
        tokenizer: The tokenizer, fitted.
        cache: The cache directory.
        console: Where progress and warnings go.
        strict: Refuse bad samples.
        check: Compare also large arrays with their digests, which reads them once.
        shuffled: Prepare chunks of samples in random order, as for `GrowingSplit`.
        stop: Tells after each chunk, and while another process prepares the data, whether to stop.

    Raises:
        DataError: if the data cannot be read or has no usable sample, or, with `strict`, for the first bad sample.
        PreparationStopped: `stop` has returned True.
    """
    folder, hold = cache_folder(cache, dataset, tokenizer, shuffled), Hold()

    def build() -> None:
        while not (folder / META).exists():  # another process may remove what it finds without a hold
            build_cache(folder, dataset, tokenizer, console, strict, shuffled=shuffled, stop=stop)
            for line in keep_limit(cache):
                console.info(line)

    try:
        hold_entry(folder, hold, lambda: console.info(WAITING), stop)
        if not (folder / META).exists() and folder.exists():
            discard(folder)
        build()
        try:
            return _open(folder, strict, check, hold)
        except DamagedCache as error:
            console.info(f"warning: the prepared data in {folder} are damaged ({error}), so they are prepared anew")
        discard(folder)
        build()
        return _open(folder, strict, check, hold)
    except WaitStopped:
        raise PreparationStopped from None


def _open(folder: Path, strict: bool, check: bool, hold: Hold) -> PreprocessedSplit:
    """Raises:
    DamagedCache: a file is not as it was written.
    """
    meta = open_meta(folder)
    check_files(folder, meta, check)
    if strict and meta["skipped"]:
        raise BadSample(f"{meta['skipped'][0]} (strict: no sample may be skipped)")
    files = {name: array_file(folder, number) for number, name in enumerate(meta["fields"])}
    arrays = {name: np.load(file, mmap_mode="r")[: meta["count"]] for name, file in files.items()}
    labels = np.load(folder / LABELS) if meta["labelled"] else None
    labelled = np.load(folder / LABELLED) if meta["partly_labelled"] else None
    digests, index = np.load(folder / DIGESTS), np.load(folder / INDEX)
    return PreprocessedSplit(arrays, labels, tuple(meta["skipped"]), meta["bad"], digests, labelled, index, hold)


def open_prepared(folder: Path, chunks: int) -> tuple[int | None, PreprocessedSplit] | None:
    """What is prepared so far of a folder that may not be complete: the number of chunks, and their samples.

    The number is None if the folder is complete. None if fewer than `chunks` are prepared, if it is being completed, or
    if another machine prepares it: of a file that is still written, a shared disk may show what was there before.
    """
    try:
        if (folder / META).exists():
            return None, _open(folder, False, False, Hold())
        work = work_folder(folder)
        state = State(**json.loads((work / STATE).read_text()))
        if state.chunks < chunks or not state.count or state.host != socket.gethostname():
            return None
        parts = read_parts(work, state.chunks)
        if sum(len(one["index"]) for one in parts) != state.count:
            return None  # it is being completed: the parts are removed
        labels, labelled = join_labels(state.count, parts) if state.labelled else (None, None)
        files = {name: array_file(work, number) for number, name in enumerate(state.fields)}
        arrays = {name: np.load(file, mmap_mode="r")[: state.count] for name, file in files.items()}
        digests, index = (np.concatenate([one[name] for one in parts]) for name in ("digests", "index"))
    except (FileNotFoundError, DamagedCache):
        return None
    return state.chunks, PreprocessedSplit(arrays, labels, tuple(state.skipped), state.bad, digests, labelled, index)


def cache_folder(cache: Path, dataset: Dataset, tokenizer: Tokenizer, shuffled: bool = False) -> Path:
    """The folder of the prepared samples of a data set."""
    return cache / "prepared" / _key(dataset, tokenizer, shuffled)


def _key(dataset: Dataset, tokenizer: Tokenizer, shuffled: bool) -> str:
    """The key of the cache: a digest of everything that the arrays depend on (data, options, code, format)."""
    digest = hashlib.blake2b(digest_size=16)
    parts = [str(FORMAT), dataset.fingerprint(), tokenizer.name, tokenizer.options.model_dump_json()]
    parts += [
        repr(tokenizer.fields),
        tokenizer.fit_fingerprint(),
        *map(source_digest, source_files(_classes(dataset, tokenizer))),
    ]
    if shuffled:
        parts.append("shuffled")
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _classes(dataset: Dataset, tokenizer: Tokenizer) -> set[type]:
    """The class of the data set and those of the tokenizer and its parts."""
    return {type(dataset), *(type(part) for part in tokenizer.modules() if isinstance(part, Tokenizer))}
