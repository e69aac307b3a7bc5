"""Data made ready once: a memory-mapped cache of prepared samples, and batches that are one gather from it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.contracts import Dataset, Inputs, Tokenizer
from ssl_core.data import Batch
from ssl_core.engine.seeds import generator
from ssl_core.engine.tell import Tell
from ssl_core.errors import BadSample, DataError

FORMAT = 1
CHUNK = 1024


@dataclass(frozen=True)
class Prepared:
    """Prepared samples of one split: arrays (n, ...) by field, labels (n, ...) or None, and what was left out."""

    arrays: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def chunks(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays in pieces of bounded size."""
        for start in range(0, len(self), CHUNK):
            yield {name: array[start : start + CHUNK] for name, array in self.arrays.items()}

    def take(self, index: np.ndarray) -> Batch:
        """The samples at `index` as a batch: one gather for each field."""
        inputs = {name: torch.from_numpy(np.ascontiguousarray(array[index])) for name, array in self.arrays.items()}
        return Batch(inputs, None if self.labels is None else torch.from_numpy(self.labels[index]))

    def sweep(self, size: int) -> Iterator[Batch]:
        """All samples in order, in batches of at most `size`."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


def batch_index(seed: int, step: int, count: int, size: int) -> np.ndarray:
    """The samples of the `step`-th batch: each epoch a new order, the incomplete last batch dropped."""
    per_epoch = count // size
    order = _epoch_order(seed, step // per_epoch, count)
    start = (step % per_epoch) * size
    return order[start : start + size]


@functools.lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, "order", epoch)).numpy()


@dataclass(frozen=True)
class Raw:
    """Raw inputs of a data set in a fixed random order, read as they are walked; bad samples are left out."""

    dataset: Dataset

    def __iter__(self) -> Iterator[Inputs]:
        for index in torch.randperm(len(self.dataset), generator=generator(0, "raw")).tolist():
            with contextlib.suppress(BadSample):
                yield self.dataset[index]["inputs"]


def prepare(dataset: Dataset, tokenizer: Tokenizer, cache: Path, tell: Tell, strict: bool = False) -> Prepared:
    """All samples of a data set through `tokenizer.prepare`, once per data set, options and code.

    Bad samples are skipped and counted, or refused with `strict`. Errors: DataError.
    """
    folder = cache / "prepared" / _key(dataset, tokenizer)
    if not (folder / "meta.json").exists():
        _fill(folder, dataset, tokenizer, tell, strict)
    meta = json.loads((folder / "meta.json").read_text())
    if strict and meta["skipped"]:
        raise BadSample(f"{meta['skipped'][0]} (strict: no sample may be skipped)")
    count = meta["count"]
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:count] for name in meta["fields"]}
    labels = np.load(folder / "labels.npy") if meta["labelled"] else None
    return Prepared(arrays, labels, tuple(meta["skipped"]))


def _key(dataset: Dataset, tokenizer: Tokenizer) -> str:
    """Changes whenever the prepared arrays may: data, options, code, format."""
    digest = hashlib.blake2b(digest_size=16)
    parts = [str(FORMAT), dataset.fingerprint(), tokenizer.name, tokenizer.options.model_dump_json()]
    parts += [repr(tokenizer.fields), tokenizer.learned(), *map(_source, _files(dataset, tokenizer))]
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _files(dataset: Dataset, tokenizer: Tokenizer) -> list[str]:
    """The files that define the data set, the tokenizer with its parts, and what they are derived from."""
    tokenizers = [part for part in tokenizer.modules() if isinstance(part, Tokenizer)]
    classes = {cls for part in (dataset, *tokenizers) for cls in type(part).__mro__}
    files = set()
    for cls in classes:
        if cls.__module__.split(".")[0] in ("torch", "builtins", "typing"):
            continue
        with contextlib.suppress(OSError, TypeError):  # defined in a shell or a notebook
            files.add(inspect.getfile(cls))
    return sorted(files)


@functools.cache
def _source(file: str) -> str:
    """A digest of the file that defines a class and of the private helper files beside it."""
    files = [Path(file), *sorted(Path(file).parent.glob("_*.py"))]
    return hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=16).hexdigest()


def _fill(folder: Path, dataset: Dataset, tokenizer: Tokenizer, tell: Tell, strict: bool) -> None:
    """Prepare into a temporary folder beside the final one, then rename: never half-written, safe between processes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        _write(work, dataset, tokenizer, tell, strict)
        try:
            os.rename(work, folder)
        except OSError:
            if not (folder / "meta.json").exists():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(work: Path, dataset: Dataset, tokenizer: Tokenizer, tell: Tell, strict: bool) -> None:
    arrays: dict[str, np.ndarray] = {}
    labels: list[Any] = []
    skipped: list[str] = []
    count = 0
    with tell.progress(f"preparing {dataset.split} data", len(dataset)) as progress:
        for index in range(len(dataset)):
            progress.advance()
            try:
                sample = dataset[index]
                inputs = tokenizer.prepare(sample["inputs"])
                _check_finite(inputs)
            except BadSample as error:
                what = f"{dataset.describe(index)}: {error}"
                if strict:
                    raise BadSample(f"{what} (strict: no sample may be skipped)") from None
                skipped.append(what)
                continue
            for name, value in inputs.items():
                if name not in arrays:
                    shape = (len(dataset), *np.shape(value))
                    arrays[name] = np.lib.format.open_memmap(
                        work / f"{name}.npy", mode="w+", dtype=np.asarray(value).dtype, shape=shape
                    )
                arrays[name][count] = value
            if sample["label"] is not None:
                labels.append(sample["label"])
            count += 1
    if count == 0:
        raise DataError(
            f"no usable sample in the {dataset.split} split of '{dataset.name}'"
            + (f": {len(skipped)} skipped, the first: {skipped[0]}" if skipped else "")
        )
    if labels and len(labels) != count:
        raise DataError(f"'{dataset.name}': {len(labels)} of {count} samples have a label; label all or none")
    if labels:
        np.save(work / "labels.npy", np.asarray(labels))
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    meta = {"count": count, "fields": list(arrays), "labelled": bool(labels), "skipped": skipped}
    (work / "meta.json").write_text(json.dumps(meta))


def _check_finite(inputs: Mapping[str, np.ndarray]) -> None:
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadSample(f"'{name}' holds NaN or infinity")
