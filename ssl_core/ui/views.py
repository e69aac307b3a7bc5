"""What the pages show of runs: rows of a table, sorted and filtered; curves, alone or together; differences."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from markupsafe import Markup

from ssl_core.report import plots
from ssl_core.report.page import SECONDARY_METRICS, duration, flatten
from ssl_core.report.scores import FEATURES, format_score, score_rows
from ssl_core.ui.scan import STATES, RunEntry

PLOTTING = threading.Lock()
"""matplotlib keeps global settings, and requests are answered in threads."""
MAX_COMPARED = 12
HIDDEN_METRICS = ("step", "train/seconds")
LOSS = "train/loss"


@dataclass(frozen=True)
class Column:
    """A column of the table of runs: its key in addresses, its title, what it shows and what it is sorted by."""

    key: str
    title: str
    text: Callable[[RunEntry], str]
    order: Callable[[RunEntry], Any]
    number: bool = False


def _score(run: RunEntry) -> tuple[str, float]:
    """The trained score of the first probe, and its value; of smaller is better the negative."""
    rows = score_rows(run.report.scores) if run.report else []
    row = next((row for row in rows if row.values.get("trained") and row.values["trained"].value is not None), None)
    if row is None:
        return "", -np.inf
    trained = row.values["trained"]
    return f"{format_score(row.metric, trained)} {row.metric_title}", row.sign * (trained.value or 0.0)


def _gain(run: RunEntry) -> tuple[str, float]:
    rows = score_rows(run.report.scores) if run.report else []
    gain = rows[0].gain if rows else None
    if gain is None or gain.value is None:
        return "", -np.inf
    return format_score(rows[0].metric, gain, sign=True), gain.value


def _steps(run: RunEntry) -> str:
    return f"{run.step:,}" + (f" of {run.steps:,}" if run.steps is not None else "")


def _wall(run: RunEntry) -> float:
    return run.report.wall_seconds if run.report else -1.0


def _seed(run: RunEntry) -> float:
    text = run.value("seed")
    return float(text) if text.lstrip("-").isdigit() else np.inf


COLUMNS = (
    Column("method", "method", lambda run: run.method, lambda run: run.method.lower()),
    Column("data", "data", lambda run: run.data, lambda run: run.data.lower()),
    Column("seed", "seed", lambda run: run.value("seed"), _seed, number=True),
    Column("step", "steps", _steps, lambda run: run.step, number=True),
    Column("loss", "loss", lambda run: "" if run.loss is None else f"{run.loss:.4g}",
           lambda run: np.inf if run.loss is None else run.loss, number=True),
    Column("score", "score, trained", lambda run: _score(run)[0], lambda run: _score(run)[1], number=True),
    Column("gain", "gain", lambda run: _gain(run)[0], lambda run: _gain(run)[1], number=True),
    Column("time", "time", lambda run: duration(_wall(run)) if run.report else "", _wall, number=True),
    Column("changed", "changed (UTC)", lambda run: time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.changed)),
           lambda run: run.changed, number=True),
)  # fmt: skip
ORDERS: dict[str, Callable[[RunEntry], Any]] = {
    "run": lambda run: run.name.lower(),
    "state": lambda run: STATES.index(run.state),
    **{column.key: column.order for column in COLUMNS},
}
DESCENDING = ("step", "score", "gain", "time", "changed")
"""Columns whose largest value comes first unless the address says otherwise."""


@dataclass(frozen=True)
class Query:
    """What the address of the list asks for. Unknown values are as if they were not there."""

    words: str = ""
    state: str = ""
    sort: str = "changed"
    reverse: bool = False

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Query:
        """The query of an address."""
        sort, state = values.get("sort", ""), values.get("state", "")
        return cls(
            values.get("q", "")[:200], state if state in STATES else "", sort if sort in ORDERS else "changed",
            values.get("reverse") == "1",
        )  # fmt: skip

    def address(self, **changes: Any) -> str:
        """The address of the list with changes."""
        query = Query(**{**vars(self), **changes})
        values = {"q": query.words, "state": query.state, "sort": query.sort, "reverse": "1" if query.reverse else ""}
        return "/?" + urlencode({key: value for key, value in values.items() if value})

    def sorted_by(self, key: str) -> str:
        """The address that sorts by a column, or reverses the order if it is sorted by it."""
        return self.address(sort=key, reverse=not self.reverse if key == self.sort else False)

    def direction(self, key: str) -> str:
        """How a column is sorted, in the words of aria-sort."""
        if key != self.sort:
            return "none"
        return "descending" if (key in DESCENDING) != self.reverse else "ascending"

    def apply(self, runs: Sequence[RunEntry]) -> list[RunEntry]:
        """The runs that fit, in order: each word must be in the run's name, method, data, state or problem."""
        words = self.words.lower().split()

        def fits(run: RunEntry) -> bool:
            text = " ".join((run.name, run.method, run.data, run.state, run.problem)).lower()
            return all(word in text for word in words) and self.state in ("", run.state)

        descending = self.direction(self.sort) == "descending"
        return sorted(filter(fits, runs), key=ORDERS[self.sort], reverse=descending)


