"""From live parts to a Report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ssl_core.config.schema import RunConfig
from ssl_core.report import Report
from ssl_core.training.device import describe, peak_memory
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import METRICS, read_metrics


def make(
    config: RunConfig,
    learner: Learner,
    device: torch.device,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    *,
    versions: Mapping[str, str],
    origins: Mapping[str, Any],
    steps: int,
    pretrain_seconds: float,
    wall_seconds: float,
    attention: str,
    command: str,
    health: Mapping[str, Mapping[str, float]],
) -> Report:
    """Everything that is known of a finished run."""
    losses = [line["train/loss"] for line in read_metrics(folder / METRICS) if "train/loss" in line]
    samples = steps * config.train.batch_size * config.train.accumulate_steps
    return Report(
        run=str(folder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        objective=config.objective.name,
        modality=config.modality,
        dataset=config.dataset.name,
        tokenizer=config.tokenizer.name,
        masking=config.masking.name if config.masking else None,
        preset_sources=list(config.preset_sources),
        seed=config.seed,
        steps=steps,
        wall_seconds=wall_seconds,
        pretrain_seconds=pretrain_seconds,
        samples_per_second=samples / pretrain_seconds if pretrain_seconds else 0.0,
        peak_memory_bytes=peak_memory(device),
        parameters=learner.parameter_counts(),
        device=describe(device),
        precision=config.train.precision,
        attention=attention,
        layout=[
            {"name": s.name, "grid": list(s.grid), "target": s.target, "size": s.size}
            for s in learner.tokenizer.layout.segments
        ],
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        scores=[dict(row) for row in rows],
        health=health,
        curve=curve(read_metrics(folder / METRICS)),
        notes=list(notes),
        config=config.model_dump(mode="json"),
        versions=dict(versions),
        origins=dict(origins),
        command=command,
    )


def curve(metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """What was measured in the course of training: one entry for each probe, the last being the end's."""
    return [
        {
            "step": int(line["step"]),
            "seconds": line["train/seconds"],
            "scores": {name.removeprefix("probe/"): v for name, v in line.items() if name.startswith("probe/")},
            "health": {name.removeprefix("health/"): v for name, v in line.items() if name.startswith("health/")},
        }
        for line in metrics
        if "train/seconds" in line
    ]
