"""Training data that are trained on while they are prepared: the first epoch takes them in the order of preparation.

The chunks of samples are prepared in random order, and the first epoch takes them block by block, each in a random
order of its own. Which samples a batch holds depends on the options and the data alone: a step whose block is not ready
waits for it. After the first epoch, each has a random order of all samples, as always.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from ssl_core.contracts import Dataset, Tokenizer
from ssl_core.data import Batch
from ssl_core.errors import DataError
from ssl_core.pipeline.cache import PreprocessedSplit, cache_folder, open_prepared, preprocess_dataset
from ssl_core.pipeline.preprocess import CHUNK_SIZE, META, PreparationStopped, chunk_count, chunk_order
from ssl_core.pipeline.sampler import batch_index, block_index
from ssl_core.utils.console import Console

POLL = 0.1  # seconds between two looks at the progress


class Preparation(threading.Thread):
    """Prepares data while this process trains on what is ready.

    Args:
        prepare: Prepares all; it is given what tells it to stop.
    """

    def __init__(self, prepare: Callable[[Callable[[], bool]], PreprocessedSplit]) -> None:
        super().__init__(daemon=True, name="sslx-prepare")
        self.prepare, self.stopping = prepare, threading.Event()
        self.result: PreprocessedSplit | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Prepare the data; called by the thread."""
        try:
            self.result = self.prepare(self.stopping.is_set)
        except PreparationStopped:
            pass
        except BaseException as error:  # raised in the thread that trains
            self.error = error

    def check(self) -> None:
        """Raise the error that ended the preparation, or that it was stopped."""
        has_ended = not self.is_alive()  # first: what it leaves is final then
        if self.error is not None:
            raise self.error
        if has_ended and self.result is None:
            raise PreparationStopped

    def whole(self) -> PreprocessedSplit:
        """All samples, once they are prepared.

        Raises:
            DataError: they cannot be prepared.
        """
        self.join()
        self.check()
        assert self.result is not None
        return self.result

    def stop(self) -> None:
        """Save the progress and end."""
        self.stopping.set()
        self.join()


class Source(Protocol):
    """Where the samples of a growing split come from."""

    def read(self, chunks: int) -> tuple[int | None, PreprocessedSplit] | None:
        """What is prepared: the number of chunks, None for all, and their samples. None if it is less than `chunks`."""
        ...

    def check(self) -> None:
        """Raise an error if no more samples will come."""
        ...


@dataclass(frozen=True)
class Growing(Source):
    """The folder of a preparation."""

    folder: Path
    preparation: Preparation

    def read(self, chunks: int) -> tuple[int | None, PreprocessedSplit] | None:
        """What the folder holds, or what the preparation has made of it."""
        result = self.preparation.result
        return open_prepared(self.folder, chunks) if result is None else (None, result)

    def check(self) -> None:
        """Raise the error of the preparation."""
        self.preparation.check()


@dataclass(frozen=True)
class Complete(Source):
    """Samples that are all prepared."""

    split: PreprocessedSplit

    def read(self, chunks: int) -> tuple[int | None, PreprocessedSplit]:
        """All."""
        return None, self.split

    def check(self) -> None:
        """Do nothing."""


