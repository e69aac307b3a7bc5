"""What a training run is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ssl_core.nn.distributed import Group
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.best import BestCheckpoint
from ssl_core.training.device import Precision
from ssl_core.training.optim import is_capturable
from ssl_core.training.options import TrainOptions
from ssl_core.training.parallel import joined
from ssl_core.utils.console import Console


class Probe(Protocol):
    """A measurement of the learner during training. It leaves the weights unchanged."""

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return figures by name for metrics.jsonl."""
        ...


@dataclass(frozen=True)
class TrainingPlan:
    """What a training run is given and does not change.

    folder: receives metrics.jsonl and checkpoints. checkpoint_state: entries of each checkpoint's state.json. probe:
    called at step 0 and every `probe_every` steps except the last. best: keeps the best weights by what it measures,
    those of step 0 left out. compiled: the learner's compiled forward pass. listener: called with each line of metrics.
    warn: called with each warning; by default `console.info`. said: the warnings so far, which checkpoints keep. group:
    the processes among which each batch is divided; the one of rank 0 writes. describe: names a training sample by its
    row.
    """

    options: TrainOptions
    seed: int
    device: torch.device
    precision: Precision
    folder: Path
    console: Console = field(default_factory=Console)
    checkpoint_state: Mapping[str, Any] = field(default_factory=dict)
    probe: Probe | None = None
    probe_every: int = 0
    best: BestCheckpoint | None = None
    compiled: CompiledStep | None = None
    listener: Callable[[int, Mapping[str, float]], None] | None = None
    warn: Callable[[str], None] | None = None
    said: Sequence[str] = ()
    group: Group | None = None
    describe: Callable[[int], str] | None = None

    def say(self, text: str) -> None:
        """Give a warning."""
        (self.warn or self.console.info)(text)

    @property
    def writes(self) -> bool:
        """Whether this process writes metrics and checkpoints and calls the probe."""
        return self.group is None or self.group.rank == 0

    @property
    def step_purpose(self) -> str:
        """The purpose that torch is seeded for before a step: each process draws its own dropout."""
        return "step" if self.writes or self.group is None else f"step/{self.group.rank}"

    @property
    def graphed(self) -> bool:
        """Whether steps are replayed as a CUDA graph."""
        return is_graphed(self.options, self.device)


def is_graphed(options: TrainOptions, device: torch.device) -> bool:
    """Whether steps are replayed as a CUDA graph."""
    possible = is_capturable(options.optimizer) and options.accumulate_steps == 1 and joined() is None
    return options.cuda_graph and device.type == "cuda" and possible
