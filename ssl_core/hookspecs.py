"""The hooks, all of them. A plugin is a module (or object) with any of these functions marked `@hookimpl`.

Catalogues are built once, before a run; notices are sent around it. No hook is called inside the training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ssl_core.config import RunConfig
    from ssl_core.contracts import Dataset, Masking, Objective, Tokenizer
    from ssl_core.options import Preset
    from ssl_core.report import Report

API_VERSION = "1.0"
"""Version of the plugin interface: hooks, contracts and public names (docs/compatibility.md)."""

hookspec = pluggy.HookspecMarker("sslx")
hookimpl = pluggy.HookimplMarker("sslx")


# --- catalogues: called once, when the plugins are loaded -----------------------------------------------------------


@hookspec
def register_objectives() -> list[type[Objective]]:  # type: ignore[empty-body]
    """Offer objectives: classes that turn tokens into a loss."""


@hookspec
def register_tokenizers() -> list[type[Tokenizer]]:  # type: ignore[empty-body]
    """Offer tokenizers: classes that turn one modality's inputs into tokens."""


@hookspec
def register_datasets() -> list[type[Dataset]]:  # type: ignore[empty-body]
    """Offer data sets: classes that read raw samples of one modality."""


@hookspec
def register_maskings() -> list[type[Masking]]:  # type: ignore[empty-body]
    """Offer maskings: classes that choose which tokens to hide."""


@hookspec
def register_presets() -> list[Preset]:  # type: ignore[empty-body]
    """Offer presets: values for a run together with their source."""


# --- notices: sent around a run -------------------------------------------------------------------------------------


@hookspec
def run_started(config: RunConfig, folder: Path) -> None:
    """A run begins or resumes: its resolved configuration and its folder. Sent after the model is built."""


@hookspec
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Metrics were written to metrics.jsonl. Keys are `train/...` and `eval/...`."""


@hookspec
def run_finished(folder: Path, report: Report) -> None:
    """A run is complete and its report is written. Not sent for an interrupted or failed run."""
