"""Repeat a step and find where numbers stop being finite: in the forward pass, in the loss, or in the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.nn.distributed import use_group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.prefetch import BatchStream
from ssl_core.training.accumulation import MicroBatches
from ssl_core.training.device import autocast
from ssl_core.training.finite import changing_buffers
from ssl_core.training.learner import Learner
from ssl_core.utils.seeds import seed_torch

REPLAY = "step.json"
"""File with the report of a step that is not finite."""
MAX_NAMES = 5


@dataclass(frozen=True)
class StepReport:
    """What a repeated step shows.

    Attributes:
        step: Number of the step, from 0: the optimiser steps done before it.
        samples: For each batch of the step, the rows of its samples in the prepared training data.
        names: Names of these samples, in the same form; empty without names.
        losses: Loss of each batch.
        metrics: The other metrics of the first batch whose loss is not finite, or of the last.
        module: Name of the first module in the forward pass whose output is not finite; None if all are.
        culprits: Rows of the samples for which that output is not finite, if it has an entry for each sample.
        gradients: Parameters with entries of the gradient that are not finite, and how many these are.
        norm: Norm of the gradient.
    """

    step: int
    samples: list[list[int]]
    names: list[list[str]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    module: str | None = None
    culprits: list[int] = field(default_factory=list)
    gradients: dict[str, int] = field(default_factory=dict)
    norm: float = 0.0

    @property
    def is_finite(self) -> bool:
        """Whether every number of the step is finite."""
        return self.module is None and not self.gradients and bool(np.isfinite([*self.losses, self.norm]).all())

    @property
    def part(self) -> str:
        """Where the first number is that is not finite, in words."""
        if self.module is not None:
            return f"the output of {self.module}"
        if not np.isfinite(self.losses).all():
            return "the loss, computed from finite outputs"
        if self.gradients:
            names = list(self.gradients)
            more = f" and of {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            return f"the gradient of {', '.join(names[:MAX_NAMES])}{more}, of a finite loss"
        if not np.isfinite(self.norm):
            return "the norm of the gradient, which is too large for its type"
        return "none: when the step was repeated, operation by operation, all numbers were finite"

    @property
    def sample_text(self) -> str:
        """The samples that the first such number belongs to, or all samples of the step, for a message."""
        named = {row: name for rows, names in zip(self.samples, self.names, strict=False) for row, name in
                 zip(rows, names, strict=True)}  # fmt: skip
        rows = self.culprits or [row for rows in self.samples for row in rows]
        more = f" and {len(rows) - MAX_NAMES} more" if len(rows) > MAX_NAMES else ""
        shown = ", ".join(named.get(row, f"sample {row}") for row in rows[:MAX_NAMES])
        return f" (for {shown}{more})"

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON, with the part in words."""
        return {**asdict(self), "part": self.part}


def replay_step(
    learner: Learner,
    data: PreprocessedSplit,
    step: int,
    *,
    seed: int,
    batch_size: int,
    accumulate_steps: int,
    device: torch.device,
    precision: Any,
    progress: Callable[[int], float],
    describe: Callable[[int], str] | None = None,
) -> StepReport:
    """Repeat the forward and backward pass of a step. The weights stay; gradients are cleared.

    Args:
        learner: The learner as it was before the step, in training mode.
        data: The training data.
        step: Number of the step, from 0.
        seed: Seed of the run.
        batch_size: Samples in a batch.
        accumulate_steps: Batches in a step.
        device: Where the learner is.
        precision: "fp32" or "bf16".
        progress: Share of the run that is done at a batch, by its number.
        describe: Names a sample by its row in the training data.
    """
    numbers = range(step * accumulate_steps, (step + 1) * accumulate_steps)
    samples = [data.batch_index(seed, number, batch_size).tolist() for number in numbers]
    views, parts = learner.objective.views, accumulate_steps
    losses, metrics = [0.0] * parts, [dict[str, float]() for _ in numbers]
    watch = _Watch(learner, batch_size)
    learner.zero_grad()
    with BatchStream(learner, data, batch_size, seed, device, numbers, progress, views=views, parts=parts) as feed:
        batches = [feed.take() for _ in numbers]

    def loss_of(part: int) -> Tensor:
        seed_torch(seed, "step", numbers[part])
        watch.samples = samples[part]
        with autocast(device, precision):
            outcome = learner(*batches[part])
        losses[part] = float(outcome.loss.detach())
        metrics[part] = {name: float(value.detach()) for name, value in outcome.metrics.items()}
        return outcome.loss

    coupled = parts > 1 and learner.objective.cross_sample_loss
    micro_batches = MicroBatches(parts, coupled=coupled, buffers=changing_buffers(learner))
    with watch.hooked(), use_group(micro_batches):
        micro_batches.add_gradient(loss_of, list(learner.parameters()))
    gradients = {
        name: int((~torch.isfinite(p.grad)).sum()) for name, p in learner.named_parameters() if p.grad is not None
    }
    found = [p.grad for p in learner.parameters() if p.grad is not None]
    norm = float(nn.utils.get_total_norm(found)) if found else 0.0
    learner.zero_grad()
    shown = next((part for part, loss in enumerate(losses) if not np.isfinite(loss)), parts - 1)
    return StepReport(
        step, samples, [[describe(row) for row in rows] for rows in samples] if describe else [], losses,
        metrics[shown], watch.module, watch.culprits, {name: count for name, count in gradients.items() if count},
        norm,
    )  # fmt: skip


class _Watch:
    """Forward hooks that note the first module whose output is not finite, and for which samples."""

    def __init__(self, learner: nn.Module, rows: int) -> None:
        self.learner, self.rows = learner, rows
        self.samples: list[int] = []
        self.module: str | None = None
        self.culprits: list[int] = []

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Have the hooks in place while the context is open."""
        handles = [
            module.register_forward_hook(self._hook(name)) for name, module in self.learner.named_modules() if name
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.module is not None:
                return
            for tensor in _tensors(output):
                bad = ~torch.isfinite(tensor.detach())
                try:
                    if not bool(bad.any()):
                        continue
                except RuntimeError:  # within torch.func.vmap there are no numbers to look at
                    continue
                self.module = name
                count = bad.shape[0] if bad.dim() else 0
                if count and count % self.rows == 0 and count // self.rows in (1, 2):
                    rows = torch.nonzero(bad.reshape(count, -1).any(dim=1)).flatten().tolist()
                    self.culprits = sorted({self.samples[row % self.rows] for row in rows})
                return

        return look


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in what a module returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "embeddings"):
        yield from _tensors(value.embeddings)
    elif hasattr(value, "loss"):
        yield from _tensors(value.loss)
