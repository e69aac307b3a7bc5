"""Tracker `mlflow`. MLflow's own variables apply: MLFLOW_TRACKING_URI, and MLFLOW_EXPERIMENT_NAME (default: sslx)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core import hookimpl
from ssl_plugins.trackers._common import (
    REPORT_PAGE,
    flatten_options,
    import_module,
    is_enabled,
    load_or_create_run_id,
    score_metrics,
)

NAME = "mlflow"
MAX_PARAMETERS = 100  # per call
MAX_CHARACTERS = 500  # of a parameter's value; every store accepts this many

_runs: dict[Path, tuple[Any, str]] = {}


@hookimpl
def run_started(config: Any, folder: Path) -> None:
    """Create a run, or continue the one whose id is in the folder."""
    if not is_enabled(NAME):
        return
    import_module(NAME, NAME)
    client = import_module("mlflow.tracking", NAME).MlflowClient()
    run_id, is_new = load_or_create_run_id(folder, NAME, lambda: _create_run(client, folder))
    if is_new:
        parameter_class = import_module("mlflow.entities", NAME).Param
        options = flatten_options(config.model_dump(mode="json"))
        parameters = [parameter_class(_key(name), str(value)[:MAX_CHARACTERS]) for name, value in options.items()]
        for start in range(0, len(parameters), MAX_PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + MAX_PARAMETERS])
    else:
        client.update_run(run_id, status="RUNNING")
    _runs[folder] = (client, run_id)


@hookimpl
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Log the metrics of a step."""
    if folder in _runs:
        _log(*_runs[folder], step, metrics)


@hookimpl
def run_finished(folder: Path, report: Any) -> None:
    """Log the scores, upload the report as an artifact, and mark the run as finished."""
    if folder not in _runs:
        return
    client, run_id = _runs.pop(folder)
    try:
        _log(client, run_id, report.steps, score_metrics(report))
        if (folder / REPORT_PAGE).exists():
            client.log_artifact(run_id, str(folder / REPORT_PAGE))
    finally:
        client.set_terminated(run_id)


def _create_run(client: Any, folder: Path) -> str:
    """Create a run, and its experiment if it is missing, and return the run's id."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sslx")
    experiment = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
    return str(client.create_run(experiment_id, run_name=folder.name).info.run_id)


def _log(client: Any, run_id: str, step: int, values: Mapping[str, float]) -> None:
    """Log the metrics of one step in one call."""
    metric_class = import_module("mlflow.entities", NAME).Metric
    now = int(1000 * time.time())
    metrics = [metric_class(_key(name), float(value), now, step) for name, value in values.items()]
    client.log_batch(run_id, metrics=metrics)


def _key(name: str) -> str:
    """The name without the characters that MLflow refuses."""
    return re.sub(r"[^\w\-./ ]", "_", name)
