"""Short runs on the embedded data of images, signals and tables, sized for a CPU with two cores."""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl

# The MetaMAE paper trains a larger encoder on a hundred times as many samples. On this little data a smaller one learns
# more, in less time.
SMALL: dict[str, Any] = {
    "encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4, "train.lr": 1e-3, "train.warmup_steps": 50,
}  # fmt: skip
BY_MODALITY: dict[str, dict[str, Any]] = {
    "speech": {"train.steps": 300},
    "time-series": {"train.steps": 300},
    "tabular": {"train.steps": 600, "masking.ratio": 0.5},
    "image": {"train.steps": 400, "masking.ratio": 0.7},
    "multispectral": {"train.steps": 300},
    "medical-image": {"train.steps": 500, "masking.ratio": 0.6},
    "wafer": {"train.steps": 300},
}


@hookimpl
def register_presets() -> list[Preset]:
    source = "a small encoder and a short run for the embedded data"
    embedded = [
        Preset(f"demo-{modality}", SMALL | values, source, modality=modality, dataset="synthetic", default=True)
        for modality, values in BY_MODALITY.items()
    ]
    return [
        Preset("small", SMALL, "the encoder of the demo presets, for a few thousand samples of any data"),
        *embedded,
    ]
