"""Options of training and of fine-tuning, and of the weights that training starts from."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ssl_core.errors import nearest
from ssl_core.options import Options

NATIVE_OPTIMIZERS = ("adamw", "adam", "sgd")
"""Optimisers that are made by torch; every other name is one of timm's factory."""

CompileChoice = Literal["auto", "on", "off"]


class TrainOptions(Options):
    """How the encoder is trained."""

    steps: int = Field(1000, ge=0, description="optimiser steps")
    max_seconds: float | None = Field(
        None, gt=0, description="stop after so many seconds of training, should the steps not be done by then"
    )
    start_after: int | None = Field(
        None, ge=1, description="preprocess so many samples, then train while the rest is preprocessed; none = all"
    )
    batch_size: int = Field(64, ge=1, description="samples in a batch")
    optimizer: str = Field("adamw", description="adamw, adam, sgd, or a name of timm.optim.list_optimizers()")
    lr: float = Field(3e-4, gt=0, description="peak learning rate (MetaMAE paper: beta = 1e-4)")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay; decoupled with adamw, an L2 penalty with adam")
    betas: tuple[float, float] | None = Field(
        None, description="decay rates of running means; none = the optimiser's own (adamw, adam: 0.9, 0.999)"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and of timm's optimisers that have one")
    no_decay: bool = Field(False, description="no weight decay for biases, norms, cls and mask tokens, position tables")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor on the rate per encoder block from the top down; none = the same rate"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="rate after warm-up: constant, or to zero")
    warmup_steps: int = Field(0, ge=0, description="steps over which the rate rises linearly")
    grad_clip: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 = no clipping")
    accumulate_steps: int = Field(1, ge=1, description="micro-batches of train.batch_size in one optimiser step")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="number format; auto = bf16 where it pays")
    compile: CompileChoice = Field(
        "auto", description="compile the step whole; auto = where it pays for the planned steps, decided beforehand"
    )
    cuda_graph: bool = Field(
        True, description="on CUDA, record a step once and replay it whole (not with train.accumulate_steps)"
    )
    cpu_matmul: bool = Field(
        True, description="in compiled steps on the CPU, rewrite matrix products into the form that is fastest there"
    )
    keep_freed_memory: bool = Field(
        True, description="with glibc, keep freed memory for the next step, in huge pages where the system offers them"
    )
    shard: Literal["none", "encoder"] = Field(
        "none",
        description="with several processes, divide parameters, gradients and optimiser state of the encoder among "
        "them (FSDP2): less memory, and more is sent",
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop",
        description="if loss or gradient is not finite: stop, and save the state before the step for `sslx replay`; or "
        "skip the step",
    )
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl, each a mean over these steps")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="checkpoints kept")
    keep_best: bool = Field(
        False,
        description="also keep the weights with the best score of the first probe on the validation split; needs "
        "evaluate.every and a validation split",
    )

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NATIVE_OPTIMIZERS:
            from timm.optim import list_optimizers  # timm takes a second to import and is rarely needed here

            known = {*NATIVE_OPTIMIZERS, *map(str, list_optimizers())}
            if name not in known:
                raise ValueError(f"unknown optimizer; {nearest(name, known, 'optimizer')}")
        return name

    @field_validator("betas")
    @classmethod
    def _between_zero_and_one(cls, betas: tuple[float, float] | None) -> tuple[float, float] | None:
        if betas is not None and not all(0 <= beta < 1 for beta in betas):
            raise ValueError("each must be at least 0 and less than 1")
        return betas


