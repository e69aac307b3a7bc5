"""Presets `mae-vit-b`, `mae-vit-l` and `mae-vit-h`: the MAE of He et al. (CVPR 2022) for images, a ViT size each.

Pretraining follows Table 8 of the paper's appendix. Sizes, the decoder (Table 1), constants, normalised target patches
and the length are those of the published PyTorch code and its commands; the linear probe is that of Table 10.
`deviations` lists what is not reproduced, docs/methods/mae.md explains it.

Batches of 4,096 are accumulated from 16 of 256. The length is 800 epochs of ImageNet-1k; set `train.steps` and
`train.warmup_steps` for other data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ssl_core import Preset, hookimpl

IMAGENET = 1_281_167  # training images of ImageNet-1k
BATCH, MICRO_BATCH = 4096, 256
EPOCHS, WARMUP_EPOCHS = 800, 40
STEPS_OF_AN_EPOCH = IMAGENET // BATCH  # the last incomplete batch is dropped
PROBE_BATCH, PROBE_RATE = 16_384, 0.1  # the rate is for a batch of 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vit(NamedTuple):
    """A size of ViT: preset, width, blocks, heads, patch, epochs of the linear probe."""

    name: str
    dim: int
    depth: int
    heads: int
    patch: int
    probe_epochs: int


VITS = (
    Vit("mae-vit-b", 768, 12, 12, 16, 90),
    Vit("mae-vit-l", 1024, 24, 16, 16, 50),
    Vit("mae-vit-h", 1280, 32, 16, 14, 50),
)
PROTOCOL: dict[str, Any] = {
    "encoder.mlp_ratio": 4.0, "encoder.qkv_bias": True, "encoder.norm_eps": 1e-6, "encoder.dropout": 0.0,
    "encoder.pool": "cls",
    "objective.depth": 8, "objective.width": 512, "objective.heads": 16, "objective.mlp_ratio": 4.0,
    "objective.qkv_bias": True, "objective.norm_eps": 1e-6, "objective.norm_targets": True,
    "masking.ratio": 0.75,
    "tokenizer.size": 224, "tokenizer.channels": 3, "tokenizer.normalise": "given", "tokenizer.mean": IMAGENET_MEAN,
    "tokenizer.std": IMAGENET_STD, "tokenizer.augment": "crop-flip", "tokenizer.crop_scale": (0.2, 1.0),
    "train.optimizer": "adamw", "train.betas": (0.9, 0.95), "train.weight_decay": 0.05, "train.no_decay": True,
    "train.lr": 1.5e-4 * BATCH / 256, "train.schedule": "cosine", "train.steps": EPOCHS * STEPS_OF_AN_EPOCH,
    "train.warmup_steps": WARMUP_EPOCHS * STEPS_OF_AN_EPOCH, "train.batch_size": MICRO_BATCH,
    "train.accumulate_steps": BATCH // MICRO_BATCH, "train.checkpoint_every": 20 * STEPS_OF_AN_EPOCH,
    "evaluate.linear": "lars", "evaluate.batch_norm": True, "evaluate.batch_size": PROBE_BATCH,
    "evaluate.lr": PROBE_RATE * PROBE_BATCH / 256, "evaluate.weight_decay": 0.0, "evaluate.schedule": "cosine",
    "evaluate.warmup_epochs": 10,
}  # fmt: skip
SOURCE = (
    "He et al., CVPR 2022: Tables 8 (pretraining) and 10 (linear probe), and the published code (sizes, decoder, "
    "targets, 800 epochs)"
)
DEVIATIONS = (
    "images: crops are taken from the picture already resized to 224 x 224 without its aspect ratio; published: from "
    "the picture as it is. For features the whole picture is resized to 224 x 224; published: its shorter side to 256, "
    "then the central 224 x 224",
    "length: train.steps and train.warmup_steps are 800 and 40 epochs of ImageNet-1k's 1,281,167 images; set them for "
    "other data. The released weights are those of 1,600 epochs",
    "precision: bf16 where the hardware supports it, else fp32; published PyTorch code: 16-bit floats, mixed",
    "warm-up: starts at the first step's share of the peak rate; published: at 0",
    "weight decay: cls and mask token have none; in the published code they have it, as they have three axes",
    "the batch of 4,096 is accumulated from 16 micro-batches of 256, and can be divided among GPUs by --processes",
    "linear probe: features of whole images, computed once; published: of random crops and flips drawn in each epoch. "
    "On fewer than 16,384 training images the batch is smaller; lower evaluate.lr in proportion",
    "fine-tuning: the settings of Table 9 are no part of the preset, and mixup, cutmix, random augmentation and "
    "random erasing do not exist",
)


@hookimpl
def register_presets() -> list[Preset]:
    presets = []
    for vit in VITS:
        size = {
            "encoder.dim": vit.dim, "encoder.depth": vit.depth, "encoder.heads": vit.heads,
            "tokenizer.patch": vit.patch, "evaluate.epochs": vit.probe_epochs,
        }  # fmt: skip
        presets.append(Preset(vit.name, PROTOCOL | size, SOURCE, "mae", "image", deviations=DEVIATIONS))
    return presets
