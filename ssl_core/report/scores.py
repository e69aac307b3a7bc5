"""Scores side by side: trained features beside a random encoder's and the raw input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ssl_core.report.schema import FeatureKind, Report, Score

FEATURES: dict[FeatureKind, str] = {"trained": "trained", "random_init": "random init", "raw_input": "raw input"}
METRICS = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "auroc": "AUROC",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
PERCENT = ("accuracy", "weighted_f1")
LEGEND = (
    "± is the standard error over test samples; training seeds add to it. Gain: trained minus the better of the other "
    "two; its error takes them as independent."
)


@dataclass(frozen=True)
class Cell:
    """A value and its standard error; None where it is undefined or unknown."""

    value: float | None
    standard_error: float | None = None


@dataclass(frozen=True)
class Line:
    """One task, probe and metric: what each kind of features gives."""

    dataset: str
    task: str
    probe: str
    metric: str
    n_train: int
    n_test: int
    cells: Mapping[FeatureKind, Cell] = field(default_factory=dict)
    details: Mapping[FeatureKind, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def baseline(self) -> FeatureKind | None:
        """The better of random initialisation and raw input; None if neither was measured."""
        known = [
            (cell.value, kind) for kind, cell in self.cells.items() if kind != "trained" and cell.value is not None
        ]
        return max(known)[1] if known else None

    @property
    def gain(self) -> Cell | None:
        """Trained minus the better of the other two."""
        trained, other = self.cells.get("trained"), self.baseline
        if trained is None or trained.value is None or other is None:
            return None
        against = self.cells[other]
        error = None
        if trained.standard_error is not None and against.standard_error is not None:
            error = math.hypot(trained.standard_error, against.standard_error)
        return Cell(trained.value - (against.value or 0.0), error)

    @property
    def probe_title(self) -> str:
        """The probe in words."""
        details = next(iter(self.details.values()), {})
        if self.probe == "knn":
            return f"kNN, k={details['k']}" if "k" in details else "kNN"
        solver = details.get("solver")
        return f"{self.probe} ({solver})" if solver in ("adam", "adamw") else self.probe

    @property
    def metric_title(self) -> str:
        """The metric in words."""
        return METRICS.get(self.metric, self.metric) + (" %" if self.metric in PERCENT else "")

    @property
    def remarks(self) -> list[str]:
        """What a reader should know of a value: a solver that did not converge, notes of the metric."""
        found = []
        for kind, details in self.details.items():
            where = f"{self.task}, {self.probe_title} probe, {FEATURES[kind]}"
            if details.get("converged") is False:
                found.append(f"{where}: the solver stopped before it converged; raise evaluate.max_iter")
            found += [f"{where}: {note}" for note in details.get("notes", ())]
        return found


def lines(scores: Iterable[Score]) -> list[Line]:
    """Scores gathered by data set, task, probe and metric, in the order of their first appearance."""
    found: dict[tuple[str, str, str, str], list[Score]] = {}
    for score in scores:
        found.setdefault((score.dataset, score.task, score.probe, score.metric), []).append(score)
    return [
        Line(
            *key,
            n_train=group[0].n_train,
            n_test=group[0].n_test,
            cells={score.features: Cell(score.value, score.standard_error) for score in group},
            details={score.features: score.details for score in group},
        )
        for key, group in found.items()
    ]


def show(metric: str, cell: Cell | None, sign: bool = False) -> str:
    """A value as text: "63.4 ±1.5" in percent for accuracy and F1, "0.634 ±0.015" for the rest."""
    if cell is None:
        return "-"
    if cell.value is None:
        return "undefined"
    scale, digits = (100, 1) if metric in PERCENT else (1, 3)
    text = f"{cell.value * scale:{'+' if sign else ''}.{digits}f}"
    return text if cell.standard_error is None else f"{text} ±{cell.standard_error * scale:.{digits}f}"


def verdict(line: Line) -> str:
    """Whether the gain is more than twice its standard error: "better", "worse", or "" for neither."""
    gain = line.gain
    if gain is None or gain.value is None or not gain.standard_error or abs(gain.value) <= 2 * gain.standard_error:
        return ""
    return "better" if gain.value > 0 else "worse"


def table(report: Report) -> Table:
    """The scores for a terminal: one row for each task, probe and metric."""
    gathered = lines(report.scores)
    remarks = [remark for line in gathered for remark in line.remarks]
    made = Table(
        title=f"What a simple probe reads from frozen features: {escape(report.objective)} on "
        f"{escape(report.modality)}/{escape(report.dataset)}",
        caption=escape("\n".join([*counts(gathered, report), LEGEND, *remarks])),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("task", "probe", "metric"):
        made.add_column(column, no_wrap=column != "task")
    for column in (*FEATURES.values(), "gain"):
        made.add_column(column, justify="right")  # in a narrow terminal the error goes below its value
    for line in gathered:
        style = {"better": "bold green", "worse": "bold red", "": ""}[verdict(line)]
        made.add_row(
            *(escape(text) for text in (task_title(line, report), line.probe_title, line.metric_title)),
            *(show(line.metric, line.cells.get(kind)) for kind in FEATURES),
            Text(show(line.metric, line.gain, sign=True), style),
        )
    return made


def counts(gathered: Iterable[Line], report: Report) -> list[str]:
    """On how much each task's probes were fitted and scored."""
    found: dict[str, tuple[int, int]] = {}
    for line in gathered:
        title = task_title(line, report)
        fitted, _ = found.get(title, (0, 0))
        found[title] = max(fitted, line.n_train), line.n_test
    where = "others" if report.split == "test" else f"others, of the {report.split} split"
    return [
        f"{title}: probes fitted on {fitted:,}, scored on {tested:,} {where}."
        for title, (fitted, tested) in found.items()
    ]


def task_title(line: Line, report: Report) -> str:
    """The task, with its data set if that is not the report's own."""
    own = line.dataset == f"{report.modality}/{report.dataset}"
    return line.task if own else f"{line.task} ({line.dataset})"
