"""The command `sslx leaderboard`."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ssl_core import ConfigError, SslxError, hookimpl, nearest

if TYPE_CHECKING:
    from ssl_core.report import Report

SSLX_API = ">=2.0,<3"
REPORT = "report.json"
COLUMNS = ("rank", "run", "objective", "data", "task", "probe", "score", "steps")

app = typer.Typer(name="leaderboard", help="Rank the finished runs below a folder.")


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="A folder with run folders at any depth.")],
    metric: Annotated[str | None, typer.Option(help="Metric to rank by; by default the most frequent one.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Rank the finished runs below a folder, separately for each data set and task."""
    rows = ranking(read_reports(folder), metric)
    if json_:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        show(rows)


def read_reports(folder: Path) -> dict[str, Report]:
    """The reports of all finished runs, by run folder relative to `folder`.

    Reports below a run folder, those of further evaluations, are left out. A report that cannot be read is named on the
    standard error.

    Raises:
        ConfigError: If there is no such folder, or no finished run in it.
    """
    from ssl_core.report import read  # here, since every command of sslx loads this module

    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name one with finished runs")
    reports: dict[str, Report] = {}
    runs: set[Path] = set()
    for path in sorted(folder.rglob(REPORT), key=lambda path: (len(path.parts), path)):
        run = path.parent
        if not runs.isdisjoint(run.parents):
            continue
        runs.add(run)
        try:
            reports[str(run.relative_to(folder))] = read(run)
        except SslxError as error:
            typer.echo(f"warning: {error}", err=True)
    if not reports:
        out = folder / "first"
        raise ConfigError(
            f"{folder} has no finished run; make one with sslx run --objective mae --modality speech --out {out}"
        )
    return reports


def ranking(reports: dict[str, Report], metric: str | None = None) -> list[dict[str, Any]]:
    """A row for each run and probe that has the metric: scores of trained features, best first.

    Rows are sorted by data set and task, then by value, and ranks start anew for each task. Equal values have equal
    ranks. A score that is undefined comes last and has no rank.

    Raises:
        ConfigError: If no run has the metric, or none has scores.
    """
    scores = [(run, score) for run, report in reports.items() for score in report.scores if score.features == "trained"]
    counts = Counter(score.metric for _, score in scores)
    if not counts:
        raise ConfigError(
            "no run has scores: their data sets have no labels; evaluate one with sslx eval RUN --dataset"
        )
    metric = metric or min(counts, key=lambda name: (-counts[name], name))
    if metric not in counts:
        raise ConfigError(f"no run has the metric '{metric}'; {nearest(metric, counts, 'metric')}")

    def key(entry: tuple[str, Any]) -> tuple[Any, ...]:
        run, score = entry
        sign = -1 if score.higher_is_better else 1
        return score.dataset, score.task, math.inf if score.value is None else sign * score.value, run, score.probe

    rows: list[dict[str, Any]] = []
    for run, score in sorted((entry for entry in scores if entry[1].metric == metric), key=key):
        task = (score.dataset, score.task)
        before = [row for row in rows if (row["data"], row["task"]) == task]
        tied = bool(before) and before[-1]["value"] == score.value
        rank = None if score.value is None else before[-1]["rank"] if tied else len(before) + 1
        rows.append({
            "rank": rank, "run": run, "objective": reports[run].objective, "data": score.dataset, "task": score.task,
            "probe": score.probe, "metric": metric, "higher_is_better": score.higher_is_better, "value": score.value,
            "standard_error": score.standard_error, "steps": reports[run].steps, "seed": score.seed,
        })  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    better = "larger" if rows[0]["higher_is_better"] else "smaller"
    table = Table(
        *COLUMNS, title=f"Runs by {escape(rows[0]['metric'])} of trained features: {better} is better",
        title_justify="left",
    )  # fmt: skip
    for row in rows:
        error = "" if row["standard_error"] is None else f" ±{row['standard_error']:.3f}"
        score = "undefined" if row["value"] is None else f"{row['value']:.3f}{error}"
        shown = row | {"rank": row["rank"] or "", "score": score, "steps": f"{row['steps']:,}"}
        table.add_row(*(escape(str(shown[column])) for column in COLUMNS))
    Console(highlight=False).print(table)


@hookimpl
def register_commands() -> list[typer.Typer]:
    return [app]
