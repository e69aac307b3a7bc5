"""Options of training."""

from __future__ import annotations

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
    accumulate_steps: int = Field(1, ge=1, description="batches whose gradients make one optimiser step")
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
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl, each a mean over these steps")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="checkpoints kept")

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
