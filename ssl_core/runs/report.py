"""From a trained Run to its Report, and the report's files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.data import Split
from ssl_core.report import Report, write_html
from ssl_core.report import write_json as write_report
from ssl_core.report.schema import DataReport
from ssl_core.runs.build import attention_kernel, versions
from ssl_core.runs.data import data_report
from ssl_core.runs.pictured import add_names, add_recordings
from ssl_core.runs.reconstructions import rebuild
from ssl_core.runs.run import Run
from ssl_core.training.device import describe, peak_memory

PICTURES = 6
SOUNDS = 3


def make_report(
    run: Run,
    rows: Sequence[Mapping[str, Any]],
    health: Mapping[str, Mapping[str, float]],
    metrics: Sequence[Mapping[str, float]],
) -> Report:
    """The report of a trained run.

    Args:
        run: the run.
        rows: scores, from `score_run`.
        health: label-free figures of the trained and the untrained encoder.
        metrics: lines of metrics.jsonl.
    """
    config, learner = run.config, run.learner
    losses = [line["train/loss"] for line in metrics if "train/loss" in line]
    samples = run.steps * config.train.batch_size * config.train.accumulate_steps
    before = 0.0 if run.start is None or run.log is None else float(run.start.state["seconds"])
    return Report(
        run=str(run.folder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        objective=config.objective.name,
        modality=config.modality,
        dataset=config.dataset.name,
        tokenizer=config.tokenizer.name,
        masking=", ".join(part.name for part in config.maskings.values()) or None,
        preset_sources=list(config.preset_sources),
        split=run.scored_split,
        seed=config.seed,
        steps=run.steps,
        wall_seconds=time.perf_counter() - run.began + before,
        pretrain_seconds=run.seconds,
        samples_per_second=samples / run.seconds if run.seconds else 0.0,
        peak_memory_bytes=peak_memory(run.device),
        parameters=learner.parameter_counts(),
        device=describe(run.device),
        precision=config.train.precision,
        attention=attention_kernel(config, learner, run.device),
        layout=[
            {"name": s.name, "grid": list(s.grid), "target": s.target, "size": s.size}
            for s in learner.tokenizer.layout.segments
        ],
        loss_first=losses[0] if losses else None,
        loss_last=losses[-1] if losses else None,
        scores=[dict(row) for row in rows],
        health=health,
        curve=curve(metrics),
        data=_data(run),
        init=run.init,
        figures=None if run.figures is None else run.figures.report,
        notes=[*run.notes, *(() if run.figures is None else run.figures.notes)],
        config=config.model_dump(mode="json"),
        versions=versions(),
        origins=run.context.catalogue.origins(),
        command=run.context.command,
    )


def _data(run: Run) -> DataReport:
    report = data_report(run.splits, run.data, run.stats, run.doubts, run.facts)
    if run.cost is None:
        return report
    return report.model_copy(update={"seconds_per_step": run.cost.seconds, "bytes_per_step": run.cost.bytes})


def curve(metrics: Iterable[Mapping[str, float]]) -> list[dict[str, Any]]:
    """One entry for each probe during training, the last at its end."""
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


def write(report: Report, run: Run, metrics: Sequence[Mapping[str, float]], folder: Path) -> None:
    """Write report.json and report.html, with pictures of a few samples of the scored split.

    Raises:
        SslxError: a file cannot be written.
    """
    data = run.pictured
    batch = data.take(np.arange(min(PICTURES, len(data))))
    write_report(report, folder)
    sounds = min(SOUNDS, len(batch)) if run.config.evaluate.figures else 0
    pictures = add_names(run, rebuild(run.learner, batch, report.seed, sounds))
    split: Split = run.scored_split if run.scored_split in run.data else "train"
    pictures = add_recordings(run, pictures, split, sounds)
    write_html(report, folder, pictures, list(metrics), run.figures)
