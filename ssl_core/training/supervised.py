"""Training on labels: which parameters train, the loop with early stopping, scores of a split."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_core.contracts import Tokenizer
from ssl_core.data import Batch, Task
from ssl_core.errors import ConfigError, SslxError
from ssl_core.evaluation.protocols import rows_of
from ssl_core.nn.task_head import TaskHead
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.sampler import batch_index
from ssl_core.training.device import Precision, autocast
from ssl_core.training.lora import add_lora, merge_lora
from ssl_core.training.optim import layer_numbers, make_optimizer
from ssl_core.training.options import FinetuneOptions, TrainOptions
from ssl_core.training.schedule import set_rate
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import generator, seed_torch

RATE, FAST_RATE = 5e-4, 2e-3
"""Peak learning rates: of whole encoders, and of heads and adapters alone."""
SCORE_BATCH = 256


class TaskModel(nn.Module):
    """What is trained: an encoder and a head. `forward` maps preprocessed inputs to the head's scores.

    Attributes:
        encoder: tokenizer and encoder as one module, `runs.encoder.PretrainedEncoder`.
        head: features to scores.
    """

    encoder: Any
    head: TaskHead

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.head.task


@dataclass(frozen=True)
class LabelledRows:
    """Labelled samples by their numbers in a preprocessed split."""

    split: PreprocessedSplit
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """(n, ...) the labels as they are saved."""
        assert self.split.labels is not None
        return np.asarray(self.split.labels[self.rows])

    def subset(self, index: np.ndarray) -> LabelledRows:
        """The samples at `index` among these."""
        return LabelledRows(self.split, self.rows[index])

    def sweep(self, size: int) -> Iterator[Batch]:
        """All samples in order."""
        return self.split.sweep(size, self.rows)

    def take(self, index: np.ndarray) -> Batch:
        """The samples at `index` among these."""
        return self.split.take(self.rows[index])


@dataclass(frozen=True)
class FitSetting:
    """Seed of all randomness, device, number format of training, console, and the title of the progress bar."""

    seed: int
    device: torch.device
    precision: Precision = "fp32"
    console: Console = field(default_factory=Console)
    title: str = "fine-tuning"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on the validation split: step, seconds of training, losses, and the task's metric.

    train_loss: mean of the steps since the one before; None at step 0. value: None where the metric is undefined.
    """

    step: int
    seconds: float
    train_loss: float | None
    validation_loss: float
    value: float | None


@dataclass(frozen=True)
class FitResult:
    """Optimiser steps done, seconds, the evaluations, and the one whose weights were kept."""

    steps: int
    seconds: float
    curve: tuple[Evaluation, ...]
    best: Evaluation
    trained: int
    """Number of parameters that were trained."""


