"""Batches that are divided, for tests and for `sslx check`: among threads, which imitate processes and take
milliseconds, and into micro-batches."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssl_core.contracts import PROGRESS
from ssl_core.nn.distributed import Group, use_group
from ssl_core.pipeline.sampler import Part, draws_of, rows_of
from ssl_core.training.accumulation import MicroBatches
from ssl_core.training.finite import changing_buffers
from ssl_core.training.learner import Learner
from ssl_core.training.parallel import average_gradients

Result = TypeVar("Result")
WAIT = 60.0  # seconds until a thread that others wait for counts as lost


class ThreadGroup(Group):
    """Threads that share a batch as processes do. `run` starts them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._here = threading.local()
        self._barrier = threading.Barrier(size)
        self._slots: list[Any] = [None] * size

    @property
    def rank(self) -> int:
        """Number of this thread, from 0."""
        return int(self._here.rank)

    @property
    def size(self) -> int:
        """Number of threads."""
        return self._size

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum over the threads, in the order of their numbers."""
        return torch.stack(self._exchange(value)).sum(dim=0).to(value.dtype)

    def all_gather(self, value: Tensor) -> Tensor:
        """The threads' tensors one after the other along the first axis."""
        return torch.cat(self._exchange(value))

    def _exchange(self, value: Tensor) -> list[Tensor]:
        self._slots[self.rank] = value.detach()
        self._barrier.wait(WAIT)
        parts = list(self._slots)
        self._barrier.wait(WAIT)
        return parts

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        """Call `work(rank)` in each thread; return the results by rank, or raise the first exception."""
        results: list[Any] = [None] * self.size
        failures: list[BaseException] = []

        def start(rank: int) -> None:
            self._here.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException as error:  # raised by the caller
                if not isinstance(error, threading.BrokenBarrierError):
                    failures.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=start, args=(rank,)) for rank in range(self.size)]
        with use_group(self):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        return results


def train_in_threads(
    learner: Learner, batches: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]], processes: int
) -> list[Learner]:
    """Train copies of a learner, one for each process, on their parts of some batches, by SGD with momentum.

    Args:
        learner: It stays as it is.
        batches: Inputs and draws of whole batches, one for each step.
        processes: Number of processes; 1 trains as a run in a single process does.

    Returns:
        The trained copies by rank.
    """
    copies = [copy.deepcopy(learner) for _ in range(processes)]
    group = ThreadGroup(processes) if processes > 1 else None

    def train(rank: int) -> Learner:
        own, views = copies[rank], learner.objective.views
        optimiser = torch.optim.SGD(own.parameters(), lr=0.05, momentum=0.9)
        for inputs, draws in batches:
            count = len(next(iter(inputs.values())))
            part = {name: value[rows_of(group, count)] for name, value in inputs.items()}
            optimiser.zero_grad()
            own(part, draws_of(group, draws, views * count, views)).loss.backward()
            if group is not None:
                average_gradients(own.parameters(), group)
            optimiser.step()
            own.update_teacher(draws[PROGRESS])
        return own

    return [train(0)] if group is None else group.run(train)


def train_in_micro_batches(
    learner: Learner, batches: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]], count: int
) -> Learner:
    """Train a copy of a learner as `train_in_threads` does, each batch divided into `count` micro-batches."""
    own, views = copy.deepcopy(learner), learner.objective.views
    optimiser = torch.optim.SGD(own.parameters(), lr=0.05, momentum=0.9)
    group = MicroBatches(count, coupled=own.objective.cross_sample_loss, buffers=changing_buffers(own))
    for inputs, draws in batches:
        rows = len(next(iter(inputs.values())))

        def loss_of(
            number: int, rows: int = rows, inputs: Mapping[str, Tensor] = inputs, draws: Mapping[str, Tensor] = draws
        ) -> Tensor:
            part = Part(number, count)
            values = {name: value[rows_of(part, rows)] for name, value in inputs.items()}
            return own(values, draws_of(part, draws, views * rows, views)).loss

        optimiser.zero_grad()
        with use_group(group):
            group.add_gradient(loss_of, list(own.parameters()))
        optimiser.step()
        own.update_teacher(draws[PROGRESS])
    return own
