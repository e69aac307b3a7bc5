"""The DABS benchmark (Tamkin et al., 2021 and 2022) as its published code runs it: preset `dabs`.

DABS fixes encoder, training and probe and leaves the objective free, and so does the preset: it goes with any
objective, and sets options of DABS's own. What it follows, and what not:

- Everything that shaped the published numbers is followed, slips of the objectives' code among them: e-Mix's
  coefficient broadcast over the batch (P18); Capri's softmax over predictions and its loss over unmasked tokens, too,
  with logits that are not normalised, so that it diverges on some data (P21). The objectives as intended are
  their classes' defaults; `--set` brings them back, e.g. `--set objective.coefficient=sample`.
- ShED's label for a single token that cannot move (P36) is not followed: no data set of DABS is so short.
- What only blurred the measurement is not followed: dropout in the frozen encoder while the probe is trained (P19,
  D54), and metrics averaged over batches (P30, D55).
- Not options of the engine: 16-bit mixed precision (bf16 is used where it pays), N(0, 1) for the summary token, which
  its learned position gives it, and for token embeddings (D05, D06), and torch's default start of linear maps.

Natural and medical images are the large ones, 224 x 224. For text name BERT's or XLM-R's vocabulary by
`tokenizer.file` (protocol 2.6, 2.7).
"""

from __future__ import annotations

from typing import Any

from ssl_core import Preset, hookimpl
from ssl_plugins.presets._published import DATA

PROTOCOL = {
    "encoder.dim": 256, "encoder.depth": 12, "encoder.heads": 8, "encoder.head_dim": 64, "encoder.mlp_ratio": 2.0,
    "encoder.dropout": 0.1, "encoder.positions": "learned", "encoder.final_norm": False, "encoder.pool": "all",
    "train.steps": 100_000, "train.lr": 1e-4, "train.weight_decay": 1e-4, "train.checkpoint_every": 20_000,
    "evaluate.linear": "adamw", "evaluate.epochs": 100, "evaluate.lr": 1e-4, "evaluate.weight_decay": 1e-4,
}  # fmt: skip
PROTOCOL_SOURCE = "published code of DABS (protocol 3.1 and 5): encoder, training, probe"

OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "emix": ("protocol 4.4, with the slip P18", {"objective.coefficient": "batch-mean"}),
    "shed": ("protocol 4.5", {"objective.ratio": 0.15}),
    "capri": (
        "protocol 4.6, with the slips P21",
        {
            "masking.ratio": 0.15, "objective.positions": "all", "objective.direction": "predictions",
            "objective.normalise": False,
        },
    ),
    "dabs-mae": ("protocol 4.1", {"masking.ratio": 0.15, "objective.squared": False}),
}  # fmt: skip

LARGE = {"tokenizer.size": 224, "tokenizer.patch": 16, "tokenizer.channels": 3, "tokenizer.normalise": "none"}
TEXT = {"tokenizer.length": 128, "tokenizer.mask_padding": False}

# By modality: pretraining set, where in the protocol, batch, batch of the probe, data.
SETS: dict[str, tuple[str, str, int, int, dict[str, Any]]] = {
    "image": ("ImageNet", "2.1", 64, 64, LARGE),
    "time-series": ("PAMAP2", "2.2", 256, 256, DATA["time-series"]),
    "medical-image": ("CheXpert", "2.3", 64, 64, LARGE),
    "image-text": ("MSCOCO", "2.4", 64, 64, DATA["image-text"]),
    "speech": ("LibriSpeech", "2.5", 64, 64, DATA["speech"]),
    "text": ("WikiText-103", "2.6", 128, 128, TEXT),
    "multilingual-text": ("mC4", "2.7", 128, 128, TEXT),
    "genomics": ("Genomics", "2.8", 32, 64, DATA["genomics"]),
    "protein": ("Pfam", "2.9", 128, 128, DATA["protein"]),
    "tabular": ("HIGGS", "2.10", 256, 256, DATA["tabular"]),
    "multispectral": ("EuroSAT", "2.10", 64, 64, DATA["multispectral"]),
    "wafer": ("WM-811K", "2.10", 128, 128, DATA["wafer"]),
}


@hookimpl
def register_presets() -> list[Preset]:
    presets = [Preset("dabs", PROTOCOL, PROTOCOL_SOURCE)]
    for objective, (where, values) in OBJECTIVES.items():
        presets.append(Preset("dabs", values, f"published code of DABS ({where})", objective))
    for modality, (name, where, batch, probe_batch, data) in SETS.items():
        values = data | {"train.batch_size": batch, "evaluate.batch_size": probe_batch}
        source = f"published code of DABS (protocol {where}): {name}, shapes and batch"
        presets.append(Preset("dabs", values, source, modality=modality))
    return presets
