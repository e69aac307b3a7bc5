"""The MetaMAE paper's numbers (Jang et al., NeurIPS 2023)."""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl

# What Table 8 sets per pretraining data set, for the data sets whose modality is here: alpha, lambda, decoder depth,
# dropout, mask ratio, batch.
TABLE_8: dict[str, tuple[float, float, int, float, float, int]] = {
    "speech": (0.1, 1.0, 4, 0.0, 0.85, 64),
}

# The data as the published code prepares it (protocol 2.5).
DATA: dict[str, dict[str, Any]] = {
    "speech": {
        "tokenizer.n_mels": 224, "tokenizer.frames": 224, "tokenizer.patch": (16, 16),
        "tokenizer.samples": 150_526, "tokenizer.hop": 672, "tokenizer.n_fft": 2048, "tokenizer.win_length": 2048,
        "tokenizer.square": True, "tokenizer.top_db": 80.0, "tokenizer.ref": "absolute",
    },
}  # fmt: skip

LENGTH = {"train.steps": 100_000, "train.lr": 1e-4, "train.weight_decay": 1e-4, "train.checkpoint_every": 10_000}


def _method(objective: str, modality: str) -> dict[str, Any]:
    alpha, lam, depth, dropout, ratio, _ = TABLE_8[modality]
    values = {"objective.depth": depth, "encoder.dropout": dropout, "masking.ratio": ratio}
    return values | ({"objective.alpha": alpha, "objective.lam": lam} if objective == "metamae" else {})


@hookimpl
def register_presets() -> list[Preset]:
    presets = []
    for modality, row in TABLE_8.items():
        for objective in ("metamae", "mae"):
            method = _method(objective, modality)
            source = "MetaMAE, Table 8 (for mae its decoder depth, dropout and mask ratio)"
            presets.append(Preset("metamae-table8", method, source, objective, modality, default=True))
            values = method | LENGTH | DATA[modality] | {"train.batch_size": row[-1], "evaluate.linear": "adam"}
            source = "MetaMAE, Tables 7, 8, 16 and appendix A; the data as its published code prepares it"
            presets.append(Preset("metamae", values, source, objective, modality))
    return presets
