"""Options of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_core.options import Options

CompileChoice = Literal["auto", "on", "off"]


class TrainOptions(Options):
    """How the encoder is trained."""

    steps: int = Field(1000, ge=0, description="optimiser steps")
    max_seconds: float | None = Field(
        None, gt=0, description="stop after so many seconds of training, should the steps not be done by then"
    )
    batch_size: int = Field(64, ge=1, description="samples in a batch")
    lr: float = Field(3e-4, gt=0, description="peak learning rate of AdamW (paper: beta = 1e-4)")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay of AdamW")
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
    log_every: int = Field(10, ge=1, description="steps between lines of metrics.jsonl, each a mean over these steps")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="checkpoints kept")
