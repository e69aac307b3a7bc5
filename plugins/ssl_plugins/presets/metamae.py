"""The MetaMAE paper's numbers (Jang et al., NeurIPS 2023).

`metamae-table8` holds what Table 8 sets for the method and applies unasked. The others are asked for by name and hold
the paper's encoder, training and probe, and its data as the published code prepares it; Table 8 applies beneath them:

    metamae                  the paper's protocol
    metamae-shared2          Table 9: alpha and lambda the same for all data sets
    metamae-shared3          Table 9: alpha, lambda and decoder depth the same for all data sets
    metamae-shared-modality  Table 10: alpha, lambda, decoder depth and dropout the same within tokens, and within RGB

Kept as the paper has it, and not as its code: exactly 100,000 steps (D42). The part of a long clip is tossed for once
and not in each epoch (2.5), PAMAP2's windows are drawn once and not in each epoch (2.2), and AudioMNIST is resampled
for an encoder of 16 kHz (2.5). Not here: the vocabulary of 30,552 (D46), which no tokenizer has. For image and text
the paper has results and numbers, but no code (P06).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ssl_core import Preset, hookimpl
from ssl_plugins.presets._published import DATA, SETS

# Protocol 2.1: small images, 3 x 32 x 32, patch 4 x 4.
IMAGE = {"tokenizer.size": 32, "tokenizer.patch": 4, "tokenizer.channels": 3, "tokenizer.normalise": "none"}


class Row(NamedTuple):
    """A column of Table 8, and the batch of the probe (Table 16)."""

    column: str
    alpha: float
    lam: float
    depth: int
    dropout: float
    ratio: float
    batch: int
    probe_batch: int


# By modality and data set; None for whatever data set of the modality.
TABLE_8: dict[tuple[str, str | None], Row] = {
    ("time-series", None): Row("PAMAP2", 0.5, 1.0, 4, 0.1, 0.85, 256, 256),
    ("tabular", None): Row("HIGGS", 1.0, 1.0, 6, 0.1, 0.50, 256, 256),
    ("multispectral", None): Row("EuroSAT", 0.1, 1.0, 4, 0.0, 0.85, 64, 64),
    ("genomics", None): Row("Genom", 0.1, 0.01, 2, 0.0, 0.50, 32, 64),
    ("protein", None): Row("Pfam", 0.1, 1.0, 4, 0.0, 0.15, 128, 128),
    ("speech", None): Row("Libri", 0.1, 1.0, 4, 0.0, 0.85, 64, 64),
    ("wafer", None): Row("WaferMap", 0.1, 0.1, 6, 0.0, 0.15, 128, 128),
    ("image", None): Row("ImageNet32", 0.1, 0.1, 4, 0.0, 0.85, 64, 64),
    ("image-text", None): Row("MSCOCO", 0.5, 0.1, 2, 0.0, 0.50, 64, 64),
}

PROTOCOL = {
    "encoder.dim": 256, "encoder.depth": 12, "encoder.heads": 8, "encoder.mlp_ratio": 2.0,
    "train.steps": 100_000, "train.lr": 1e-4, "train.weight_decay": 1e-4, "train.precision": "fp32",
    "train.checkpoint_every": 10_000,
    "evaluate.linear": "adam", "evaluate.epochs": 100, "evaluate.lr": 1e-4, "evaluate.weight_decay": 1e-4,
}  # fmt: skip
PROTOCOL_SOURCE = "MetaMAE, Table 7 (encoder) and appendix A (training, probe)"

# Name, tables, what is shared, by which modalities.
SHARED: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
    (
        "metamae-shared2", "Table 9, row '2 shared'", {"objective.alpha": 0.5, "objective.contrast_weight": 0.1},
        ("time-series", "tabular", "multispectral", "genomics", "protein", "speech", "wafer"),
    ),
    (
        "metamae-shared3", "Table 9, row '3 shared'",
        {"objective.alpha": 0.5, "objective.contrast_weight": 0.1, "objective.depth": 4},
        ("time-series", "tabular", "multispectral", "genomics", "protein", "speech", "wafer"),
    ),
    (
        "metamae-shared-modality", "Table 10, tokens",
        {"objective.alpha": 0.1, "objective.contrast_weight": 0.01, "objective.depth": 2, "encoder.dropout": 0.0},
        ("genomics", "protein"),
    ),
    (
        "metamae-shared-modality", "Table 10, RGB",
        {"objective.alpha": 0.1, "objective.contrast_weight": 0.1, "objective.depth": 4, "encoder.dropout": 0.0},
        ("wafer", "image"),
    ),
)  # fmt: skip


def _method(row: Row, objective: str) -> dict[str, Any]:
    values = {"objective.depth": row.depth, "encoder.dropout": row.dropout, "masking.ratio": row.ratio}
    return values | (
        {"objective.alpha": row.alpha, "objective.contrast_weight": row.lam} if objective == "metamae" else {}
    )


def _data(modality: str, row: Row) -> dict[str, Any]:
    return (DATA | {"image": IMAGE})[modality] | {
        "train.batch_size": row.batch, "evaluate.batch_size": row.probe_batch,
    }  # fmt: skip


def _of_row(modality: str, dataset: str | None, row: Row) -> Iterator[Preset]:
    table = f"MetaMAE, Table 8, column {row.column}"
    for objective, what in (("metamae", ""), ("mae", ": decoder depth, dropout, mask ratio")):
        values = _method(row, objective)
        yield Preset("metamae-table8", values, table + what, objective, modality, dataset, default=True)
    source = f"{table} (batch), and Table 16 (shapes, probe batch), prepared as by the published code"
    yield Preset("metamae", _data(modality, row), source, None, modality, dataset)
    for name, shared, values, modalities in SHARED:
        if modality in modalities:
            source = f"MetaMAE, {shared}; Tables 7, 8, 16 and appendix A (the rest, column {row.column})"
            yield Preset(name, PROTOCOL | _data(modality, row) | values, source, "metamae", modality, dataset)


def _of_set(modality: str, dataset: str, values: dict[str, Any]) -> Iterator[Preset]:
    """What belongs to one data set, in each preset that fits its modality."""
    source = "published code of MetaMAE (protocol 2.5, 2.8, 2.10, Table 16): constants and batch of the set"
    yield Preset("metamae", values, source, None, modality, dataset)
    for name, _, _, modalities in SHARED:
        if modality in modalities:
            yield Preset(name, values, source, "metamae", modality, dataset)


@hookimpl
def register_presets() -> list[Preset]:
    presets = [Preset("metamae", PROTOCOL, PROTOCOL_SOURCE)]
    for (modality, dataset), row in TABLE_8.items():
        presets += _of_row(modality, dataset, row)
    for (modality, name), values in SETS.items():
        presets += _of_set(modality, name, values)
    return presets
