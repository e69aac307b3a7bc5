"""The memory-mapped cache of preprocessed samples; a batch is one gather from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_core.contracts import Dataset, Inputs, Tokenizer
from ssl_core.data import Batch
from ssl_core.errors import BadSample
from ssl_core.pipeline.preprocess import DIGESTS, LABELLED, LABELS, META, array_file, build_cache
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import generator
from ssl_core.utils.source_digest import source_digest, source_files

FORMAT = 4
CHUNK = 1024


@dataclass(frozen=True)
class PreprocessedSplit:
    """Preprocessed samples of one split.

    arrays: (n, ...) by field. labels: (n, ...), or None. bad: number of skipped samples. skipped: one line for each
    of the first skipped samples. digests: (n,) uint64, equal for equal samples. labelled: (n,) bool where only some
    samples have a label; the others have zeros in `labels`.
    """

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    skipped: tuple[str, ...] = ()
    bad: int = 0
    digests: np.ndarray | None = None
    labelled: np.ndarray | None = None

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
    dataset: Dataset, tokenizer: Tokenizer, cache: Path, console: Console, strict: bool = False
) -> PreprocessedSplit:
    """Preprocess all samples of a data set with `tokenizer.preprocess`, or open the cache of an earlier call.

    The cache depends on the data set, the options and the code. Preprocessing uses all threads of the run, and an
    interrupted one continues where it stopped. Bad samples are skipped and counted.

    Raises:
        DataError: if the data cannot be read or has no usable sample, or, with `strict`, for the first bad sample.
    """
    folder = cache / "prepared" / _key(dataset, tokenizer)
    if not (folder / META).exists():
        build_cache(folder, dataset, tokenizer, console, strict)
    meta = json.loads((folder / META).read_text())
    if strict and meta["skipped"]:
        raise BadSample(f"{meta['skipped'][0]} (strict: no sample may be skipped)")
    files = {name: array_file(folder, number) for number, name in enumerate(meta["fields"])}
    arrays = {name: np.load(file, mmap_mode="r")[: meta["count"]] for name, file in files.items()}
    labels = np.load(folder / LABELS) if meta["labelled"] else None
    labelled = np.load(folder / LABELLED) if (folder / LABELLED).exists() else None
    digests = np.load(folder / DIGESTS)
    return PreprocessedSplit(arrays, labels, tuple(meta["skipped"]), meta["bad"], digests, labelled)


def _key(dataset: Dataset, tokenizer: Tokenizer) -> str:
    """The key of the cache: a digest of everything that the arrays depend on (data, options, code, format)."""
    digest = hashlib.blake2b(digest_size=16)
    parts = [str(FORMAT), dataset.fingerprint(), tokenizer.name, tokenizer.options.model_dump_json()]
    parts += [
        repr(tokenizer.fields),
        tokenizer.fit_fingerprint(),
        *map(source_digest, source_files(_classes(dataset, tokenizer))),
    ]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _classes(dataset: Dataset, tokenizer: Tokenizer) -> set[type]:
    """The class of the data set and those of the tokenizer and its parts."""
    return {type(dataset), *(type(part) for part in tokenizer.modules() if isinstance(part, Tokenizer))}
