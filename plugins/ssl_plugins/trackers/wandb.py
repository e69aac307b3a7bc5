"""Tracker `wandb`: Weights & Biases. Its own variables apply, e.g. WANDB_MODE, and WANDB_PROJECT (default: sslx)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core import hookimpl
from ssl_plugins.trackers._common import REPORT_PAGE, import_module, is_enabled, load_or_create_run_id, score_metrics

NAME = "wandb"

_runs: dict[Path, Any] = {}


@hookimpl
def run_started(config: Any, folder: Path) -> None:
    """Create a run, or continue the one whose id is in the folder. Another run of this process is finished."""
    if not is_enabled(NAME):
        return
    wandb = import_module(NAME, NAME)
    _runs.clear()
    run_id, _ = load_or_create_run_id(folder, NAME, lambda: secrets.token_hex(8))
    _runs[folder] = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "sslx"), name=folder.name, id=run_id, resume="allow",
        dir=str(folder), config=config.model_dump(mode="json"), reinit="finish_previous",
    )  # fmt: skip


@hookimpl
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Log the metrics of a step. Of a step that is logged again after a resume, wandb stores the first values."""
    if folder in _runs:
        _runs[folder].log(dict(metrics), step=step)


@hookimpl
def run_finished(folder: Path, report: Any) -> None:
    """Write the scores to the summary and upload the report as an artifact."""
    run = _runs.pop(folder, None)
    if run is None:
        return
    try:
        run.summary.update(score_metrics(report))
        if (folder / REPORT_PAGE).exists():
            artifact = import_module(NAME, NAME).Artifact(f"report-{run.id}", type="report")
            artifact.add_file(str(folder / REPORT_PAGE))
            run.log_artifact(artifact)
    finally:
        run.finish()
