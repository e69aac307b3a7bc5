"""The training loop. It calls no hook; what surrounds a step is in small functions below it."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import torch

from ssl_core.errors import ConfigError, SslxError
from ssl_core.nn.distributed import use_group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.growing import GrowingSplit
from ssl_core.pipeline.preprocess import PreparationStopped
from ssl_core.training import checkpoint
from ssl_core.training.finite import NOT_FINITE, FiniteGuard, NotFinite
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import (
    LOSS,
    LOSS_SPIKE,
    METRICS,
    SECONDS,
    MetricAverager,
    MetricsLog,
    loss_spike,
    lost_text,
)
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import TrainOptions
from ssl_core.training.parallel import (
    agree,
    copy_from_main,
    largest,
    wait_for_all,
    watch_connection,
)
from ssl_core.training.plan import TrainingPlan
from ssl_core.training.replay import REPLAY, replay_step
from ssl_core.training.schedule import rate_at, set_rate
from ssl_core.training.shard import Shards
from ssl_core.training.signals import Signals
from ssl_core.training.step import GRAD_NORM, StepBatches, batch_stream, micro_batch_numbers, progress_of, step_function
from ssl_core.utils.console import Progress
from ssl_core.utils.files import write_json

PROBE_DUE = "probe_due"
"""Entry of a checkpoint of a run that was stopped before the probe of its step."""
WAIT_ROUND = 1.0
"""Seconds in which each of several processes waits for samples before it looks at the signals of all."""


class Interrupted(SslxError):
    """A signal stopped the run; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; saved, go on with --resume")
        self.exit_code = 128 + number


