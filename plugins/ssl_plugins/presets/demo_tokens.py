"""Short runs on the embedded texts, sequences and captions, sized for a CPU with two cores."""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl

SMALL: dict[str, Any] = {
    "encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4, "train.lr": 1e-3, "train.warmup_steps": 50,
    "train.steps": 1000,
}  # fmt: skip
BY_MODALITY: dict[str, dict[str, Any]] = {
    "text": {"tokenizer.length": 24, "tokenizer.vocab_size": 128, "masking.ratio": 0.3},
    "multilingual-text": {"tokenizer.length": 24, "tokenizer.vocab_size": 1024, "masking.ratio": 0.3},
    "genomics": {"masking.ratio": 0.3},
    "protein": {"dataset.length": 64, "tokenizer.length": 64, "masking.ratio": 0.3, "train.steps": 700},
    "image-text": {
        "tokenizer.patch": 8, "tokenizer.length": 6, "tokenizer.vocab_size": 64, "masking.ratio": 0.5,
    },
}  # fmt: skip


@hookimpl
def register_presets() -> list[Preset]:
    source = "a small encoder and a short run for the embedded data"
    return [
        Preset(f"demo-{modality}", SMALL | values, source, modality=modality, dataset="synthetic", default=True)
        for modality, values in BY_MODALITY.items()
    ]