class Parts(nn.Module):
    """Tokenizer, encoder and head under the names by which parameter groups are made. Shares the weights."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.head = model.encoder.tokenizer, model.encoder.encoder, model.head


def choose_trained(parts: Parts, options: FinetuneOptions) -> Any:
    """Mark the parameters that train, by `options.train`. The head always trains.

    Returns:
        peft's tuner with train=lora, else None.

    Raises:
        ConfigError: the encoder has no numbered blocks, or fewer than asked for; or peft is missing.
    """
    whole = options.train == "all"
    for module in (parts.tokenizer, parts.encoder):
        module.requires_grad_(whole)
    parts.head.requires_grad_(True)
    if options.train == "lora":
        return add_lora(parts.encoder, options.lora_rank, options.lora_alpha)
    if options.last is not None:
        layers = layer_numbers(parts)
        depth = max(layers.values(), default=1) - 1
        if options.last > depth:
            has = f"the encoder has {depth} blocks" if depth else "the encoder has no numbered blocks"
            cure = f"give --train last:{depth} or less" if depth else "use --train all or head"
            raise ConfigError(f"--train {options.train}: {has}; {cure}")
        for name, parameter in parts.named_parameters():
            parameter.requires_grad_(layers[name] > depth - options.last)
    return None


def rate_of(options: FinetuneOptions, scratch: bool) -> float:
    """The peak learning rate."""
    own = options.lr or (FAST_RATE if options.train in ("head", "lora") else RATE)
    if not scratch:
        return own
    return options.scratch_lr or (own if options.train == "all" else RATE)


def rate_share(options: FinetuneOptions, progress: float) -> float:
    """The rate as a share of its peak: linear warm-up, then a cosine to zero. progress: in [0, 1]."""
    if progress < options.warmup:
        return progress / options.warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - options.warmup) / (1 - options.warmup)))


def fit(
    model: TaskModel,
    train: LabelledRows,
    validation: LabelledRows,
    options: FinetuneOptions,
    setting: FitSetting,
    scratch: bool = False,
) -> FitResult:
    """Train a model in place and leave it with the weights that were best on the validation split.

    Better is a better value of the task's metric or, where it is equal or undefined, a lower loss; of a number to
    predict it is the lower loss alone. The weights before training count as well, though not for the patience. The
    result depends on the arguments alone, unless `options.max_seconds` ends the training.

    Args:
        model: on the setting's device.
        train: the samples that the gradient is computed on.
        validation: the samples that decide when to stop and which weights are kept.
        options: how to train.
        setting: seed, device, precision, console.
        scratch: the encoder has fresh weights: all of it trains, at one rate.

    Raises:
        ConfigError: the parameters to train do not exist, or peft is missing.
        SslxError: the loss is not finite.
    """
    peak = rate_of(options, scratch)
    if scratch:
        options = options.model_copy(update={"train": "all", "layer_decay": None})
    parts = Parts(model).to(setting.device)
    with torch.random.fork_rng(devices=[setting.device] if setting.device.type == "cuda" else []):
        seed_torch(setting.seed, "finetune-init")
        tuner = choose_trained(parts, options)
        try:
            return _train(model, parts, (train, validation), options, setting, peak)
        finally:
            if tuner is not None:
                merge_lora(tuner)
            parts.requires_grad_(True)


def _train(
    model: TaskModel,
    parts: Parts,
    data: tuple[LabelledRows, LabelledRows],
    options: FinetuneOptions,
    setting: FitSetting,
    peak: float,
) -> FitResult:
    train, validation = data
    steps, size = options.count_steps(len(train)), min(options.batch_size, len(train))
    every = max(1, round(steps / options.evaluations))
    optimizer = make_optimizer(parts, _train_options(parts, options, peak, steps))
    trained = {name: p for name, p in parts.named_parameters() if p.requires_grad}
    tokenizer = _augmenting(model)
    began, losses, step, bad = time.perf_counter(), list[Tensor](), 0, 0
    limit = options.max_seconds or math.inf
    best = _evaluate(model, validation, setting, (0, 0.0, None))
    curve, kept = [best], _copy(parts, trained)
    reached: tuple[float, float] | None = None
    with setting.console.progress(setting.title, steps) as bar:
        while step < steps and bad < options.patience:
            elapsed = time.perf_counter() - began
            progress = max((step + 1) / (steps + 1), min(elapsed / limit, 1.0))
            set_rate(optimizer, peak * rate_share(options, progress))
            batch = train.take(batch_index(setting.seed, step, len(train), size))
            inputs, labels = _augmented(tokenizer, batch, setting, step)
            seed_torch(setting.seed, "finetune-step", step)
            parts.train()
            if options.train == "head":
                parts.tokenizer.eval()
                parts.encoder.eval()
            with autocast(setting.device, setting.precision):
                scores = model(inputs)
            loss = model.head.loss(scores.float(), labels)
            loss.backward()
            if options.grad_clip:
                nn.utils.clip_grad_norm_(trained.values(), options.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            step += 1
            bar.advance(1)
            seconds = time.perf_counter() - began
            if step % every and step < steps and seconds < limit:
                continue
            mean = float(torch.stack(losses).mean())
            losses.clear()
            if not math.isfinite(mean):
                raise SslxError(f"the loss is not finite by step {step}; lower --lr (now {peak:g})")
            now = _evaluate(model, validation, setting, (step, seconds, mean))
            curve.append(now)
            key = _key(model.task, now)
            if key > _key(model.task, best):
                best, kept = now, _copy(parts, trained)
            # not compared with step 0: the first steps are often worse than the head of the probe
            if reached is None or key > reached:
                reached, bad = key, 0
            else:
                bad += 1
            if seconds >= limit:
                break
    _restore(parts, trained, kept)
    count = sum(parameter.numel() for parameter in trained.values())
    return FitResult(step, time.perf_counter() - began, tuple(curve), best, count)


def _train_options(parts: Parts, options: FinetuneOptions, peak: float, steps: int) -> TrainOptions:
    """The options that the optimiser reads. Rates do not fall from block to block where there are no blocks."""
    decay = options.layer_decay if options.train == "all" or options.last else None
    return TrainOptions(
        steps=steps, lr=peak, weight_decay=options.weight_decay, no_decay=True,
        layer_decay=decay if layer_numbers(parts) else None,
    )  # fmt: skip


def _augmenting(model: TaskModel) -> Tokenizer | None:
    """The tokenizer if it crops or augments training samples; labels of tokens would not move with them."""
    tokenizer: Tokenizer = model.encoder.tokenizer
    changes = tokenizer.augments or type(tokenizer).crop is not Tokenizer.crop
    return tokenizer if changes and not model.task.per_token else None


def _augmented(
    tokenizer: Tokenizer | None, batch: Batch, setting: FitSetting, step: int
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Inputs and labels of a training step on the device, cropped and augmented as in pretraining."""
    size = len(batch)
    if tokenizer is not None and type(tokenizer).crop is not Tokenizer.crop:
        crop = tokenizer.draw_crop(size, generator(setting.seed, "crop", step))
        batch = Batch(dict(tokenizer.crop(batch.inputs, crop)), batch.label)
    batch = batch.to(setting.device)
    assert batch.label is not None
    if tokenizer is None or not tokenizer.augments:
        return batch.inputs, batch.label
    draws = tokenizer.draw_view(size, generator(setting.seed, "view", step))
    return tokenizer.view(batch.inputs, {name: d.to(setting.device) for name, d in draws.items()}), batch.label


