"""Options of the evaluation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ssl_core.options import Options


class EvaluateOptions(Options):
    """How frozen features are scored. Choose options with split=validation; nothing is selected on the test split."""

    split: Literal["test", "validation"] = Field(
        "test", description="split that the final scores are computed on; validation to choose options"
    )
    shared: Literal["keep", "drop"] = Field(
        "keep", description="samples of the scored split that equal a training sample: keep, or drop them from scores"
    )
    probes: tuple[str, ...] = Field(("linear", "knn"), description="probes to fit; see `sslx list probes`")
    probe_options: dict[str, dict[str, Any]] = Field(
        {}, description="options of probes by name and option, as {attentive.epochs = 20}"
    )
    metrics: tuple[str, ...] = Field((), description="metrics besides the task's own; each adds a row of scores")
    linear: Literal["logistic", "adam", "adamw"] = Field(
        "logistic",
        description="linear probe: logistic (L-BFGS on standardised features), adam (MetaMAE's) or adamw (DABS's)",
    )
    c: float = Field(1.0, gt=0, description="logistic: inverse strength of the L2 penalty; ridge uses 1 / c")
    max_iter: int = Field(2000, ge=1, description="logistic: most iterations")
    epochs: int = Field(100, ge=1, description="adam, adamw: epochs")
    batch_size: int = Field(64, ge=1, description="adam, adamw: samples in a batch (per-token tasks: their tokens)")
    lr: float = Field(1e-4, gt=0, description="adam, adamw: learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="adam: coupled L2 penalty; adamw: weight decay")
    k: int = Field(20, ge=1, description="knn: neighbours")
    knn_tokens: int = Field(20_000, ge=1, description="knn: most training tokens of a per-token task, drawn at random")
    knn_train: int | None = Field(
        None, ge=1, description="knn: most training rows, at random; none = as many as the budget of work allows"
    )
    knn_test: int | None = Field(
        None,
        ge=1,
        description="knn: most rows of the scored split, at random; none = as many as the budget of work allows",
    )
    max_train: int | None = Field(None, ge=1, description="most training samples, at random; none = all that fit")
    max_test: int | None = Field(
        None, ge=1, description="most samples of the scored split, at random; none = all that fit"
    )
    seed: int | None = Field(None, description="seed of the probes; none = the run's seed")
    every: int = Field(0, ge=0, description="steps between probes during pretraining; 0 = only at its end")
