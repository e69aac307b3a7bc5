"""A run: its configuration, its parts, its data and its results, as one object."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_core.config.resolve import Plugins
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset, Tokenizer
from ssl_core.data import Split, Task
from ssl_core.errors import CheckpointError
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.nn.distributed import Group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.measure import FieldStats, measure_inputs
from ssl_core.plugins import Catalogue
from ssl_core.report import Report
from ssl_core.report.figures import Figures
from ssl_core.report.schema import InitReport
from ssl_core.runs.encoder import PretrainedEncoder, Provenance, evaluation_of
from ssl_core.training.checkpoint import Checkpoint
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import MetricsLog
from ssl_core.utils.console import Console

PARTS = ("tokenizer", "encoder")
"""The parts of a `PretrainedEncoder`."""


@dataclass(frozen=True)
class RunContext:
    """Where a run happens: the installed plugins, its folder, the console, and the command that started it."""

    catalogue: Catalogue
    folder: Path
    console: Console = field(default_factory=Console)
    command: str = ""

    def notify(self, hook: str, **values: Any) -> None:
        """Send a notice to the plugins. One that fails is named on the console and stops nothing."""
        for problem in self.catalogue.notify(hook, **values):
            self.console.info(f"warning: {problem}")


@dataclass(frozen=True)
class Cost:
    """Estimates for one optimiser step: seconds, uncompiled, and bytes of activations that the backward pass keeps."""

    seconds: float
    bytes: int


@dataclass
class Run:
    """A run with all its parts. `runs.build.build_run` makes it; `pretrain` and `evaluate` fill in the results.

    Attributes:
        config: the resolved configuration.
        plugins: the classes that it names.
        context: plugins, folder and console.
        device: where the learner is.
        splits: the open data sets.
        data: their preprocessed samples.
        learner: tokenizer, encoder and objective.
        initial: random parameters and buffers, on the CPU, for the random-initialisation baseline.
        sample_limits: the options of the evaluation for each kind of features.
        notes: lines for the report.
        start: the checkpoint that the weights came from; None for a fresh run.
        doubts: lines on what may have been misread of the data.
        stats: statistics of the numeric fields of the training split.
        facts: shares of the input that the tokenizer does not know or does not use, by name.
        init: where the weights that it started with come from; None for random numbers.
        cost: the estimated cost of a step; None if it will not train.
        steps: optimiser steps done.
        seconds: seconds of training, those before a resume included.
        log: the metrics of training; None before it.
        figures: what the report shows beside scores; None before the evaluation, or if switched off.
        report: the report; None until it is written.
        group: the processes that compute features together now; None if this one computes them by itself.
    """

    config: RunConfig
    plugins: Plugins
    context: RunContext
    device: torch.device
    splits: Mapping[Split, Dataset]
    data: Mapping[Split, PreprocessedSplit]
    learner: Learner
    initial: Mapping[str, Tensor]
    sample_limits: Mapping[str, EvaluateOptions]
    notes: list[str]
    start: Checkpoint | None = None
    doubts: list[str] = field(default_factory=list)
    stats: dict[str, FieldStats] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    init: InitReport | None = None
    cost: Cost | None = None
    steps: int = 0
    seconds: float = 0.0
    log: MetricsLog | None = None
    figures: Figures | None = None
    report: Report | None = None
    group: Group | None = None
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def load(cls, folder: Path | str, catalogue: Catalogue | None = None) -> Run:
        """A trained run from its folder, with its data open and the weights of its newest checkpoint.

        Args:
            folder: the run's folder.
            catalogue: the plugins; by default all that are installed.

        Raises:
            CheckpointError: the folder holds no run or no checkpoint.
            ConfigError: a plugin that the run was trained with is missing.
            DataError: its data is no longer there.
        """
        from ssl_core.runs.build import load_run  # build.py imports this module

        return load_run(Path(folder), catalogue)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.context.folder

    @property
    def console(self) -> Console:
        """Where lines and progress go."""
        return self.context.console

    @property
    def task(self) -> Task | None:
        """What the labels mean; None without labels."""
        return self.splits["train"].task

    @property
    def scored_split(self) -> Split:
        """The split that the final scores are computed on."""
        return self.config.evaluate.split

    @property
    def pictured(self) -> PreprocessedSplit:
        """The split whose samples the report shows: the scored one, or the training split without it."""
        return self.data.get(self.scored_split, self.data["train"])

    @property
    def finished_report(self) -> Report:
        """The report of a finished run.

        Raises:
            CheckpointError: the run is not finished.
        """
        if self.report is None:
            raise CheckpointError(f"{self.folder} is not finished; train it first")
        return self.report

    @property
    def encoder(self) -> PretrainedEncoder:
        """Tokenizer and encoder, sharing their weights with the learner."""
        entries = {} if self.start is None else self.start.state
        provenance = Provenance(
            self.folder,
            self.steps,
            entries.get("versions", {}),
            entries.get("origins", self.context.catalogue.origins()),
            evaluation_of(self.report, self.steps),
            () if self.init is None else self.init.history,
        )
        parts = self.learner.feature_parts()
        fields = self.learner.tokenizer.fields
        encoder = PretrainedEncoder(*parts, fields, self.config, provenance, self.splits["train"].schema())
        encoder.stats = {name: stats.to_json() for name, stats in self.stats.items()}
        encoder.inputs = measure_inputs(self.data["train"])
        return encoder

    def describe(self, row: int) -> str:
        """The name of a training sample, by its row in the prepared data."""
        return self.splits["train"].describe(self.data["train"].number_of(row))

    def random_init_baseline(self) -> AbstractContextManager[Learner]:
        """The learner with random weights and without a teacher, while the context is open.

        The weights are random also if the run started from others. The tokenizer's buffers stay: its constants, such as
        mean and scale, belong to the data and not to the training.
        """
        return self.with_weights(self.initial)

    @contextmanager
    def with_weights(self, values: Mapping[str, Tensor]) -> Iterator[Learner]:
        """The learner with other weights and without a teacher, while the context is open.

        Args:
            values: parameters and buffers by name; those of other names and the tokenizer's buffers stay.
        """
        teacher, self.learner.teacher = self.learner.teacher, None
        current = {name: value.clone() for name, value in _tensors(self.learner).items()}
        try:
            _put(self.learner, values)
            yield self.learner.eval()
        finally:
            _put(self.learner, current)
            self.learner.teacher = teacher


def snapshot(learner: Learner) -> dict[str, Tensor]:
    """Copies of all parameters and of the buffers that belong to no tokenizer, on the CPU."""
    return {name: value.to("cpu", copy=True) for name, value in _tensors(learner).items()}


def feature_prefixes(learner: Learner) -> dict[str, str]:
    """Names of the modules that compute features: "tokenizer" and "encoder", or the teacher's."""
    names = {id(module): name for name, module in learner.named_modules()}
    return {part: names[id(module)] for part, module in zip(PARTS, learner.feature_parts(), strict=True)}


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """Parameters and buffers by name, without the buffers of tokenizers."""
    constants = {
        id(buffer) for module in learner.modules() if isinstance(module, Tokenizer) for buffer in module.buffers()
    }
    buffers = {name: buffer for name, buffer in learner.named_buffers() if id(buffer) not in constants}
    return {name: tensor.detach() for name, tensor in (*learner.named_parameters(), *buffers.items())}


@torch.no_grad()
def _put(learner: Learner, values: Mapping[str, Tensor]) -> None:
    """Write values where the tensors lie, since a CUDA graph or a compiled step may hold their addresses."""
    for name, tensor in _tensors(learner).items():
        if name in values:
            tensor.copy_(values[name])
