"""Presets with the hyper-parameters of the MetaMAE paper (Jang et al., NeurIPS 2023).

`metamae-table8` holds what Table 8 sets for the method and applies automatically. The others apply by name. They hold
the paper's encoder, training and probe, and its data as the published code prepares it; Table 8 applies beneath them:

    metamae                  the paper's protocol
    metamae-shared2          Table 9: one alpha and lambda for all data sets
    metamae-shared3          Table 9: one alpha, lambda and decoder depth for all data sets
    metamae-shared-modality  Table 10: one alpha, lambda, decoder depth and dropout for tokens, and one for RGB images

Text, which the paper does not have, takes the published code's initialisation of embedding tables: Xavier uniform, as
all discrete data here.

Where paper and published code differ is in docs/methods/metamae.md and docs/methods/protocol-differences.md. What
neither preset nor option reproduces is in `deviations`, which `sslx show metamae` prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ssl_core import Preset, hookimpl
from ssl_plugins.presets._benchmark_data import DATASET_OPTIONS, MODALITY_OPTIONS
from ssl_plugins.presets._deviations import METAMAE

# Table 16: 3 x 32 x 32, patch 4 x 4.
IMAGE = {"tokenizer.size": 32, "tokenizer.patch": 4, "tokenizer.channels": 3, "tokenizer.normalise": "none"}
# The published code initialises embedding tables by Xavier uniform.
XAVIER_TABLE = {"tokenizer.init_std": 0.0}
TOKEN_MODALITIES = ("genomics", "protein", "image-text", "text", "multilingual-text")


class Row(NamedTuple):
    """A column of Table 8, and the batch of the probe (Table 16)."""

    column: str
    alpha: float
    contrast_weight: float
    depth: int
    dropout: float
    ratio: float
    batch: int
    probe_batch: int


# By modality and data set; None for any data set of the modality.
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
    "evaluate.token_batches": "samples",
}  # fmt: skip
PROTOCOL_SOURCE = "MetaMAE, Table 7 (encoder) and appendix A (training, probe)"

# Name of the preset, table, values, modalities.
SHARING: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
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


def _method_options(row: Row, objective: str) -> dict[str, Any]:
    """What Table 8 sets for the method; MAE takes the rows that concern it."""
    values = {"objective.depth": row.depth, "encoder.dropout": row.dropout, "masking.ratio": row.ratio}
    return values | (
        {"objective.alpha": row.alpha, "objective.contrast_weight": row.contrast_weight}
        if objective == "metamae"
        else {}
    )


def _data_options(modality: str, row: Row) -> dict[str, Any]:
    """Shapes, normalisation, initial embeddings and batches."""
    values = (MODALITY_OPTIONS | {"image": IMAGE})[modality]
    return values | (XAVIER_TABLE if modality in TOKEN_MODALITIES else {}) | {
        "train.batch_size": row.batch, "evaluate.batch_size": row.probe_batch,
    }  # fmt: skip


def _row_presets(modality: str, dataset: str | None, row: Row) -> Iterator[Preset]:
    """All presets that a column of Table 8 gives rise to."""
    table = f"MetaMAE, Table 8, column {row.column}"
    for objective, part in (("metamae", ""), ("mae", ": decoder depth, dropout, mask ratio")):
        values = _method_options(row, objective)
        yield Preset("metamae-table8", values, table + part, objective, modality, dataset, default=True)
    data = _data_options(modality, row)
    source = f"{table} (batch), and Table 16 (shapes, probe batch), prepared as by the published code"
    yield Preset("metamae", data, source, None, modality, dataset)
    for name, sharing_table, values, modalities in SHARING:
        if modality in modalities:
            source = f"MetaMAE, {sharing_table}; Tables 7, 8, 16 and appendix A (the rest, column {row.column})"
            everything = PROTOCOL | data | values
            yield Preset(name, everything, source, "metamae", modality, dataset, deviations=METAMAE)


def _dataset_presets(modality: str, dataset: str, values: dict[str, Any]) -> Iterator[Preset]:
    """The values of one data set, for each preset that fits its modality."""
    source = "published code of MetaMAE: constants and batch of the data set (docs/methods/protocol-differences.md)"
    yield Preset("metamae", values, source, None, modality, dataset)
    for name, _, _, modalities in SHARING:
        if modality in modalities:
            yield Preset(name, values, source, "metamae", modality, dataset)


@hookimpl
def register_presets() -> list[Preset]:
    presets = [Preset("metamae", PROTOCOL, PROTOCOL_SOURCE, deviations=METAMAE)]
    for (modality, dataset), row in TABLE_8.items():
        presets += _row_presets(modality, dataset, row)
    for (modality, name), values in DATASET_OPTIONS.items():
        presets += _dataset_presets(modality, name, values)
    source = "published code of MetaMAE: Xavier uniform embedding tables"
    for modality in TOKEN_MODALITIES:
        if (modality, None) not in TABLE_8:
            presets.append(Preset("metamae", XAVIER_TABLE, source, None, modality))
    return presets