class Clock:
    """Seconds of training, including those before a resume and excluding pauses."""

    def __init__(self, seconds_before: float) -> None:
        self.began, self.seconds_before = time.perf_counter(), seconds_before
        self.last_call = self.began

    def __call__(self) -> float:
        self.last_call = time.perf_counter()
        return self.seconds_before + self.last_call - self.began

    def continued(self) -> None:
        """Exclude the time since the last call, in which the process was stopped (SIGSTOP, Ctrl-Z)."""
        now = time.perf_counter()
        self.began += now - self.last_call
        self.last_call = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in this context."""
        stopped = time.perf_counter()
        yield
        self.began += time.perf_counter() - stopped


@dataclass
class TrainingState:
    """What changes during training, apart from the learner's weights."""

    optimizer: torch.optim.Optimizer
    averager: MetricAverager
    clock: Clock
    log: MetricsLog
    shards: Shards
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
        NotFinite: the loss or the gradient of a step is not finite; the state before it is saved.
    """
    options = plan.options
    state = begin(learner, plan, start)
    guard = FiniteGuard(learner, state.optimizer, options.on_nan, plan.device, plan.group)
    take_step = step_function(learner, state.optimizer, plan, guard)
    limit = options.max_seconds or math.inf
    if state.step == 0 or (start is not None and start.state.get(PROBE_DUE, False)):
        run_probe(learner, state, plan)
    with (
        Signals(state.clock.continued) as signals,
        batch_stream(learner, data, plan, micro_batch_numbers(plan, state.step, options.steps)) as feed,
        use_group(plan.group),
        watch_connection(),
        training_progress(plan, state) as progress,
    ):
        state.last_log = state.step, state.clock()
        _, seconds = agree(0, state.last_log[1], plan.group)
        for step in range(state.step, options.steps if seconds < limit else state.step):
            rate = rate_at(options, step)
            set_rate(state.optimizer, rate)
            if stop := wait_for_samples(data, plan, step, signals):
                check_finite(learner, data, state, plan, guard)
                save(learner, state, plan)
                raise Interrupted(stop, state.step)
            batches = StepBatches(
                feed, partial(batch_stream, learner, data, plan), micro_batch_numbers(plan, step, step + 1)
            )
            if limit < math.inf:
                batches.progress = min(1.0, seconds / limit)
            for values in take_step(step, batches):
                state.averager.add(
                    {name: value for name, value in values.items() if name not in (GRAD_NORM, NOT_FINITE)}
                )
            guard.record(step, values[NOT_FINITE])
            if guard.is_read_at_once:
                check_finite(learner, data, state, plan, guard)
            state.step = step + 1
            stop, seconds = agree(signals.number, state.clock(), plan.group)
            last = state.step == options.steps or seconds >= limit
            if is_due(state.step, options, plan.probe_every) or last or stop:
                check_finite(learner, data, state, plan, guard)
            if state.step % options.log_every == 0 or last:
                log_step(state, plan, {"train/lr": rate, GRAD_NORM: float(values[GRAD_NORM])}, seconds, progress)
            progress.move_to(state.step, seconds)
            probe_due = bool(plan.probe_every) and state.step % plan.probe_every == 0 and not last
            if probe_due and not stop:
                run_probe(learner, state, plan)
            if stop or state.step % options.checkpoint_every == 0 or last:
                save(learner, state, plan, {PROBE_DUE: True} if probe_due and stop else {})
            if stop:
                raise Interrupted(stop, state.step)
            if last:
                break
        state.shards.end()
    return TrainingResult(state.step, state.clock(), state.log)


def is_due(step: int, options: TrainOptions, probe_every: int) -> bool:
    """Whether a line of metrics, a checkpoint or a probe follows a step."""
    return any(every and step % every == 0 for every in (options.log_every, options.checkpoint_every, probe_every))


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
    if start is not None:
        _check_teacher_schedule(learner, options, start)
    if learner.teacher is None:  # with a checkpoint of step 0 it is not there yet
        learner.start_teacher()
    if plan.group is not None:
        copy_from_main(learner, plan.group)
    shards = Shards(learner, options, plan.group)
    optimizer = make_optimizer(learner, options, plan.graphed)
    averager, step, seconds = MetricAverager(), 0, 0.0
    if start is not None:
        checkpoint.load_optimizer(start, learner, optimizer)
        averager, step, seconds = MetricAverager(**start.state["window"]), start.step, float(start.state["seconds"])
    path = plan.folder / METRICS
    # at step 0, the first probe is logged anew
    log = MetricsLog(path if plan.writes else None, step or -1, plan.listener if plan.writes else None)
    if log.lost:
        plan.say(lost_text(path, log.lost))
    learner.train()
    return TrainingState(optimizer, averager, Clock(seconds), log, shards, step)


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


def wait_for_samples(data: PreprocessedSplit, plan: TrainingPlan, step: int, signals: Signals) -> int:
    """Wait until all processes have the samples of a step, or one of them has received a signal.

    Several processes look at the signals of all every `WAIT_ROUND` seconds.

    Returns:
        The number of the signal; 0 for none.

    Raises:
        DataError: the samples cannot be prepared.
    """
    if not isinstance(data, GrowingSplit):
        return 0
    last, end = micro_batch_numbers(plan, step, step + 1)[-1], math.inf

    def is_stopped() -> bool:
        return bool(signals.number) or time.monotonic() > end

    while True:
        if plan.group is not None:
            end = time.monotonic() + WAIT_ROUND
        waiting = False
        try:
            data.batch_index(plan.seed, last, plan.options.batch_size, is_stopped)
        except PreparationStopped:
            if not is_stopped():
                raise
            waiting = True
        signal, anyone_waits = largest((signals.number if waiting else 0, waiting), plan.group)
        if signal or not anyone_waits:
            return int(signal)


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
        SslxError: the loss was not finite in any step since the last line.
    """
    options, (last_step, last_seconds) = plan.options, state.last_log
    if plan.group is not None:
        state.averager.average_over(plan.group)
    means = state.averager.means()
    samples = (state.step - last_step) * options.batch_size * options.accumulate_steps
    speed = {"train/samples_per_second": samples / (seconds - last_seconds)}
    state.last_log = state.step, seconds
    if LOSS not in means:
        raise SslxError(
            f"the loss was not finite in any step since step {last_step}, so skipping does not help; {cure(plan)}"
        )
    if (median := loss_spike(state.log.kept.losses, means[LOSS])) is not None:
        values = values | {LOSS_SPIKE: means[LOSS] / median if median else math.inf}
        plan.say(f"loss spike at step {state.step:,}: {means[LOSS]:.4g}, after a median of {median:.4g}")
    values = {name: value for name, value in values.items() if math.isfinite(value)}
    state.log.append(state.step, means | values | speed)
    progress.bar.advance(0, **means, **speed)


