"""The training loop. It calls no hook; what surrounds a step is in small functions below it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssl_core.contracts import PROGRESS
from ssl_core.errors import ConfigError, SslxError
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.prefetch import BatchStream, TensorDict
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.accel.cuda_graph import GraphedStep
from ssl_core.training.device import Precision, autocast
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import METRICS, MetricAverager, MetricsLog
from ssl_core.training.optim import is_capturable, make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.schedule import rate_at, set_rate
from ssl_core.training.signals import Signals
from ssl_core.utils.console import Console, Progress
from ssl_core.utils.seeds import seed_torch

GRAD_NORM = "train/grad_norm"
StepFunction = Callable[[TensorDict, TensorDict], TensorDict]


class Interrupted(SslxError):
    """A signal stopped the run; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; saved, go on with --resume")
        self.exit_code = 128 + number


class Probe(Protocol):
    """A measurement of the learner during training. It leaves the weights unchanged."""

    def __call__(self, step: int) -> Mapping[str, float]:
        """Return figures by name for metrics.jsonl."""
        ...


class Clock:
    """Seconds of training, including those before a resume and excluding pauses."""

    def __init__(self, seconds_before: float) -> None:
        self.began, self.seconds_before = time.perf_counter(), seconds_before

    def __call__(self) -> float:
        return self.seconds_before + time.perf_counter() - self.began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in this context."""
        stopped = time.perf_counter()
        yield
        self.began += time.perf_counter() - stopped


@dataclass(frozen=True)
class TrainingPlan:
    """What a training run is given and does not change.

    folder: receives metrics.jsonl and checkpoints. checkpoint_state: entries of each checkpoint's state.json. probe:
    called at step 0 and every `probe_every` steps except the last. compiled: the learner's compiled forward pass.
    listener: called with each line of metrics. warn: called with each warning; by default `console.info`.
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
    compiled: CompiledStep | None = None
    listener: Callable[[int, Mapping[str, float]], None] | None = None
    warn: Callable[[str], None] | None = None

    @property
    def graphed(self) -> bool:
        """Whether steps are replayed as a CUDA graph."""
        return is_graphed(self.options, self.device)


@dataclass
class TrainingState:
    """What changes during training, apart from the learner's weights."""

    optimizer: torch.optim.Optimizer
    averager: MetricAverager
    clock: Clock
    log: MetricsLog
    step: int = 0
    """Optimiser steps done."""
    last_log: tuple[int, float] = (0, 0.0)
    """Step and seconds of the last line of metrics."""


@dataclass(frozen=True)
class TrainingResult:
    """Optimiser steps done and seconds of training, both including those before a resume; all lines of metrics."""

    steps: int
    seconds: float
    log: MetricsLog


def train(
    learner: Learner, data: PreprocessedSplit, plan: TrainingPlan, start: checkpoint.Checkpoint | None = None
) -> TrainingResult:
    """Train to `options.steps` or `options.max_seconds`.

    Args:
        learner: the model; with `start`, it already holds that checkpoint's weights.
        data: preprocessed training samples.
        start: the checkpoint to continue from.

    Raises:
        Interrupted: a signal stopped the run; everything is saved.
        ConfigError: a time limit together with a schedule that needs the number of steps.
        SslxError: the loss is not finite.
    """
    options = plan.options
    state = begin(learner, plan, start)
    micro_step, whole_step = step_functions(learner, state.optimizer, plan)
    limit = options.max_seconds or math.inf
    if state.step == 0:
        run_probe(learner, state, plan)
    with (
        Signals() as signals,
        BatchStream(
            learner, data, options.batch_size, plan.seed, plan.device, batches(plan, state), progress_of(plan, state)
        ) as feed,
        training_progress(plan, state) as progress,
    ):
        state.last_log = state.step, state.clock()
        for step in range(state.step, options.steps if state.clock() < limit else state.step):
            rate = rate_at(options, step)
            set_rate(state.optimizer, rate)
            for part in range(options.accumulate_steps):
                number = step * options.accumulate_steps + part
                inputs, draws = feed.take()
                seed_torch(plan.seed, "step", number)
                values = (whole_step if part + 1 == options.accumulate_steps else micro_step)(inputs, draws)
                state.averager.add({name: value for name, value in values.items() if name != GRAD_NORM})
            state.step, seconds = step + 1, state.clock()
            last = state.step == options.steps or seconds >= limit
            if state.step % options.log_every == 0 or last:
                log_step(state, plan, {"train/lr": rate, GRAD_NORM: float(values[GRAD_NORM])}, seconds, progress)
            progress.move_to(state.step, seconds)
            if plan.probe_every and state.step % plan.probe_every == 0 and not last and not signals.number:
                run_probe(learner, state, plan)
            if signals.number or state.step % options.checkpoint_every == 0 or last:
                save(learner, state, plan)
            if signals.number:
                raise Interrupted(signals.number, state.step)
            if last:
                break
    return TrainingResult(state.step, state.clock(), state.log)


