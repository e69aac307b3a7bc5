"""A comparison from Python: the grid from keywords, its runs, and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core.compare import grid as grids
from ssl_core.compare import runner
from ssl_core.errors import SslxError
from ssl_core.pipeline.memory import MEMORY
from ssl_core.plugins import Catalogue
from ssl_core.report.comparison import Comparison, compare
from ssl_core.report.comparison_tables import write_all
from ssl_core.utils.console import Console

TITLE = "sslx.compare"


@dataclass(frozen=True)
class ComparisonRequest:
    """What to compare.

    objectives: names, or tables of `grid.Method`. modalities: names. data: options that name the data, for all methods.
    name: what the table calls the data. seeds: how many, or which. common: options of every run. jobs: runs at a time.
    """

    objectives: Sequence[str | Mapping[str, Any]]
    modalities: Sequence[str]
    data: Mapping[str, Any]
    name: str | None
    seeds: int | Sequence[int]
    steps: int | None = None
    budget: str | None = None
    preset: str | None = None
    common: Mapping[str, Any] | None = None
    jobs: int | None = None
    out: Path | None = None


def make_grid(request: ComparisonRequest) -> grids.Grid:
    """The grid of a request, the same as that of `sslx compare` with the same flags.

    Raises:
        ConfigError: a key or value that does not fit.
    """
    methods = [
        {"name": one, "objective": one} if isinstance(one, str) else {"name": one.get("objective", ""), **one}
        for one in request.objectives
    ]
    tree: dict[str, Any] = {
        "method": methods, "seeds": request.seeds if isinstance(request.seeds, int) else list(request.seeds),
        "steps": request.steps, "budget": request.budget, "preset": request.preset, "set": dict(request.common or {}),
    }  # fmt: skip
    if request.data.get("dataset.name"):
        own = {path: value for path, value in request.data.items() if path != "dataset.name"}
        dataset = request.data["dataset.name"]
        modality = request.modalities[0] if request.modalities else None
        tree["data"] = [{"name": request.name or dataset, "modality": modality, "dataset": dataset, "set": own}]
    elif request.modalities:
        tree["modalities"] = list(request.modalities)
    return grids.make_grid({key: value for key, value in tree.items() if value is not None}, TITLE)


def run_comparison(request: ComparisonRequest, catalogue: Catalogue, console: Console) -> Comparison:
    """Run what is not finished, write the tables, and return the comparison.

    Raises:
        ConfigError: an option that does not fit, or the folder holds other runs.
        SslxError: every run failed; the message is that of the first.
    """
    grid = grids.by_own_names(make_grid(request), catalogue)
    cells = grids.cells(grid, catalogue)
    folder = request.out or grids.default_folder(grid)
    console.info(f"{len(cells)} runs in {folder}; the same call goes on where it stopped")
    if request.data.get("dataset.name") == MEMORY:
        reports, failures = runner.run_cells_here(cells, folder, catalogue, console)
    else:
        device = (request.common or {}).get("device")
        reports, failures = runner.run_cells(cells, folder, request.jobs or runner.usual_jobs(device), console)
    lines = [failure.line for failure in failures]
    if not reports:
        raise SslxError(f"no run succeeded; {lines[0]}")
    made = compare(reports)
    made.failures, made.folder = lines, folder
    write_all(made, folder, TITLE, lines)
    return made
