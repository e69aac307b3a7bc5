"""The training loop, visible from top to bottom; no callbacks."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssl_core.errors import ConfigError, SslxError
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.prefetch import BatchStream, TensorDict
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.accel.cuda_graph import GraphedStep
from ssl_core.training.device import Precision, autocast
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import METRICS, MetricAverager, append_metrics, trim_metrics
from ssl_core.training.optim import is_capturable, make_optimizer, rate_at, set_rate
from ssl_core.training.options import TrainOptions
from ssl_core.training.signals import Signals
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import seed_torch

NORM = "train/grad_norm"


class Interrupted(SslxError):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; saved, go on with --resume")
        self.exit_code = 128 + number


class Probe(Protocol):
    """Looks at the learner in the midst of training, and says what it found by name."""

    def __call__(self, step: int) -> Mapping[str, float]: ...


class Clock:
    """Seconds of training: those of an earlier part included, pauses left out."""

    def __init__(self, before: float) -> None:
        self.began, self.before = time.perf_counter(), before

    def __call__(self) -> float:
        return self.before + time.perf_counter() - self.began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in here takes no time."""
        stopped = time.perf_counter()
        yield
        self.began += time.perf_counter() - stopped


class Log(Protocol):
    """Who hears of metrics besides metrics.jsonl: the notices."""

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None: ...


def is_graphed(options: TrainOptions, device: torch.device) -> bool:
    """Whether steps are replayed as a CUDA graph."""
    possible = is_capturable(options.optimizer) and options.accumulate_steps == 1
    return options.cuda_graph and device.type == "cuda" and possible


def train(
    learner: Learner,
    data: PreprocessedSplit,
    options: TrainOptions,
    *,
    seed: int,
    device: torch.device,
    precision: Precision,
    folder: Path,
    log: Log,
    console: Console,
    state: Mapping[str, Any],
    start: checkpoint.Checkpoint | None = None,
    probe: Probe | None = None,
    probe_every: int = 0,
    compiled: CompiledStep | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[int, float]:
    """Train to `options.steps` or `options.max_seconds`, from `start` if given. Returns the steps done and the seconds
    spent, those before `start` included and those of probes left out.

    Writes metrics.jsonl and checkpoints into `folder`; `state` goes into each checkpoint. `probe` is called at step 0
    and then every `probe_every` steps, but for the last; it must leave the learner's weights alone. `compiled` is the
    learner compiled; `warn` hears what did not go as planned, by default `tell`. Errors: Interrupted after a signal,
    with everything saved; SslxError if the loss is not finite.
    """
    _check_schedule(options)
    graphed = is_graphed(options, device)
    optimizer = make_optimizer(learner, options, graphed)
    window, first, before = MetricAverager(), 0, 0.0
    if start is not None:
        checkpoint.load_model(start, learner)
        checkpoint.load_optimizer(start, learner, optimizer)
        first, before = start.step, float(start.state["seconds"])
        window = MetricAverager(**start.state["window"])
    trim_metrics(folder / METRICS, first)
    learner.train()
    clock = Clock(before)
    done, limit = first, options.max_seconds or math.inf

    def differentiate(inputs: TensorDict, draws: TensorDict) -> dict[str, Tensor]:
        with autocast(device, precision):
            outcome = (compiled or learner)(inputs, draws)
        with compiled.compiling() if compiled is not None else nullcontext():
            (outcome.loss / options.accumulate_steps).backward()
        return {"loss": outcome.loss.detach(), **outcome.metrics}

    def update(inputs: TensorDict, draws: TensorDict) -> dict[str, Tensor]:
        values = differentiate(inputs, draws)
        if options.grad_clip:
            values[NORM] = nn.utils.clip_grad_norm_(learner.parameters(), options.grad_clip)
        else:
            values[NORM] = nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        return values

    def save(step: int) -> None:
        window.settle()
        kept = {"count": window.count, "sums": window.sums}
        checkpoint.save(
            folder,
            step,
            learner,
            optimizer,
            {**state, "seed": seed, "seconds": clock(), "window": kept},
            options.keep_checkpoints,
        )

    def look(step: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the steps before are training, not probing
        seconds = clock()
        with clock.paused():
            learner.eval()
            found = {"train/seconds": seconds, **(probe(step) if probe else {})}
            learner.train()
            append_metrics(folder / METRICS, step, found)
            log(step, found)

    probe_every = probe_every if probe else 0
    if first == 0 and probe_every:
        look(0)
    length, unit = (options.steps, "steps") if options.max_seconds is None else (math.ceil(options.max_seconds), "s")
    whole = GraphedStep(update, device, warn or console.info, optimizer.zero_grad) if graphed else update
    numbers = range(options.accumulate_steps * first, options.accumulate_steps * options.steps)
    with (
        Signals() as signals,
        BatchStream(learner, data, options.batch_size, seed, device, numbers) as feed,
        console.progress("pretraining", length, first if unit == "steps" else int(before)) as progress,
    ):
        tick, counted, shown = clock(), first, int(before)
        for step in range(first, options.steps if clock() < limit else first):
            rate = rate_at(options, step)
            set_rate(optimizer, rate)
            for part in range(options.accumulate_steps):
                number = step * options.accumulate_steps + part
                inputs, draws = feed.take()
                seed_torch(seed, "step", number)
                values = (whole if part + 1 == options.accumulate_steps else differentiate)(inputs, draws)
                window.add({name: value for name, value in values.items() if name != NORM})
            done, now = step + 1, clock()
            last = done == options.steps or now >= limit
            if done % options.log_every == 0 or last:
                metrics = window.means()
                speed = (done - counted) * options.batch_size * options.accumulate_steps / (now - tick)
                tick, counted = now, done
                metrics |= {"train/lr": rate, NORM: float(values[NORM]), "train/samples_per_second": speed}
                _check(metrics, done, precision)
                append_metrics(folder / METRICS, done, metrics)
                log(done, metrics)
                progress.advance(0, **{k: v for k, v in metrics.items() if k not in ("train/lr", NORM)})
            progress.advance(1 if unit == "steps" else int(now) - shown)
            shown = int(now)
            if probe_every and done % probe_every == 0 and not last and not signals.caught:
                look(done)
            if signals.caught or done % options.checkpoint_every == 0 or last:
                save(done)
            if signals.caught:
                raise Interrupted(signals.caught, done)
            if last:
                break
    return done, clock()


def _check_schedule(options: TrainOptions) -> None:
    if options.max_seconds is not None and options.schedule != "constant":
        raise ConfigError(
            f"train.max_seconds ends a run at a step that is not known in advance, which "
            f"train.schedule={options.schedule} needs; give train.steps, or train.schedule=constant"
        )


def _check(metrics: Mapping[str, float], step: int, precision: Precision) -> None:
    if not math.isfinite(metrics["train/loss"]):
        cure = "lower train.lr, or set train.grad_clip=1" + (", or train.precision=fp32" if precision != "fp32" else "")
        raise SslxError(f"the loss is not finite (within the steps before step {step}); {cure}")