def _key(task: Task, evaluation: Evaluation) -> tuple[float, float]:
    """The better evaluation has the larger key. Of numbers the loss decides: correlations ignore offset and scale."""
    from ssl_core.evaluation.metrics import METRICS  # scikit-learn takes a second to import

    sign = 1 if METRICS[task.metric].higher_is_better else -1
    value = evaluation.value
    loss = evaluation.validation_loss
    if task.kind == "number":
        value = None
    return (-math.inf if value is None else sign * value), (-loss if math.isfinite(loss) else -math.inf)


def _copy(parts: Parts, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in (*trained.items(), *parts.named_buffers())}


@torch.no_grad()
def _restore(parts: Parts, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    for name, value in (*trained.items(), *parts.named_buffers()):
        value.copy_(kept[name])


def _evaluate(
    model: TaskModel, validation: LabelledRows, setting: FitSetting, at: tuple[int, float, float | None]
) -> Evaluation:
    """Loss and metric of the validation samples."""
    from ssl_core.evaluation.metrics import measure

    with autocast(setting.device, setting.precision):
        scores = predict_scores(model, validation, setting.device)
    labels = torch.from_numpy(validation.labels).to(setting.device)
    with torch.no_grad():
        loss = float(model.head.loss(torch.from_numpy(scores).to(setting.device), labels))
    scores, labels_, sample = counted_rows(model.task, scores, validation.labels, "validation")
    finite = bool(np.isfinite(scores).all())
    value = measure(model.task, scores, labels_, sample if model.task.per_token else None).value if finite else None
    return Evaluation(*at, loss, value)


@torch.no_grad()
def predict_scores(model: TaskModel, data: LabelledRows, device: torch.device) -> np.ndarray:
    """float32 scores of all samples in order, in evaluation mode."""
    training = model.training
    model.eval()
    try:
        parts = [model(batch.to(device).inputs).float().cpu().numpy() for batch in data.sweep(SCORE_BATCH)]
    finally:
        model.train(training)
    return np.concatenate(parts)


def counted_rows(
    task: Task, scores: np.ndarray, labels: np.ndarray, split: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and labels as rows of `evaluation.metrics`, without ignored entries, and the sample of each row.

    Raises:
        DataError: the labels do not fit the task, or none counts.
    """
    rows = rows_of(task, scores[..., None] if task.kind == "number" else scores, labels, split)
    return (rows.x[:, 0] if task.kind == "number" else rows.x), rows.y, rows.sample
