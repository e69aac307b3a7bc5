"""Batches and draws of each step, on the device. For CUDA devices, other threads prepare them in advance."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_core.contracts import PROGRESS, Tokenizer
from ssl_core.data import send
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.sampler import HasRank, draws_of, part_of, rows_of
from ssl_core.tokens import Geometry
from ssl_core.utils.seeds import generator

TensorDict = dict[str, Tensor]
DEPTH = 3  # batches prepared in advance


class Source(Protocol):
    """What batches and draws are made for: a learner."""

    tokenizer: Tokenizer

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> TensorDict:
        """All randomness of one step."""
        ...


class BatchStream(AbstractContextManager["BatchStream"]):
    """Inputs and draws of the micro-batches `numbers`, each a pure function of the data, the seed and its number.

    The draws of a step are made for all its micro-batches at once, as for one batch.

    Args:
        learner: Draws the randomness of a step; its tokenizer gives the geometry of a batch.
        data: Preprocessed training data.
        size: Samples in a micro-batch.
        seed: Seed of the order of samples and of the draws.
        device: Where the tensors go. For CUDA they are made ahead by two threads.
        numbers: The micro-batches to deliver.
        progress: Maps the number of a micro-batch to the share of the run that is done, in [0, 1].
        group: The processes among which each micro-batch is divided; this one gets its own rows.
        views: Number of views of the objective, which its draws are made for.
        parts: Number of micro-batches in a step.
    """

    def __init__(
        self, learner: Source, data: PreprocessedSplit, size: int, seed: int, device: torch.device, numbers: range,
        progress: Callable[[int], float] = lambda number: 0.0, group: HasRank | None = None, views: int = 1,
        parts: int = 1,
    ) -> None:  # fmt: skip
        self.learner, self.data, self.size, self.seed, self.device = learner, data, size, seed, device
        self.numbers, self.progress, self.group, self.views = iter(numbers), progress, group, views
        self.parts = parts
        self.closed = threading.Event()
        self.whole: tuple[int, TensorDict] = -1, {}  # the last step whose draws were made, and these
        self.prefetcher = Prefetcher((self._inputs, self._draws), device) if device.type == "cuda" else None

    def take(self) -> tuple[TensorDict, TensorDict]:
        """Inputs and draws of the next batch."""
        if self.prefetcher is None:
            number = next(self.numbers)
            inputs = self._inputs(number)
            return inputs, self._draws(number, inputs if self.group is None and self.parts == 1 else None)
        for number in itertools.islice(self.numbers, DEPTH - len(self.prefetcher)):
            self.prefetcher.submit(number)
        inputs, draws = self.prefetcher.take()
        return inputs, draws

    def _inputs(self, number: int) -> TensorDict:
        """The inputs of this process."""
        index = self._index(number)
        if self.group is not None:
            index = index[rows_of(self.group, self.size)]
        step, part = divmod(number, self.parts)
        return self._cropped(index, step, part_of(part, self.parts, self.group))

    def _index(self, number: int) -> np.ndarray:
        return self.data.batch_index(self.seed, number, self.size, self.closed.is_set)

    def _cropped(self, index: np.ndarray, step: int, part: HasRank | None = None) -> TensorDict:
        """The inputs of samples, which are all of a step or a part of it, with the crops that the step draws."""
        tokenizer = self.learner.tokenizer
        if type(tokenizer).crop is Tokenizer.crop:
            return self.data.take(index, pinned=self.device.type == "cuda").inputs  # no objective sees a label
        count = self.parts * self.size
        crop = draws_of(part, tokenizer.draw_crop(count, generator(self.seed, "crop", step)), count)
        return dict(tokenizer.crop(self.data.take(index).inputs, crop))

    def _draws(self, number: int, inputs: TensorDict | None = None) -> TensorDict:
        step, part = divmod(number, self.parts)
        if self.whole[0] != step:
            self.whole = step, self._draw(step, inputs)
        draws, count = self.whole[1], self.views * self.parts * self.size
        draws = draws_of(part_of(part, self.parts, self.group), draws, count, self.views)
        return draws | {PROGRESS: torch.tensor(self.progress(number), dtype=torch.float32)}

    def _draw(self, step: int, inputs: TensorDict | None = None) -> TensorDict:
        """The draws of a step. inputs: those of all its samples, if they are at hand."""
        tokenizer, geometry = self.learner.tokenizer, None
        if type(tokenizer).geometry is not Tokenizer.geometry:  # else there is none, and the inputs are not needed
            if inputs is None:
                numbers = range(step * self.parts, (step + 1) * self.parts)
                inputs = self._cropped(np.concatenate([self._index(number) for number in numbers]), step)
            geometry = tokenizer.geometry(inputs)
        return self.learner.draw(self.parts * self.size, generator(self.seed, "draw", step), geometry)

    def __exit__(self, *_: Any) -> None:
        self.closed.set()  # a thread may wait for samples
        if self.prefetcher is not None:
            self.prefetcher.close()


class Prefetcher:
    """Calls producers for batch numbers, in the order of submission, and copies their tensors to a CUDA device.

    Each producer has a thread of its own, so its calls keep their order. `take` raises the exceptions of producers.
    """

    def __init__(self, producers: tuple[Callable[[int], TensorDict], ...], device: torch.device) -> None:
        self.producers, self.device = producers, device
        self.threads = [ThreadPoolExecutor(1, "sslx-feed") for _ in producers]
        self.streams = [torch.cuda.Stream(device) for _ in producers]
        self.pending: deque[list[Future[tuple[TensorDict, torch.cuda.Event]]]] = deque()

    def __len__(self) -> int:
        return len(self.pending)

    def submit(self, number: int) -> None:
        """Start producing the tensors of a batch."""
        work = zip(self.threads, self.producers, self.streams, strict=True)
        self.pending.append(
            [thread.submit(self._produce, producer, number, stream) for thread, producer, stream in work]
        )

    def _produce(
        self, producer: Callable[[int], TensorDict], number: int, stream: torch.cuda.Stream
    ) -> tuple[TensorDict, torch.cuda.Event]:
        tensors = producer(number)
        with torch.cuda.stream(stream):
            return {name: send(value, self.device) for name, value in tensors.items()}, stream.record_event()

    def take(self) -> list[TensorDict]:
        """Tensors of the oldest pending batch. The current CUDA stream waits for the copies, the caller does not."""
        current, out = torch.cuda.current_stream(self.device), []
        for future in self.pending.popleft():
            values, copied = future.result()
            current.wait_event(copied)
            for value in values.values():
                value.record_stream(current)
            out.append(values)
        return out

    def close(self) -> None:
        """Stop the threads."""
        for thread in self.threads:
            thread.shutdown(cancel_futures=True)
