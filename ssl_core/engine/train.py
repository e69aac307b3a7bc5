"""The training loop, visible from top to bottom; no callbacks."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_core.contracts import Draws
from ssl_core.data import Batch
from ssl_core.engine import checkpoint
from ssl_core.engine.device import Precision, autocast
from ssl_core.engine.journal import METRICS, Window, append_metrics, trim_metrics
from ssl_core.engine.learner import Learner
from ssl_core.engine.loader import Prepared, batch_index
from ssl_core.engine.seeds import generator, seed_torch
from ssl_core.engine.signals import Signals
from ssl_core.engine.tell import Tell
from ssl_core.errors import SslxError
from ssl_core.options import Options
from ssl_core.tokens import Outcome


class TrainOptions(Options):
    """How the encoder is trained."""

    steps: int = Field(1000, ge=0, description="optimiser steps")
    batch_size: int = Field(64, ge=1, description="samples in a batch")
    lr: float = Field(3e-4, gt=0, description="peak learning rate of AdamW (paper: beta = 1e-4)")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay of AdamW")
    schedule: Literal["constant", "cosine"] = Field("constant", description="rate after warm-up: constant, or to zero")
    warmup: int = Field(0, ge=0, description="steps over which the rate rises linearly")
    clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 = no clipping")
    accumulate: int = Field(1, ge=1, description="batches whose gradients make one optimiser step")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="number format; auto = bf16 where it pays")
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl, each a mean over these steps")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")


class Interrupted(SslxError):
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} at step {step}; saved, go on with --resume")
        self.exit_code = 128 + number


class Log(Protocol):
    """Who hears of metrics besides metrics.jsonl: the notices."""

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None: ...


def make_optimizer(learner: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW, one group, all parameters (protocol section 5)."""
    return torch.optim.AdamW(learner.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)


def rate_at(options: TrainOptions, step: int) -> float:
    """The learning rate of a step, the first being 0."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.schedule == "constant":
        return options.lr
    progress = (step - options.warmup) / max(options.steps - options.warmup, 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * progress))


def forward(
    learner: Learner, batch: Batch, seed: int, number: int, device: torch.device, precision: Precision
) -> Outcome:
    """The loss of the `number`-th batch: a pure function of the weights, the batch, the seed and the number."""
    batch = batch.to(device)
    draws = move(learner.objective.draw(len(batch), generator(seed, "draw", number)), device)
    seed_torch(seed, "step", number)
    with autocast(device, precision):
        return learner(batch.inputs, draws)


def move(draws: Draws, device: torch.device) -> dict[str, Tensor]:
    """Draws on the device."""
    return {name: value.to(device, non_blocking=True) for name, value in draws.items()}


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
) -> float:
    """Train to `options.steps`, from `start` if given. Returns seconds spent, those before `start` included.

    Writes metrics.jsonl and checkpoints into `folder`; `state` goes into each checkpoint. Errors: Interrupted after a
    signal, with everything saved; SslxError if the loss is not finite.
    """
    optimizer = make_optimizer(learner, options)
    window, first, before = Window(), 0, 0.0
    if start is not None:
        checkpoint.load_model(start, learner)
        checkpoint.load_optimizer(start, learner, optimizer)
        first, before = start.step, float(start.state["seconds"])
        window = Window(**start.state["window"])
    trim_metrics(folder / METRICS, first)
    learner.train()
    began = time.perf_counter()

    def save(step: int) -> None:
        window.settle()
        kept = {"count": window.count, "sums": window.sums}
        seconds = before + time.perf_counter() - began
        checkpoint.save(
            folder, step, learner, optimizer, {**state, "seed": seed, "seconds": seconds, "window": kept}, options.keep
        )

    with Signals() as signals, tell.progress("pretraining", options.steps, first) as progress:
        tick, counted = time.perf_counter(), first
        for step in range(first, options.steps):
            rate = rate_at(options, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for part in range(options.accumulate):
                number = step * options.accumulate + part
                index = batch_index(seed, number, len(data), options.batch_size)
                outcome = forward(learner, data.take(index), seed, number, device, precision)
                (outcome.loss / options.accumulate).backward()
                window.add({"loss": outcome.loss, **outcome.metrics})
            norm = nn.utils.clip_grad_norm_(learner.parameters(), options.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            if done % options.log_every == 0 or done == options.steps:
                now = time.perf_counter()
                metrics = window.means()
                speed = (done - counted) * options.batch_size * options.accumulate / (now - tick)
                tick, counted = now, done
                metrics |= {"train/lr": rate, "train/grad_norm": float(norm), "train/samples_per_second": speed}
                _check(metrics, done, precision)
                append_metrics(folder / METRICS, done, metrics)
                log(done, metrics)
                progress.advance(0, **{k: v for k, v in metrics.items() if k not in ("train/lr", "train/grad_norm")})
            progress.advance()
            if signals.caught or done % options.checkpoint_every == 0 or done == options.steps:
                save(done)
            if signals.caught:
                raise Interrupted(signals.caught, done)
    return before + time.perf_counter() - began


def _check(metrics: Mapping[str, float], step: int, precision: Precision) -> None:
    if not math.isfinite(metrics["train/loss"]):
        cure = "lower train.lr, or set train.clip=1" + (", or train.precision=fp32" if precision != "fp32" else "")
        raise SslxError(f"the loss is not finite (within the steps before step {step}); {cure}")
