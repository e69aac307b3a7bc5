"""The batch and the draws of each step, on the device; for a GPU made ready by other threads while it is at work."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_core.contracts import PROGRESS, Tokenizer
from ssl_core.data import send
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.sampler import batch_index
from ssl_core.tokens import Geometry
from ssl_core.utils.seeds import generator

TensorDict = dict[str, Tensor]
DEPTH = 3  # batches made ready beforehand


class Source(Protocol):
    """What batches and draws are made for: a learner."""

    tokenizer: Tokenizer

    def draw(self, batch: int, generator: torch.Generator, geometry: Geometry | None = None) -> TensorDict:
        """All randomness of one step."""
        ...


class BatchStream(AbstractContextManager["BatchStream"]):
    """Inputs and draws of the batches `numbers`, each a pure function of the data, the seed and its number.

    Args:
        learner: Draws the randomness of a step; its tokenizer gives the geometry of a batch.
        data: Preprocessed training data.
        size: Samples in a batch.
        seed: Seed of the order of samples and of the draws.
        device: Where the tensors go. For CUDA they are made ahead by two threads.
        numbers: The batches to deliver.
        progress: Maps the number of a batch to the share of the run that is done, in [0, 1].
    """

    def __init__(
        self, learner: Source, data: PreprocessedSplit, size: int, seed: int, device: torch.device, numbers: range,
        progress: Callable[[int], float] = lambda number: 0.0,
    ) -> None:  # fmt: skip
        self.learner, self.data, self.size, self.seed, self.device = learner, data, size, seed, device
        self.numbers, self.progress = iter(numbers), progress
        self.ahead = Prefetcher((self._inputs, self._draws), device) if device.type == "cuda" else None

    def take(self) -> tuple[TensorDict, TensorDict]:
        """Inputs and draws of the next batch."""
        if self.ahead is None:
            number = next(self.numbers)
            inputs = self._inputs(number)
            return inputs, self._draws(number, inputs)
        for number in itertools.islice(self.numbers, DEPTH - len(self.ahead)):
            self.ahead.order(number)
        inputs, draws = self.ahead.take()
        return inputs, draws

    def _inputs(self, number: int) -> TensorDict:
        index = batch_index(self.seed, number, len(self.data), self.size)
        return self.data.take(index, pinned=self.device.type == "cuda").inputs  # no objective sees a label

    def _draws(self, number: int, inputs: TensorDict | None = None) -> TensorDict:
        tokenizer = self.learner.tokenizer
        geometry = None
        if type(tokenizer).geometry is not Tokenizer.geometry:  # else there is none, and the inputs are not needed
            geometry = tokenizer.geometry(self._inputs(number) if inputs is None else inputs)
        draws = self.learner.draw(self.size, generator(self.seed, "draw", number), geometry)
        return draws | {PROGRESS: torch.tensor(self.progress(number), dtype=torch.float32)}

    def __exit__(self, *_: Any) -> None:
        if self.ahead is not None:
            self.ahead.close()


class Prefetcher:
    """Tensors by name, made for numbers in the order in which these were given, and copied to a CUDA device.

    Each maker has a thread of its own, so that none is called out of order. What it raises comes out of `take`.
    """

    def __init__(self, makers: tuple[Callable[[int], TensorDict], ...], device: torch.device) -> None:
        self.makers, self.device = makers, device
        self.threads = [ThreadPoolExecutor(1, "sslx-feed") for _ in makers]
        self.streams = [torch.cuda.Stream(device) for _ in makers]
        self.coming: deque[list[Future[tuple[TensorDict, torch.cuda.Event]]]] = deque()

    def __len__(self) -> int:
        return len(self.coming)

    def order(self, number: int) -> None:
        """Have the tensors of a number made."""
        work = zip(self.threads, self.makers, self.streams, strict=True)
        self.coming.append([thread.submit(self._bring, make, number, stream) for thread, make, stream in work])

    def _bring(
        self, make: Callable[[int], TensorDict], number: int, stream: torch.cuda.Stream
    ) -> tuple[TensorDict, torch.cuda.Event]:
        made = make(number)
        with torch.cuda.stream(stream):
            return {name: send(value, self.device) for name, value in made.items()}, stream.record_event()

    def take(self) -> list[TensorDict]:
        """Those of the first number not yet taken; the current stream waits for the copies, the caller does not."""
        here, out = torch.cuda.current_stream(self.device), []
        for future in self.coming.popleft():
            values, copied = future.result()
            here.wait_event(copied)
            for value in values.values():
                value.record_stream(here)
            out.append(values)
        return out

    def close(self) -> None:
        """End the threads."""
        for thread in self.threads:
            thread.shutdown(cancel_futures=True)
