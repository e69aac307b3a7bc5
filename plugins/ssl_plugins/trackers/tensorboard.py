"""TensorBoard: event files in the run's folder, below tensorboard/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core import hookimpl
from ssl_plugins.trackers._common import REPORT_PAGE, asked, library, scores

NAME = "tensorboard"

_waiting: dict[Path, str] = {}
_writers: dict[Path, Any] = {}


@hookimpl
def run_started(config: Any, folder: Path) -> None:
    """Note the configuration. The writer waits for the first step, which tells where a resumed run goes on."""
    if not asked(NAME):
        return
    library("torch.utils.tensorboard", NAME)
    _close(folder)
    _waiting[folder] = json.dumps(config.model_dump(mode="json"), indent=2)


@hookimpl
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Write scalars. What a stopped run wrote beyond the step that it resumed from is purged."""
    if folder in _waiting:
        path = folder / NAME
        purge = step if path.exists() else None
        writer = library("torch.utils.tensorboard", NAME).SummaryWriter(str(path), purge_step=purge)
        writer.add_text("config", f"```json\n{_waiting.pop(folder)}\n```", step)
        _writers[folder] = writer
    if folder in _writers:
        for name, value in metrics.items():
            _writers[folder].add_scalar(name, value, step)


@hookimpl
def run_finished(folder: Path, report: Any) -> None:
    """Write the scores and where the report lies; TensorBoard keeps no files."""
    if folder not in _writers:
        return
    try:
        for name, value in scores(report).items():
            _writers[folder].add_scalar(name, value, report.steps)
        _writers[folder].add_text("report", str(folder / REPORT_PAGE), report.steps)
    finally:
        _close(folder)


def _close(folder: Path) -> None:
    """Forget a run; its file is complete."""
    _waiting.pop(folder, None)
    writer = _writers.pop(folder, None)
    if writer is not None:
        writer.close()