class Blocks:
    """Blocks of samples in the order of their preparation.

    Args:
        source: Where they come from.
        chunks: Number of chunks of the data set.
        size: Samples in a block, bad ones included; rounded up to whole chunks.
    """

    def __init__(self, source: Source, chunks: int, size: int) -> None:
        self.source, self.chunks = source, chunks
        self.per_block = -(-size // CHUNK_SIZE)
        self.rank = np.empty(chunks, np.int64)
        self.rank[chunk_order(chunks)] = np.arange(chunks)
        self.ends: list[int] = []
        self.split: PreprocessedSplit | None = None
        self.ready = 0
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return -(-self.chunks // self.per_block)

    def rows(self, block: int, is_stopped: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """First row of a block and the row after its last; waits until they are prepared.

        Raises:
            DataError: they cannot be prepared.
            PreparationStopped: `is_stopped` returned True meanwhile.
        """
        while not self._has(block):  # the lock is free while a thread waits
            if is_stopped():
                raise PreparationStopped
            self.source.check()
            time.sleep(POLL)
        return self.ends[block - 1] if block else 0, self.ends[block]

    def _has(self, block: int) -> bool:
        """Whether a block is prepared; if so, `ends` and `split` hold it."""
        with self.lock:
            while len(self.ends) <= block:
                end = (len(self.ends) + 1) * self.per_block
                if self.ready < min(self.chunks, end):
                    found = self.source.read(min(self.chunks, end))
                    if found is None:
                        return False
                    self.ready, self.split = self.chunks if found[0] is None else found[0], found[1]
                assert self.split is not None
                assert self.split.index is not None
                places = self.rank[self.split.index // CHUNK_SIZE]  # ascending
                self.ends.append(int(np.searchsorted(places, end)))
            return True


@dataclass(frozen=True)
class GrowingSplit(PreprocessedSplit):
    """A split whose fields are those of its first block, and whose batches come from all blocks.

    blocks: the blocks. preparation: what prepares them; None if all are prepared.
    """

    blocks: Blocks = field(default=None, repr=False, compare=False)  # type: ignore[assignment]
    preparation: Preparation | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, blocks: Blocks, preparation: Preparation | None = None) -> GrowingSplit:
        """The split, once its first block is prepared.

        Raises:
            DataError: it holds no sample, or cannot be prepared.
        """
        _, end = blocks.rows(0)
        if not end:
            raise DataError(
                "none of the first training samples that are prepared can be used; leave train.start_after out"
            )
        assert blocks.split is not None
        values = {one.name: getattr(blocks.split, one.name) for one in fields(PreprocessedSplit)}
        for name in ("labels", "digests", "labelled", "index"):
            values[name] = None if values[name] is None else values[name][:end]
        values["arrays"] = {name: array[:end] for name, array in values["arrays"].items()}
        return cls(**values, blocks=blocks, preparation=preparation)

    def batch_index(
        self, seed: int, number: int, size: int, is_stopped: Callable[[], bool] = lambda: False
    ) -> np.ndarray:
        """The rows of batch `number`, (size,). A block's incomplete last batch is dropped.

        Raises:
            DataError: they cannot be prepared.
            PreparationStopped: `is_stopped` returned True while they were waited for.
        """
        for block in range(len(self.blocks)):
            first, end = self.blocks.rows(block, is_stopped)
            batches = (end - first) // size
            if number < batches:
                return first + block_index(seed, block, number, end - first, size)
            number -= batches
        return batch_index(seed, number, end, size, first_epoch=1)

    def take(self, index: np.ndarray, pinned: bool = False) -> Batch:
        """The samples at `index`, which are prepared."""
        assert self.blocks.split is not None
        return PreprocessedSplit(self.blocks.split.arrays, self.blocks.split.labels).take(index, pinned)

    def number_of(self, row: int) -> int:
        """The number of a sample in the data set."""
        assert self.blocks.split is not None
        assert self.blocks.split.index is not None
        return int(self.blocks.split.index[row])

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Stop the preparation when the context ends."""
        try:
            yield
        finally:
            if self.preparation is not None:
                self.preparation.stop()

    def whole(self) -> PreprocessedSplit:
        """All samples, once they are prepared.

        Raises:
            DataError: they cannot be prepared.
        """
        if self.preparation is not None:
            return self.preparation.whole()
        self.blocks.rows(len(self.blocks) - 1)
        assert self.blocks.split is not None
        return self.blocks.split


def grow(
    dataset: Dataset, tokenizer: Tokenizer, cache: Path, console: Console, size: int, *, strict: bool, check: bool
) -> GrowingSplit:
    """Begin to prepare a data set; return it once a first block of `size` samples is prepared.

    Raises:
        DataError: the data cannot be used.
    """

    folder = cache_folder(cache, dataset, tokenizer, shuffled=True)
    if (folder / META).exists():  # it is compared with its digests before it is used
        whole = preprocess_dataset(dataset, tokenizer, cache, console, strict, check=check, shuffled=True)
        return in_blocks(whole, dataset, size)

    def prepare(stop: Callable[[], bool]) -> PreprocessedSplit:
        return preprocess_dataset(
            dataset, tokenizer, cache, _Lines(console), strict, check=check, shuffled=True, stop=stop
        )

    preparation = Preparation(prepare)
    try:
        with console.waiting(f"preparing the first {size:,} training samples"):
            split = GrowingSplit.of(Blocks(Growing(folder, preparation), chunk_count(dataset), size), preparation)
    except BaseException:
        preparation.stop()
        raise
    weakref.finalize(split, preparation.stopping.set)  # where nothing is trained on it any more
    return split


def in_blocks(split: PreprocessedSplit, dataset: Dataset, size: int) -> GrowingSplit:
    """A split that is prepared and was shuffled, with the batches of a training that began while it was prepared."""
    return GrowingSplit.of(Blocks(Complete(split), chunk_count(dataset), size))


class _Lines(Console):
    """Lines without progress bars: the training shows its own."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def info(self, text: str) -> None:
        """Print one line."""
        self.console.info(text)
