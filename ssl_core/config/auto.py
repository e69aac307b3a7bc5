"""The preset `auto`: size of the encoder, learning rate, batch and steps by the amount of data.

A pure rule: it knows the number of training samples and nothing else of the data. docs/inspect.md shows the table and
what it was chosen from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ssl_core.config.schema import Part, RunConfig
from ssl_core.contracts import Dataset, Objective
from ssl_core.pipeline.memory import MEMORY

AUTO = "auto"
"""The name of the preset."""
DEFAULT = "default"
"""The name that stands for no other preset than those that apply automatically."""
ENCODER = "transformer"
"""The encoder whose size is chosen."""
SIZE = ("encoder.dim", "encoder.depth", "encoder.heads")
PATHS = (*SIZE, "train.lr", "train.warmup_steps", "train.batch_size", "train.steps")
"""The options that the preset may set."""
FEWEST_STEPS = 300
EPOCHS = 20
"""Passes over the data, between `FEWEST_STEPS` and the row's limit."""
SHORT = 600.0
"""Seconds of training below which a large encoder is not trained far enough."""
LARGEST_BATCH, BATCHES = 64, 4
"""Samples of a batch, and least number of batches in a pass over the data."""
SMALLEST_BATCH = 8


class Row(NamedTuple):
    """What holds for data of fewer than `below` training samples; None = any number."""

    below: int | None
    dim: int
    depth: int
    heads: int
    lr: float
    most_steps: int


TABLE = (
    Row(500, 64, 3, 4, 1e-3, 500),
    Row(20_000, 128, 4, 4, 1e-3, 2_000),
    Row(200_000, 192, 6, 6, 5e-4, 5_000),
    Row(None, 256, 12, 8, 3e-4, 20_000),
)
"""The rule, smallest data first. The last row is the encoder of the MetaMAE paper (Table 7)."""


def auto_values(samples: int, max_seconds: float | None = None) -> dict[str, Any]:
    """The values of the preset by option path, for a number of training samples and a limit on the training time.

    With a limit below `SHORT` seconds the encoder is at most that of the second row.

    The batch is the largest power of two that leaves `BATCHES` batches in a pass over the data, between
    `SMALLEST_BATCH` and `LARGEST_BATCH`. The steps are `EPOCHS` passes, in two digits, at least `FEWEST_STEPS` and at
    most those of the row.
    """
    row = next(row for row in TABLE if row.below is None or samples < row.below)
    if max_seconds is not None and max_seconds < SHORT and row.depth > TABLE[1].depth:
        row = TABLE[1]
    batch = SMALLEST_BATCH
    while 2 * batch <= LARGEST_BATCH and 2 * batch * BATCHES <= samples:
        batch *= 2
    steps = min(max(FEWEST_STEPS, int(float(f"{EPOCHS * samples / batch:.2g}"))), row.most_steps)
    return {
        "encoder.dim": row.dim, "encoder.depth": row.depth, "encoder.heads": row.heads, "train.lr": row.lr,
        "train.warmup_steps": min(50, steps // 10), "train.batch_size": batch, "train.steps": steps,
    }  # fmt: skip


def is_own_data(dataset: type[Dataset]) -> bool:
    """Whether a data set class reads data of the user: in memory, or at a `root` that must be given."""
    root = dataset.Options.model_fields.get("root")
    return dataset.name == MEMORY or (root is not None and root.is_required())


def open_paths(encoder: str, taken: Collection[str]) -> tuple[str, ...]:
    """The options that the preset sets: those that neither the user nor a published preset has set.

    Width and heads belong together: if one is set, both stay.

    Args:
        encoder: the name of the encoder; the size of another than `ENCODER` stays.
        taken: paths that are set.
    """
    closed = set(taken)
    if encoder != ENCODER:
        closed |= set(SIZE)
    if closed & {"encoder.dim", "encoder.heads"}:
        closed |= {"encoder.dim", "encoder.heads"}
    return tuple(path for path in PATHS if path not in closed)


def apply_auto(config: RunConfig, objective: type[Objective], samples: int) -> RunConfig:
    """The configuration with the preset's values for its open options, and a line on them; the same if none is open.

    Args:
        config: a configuration; `config.auto` names the open options.
        objective: its objective, which may read layers of the encoder that a small one lacks.
        samples: number of training samples.
    """
    if not config.auto:
        return config
    values = {
        path: value for path, value in auto_values(samples, config.train.max_seconds).items() if path in config.auto
    }
    layers: Iterable[int] = objective.layers
    if "encoder.depth" in values and layers:
        values["encoder.depth"] = max(values["encoder.depth"], *layers)
    encoder, train = _section(values, "encoder"), _section(values, "train")
    shown = ", ".join(f"{path} {value:g}" for path, value in values.items())
    source = f"{AUTO}: {samples:,} training samples: {shown} (--preset default leaves them out)"
    return config.model_copy(
        update={
            "encoder": Part(**(config.encoder.model_dump() | encoder)),
            "train": config.train.model_copy(update=train),
            "auto": (),
            "preset_sources": (*config.preset_sources, source),
        }
    )


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {path.partition(".")[2]: value for path, value in values.items() if path.startswith(f"{section}.")}
