"""Options of the evaluation."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
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
    readout: Literal["last", "layers", "layers+stats"] = Field(
        "last",
        description="features of the encoder: last = mean over tokens of the last layer (the papers'); layers = means "
        "of all layers; layers+stats = also deviation and maximum of the last layer over tokens",
    )
    postprocess: Literal["none", "standardise", "whiten"] = Field(
        "none",
        description="features as they are, standardised, or PCA-whitened, with constants of the training split; of "
        "probes of token features: as they are",
    )
    components: int = Field(64, ge=1, description="postprocess=whiten: most principal components")
    select: bool = Field(
        False,
        description="add a row 'selected': for each kind of features, the probe and post-processing that are best on "
        "validation samples, and never on those that are scored",
    )
    lidar_views: int = Field(
        0,
        ge=0,
        description="health: random halves of the tokens of each sample for LiDAR, from 2 on, such as 10; each costs a "
        "forward pass over the samples of the health; 0 = no LiDAR",
    )
    classical: bool = Field(
        False,
        description="add a column 'classical': hand-made features of the raw samples, such as spectra and counts, "
        "where the tokenizer has some, and boosted trees on them",
    )
    metrics: tuple[str, ...] = Field((), description="metrics besides the task's own; each adds a row of scores")
    linear: Literal["logistic", "adam", "adamw", "lars"] = Field(
        "logistic",
        description="linear probe: logistic (L-BFGS on standardised features), adam (MetaMAE's), adamw (DABS's) or "
        "lars (MAE's, M3AE's)",
    )
    c: float = Field(1.0, gt=0, description="logistic: inverse strength of the L2 penalty; ridge uses 1 / c")
    max_iter: int = Field(2000, ge=1, description="logistic: most iterations")
    epochs: int = Field(100, ge=1, description="adam, adamw, lars: epochs")
    batch_size: int = Field(64, ge=1, description="adam, adamw, lars: samples in a batch")
    token_batches: Literal["tokens", "samples"] = Field(
        "tokens",
        description="adam, adamw, lars, in per-token tasks: tokens = a batch is as many tokens as batch_size samples "
        "have, drawn from all samples; samples = all tokens of batch_size samples, as in DABS's and MetaMAE's code",
    )
    lr: float = Field(1e-4, gt=0, description="adam, adamw, lars: learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="adam, lars: coupled L2 penalty; adamw: weight decay")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="adam, adamw, lars: rate after warm-up: constant, or a cosine to zero (MAE)"
    )
    warmup_epochs: int = Field(0, ge=0, description="adam, adamw, lars: epochs over which the rate rises (MAE: 10)")
    batch_norm: bool = Field(
        False, description="adam, adamw, lars: BatchNorm without scale and offset before the layer (MAE, M3AE)"
    )
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
    figures: bool = Field(
        True, description="maps of the features, predictions and nearest neighbours in report.html; false = leave out"
    )
    map: Literal["pca", "umap"] = Field(
        "pca", description="map of the features in report.html: two principal components, or UMAP (extra umap)"
    )
    every: int = Field(0, ge=0, description="steps between probes during pretraining; 0 = only at its end")

    @pydantic.field_validator("lidar_views")
    @classmethod
    def _views_can_differ(cls, value: int) -> int:
        if value == 1:
            raise ValueError("evaluate.lidar_views=1: LiDAR compares views of a sample; give 2 or more, or 0")
        return value

    @pydantic.model_validator(mode="after")
    def _warmup_is_shorter(self) -> EvaluateOptions:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"evaluate.warmup_epochs={self.warmup_epochs} must be less than evaluate.epochs")
        return self