def metric_names(lines: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of the metrics in lines of metrics.jsonl: the loss, its parts, the others."""
    names = dict.fromkeys(name for line in lines for name in line if name not in HIDDEN_METRICS)
    order = ("train/", "probe/", "health/", "eval/")

    def rank(name: str) -> tuple[bool, bool, int]:
        group = next((number for number, prefix in enumerate(order) if name.startswith(prefix)), len(order))
        return name != LOSS, name in SECONDARY_METRICS, group

    return sorted(names, key=rank)


def curve_of(lines: Sequence[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, by step; of several values at a step the last."""
    points = {line["step"]: line[name] for line in lines if name in line}
    steps = np.array(sorted(points))
    return steps, np.array([points[step] for step in steps.tolist()])


def run_curves(lines: Sequence[Mapping[str, float]]) -> list[tuple[str, bool, Markup]]:
    """Name, whether it is the loss, and plot of each metric that has several points."""
    drawn = []
    with PLOTTING:
        for name in metric_names(lines)[:60]:
            steps, values = curve_of(lines, name)
            if len(steps) and (len(steps) > 1 or name == LOSS):
                drawn.append((name, name == LOSS, plots.curve(name, steps, values, name == LOSS)))
    return drawn


def overlay(
    runs: Sequence[RunEntry], lines: Mapping[str, Sequence[Mapping[str, float]]], name: str
) -> tuple[Markup, list[tuple[Markup, str]]] | None:
    """The curves of a metric of several runs in one plot, and the mark and name of each run; None if none has it."""
    curves = []
    for number, run in enumerate(runs):
        steps, values = curve_of(lines[run.id], name)
        if len(steps):
            curves.append((number, f"{number + 1}: {run.name}", *plots.thin(steps, values)))
    if not curves:
        return None
    with PLOTTING:
        legend = [(plots.legend_mark(number, False, title), title) for number, title, _, _ in curves]
        return plots.overlay(curves, name), legend


def facts(run: RunEntry) -> list[tuple[str, str]]:
    """What is known of a run."""
    report = run.report
    values = [
        ("State", run.state), ("Method", run.method), ("Data", run.data), ("Seed", run.value("seed")),
        ("Steps", _steps(run)), ("Loss", "" if run.loss is None else f"{run.loss:.4g}"),
    ]  # fmt: skip
    if report is not None:
        values += [("Total time", duration(report.wall_seconds)), ("Device", report.device)]
    return [(name, value) for name, value in values if value]


def score_lines(runs: Sequence[RunEntry]) -> list[tuple[str, list[str]]]:
    """Scores of runs side by side: task, probe, metric and features, and a cell for each run."""
    cells: dict[str, dict[str, str]] = {}
    for run in runs:
        for row in score_rows(run.report.scores) if run.report else ():
            for kind, value in row.values.items():
                title = f"{row.dataset}, {row.task}: {row.probe_title}, {row.metric_title}, {FEATURES[kind]}"
                cells.setdefault(title, {})[run.id] = format_score(row.metric, value)
    return [(title, [of.get(run.id, "") for run in runs]) for title, of in cells.items()]


def differences(runs: Sequence[RunEntry]) -> list[tuple[str, list[str]]]:
    """The options in which the configurations of runs differ, with the value of each."""
    options = [dict(flatten(run.config)) for run in runs]
    names = dict.fromkeys(name for one in options for name in one)
    rows = [(name, [one.get(name, "") for one in options]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]
