"""Preset `m3ae`: the recipe of M3AE's published code (Geng et al., arXiv 2205.14204) for images with captions.

It has the size "large", the default of the code, and the values of its README's command for Conceptual 12M. Other
sizes by `--set encoder.dim`, `encoder.depth` and `encoder.heads`: small 384, 12, 6; base 768, 12, 12; huge 1280, 32,
16.
`deviations` lists what is not reproduced, docs/methods/m3ae.md explains it.
"""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl

BATCH, MICRO_BATCH = 4096, 256
PROBE_BATCH, PROBE_RATE = 2048, 0.1  # the rate is for a batch of 256
CC12M_MEAN, CC12M_STD = (0.5762, 0.5503, 0.5213), (0.3207, 0.3169, 0.3307)
VALUES: dict[str, Any] = {
    "encoder.dim": 1024, "encoder.depth": 24, "encoder.heads": 16, "encoder.mlp_ratio": 4.0, "encoder.qkv_bias": True,
    "encoder.act": "gelu_tanh", "encoder.norm_eps": 1e-6, "encoder.dropout": 0.0, "encoder.pool": "cls",
    "objective.depth": 8, "objective.width": 512, "objective.heads": 16, "objective.mlp_ratio": 4.0,
    "objective.qkv_bias": True, "objective.act": "gelu_tanh", "objective.norm_eps": 1e-6, "objective.head_depth": 0,
    "objective.tied": False, "objective.discrete_weight": 0.5, "objective.absent": "zero",
    "objective.unpaired_weight": 0.0,
    "masking.ratio": (0.75,), "masking.shared": True,
    "tokenizer.size": 256, "tokenizer.patch": 16, "tokenizer.channels": 3, "tokenizer.normalise": "given",
    "tokenizer.mean": CC12M_MEAN, "tokenizer.std": CC12M_STD, "tokenizer.augment": "crop-flip",
    "tokenizer.crop_scale": (0.2, 1.0), "tokenizer.length": 64, "tokenizer.init_std": 1.0,
    "train.optimizer": "adamw", "train.betas": (0.9, 0.95), "train.weight_decay": 0.05, "train.no_decay": True,
    "train.lr": 1.5e-4 * BATCH / 256, "train.schedule": "cosine", "train.batch_size": MICRO_BATCH,
    "train.accumulate_steps": BATCH // MICRO_BATCH,
    "evaluate.linear": "lars", "evaluate.batch_norm": True, "evaluate.epochs": 90,
    "evaluate.batch_size": PROBE_BATCH, "evaluate.lr": PROBE_RATE * PROBE_BATCH / 256, "evaluate.weight_decay": 0.0,
    "evaluate.schedule": "cosine", "evaluate.warmup_epochs": 10,
}  # fmt: skip
SOURCE = "published code of M3AE: defaults, and the README's commands for Conceptual 12M and the linear probe"
DEVIATIONS = (
    "length: published 100 epochs with 5 of warm-up (released weights: 50 epochs; default of the code: 200 without); "
    "for n pairs set train.steps to 100 n / 4096 and train.warmup_steps to 5 n / 4096",
    "weight of the text loss: 0.5, as in the README; the default of the published code is 0.1",
    "the batch of 4,096 is accumulated from 16 micro-batches of 256, and can be divided among GPUs by --processes",
    "captions: with the special tokens [CLS] and [SEP]; published: without. tokenizer.file names BERT's vocabulary",
    "images: crops are taken from the picture already resized to 256 x 256 without its aspect ratio; published: from "
    "the picture as it is",
    "constants of the image are those of Conceptual 12M, whatever the data",
    "unpaired text: objective.unpaired_weight, 0 by default as published, adds a pass on the batch's own captions; "
    "published: on a text data set of its own, with 256 ids",
    "image targets: patches; the codes of a VQGAN do not exist here",
    "weight decay: norms have none, and the text table has it; published: the other way round",
    "warm-up: starts at the first step's share of the peak rate; published: at 0",
    "linear probe: on the cls token of image with caption, whole images, computed once; published: of an image-only "
    "model on ImageNet, with random crops and flips. LARS rescales no bias, as in MAE's code, and the layer starts at "
    "N(0, 0.01)",
    "fine-tuning: no part of the preset; mixup, cutmix and label smoothing do not exist",
)


@hookimpl
def register_presets() -> list[Preset]:
    return [Preset("m3ae", VALUES, SOURCE, "m3ae", "image-text", deviations=DEVIATIONS)]
