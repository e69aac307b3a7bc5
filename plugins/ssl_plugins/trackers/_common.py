"""Helpers of the trackers: selection by environment variable, lazy imports, run ids, and what to log."""

from __future__ import annotations

import difflib
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_core import ConfigError

VARIABLE = "SSLX_TRACKERS"
REPORT_PAGE = "report.html"


def is_enabled(tracker: str) -> bool:
    """Whether SSLX_TRACKERS, a comma-separated list, names the tracker.

    Raises:
        ConfigError: It holds a misspelling of the tracker.
    """
    names = [part.strip() for part in os.environ.get(VARIABLE, "").split(",")]
    if tracker in names:
        return True
    for similar in difflib.get_close_matches(tracker, [name for name in names if name], n=1, cutoff=0.75):
        raise ConfigError(f"{VARIABLE} names '{similar}', which is not a tracker; did you mean '{tracker}'?")
    return False


def import_module(name: str, tracker: str) -> Any:
    """Import a module of the tracker's library.

    Raises:
        ConfigError: The import fails.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"cannot import {name} ({error}); pip install 'sslx[{tracker}]'") from error


def load_or_create_run_id(folder: Path, tracker: str, create: Callable[[], str]) -> tuple[str, bool]:
    """The tracker's id of this run, stored in the run's folder, and whether it is new."""
    path = folder / "trackers" / f"{tracker}.txt"
    if path.exists():
        return path.read_text(encoding="utf-8").strip(), False
    run_id = create()
    path.parent.mkdir(exist_ok=True)
    path.write_text(run_id + "\n", encoding="utf-8")
    return run_id, True


def flatten_options(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted path; values other than text, numbers, booleans and None as JSON."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten_options(value, f"{prefix}{key}.")
        else:
            is_plain = value is None or isinstance(value, str | int | float)
            flat[prefix + key] = value if is_plain else json.dumps(value)
    return flat


def score_metrics(report: Any) -> dict[str, float]:
    """The report's scores that have a value, as score/TASK/PROBE_METRIC/FEATURES."""
    return {
        f"score/{score.task}/{score.probe}_{score.metric}/{score.features}": score.value
        for score in report.scores
        if score.value is not None
    }