def is_graphed(options: TrainOptions, device: torch.device) -> bool:
    """Whether steps are replayed as a CUDA graph."""
    possible = is_capturable(options.optimizer) and options.accumulate_steps == 1
    return options.cuda_graph and device.type == "cuda" and possible


def begin(learner: Learner, plan: TrainingPlan, start: checkpoint.Checkpoint | None) -> TrainingState:
    """The state before the first step, or that of a checkpoint; the learner is in training mode.

    Raises:
        ConfigError: a time limit together with a schedule that needs the number of steps.
        CheckpointError: the optimiser's file is damaged.
    """
    options = plan.options
    if options.max_seconds is not None and options.schedule != "constant":
        raise ConfigError(
            f"train.max_seconds ends a run at a step that is not known in advance, which "
            f"train.schedule={options.schedule} needs; give train.steps, or train.schedule=constant"
        )
    optimizer = make_optimizer(learner, options, plan.graphed)
    averager, step, seconds = MetricAverager(), 0, 0.0
    if start is not None:
        _check_teacher_schedule(learner, options, start)
        checkpoint.load_optimizer(start, learner, optimizer)
        averager, step, seconds = MetricAverager(**start.state["window"]), start.step, float(start.state["seconds"])
    else:
        learner.start_teacher()
    log = MetricsLog(plan.folder / METRICS, step, plan.listener)
    learner.train()
    return TrainingState(optimizer, averager, Clock(seconds), log, step)


def _check_teacher_schedule(learner: Learner, options: TrainOptions, start: checkpoint.Checkpoint) -> None:
    """Raises:
    ConfigError: the number of steps changed, on which the momentum of all steps so far depended.
    """
    before = start.state.get("config", {}).get("train", {}).get("steps", options.steps)
    ema = learner.objective.teacher
    if ema is not None and ema.start != ema.end and before != options.steps and options.max_seconds is None:
        raise ConfigError(
            f"the momentum of the teacher depends on train.steps, which was {before} when the run began; "
            f"resume with train.steps={before}"
        )


def batches(plan: TrainingPlan, state: TrainingState) -> range:
    """The numbers of the batches that are left."""
    return range(plan.options.accumulate_steps * state.step, plan.options.accumulate_steps * plan.options.steps)


def progress_of(plan: TrainingPlan, state: TrainingState) -> Callable[[int], float]:
    """The share of the run that is done at a batch, in [0, 1]: by steps, or by the clock under a time limit."""
    options, limit = plan.options, plan.options.max_seconds
    if limit is not None:
        return lambda number: min(1.0, state.clock() / limit)
    return lambda number: number // options.accumulate_steps / max(options.steps, 1)


