"""The training loop, visible from top to bottom; no callbacks."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_core.engine import checkpoint
from ssl_core.engine.compile import Choice, CompiledStep
from ssl_core.engine.device import Precision, autocast
from ssl_core.engine.feed import Feed, Named
from ssl_core.engine.graph import GraphedStep
from ssl_core.engine.journal import METRICS, Window, append_metrics, trim_metrics
from ssl_core.engine.learner import Learner
from ssl_core.engine.loader import Prepared
from ssl_core.engine.seeds import seed_torch
from ssl_core.engine.signals import Signals
from ssl_core.engine.tell import Tell
from ssl_core.errors import ConfigError, SslxError
from ssl_core.options import Options

NORM = "train/grad_norm"


class TrainOptions(Options):
    """How the encoder is trained."""

    steps: int = Field(1000, ge=0, description="optimiser steps")
    seconds: float | None = Field(
        None, gt=0, description="stop after so many seconds of training, should the steps not be done by then"
    )
    batch_size: int = Field(64, ge=1, description="samples in a batch")
    lr: float = Field(3e-4, gt=0, description="peak learning rate of AdamW (paper: beta = 1e-4)")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay of AdamW")
    schedule: Literal["constant", "cosine"] = Field("constant", description="rate after warm-up: constant, or to zero")
    warmup: int = Field(0, ge=0, description="steps over which the rate rises linearly")
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 = no clipping")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one optimiser step")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="number format; auto = bf16 where it pays")
    compile: Choice = Field(
        "auto", description="compile the step whole; auto = where it pays for the planned steps, decided beforehand"
    )
    graph: bool = Field(True, description="on CUDA, record a step once and replay it whole (not with train.accumulate)")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl, each a mean over these steps")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")


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


def make_optimizer(learner: nn.Module, options: TrainOptions, graphed: bool = False) -> torch.optim.Optimizer:
    """AdamW, one group, all parameters (protocol section 5). `graphed`: a CUDA graph can hold its step."""
    parameters = list(learner.parameters())
    lr = torch.tensor(options.lr, device=parameters[0].device) if graphed else options.lr
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=options.weight_decay, fused=True, capturable=graphed)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step, in its place where a graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def is_graphed(options: TrainOptions, device: torch.device) -> bool:
    """Whether steps are replayed as a CUDA graph."""
    return options.graph and device.type == "cuda" and options.accumulate == 1


def rate_at(options: TrainOptions, step: int) -> float:
    """The learning rate of a step, the first being 0."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup) / max(options.steps - options.warmup, 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    learner: Learner,
    data: Prepared,
    options: TrainOptions,
    *,
    seed: int,
    device: torch.device,
    precision: Precision,
    folder: Path,
    log: Log,
    tell: Tell,
    state: Mapping[str, Any],
    start: checkpoint.Checkpoint | None = None,
    probe: Probe | None = None,
    probe_every: int = 0,
    compiled: CompiledStep | None = None,
    warn: Callable[[str], None] | None = None,
) -> tuple[int, float]:
    """Train to `options.steps` or `options.seconds`, from `start` if given. Returns the steps done and the seconds
    spent, those before `start` included and those of probes left out.

    Writes metrics.jsonl and checkpoints into `folder`; `state` goes into each checkpoint. `probe` is called at step 0
    and then every `probe_every` steps, but for the last; it must leave the learner's weights alone. `compiled` is the
    learner compiled; `warn` hears what did not go as planned, by default `tell`. Errors: Interrupted after a signal,
    with everything saved; SslxError if the loss is not finite.
    """
    _check_schedule(options)
    graphed = is_graphed(options, device)
    optimizer = make_optimizer(learner, options, graphed)
    window, first, before = Window(), 0, 0.0
    if start is not None:
        checkpoint.load_model(start, learner)
        checkpoint.load_optimizer(start, learner, optimizer)
        first, before = start.step, float(start.state["seconds"])
        window = Window(**start.state["window"])
    trim_metrics(folder / METRICS, first)
    learner.train()
    clock = Clock(before)
    done, limit = first, options.seconds or math.inf

    def differentiate(inputs: Named, draws: Named) -> dict[str, Tensor]:
        with autocast(device, precision):
            outcome = (compiled or learner)(inputs, draws)
        with compiled.compiling() if compiled is not None else nullcontext():
            (outcome.loss / options.accumulate).backward()
        return {"loss": outcome.loss.detach(), **outcome.metrics}

    def update(inputs: Named, draws: Named) -> dict[str, Tensor]:
        values = differentiate(inputs, draws)
        if options.clip:
            values[NORM] = nn.utils.clip_grad_norm_(learner.parameters(), options.clip)
        else:
            values[NORM] = nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        return values

    def save(step: int) -> None:
        window.settle()
        kept = {"count": window.count, "sums": window.sums}
        checkpoint.save(
            folder, step, learner, optimizer, {**state, "seed": seed, "seconds": clock(), "window": kept}, options.keep
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
    length, unit = (options.steps, "steps") if options.seconds is None else (math.ceil(options.seconds), "s")
    whole = GraphedStep(update, device, warn or tell.line, optimizer.zero_grad) if graphed else update
    numbers = range(options.accumulate * first, options.accumulate * options.steps)
    with (
        Signals() as signals,
        Feed(learner.objective, data, options.batch_size, seed, device, numbers) as feed,
        tell.progress("pretraining", length, first if unit == "steps" else int(before)) as progress,
    ):
        tick, counted, shown = clock(), first, int(before)
        for step in range(first, options.steps if clock() < limit else first):
            rate = rate_at(options, step)
            set_rate(optimizer, rate)
            for part in range(options.accumulate):
                number = step * options.accumulate + part
                inputs, draws = feed.take()
                seed_torch(seed, "step", number)
                values = (whole if part + 1 == options.accumulate else differentiate)(inputs, draws)
                window.add({name: value for name, value in values.items() if name != NORM})
            done, now = step + 1, clock()
            last = done == options.steps or now >= limit
            if done % options.log_every == 0 or last:
                metrics = window.means()
                speed = (done - counted) * options.batch_size * options.accumulate / (now - tick)
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
    if options.seconds is not None and options.schedule != "constant":
        raise ConfigError(
            f"train.seconds stops at a step that nobody knows beforehand, and train.schedule={options.schedule} needs "
            f"to know it; give train.steps, or train.schedule=constant"
        )


def _check(metrics: Mapping[str, float], step: int, precision: Precision) -> None:
    if not math.isfinite(metrics["train/loss"]):
        cure = "lower train.lr, or set train.clip=1" + (", or train.precision=fp32" if precision != "fp32" else "")
        raise SslxError(f"the loss is not finite (within the steps before step {step}); {cure}")