def cure(plan: TrainingPlan) -> str:
    """What to change if numbers are not finite."""
    precision = ", or train.precision=fp32" if plan.precision != "fp32" else ""
    return f"lower train.lr, or set train.grad_clip=1{precision}"


def check_finite(
    learner: Learner, data: PreprocessedSplit, state: TrainingState, plan: TrainingPlan, guard: FiniteGuard
) -> None:
    """Read the flags of the last steps: name the steps that were skipped, or stop at the first that is not finite.

    Raises:
        NotFinite: after the state before the step is saved.
    """
    bad = guard.bad_steps()
    if bad and plan.options.on_nan == "stop":
        stop_at(bad[0], learner, data, state, plan)
    for step in bad:
        plan.say(f"step {step + 1:,} skipped: its loss or gradient is not finite")


def stop_at(step: int, learner: Learner, data: PreprocessedSplit, state: TrainingState, plan: TrainingPlan) -> NoReturn:
    """Save the state before a step, repeat the step, and say where its numbers stop being finite.

    Raises:
        NotFinite: always.
    """
    options = plan.options
    state.averager = MetricAverager()
    folder = plan.folder / NOT_FINITE
    state.step = step
    save(learner, state, plan, folder=folder, keep=1)
    state.shards.end()
    if not plan.writes:
        wait_for_all(plan.group)  # until the process of rank 0 has repeated the whole batch
        raise NotFinite(f"step {step + 1} is not finite")
    progress, limit = progress_of(options), options.max_seconds
    if limit is not None:
        share = min(1.0, state.clock() / limit)
        progress = lambda number: share  # noqa: E731 - a constant
    with use_group(None):
        report = replay_step(
            learner, data, step, seed=plan.seed, batch_size=options.batch_size,
            accumulate_steps=options.accumulate_steps, device=plan.device, precision=plan.precision,
            progress=progress, describe=plan.describe,
        )  # fmt: skip
    write_json(folder / REPLAY, report.to_json())
    wait_for_all(plan.group)
    raise NotFinite(
        f"step {step + 1} is not finite: {report.part}{report.sample_text}; {cure(plan)}, or go on with --resume "
        f"--on-nan skip; `sslx replay {plan.folder}` repeats the step, {folder / REPLAY} names its samples"
    )


def run_probe(learner: Learner, state: TrainingState, plan: TrainingPlan) -> None:
    """Log the seconds of training and what the probe measures; the clock stands still meanwhile."""
    if not plan.probe_every:
        return
    if plan.device.type == "cuda":
        torch.cuda.synchronize(plan.device)  # the work queued so far counts as training, not as probing
    seconds = state.clock()
    with state.clock.paused(), use_group(None), state.shards.whole(keep=plan.probe is not None):
        if plan.probe is None:
            return
        learner.eval()
        metrics = {SECONDS: seconds, **plan.probe(state.step)}
        learner.train()
        state.log.append(state.step, metrics)
        if plan.best is not None and state.step:
            plan.best.offer(state.step, learner, metrics)


def save(
    learner: Learner,
    state: TrainingState,
    plan: TrainingPlan,
    more: Mapping[str, Any] = MappingProxyType({}),
    folder: Path | None = None,
    keep: int | None = None,
) -> None:
    """Save a checkpoint, by default in the run's folder. Of several processes one writes, and all wait for it.

    more: further entries of state.json.
    """
    if plan.group is not None:
        state.averager.average_over(plan.group)  # a resumed run logs the same lines
    entries = {
        "seed": plan.seed, "window": state.averager.state(), "seconds": state.clock(),
        "warnings": list(plan.said), **more,
    }  # fmt: skip
    with state.shards.whole(plan.writes, state.optimizer):
        if plan.writes:
            checkpoint.save(
                folder or plan.folder, state.step, learner, state.optimizer, {**plan.checkpoint_state, **entries},
                keep or plan.options.keep_checkpoints,
            )  # fmt: skip
    wait_for_all(plan.group)
