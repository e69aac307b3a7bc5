"""Scores side by side: trained features beside a random encoder's and the raw input."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ssl_core.report.schema import FeatureKind, Report, Score

FEATURES: dict[FeatureKind, str] = {
    "trained": "trained", "random_init": "random init", "raw_input": "raw input", "classical": "classical",
}  # fmt: skip
ALWAYS: tuple[FeatureKind, ...] = ("trained", "random_init", "raw_input")
"""Kinds of features that tables show also if they have no value."""
SELECTED = "selected"
"""The probe of rows whose probe and post-processing were chosen on validation samples."""
CHOSEN = "chosen"
POSTPROCESS_TITLES = {"none": "", "standardise": "standardised", "whiten": "whitened", CHOSEN: "chosen on validation"}
METRIC_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "map": "mAP",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
    "mae": "MAE",
}
PERCENT = ("accuracy", "balanced_accuracy", "weighted_f1", "macro_f1")
LOWER = "↓"
"""Mark of a metric of which smaller values are better."""
LEGEND = (
    "± is the standard error over test samples; training seeds add to it. Gain: how much better trained is than the "
    "best of the others; its error takes them as independent."
)


def metric_title(metric: str, higher_is_better: bool = True) -> str:
    """A metric in words, with its unit in percent, and a mark if smaller values are better."""
    unit, mark = " %" if metric in PERCENT else "", "" if higher_is_better else f" {LOWER}"
    return METRIC_TITLES.get(metric, metric) + unit + mark


def features_title(readout: str, postprocess: str) -> str:
    """What a probe reads, in words: "last", "layers+stats, whitened"."""
    return ", ".join(part for part in (readout, POSTPROCESS_TITLES.get(postprocess, postprocess)) if part)


def postprocess_of(score: Score) -> str:
    """The post-processing of a row of scores: of a selected probe, whose kinds of features differ in it, "chosen"."""
    return CHOSEN if score.probe == SELECTED else score.postprocess


@dataclass(frozen=True)
class ScoreValue:
    """A value and its standard error; None where it is undefined or unknown."""

    value: float | None
    standard_error: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one task, probe and metric by kind of features."""

    dataset: str
    task: str
    probe: str
    metric: str
    n_train: int
    n_test: int
    values: Mapping[FeatureKind, ScoreValue] = field(default_factory=dict)
    details: Mapping[FeatureKind, Mapping[str, Any]] = field(default_factory=dict)
    higher_is_better: bool = True
    readout: str = "last"
    postprocess: str = "none"

    @property
    def features_title(self) -> str:
        """The read-out and the post-processing in words."""
        return features_title(self.readout, self.postprocess)

    @property
    def sign(self) -> int:
        """1 if larger values are better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def baseline(self) -> FeatureKind | None:
        """The best of random initialisation, raw input and classical features; None if none has a value."""
        known = [
            (self.sign * score.value, kind)
            for kind, score in self.values.items()
            if kind != "trained" and score.value is not None
        ]
        return max(known)[1] if known else None

    @property
    def gain(self) -> ScoreValue | None:
        """How much better trained features are than the baseline: their difference, positive if they are better."""
        trained, baseline = self.values.get("trained"), self.baseline
        if trained is None or trained.value is None or baseline is None:
            return None
        other = self.values[baseline]
        error = None
        if trained.standard_error is not None and other.standard_error is not None:
            error = math.hypot(trained.standard_error, other.standard_error)
        return ScoreValue(self.sign * (trained.value - (other.value or 0.0)), error)

    @property
    def probe_title(self) -> str:
        """The probe in words."""
        details = next(iter(self.details.values()), {})
        if self.probe == "knn":
            return f"kNN, k={details['k']}" if "k" in details else "kNN"
        solver = details.get("solver")
        return f"{self.probe} ({solver})" if solver in ("adam", "adamw", "lars") else self.probe

    @property
    def metric_title(self) -> str:
        """The metric in words."""
        return metric_title(self.metric, self.higher_is_better)

    @property
    def remarks(self) -> list[str]:
        """Remarks on values: a solver that did not converge, notes of the metric."""
        remarks = []
        for kind, details in self.details.items():
            subject = f"{self.task}, {self.probe_title} probe, {FEATURES[kind]}"
            if details.get("converged") is False:
                remarks.append(f"{subject}: the solver stopped before it converged; raise evaluate.max_iter")
            if self.probe == SELECTED and "probe" in details:
                chosen = features_title(details["probe"], details.get("postprocess", "none"))
                remarks.append(f"{subject}: {chosen}; chosen on {details.get('selected_on', 'validation samples')}")
            remarks += [f"{subject}: {note}" for note in details.get("notes", ())]
        return remarks


def score_rows(scores: Iterable[Score]) -> list[ScoreRow]:
    """Scores grouped by data set, task, probe and metric, in the order of their first appearance."""
    groups: dict[tuple[str, str, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.dataset, score.task, score.probe, score.metric), []).append(score)
    return [
        ScoreRow(
            *key,
            n_train=group[0].n_train,
            n_test=group[0].n_test,
            values={score.features: ScoreValue(score.value, score.standard_error) for score in group},
            details={score.features: score.details for score in group},
            higher_is_better=group[0].higher_is_better,
            readout=group[0].readout,
            postprocess=postprocess_of(group[0]),
        )
        for key, group in groups.items()
    ]


def format_score(metric: str, score: ScoreValue | None, sign: bool = False) -> str:
    """A value as text: "63.4 ±1.5" for metrics in percent, "0.634 ±0.015" for the others."""
    if score is None:
        return "-"
    if score.value is None:
        return "undefined"
    scale, digits = (100, 1) if metric in PERCENT else (1, 3)
    text = f"{score.value * scale:{'+' if sign else ''}.{digits}f}"
    return text if score.standard_error is None else f"{text} ±{score.standard_error * scale:.{digits}f}"


def verdict(row: ScoreRow) -> str:
    """ "better" or "worse" if the gain is more than twice its standard error, else ""."""
    gain = row.gain
    if gain is None or gain.value is None or not gain.standard_error or abs(gain.value) <= 2 * gain.standard_error:
        return ""
    return "better" if gain.value > 0 else "worse"


def score_table(report: Report) -> Table:
    """The scores for a terminal: one row for each task, probe and metric."""
    rows = score_rows(report.scores)
    remarks = [remark for row in rows for remark in row.remarks]
    lower = [f"{LOWER}: smaller is better."] if any(not row.higher_is_better for row in rows) else []
    table = Table(
        title=f"Scores of probes on frozen features: {escape(report.objective)} on "
        f"{escape(report.modality)}/{escape(report.dataset)}",
        caption=escape("\n".join([*sample_counts(rows, report), LEGEND, *lower, *remarks])),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in ("task", "probe, read-out", "metric"):
        table.add_column(column, no_wrap=column == "metric")
    kinds = feature_kinds(rows)
    for column in (*kinds.values(), "gain"):
        table.add_column(column, justify="right")  # in a narrow terminal the error goes below its value
    for row in rows:
        style = {"better": "bold green", "worse": "bold red", "": ""}[verdict(row)]
        table.add_row(
            escape(task_title(row, report)),
            # a line each: the column stays narrow, and no part of a name is broken
            Text("\n".join([row.probe_title, *textwrap.wrap(row.features_title, 16)]), no_wrap=True),
            escape(row.metric_title),
            *(format_score(row.metric, row.values.get(kind)) for kind in kinds),
            Text(format_score(row.metric, row.gain, sign=True), style),
        )
    return table


def feature_kinds(rows: Iterable[ScoreRow]) -> dict[FeatureKind, str]:
    """The kinds of features that a table of these rows has as columns, in words."""
    known = {kind for row in rows for kind in row.values}
    return {kind: title for kind, title in FEATURES.items() if kind in ALWAYS or kind in known}


def sample_counts(rows: Iterable[ScoreRow], report: Report) -> list[str]:
    """A line for each task: the largest number of training rows of its probes, and its number of test rows."""
    counts: dict[str, tuple[int, int]] = {}
    for row in rows:
        title = task_title(row, report)
        n_train, _ = counts.get(title, (0, 0))
        counts[title] = max(n_train, row.n_train), row.n_test
    where = "others" if report.split == "test" else f"others, of the {report.split} split"
    return [
        f"{title}: probes fitted on {n_train:,}, scored on {n_test:,} {where}."
        for title, (n_train, n_test) in counts.items()
    ]


def task_title(row: ScoreRow, report: Report) -> str:
    """The task, with its data set if that is not the report's own."""
    own = row.dataset == f"{report.modality}/{report.dataset}"
    return row.task if own else f"{row.task} ({row.dataset})"
