"""Tracker `tensorboard`: event files in the run's folder, under tensorboard/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core import hookimpl
from ssl_plugins.trackers._common import REPORT_PAGE, import_module, is_enabled, score_metrics

NAME = "tensorboard"

_pending_configs: dict[Path, str] = {}
_writers: dict[Path, Any] = {}


@hookimpl
def run_started(config: Any, folder: Path) -> None:
    """Store the configuration. The writer is created at the first logged step, from which a resumed run is purged."""
    if not is_enabled(NAME):
        return
    import_module("torch.utils.tensorboard", NAME)
    _close(folder)
    _pending_configs[folder] = json.dumps(config.model_dump(mode="json"), indent=2)


@hookimpl
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Write scalars. In a resumed run, steps that the stopped run wrote after its checkpoint are purged."""
    if folder in _pending_configs:
        path = folder / NAME
        purge_step = step if path.exists() else None
        writer = import_module("torch.utils.tensorboard", NAME).SummaryWriter(str(path), purge_step=purge_step)
        writer.add_text("config", f"```json\n{_pending_configs.pop(folder)}\n```", step)
        _writers[folder] = writer
    if folder in _writers:
        for name, value in metrics.items():
            _writers[folder].add_scalar(name, value, step)


@hookimpl
def run_finished(folder: Path, report: Any) -> None:
    """Write the scores and the path of the report, since TensorBoard stores no files."""
    if folder not in _writers:
        return
    try:
        for name, value in score_metrics(report).items():
            _writers[folder].add_scalar(name, value, report.steps)
        _writers[folder].add_text("report", str(folder / REPORT_PAGE), report.steps)
    finally:
        _close(folder)


def _close(folder: Path) -> None:
    """Close the writer of a run and drop its state."""
    _pending_configs.pop(folder, None)
    writer = _writers.pop(folder, None)
    if writer is not None:
        writer.close()
