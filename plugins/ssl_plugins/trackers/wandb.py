"""Weights & Biases. Its own environment variables apply, e.g. WANDB_MODE=offline and WANDB_PROJECT (else: sslx)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core import hookimpl
from ssl_plugins.trackers._common import REPORT_PAGE, asked, library, run_id, scores

NAME = "wandb"

_runs: dict[Path, Any] = {}


@hookimpl
def run_started(config: Any, folder: Path) -> None:
    """Begin a run, or go on with the one whose id the folder keeps. A run left open in this process is finished."""
    if not asked(NAME):
        return
    wandb = library(NAME, NAME)
    _runs.clear()
    identity, _ = run_id(folder, NAME, lambda: secrets.token_hex(8))
    _runs[folder] = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "sslx"), name=folder.name, id=identity, resume="allow",
        dir=str(folder), config=config.model_dump(mode="json"), reinit="finish_previous",
    )  # fmt: skip


@hookimpl
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Log the metrics of a step; wandb keeps the first of a step that comes again after a resume."""
    if folder in _runs:
        _runs[folder].log(dict(metrics), step=step)


@hookimpl
def run_finished(folder: Path, report: Any) -> None:
    """Put the scores in the summary and keep the report as an artifact."""
    run = _runs.pop(folder, None)
    if run is None:
        return
    try:
        run.summary.update(scores(report))
        if (folder / REPORT_PAGE).exists():
            artifact = library(NAME, NAME).Artifact(f"report-{run.id}", type="report")
            artifact.add_file(str(folder / REPORT_PAGE))
            run.log_artifact(artifact)
    finally:
        run.finish()
