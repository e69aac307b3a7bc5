"""What the trackers share: whether one is asked for, its library, its run's id, and what there is to write."""

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


def asked(name: str) -> bool:
    """Whether SSLX_TRACKERS, names with commas between, has this one. Errors: ConfigError for a misspelling of it."""
    names = [part.strip() for part in os.environ.get(VARIABLE, "").split(",")]
    if name in names:
        return True
    for other in difflib.get_close_matches(name, [part for part in names if part], n=1, cutoff=0.75):
        raise ConfigError(f"{VARIABLE} names '{other}', and no tracker; did you mean '{name}'?")
    return False


def library(name: str, tracker: str) -> Any:
    """A module, imported now. Errors: ConfigError that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"cannot import {name} ({error}); pip install 'sslx[{tracker}]'") from error


def run_id(folder: Path, tracker: str, make: Callable[[], str]) -> tuple[str, bool]:
    """The tracker's id of this run, kept in the run's folder, and whether it is new."""
    path = folder / "trackers" / f"{tracker}.txt"
    if path.exists():
        return path.read_text(encoding="utf-8").strip(), False
    made = make()
    path.parent.mkdir(exist_ok=True)
    path.write_text(made + "\n", encoding="utf-8")
    return made, True


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted path; what is neither text, number nor truth value as JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            plain = value is None or isinstance(value, str | int | float)
            found[prefix + key] = value if plain else json.dumps(value)
    return found


def scores(report: Any) -> dict[str, float]:
    """The report's scores that have a value, as score/TASK/PROBE_METRIC/FEATURES."""
    return {
        f"score/{score.task}/{score.probe}_{score.metric}/{score.features}": score.value
        for score in report.scores
        if score.value is not None
    }
