"""What a step of training costs, estimated from a step of a few samples before training."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator
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
"""Samples of the first trial steps."""
MEMORY_SHARE = 0.5
"""Share of the memory beyond which the need of a step is a warning."""
SOME = 16
"""Samples of the next trial step; the last has the whole batch."""
SECONDS = 2.0
"""After a trial step that takes longer there is no further one."""
PASSES = 3
"""How often a micro-batch is computed if its loss couples samples with other micro-batches."""


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

    Small batches cost more a sample than large ones, so the seconds are an upper estimate where the whole batch was not
    tried.
    """
    train, learner = run.config.train, run.learner
    few = min(max(SAMPLES, learner.objective.min_batch_size), train.batch_size)
    with _restored(run):
        with PeakMemory() as memory:
            _step(run, few)
        count, seconds = few, _step(run, few)
        for larger in (min(SOME, train.batch_size), train.batch_size):
            if larger > count and seconds < SECONDS:
                count, seconds = larger, _step(run, larger)
        if seconds < SECONDS:  # the first step of a size also prepares kernels and memory
            seconds = min(seconds, _step(run, count))
        seconds *= train.batch_size / count
    parameters = sum(p.numel() * p.element_size() for p in learner.parameters() if p.requires_grad)
    kept = max(0, memory.peak - parameters)  # without the gradients, which do not grow with the batch
    coupled = train.accumulate_steps > 1 and learner.objective.cross_sample_loss
    return Cost(seconds * train.accumulate_steps * (PASSES if coupled else 1), round(kept * train.batch_size / few))


def cost_warnings(cost: Cost, run: Run) -> list[str]:
    """A line if a step needs much of the memory."""
    total = memory_size(run.device)
    if total is None or cost.bytes < MEMORY_SHARE * total:
        return []
    length, config = run.learner.tokenizer.layout.length, run.config
    return [
        f"warning: a step needs about {cost.bytes / 2**30:.1f} of {total / 2**30:.1f} GiB of memory for "
        f"{config.train.batch_size} samples of {length:,} tokens; lower train.batch_size (train.accumulate_steps keeps "
        f"the effective batch), or make fewer tokens by a larger tokenizer.patch, fewer columns or shorter samples"
    ]


def memory_size(device: torch.device) -> int | None:
    """Bytes of memory of a device; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _step(run: Run, count: int) -> float:
    """Seconds of forward and backward on `count` samples."""
    learner, device = run.learner, run.device
    inputs = run.data["train"].take(np.arange(count)).inputs
    draws = learner.draw(count, generator(run.config.seed, "cost"), learner.tokenizer.geometry(inputs))
    draws = {name: value.to(device) for name, value in (draws | {PROGRESS: torch.tensor(0.0)}).items()}
    inputs = {name: value.to(device) for name, value in inputs.items()}
    learner.zero_grad()
    began = time.perf_counter()
    with autocast(device, run.config.train.precision):  # type: ignore[arg-type]
        loss = learner(inputs, draws).loss
    loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


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
