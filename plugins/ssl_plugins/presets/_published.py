"""How the published code of DABS and of MetaMAE treats the data alike, by modality (protocol sections 2.0 to 2.11)."""

from __future__ import annotations

from typing import Any

# Where both differ (natural images: 224 or 32 pixels, D51), the preset's own file says so.
DATA: dict[str, dict[str, Any]] = {
    "speech": {  # 2.5: 1 x 224 x 224, patch 16 x 16
        "tokenizer.n_mels": 224, "tokenizer.frames": 224, "tokenizer.patch": (16, 16),
        "tokenizer.samples": 150_526, "tokenizer.hop": 672, "tokenizer.n_fft": 2048, "tokenizer.win_length": 2048,
        "tokenizer.square": True, "tokenizer.top_db": 80.0, "tokenizer.ref": "absolute",
        "tokenizer.padding": "content",
    },
    # 2.2: 52 x 320, patch 5, raw units
    "time-series": {"tokenizer.length": 320, "tokenizer.patch": 5, "tokenizer.normalise": "none"},
    # 2.10: 28 raw numbers through one shared map
    "tabular": {"tokenizer.normalise": "none", "tokenizer.weights": "shared"},
    # 2.10: 13 x 64 x 64, patch 8 x 8, each band by its own mean and deviation
    "multispectral": {"tokenizer.size": 64, "tokenizer.patch": 8, "tokenizer.normalise": "measured"},
    # 2.10: grey levels in three channels, 32 x 32, patch 4 x 4
    "wafer": {
        "tokenizer.size": 32, "tokenizer.patch": 4, "tokenizer.channels": 3, "tokenizer.normalise": "none",
    },
    "genomics": {"tokenizer.length": 250},  # 2.8
    # 2.9: 128 residues, padding is a letter like any other (D22)
    "protein": {"tokenizer.length": 128, "tokenizer.pad": "X", "tokenizer.mask_padding": False},
    # 2.4: 3 x 224 x 224, patch 16 x 16, and 32 ids, padding among them (D22)
    "image-text": {
        "tokenizer.size": 224, "tokenizer.patch": 16, "tokenizer.channels": 3, "tokenizer.normalise": "none",
        "tokenizer.length": 32, "tokenizer.mask_padding": False,
    },
}  # fmt: skip
