"""MLflow. Its own variables apply: MLFLOW_TRACKING_URI (else MLflow's default), MLFLOW_EXPERIMENT_NAME (else: sslx)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core import hookimpl
from ssl_plugins.trackers._common import REPORT_PAGE, asked, flat, library, run_id, scores

NAME = "mlflow"
PARAMETERS = 100  # most that one call may log
CHARACTERS = 500  # of a parameter's value: what every store takes

_runs: dict[Path, tuple[Any, str]] = {}


@hookimpl
def run_started(config: Any, folder: Path) -> None:
    """Begin a run, or go on with the one whose id the folder keeps."""
    if not asked(NAME):
        return
    library(NAME, NAME)
    client = library("mlflow.tracking", NAME).MlflowClient()
    identity, new = run_id(folder, NAME, lambda: _create(client, folder))
    if new:
        parameter = library("mlflow.entities", NAME).Param
        values = flat(config.model_dump(mode="json")).items()
        logged = [parameter(_key(name), str(value)[:CHARACTERS]) for name, value in values]
        for start in range(0, len(logged), PARAMETERS):
            client.log_batch(identity, params=logged[start : start + PARAMETERS])
    else:
        client.update_run(identity, status="RUNNING")
    _runs[folder] = (client, identity)


@hookimpl
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Log the metrics of a step."""
    if folder in _runs:
        _log(*_runs[folder], step, metrics)


@hookimpl
def run_finished(folder: Path, report: Any) -> None:
    """Log the scores, keep the report as an artifact, and mark the run as finished."""
    if folder not in _runs:
        return
    client, identity = _runs.pop(folder)
    try:
        _log(client, identity, report.steps, scores(report))
        if (folder / REPORT_PAGE).exists():
            client.log_artifact(identity, str(folder / REPORT_PAGE))
    finally:
        client.set_terminated(identity)


def _create(client: Any, folder: Path) -> str:
    """The id of a new run in the experiment, which is made if it is missing."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sslx")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found is not None else client.create_experiment(name)
    return str(client.create_run(experiment, run_name=folder.name).info.run_id)


def _log(client: Any, identity: str, step: int, values: Mapping[str, float]) -> None:
    """Metrics of one step in one call."""
    metric = library("mlflow.entities", NAME).Metric
    now = int(1000 * time.time())
    client.log_batch(identity, metrics=[metric(_key(name), float(value), now, step) for name, value in values.items()])


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-./ ]", "_", name)