class FinetuneOptions(Options):
    """How a trained encoder is fine-tuned on labels."""

    train: str = Field(
        "all", description="what is trained beside the head: all, last:N (the last N blocks), lora, or head (nothing)"
    )
    epochs: float = Field(30, gt=0, description="passes over the labelled training samples, within min and max steps")
    min_steps: int = Field(200, ge=1, description="fewest optimiser steps that epochs stands for")
    max_steps: int = Field(1000, ge=1, description="most optimiser steps that epochs stands for")
    steps: int | None = Field(None, ge=1, description="optimiser steps in place of epochs")
    max_seconds: float | None = Field(None, gt=0, description="end each training after so many seconds at the latest")
    batch_size: int = Field(32, ge=1, description="samples in a batch")
    lr: float | None = Field(
        None, gt=0, description="peak learning rate; none = 5e-4, and 2e-3 where only head or adapters are trained"
    )
    scratch_lr: float | None = Field(
        None, gt=0, description="peak rate of the same network from scratch; none = lr with train=all, else 5e-4"
    )
    layer_decay: float | None = Field(
        0.75, gt=0, le=1, description="factor on the rate per encoder block from the top down; none = the same rate"
    )
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay of matrices")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises linearly")
    grad_clip: float = Field(1.0, ge=0, description="largest norm of the gradient; 0 = no clipping")
    evaluations: int = Field(20, ge=1, description="evaluations on the validation split, evenly spaced over the steps")
    patience: int = Field(8, ge=1, description="evaluations without a better one of this training after which it ends")
    max_validation: int = Field(
        2000, ge=1, description="most validation samples of an evaluation, a share of each class drawn by the seed"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="weights of the loss: balanced = inverse to the counts of classes, or of 0 and 1 of labels"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each class label given to all classes")
    head_init: Literal["probe", "random"] = Field(
        "probe",
        description="first weights of the head: those of the linear probe (LP-FT), or random; scratch is random",
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head")
    layers: tuple[int, ...] = Field(
        (), description="encoder layers from 1 whose outputs the head reads side by side; none = the encoder's output"
    )
    lora_rank: int = Field(8, ge=1, description="train=lora: rank of the adapters")
    lora_alpha: float = Field(16, gt=0, description="train=lora: the adapters are scaled by lora_alpha / lora_rank")
    validation_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the training split for early stopping where no split is for it",
    )

    @field_validator("train")
    @classmethod
    def _known_part(cls, text: str) -> str:
        if not re.fullmatch(r"all|head|lora|last:[1-9]\d*", text):
            raise ValueError("give all, last:N with N from 1, lora or head")
        return text

    @property
    def last(self) -> int | None:
        """N of train=last:N, else None."""
        return int(self.train.removeprefix("last:")) if self.train.startswith("last:") else None

    def count_steps(self, samples: int) -> int:
        """Optimiser steps for a number of training samples."""
        if self.steps is not None:
            return self.steps
        wanted = math.ceil(self.epochs * samples / min(self.batch_size, samples))
        return max(min(wanted, self.max_steps), min(self.min_steps, self.max_steps))


class InitOptions(Options):
    """Where the weights come from that a run starts with: random numbers, or an earlier run or encoder."""

    source: str | None = Field(
        None,
        description="start from these weights: folder of a run or of a saved encoder, or a ViT of timm or transformers "
        "(a folder, .safetensors, .pth or .bin); none = random numbers",
    )
    constants: Literal["keep", "measure"] = Field(
        "keep",
        description="what the tokenizer computed from the data of the source, such as mean, scale, vocabulary, columns "
        "and categories: keep, or measure anew; entries of a vocabulary are then matched by name",
    )
    tokenizer: Literal["auto", "load", "fresh"] = Field(
        "auto", description="weights of the tokenizer: load; fresh = initialise them; auto = load, if it is the same"
    )
    objective: Literal["auto", "fresh"] = Field(
        "auto", description="weights of the objective, such as a decoder: auto = load those that fit, if it is the same"
    )
    positions: Literal["auto", "interpolate", "extend"] = Field(
        "auto",
        description="learned positions of another grid: interpolate; extend = keep those of the same number, and "
        "initialise further ones; auto = interpolate with two axes or more, extend with one",
    )
    digest: str | None = Field(
        None, description="digest of the weights of the source; the run records it, and refuses other weights"
    )
    distill: str | None = Field(
        None,
        description="self-distillation (Lee et al., ICLR 2023): folder of a run that began from the same weights and "
        "was trained on this data; features are drawn towards those of its encoder",
    )
    distill_weight: float = Field(1.0, gt=0, description="weight of the distillation loss (Lee et al.: 1)")
    distill_on: Literal["pool", "cls"] = Field(
        "pool", description="features that are compared: as encoder.pool says, or the cls token (Lee et al.'s code)"
    )

    @field_validator("source", "distill")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        """Resolve the path, so that a saved configuration works from another folder."""
        return None if value is None else str(Path(value).expanduser().absolute())