def step_functions(
    learner: Learner, optimizer: torch.optim.Optimizer, plan: TrainingPlan
) -> tuple[StepFunction, StepFunction]:
    """Two functions of inputs and draws: one adds the gradient of a batch, the other also updates the weights."""
    options, compiled = plan.options, plan.compiled

    def passes(inputs: TensorDict, draws: TensorDict) -> dict[str, Tensor]:
        with autocast(plan.device, plan.precision):
            outcome = (compiled or learner)(inputs, draws)
        with compiled.compiling() if compiled is not None else nullcontext():
            (outcome.loss / options.accumulate_steps).backward()
        return {"loss": outcome.loss.detach(), **outcome.metrics}

    def micro_step(inputs: TensorDict, draws: TensorDict) -> dict[str, Tensor]:
        return passes(inputs, draws) if compiled is None else compiled.retrying(lambda: passes(inputs, draws))

    def whole_step(inputs: TensorDict, draws: TensorDict) -> dict[str, Tensor]:
        values = micro_step(inputs, draws)
        if options.grad_clip:
            values[GRAD_NORM] = nn.utils.clip_grad_norm_(learner.parameters(), options.grad_clip)
        else:
            values[GRAD_NORM] = nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        learner.update_teacher(draws[PROGRESS])
        return values

    if plan.graphed:
        warn = plan.warn or plan.console.info
        return micro_step, GraphedStep(whole_step, plan.device, warn, optimizer.zero_grad)
    return micro_step, whole_step


class TrainingProgress:
    """The progress bar of training: in steps, or in seconds where the time decides."""

    def __init__(self, bar: Progress, by_time: bool, state: TrainingState) -> None:
        self.bar, self.by_time = bar, by_time
        self.shown = int(state.clock.seconds_before) if by_time else state.step

    def move_to(self, step: int, seconds: float) -> None:
        """Advance the bar to a step and a time."""
        now = int(seconds) if self.by_time else step
        self.bar.advance(now - self.shown)
        self.shown = now


@contextmanager
def training_progress(plan: TrainingPlan, state: TrainingState) -> Iterator[TrainingProgress]:
    """Open the progress bar."""
    limit = plan.options.max_seconds
    length = plan.options.steps if limit is None else math.ceil(limit)
    done = state.step if limit is None else int(state.clock.seconds_before)
    with plan.console.progress("pretraining", length, done) as bar:
        yield TrainingProgress(bar, limit is not None, state)


def log_step(
    state: TrainingState, plan: TrainingPlan, values: dict[str, float], seconds: float, progress: TrainingProgress
) -> None:
    """Log the means since the last line together with `values`, and show the means beside the progress bar.

    Raises:
        SslxError: the loss is not finite.
    """
    options, (last_step, last_seconds) = plan.options, state.last_log
    means = state.averager.means()
    samples = (state.step - last_step) * options.batch_size * options.accumulate_steps
    speed = {"train/samples_per_second": samples / (seconds - last_seconds)}
    state.last_log = state.step, seconds
    if not math.isfinite(means["train/loss"]):
        precision = ", or train.precision=fp32" if plan.precision != "fp32" else ""
        raise SslxError(
            f"the loss is not finite (within the steps before step {state.step}); lower train.lr, or set "
            f"train.grad_clip=1{precision}"
        )
    state.log.append(state.step, means | values | speed)
    progress.bar.advance(0, **means, **speed)


def run_probe(learner: Learner, state: TrainingState, plan: TrainingPlan) -> None:
    """Log the seconds of training and what the probe measures; the clock stands still meanwhile."""
    if plan.probe is None or not plan.probe_every:
        return
    if plan.device.type == "cuda":
        torch.cuda.synchronize(plan.device)  # the work queued so far counts as training, not as probing
    seconds = state.clock()
    with state.clock.paused():
        learner.eval()
        metrics = {"train/seconds": seconds, **plan.probe(state.step)}
        learner.train()
        state.log.append(state.step, metrics)


def save(learner: Learner, state: TrainingState, plan: TrainingPlan) -> None:
    """Save a checkpoint."""
    entries = {"seed": plan.seed, "window": state.averager.state(), "seconds": state.clock()}
    checkpoint.save(
        plan.folder, state.step, learner, state.optimizer, {**plan.checkpoint_state, **entries},
        plan.options.keep_checkpoints,
    )  # fmt: skip
