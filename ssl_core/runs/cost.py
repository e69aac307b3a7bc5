"""What a step of training costs, estimated from a step of a few samples before training."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_core.contracts import PROGRESS
from ssl_core.runs.run import Cost, Run
from ssl_core.training.device import autocast
from ssl_core.utils.seeds import generator

SAMPLES = 2
"""Samples of the trial step."""


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is active: those alive now, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returns."""
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                address, size = storage._cdata, storage.nbytes()
                if address not in self.known:
                    self.known.add(address)
                    self.alive += size
                    self.peak = max(self.peak, self.alive)
                    weakref.finalize(storage, self._forget, address, size)
        return out

    def _forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.alive -= size


def estimate_cost(run: Run) -> Cost:
    """Run forward and backward on a few samples and scale to the batch. It changes neither weights nor random state.

    Small batches cost more a sample than large ones, so the seconds are an upper estimate.
    """
    train, learner = run.config.train, run.learner
    count = min(max(SAMPLES, learner.objective.min_batch_size), train.batch_size)
    inputs = run.data["train"].take(np.arange(count)).inputs
    with _restored(run):
        draws = learner.draw(count, generator(run.config.seed, "cost"), learner.tokenizer.geometry(inputs))
        draws = {name: value.to(run.device) for name, value in (draws | {PROGRESS: torch.tensor(0.0)}).items()}
        inputs = {name: value.to(run.device) for name, value in inputs.items()}
        began = time.perf_counter()
        _step(run, inputs, draws)
        seconds = time.perf_counter() - began
        with PeakMemory() as memory:
            _step(run, inputs, draws)
    parameters = sum(p.numel() * p.element_size() for p in learner.parameters() if p.requires_grad)
    scale = train.batch_size / count
    kept = max(0, memory.peak - parameters)  # without the gradients, which do not grow with the batch
    return Cost(seconds * scale * train.accumulate_steps, round(kept * scale))


def _step(run: Run, inputs: Mapping[str, Tensor], draws: Mapping[str, Tensor]) -> None:
    """Forward and backward."""
    run.learner.zero_grad()
    with autocast(run.device, run.config.train.precision):  # type: ignore[arg-type]
        loss = run.learner(inputs, draws).loss
    loss.backward()
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)


@contextmanager
def _restored(run: Run) -> Iterator[None]:
    """The learner in training, with a teacher if it wants one; all that a step changes is put back at the end."""
    learner = run.learner
    buffers = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    was_training, teacher = learner.training, learner.teacher
    devices = [run.device] if run.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            learner.train()
            if teacher is None:
                learner.start_teacher()
            yield
    finally:
        learner.zero_grad()
        learner.teacher = teacher
        learner.train(was_training)
        with torch.no_grad():
            for name, buffer in learner.named_buffers():
                buffer.copy_(buffers[name])
