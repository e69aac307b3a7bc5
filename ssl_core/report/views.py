"""Figures of a report as what the web page shows: plots, tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from ssl_core.report import plots
from ssl_core.report.figures import Figures, Map, Maps, Predicted
from ssl_core.report.schema import Report
from ssl_core.report.scores import FEATURES

MAX_MATRIX = 20
"""Classes of a confusion matrix that is shown whole."""
WITH_SHARES = 12
"""Classes up to which each cell shows its share, too."""
TOP = 10
"""Confusions, or labels, that are named where there are too many for all."""
MAX_LABELS = 30


@dataclass(frozen=True)
class MapView:
    """Maps with their legend: title and plot of each; mark, name and count of each group; lines below."""

    plots: Sequence[tuple[str, Markup]]
    legend: Sequence[tuple[Markup, str, int]]
    title: str
    lines: Sequence[str]


def map_view(maps: Maps, split: str) -> MapView:
    """The maps of a report."""
    trained = next(iter(maps.maps.values()))
    entries = []
    for number, name in enumerate(maps.groups):
        count = int((trained.group == number).sum())
        entries.append((plots.legend_mark(number, maps.ordered, name), name, count))
    rest = int((trained.group < 0).sum())
    if rest and maps.groups:
        entries.append((plots.legend_mark(-1, maps.ordered, "others"), "others", rest))
    drawn = [(FEATURES[kind], _scatter(FEATURES[kind], one, maps)) for kind, one in maps.maps.items()]
    how = {
        "PCA": "the two directions of largest variance of the pooled features, which are not scaled",
        "UMAP": "UMAP of the pooled features: neighbours stay near, distances between groups mean little",
    }[maps.method]
    counts = sorted({len(one.points) for one in maps.maps.values()})
    shown = f"{counts[-1]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    lines = [f"{shown} samples of the {split} split; {how}."]
    if trained.explained and min(sum(trained.explained), 1) < 0.5:
        lines.append(
            f"The two axes hold {sum(trained.explained):.0%} of the variance of the trained features: groups that "
            "overlap here may be apart in other directions, which the probes read."
        )
    return MapView(drawn, entries, maps.title, lines)


def _scatter(name: str, one: Map, maps: Maps) -> Markup:
    if one.explained is None:
        titles = (f"{maps.method} 1", f"{maps.method} 2")
    else:
        first, second = (
            f"component {place}, {share:.1%} of the variance" for place, share in enumerate(one.explained, 1)
        )
        titles = first, second
    groups = f", in {len(maps.groups)} groups by {maps.title}" if maps.groups else ""
    label = f"Map of {len(one.points):,} samples by {maps.method}, {name} features{groups}; axes: {'; '.join(titles)}"
    return plots.scatter(one.points, one.group, maps.ordered, titles, label)


# --- predictions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatrixCell:
    """Rows of a true class that were predicted as a class, and their share of the true class."""

    count: int
    share: float
    text: str


@dataclass(frozen=True)
class PredictionView:
    """What a probe predicts: a confusion matrix, the most frequent confusions, or a plot.

    rows: name of a true class, number of its rows and its cells; None for a class that does not occur.
    confusions: true class, predicted class, number of rows, share of the true class.
    """

    title: str
    lines: Sequence[str]
    columns: Sequence[str] = ()
    rows: Sequence[tuple[str, int, Sequence[MatrixCell]]] = ()
    confusions: Sequence[tuple[str, str, int, str]] = ()
    upright: bool = field(default=False)
    plot: Markup | None = None


def prediction_view(report: Report, figures: Figures | None) -> PredictionView | None:
    """The predictions of a report; without the arrays, what its numbers show. None if there is nothing to show."""
    predicted = None if figures is None else figures.predicted
    numbers = report.figures
    if predicted is None:
        if numbers is None or numbers.probe is None:
            return None
        title = next((score.task for score in report.scores if score.probe == numbers.probe), "label")
        if numbers.confusion:
            return _matrix(np.array(numbers.confusion), numbers.classes, title, f"{numbers.probe} probe", "row")
        return _labels(numbers.classes, numbers.label_auroc, title, numbers.probe) if numbers.label_auroc else None
    if predicted.kind == "classes":
        return _matrix(
            predicted.confusion(), predicted.names, predicted.title, f"{predicted.probe} probe", predicted.unit
        )
    if predicted.kind == "labels":
        return _labels(predicted.names, predicted.auroc, predicted.title, predicted.probe)
    return _numbers(predicted)


def _matrix(counts: np.ndarray, names: Sequence[str], title: str, probe: str, unit: str) -> PredictionView:
    total, right = int(counts.sum()), int(np.trace(counts))
    occurring = counts.sum(axis=1)
    shares = counts / np.maximum(occurring, 1)[:, np.newaxis]
    lines = [
        f"Predictions of the {probe} from trained features for {total:,} {unit}s: {right:,} right. "
        "Rows are the true classes, columns the predicted ones."
    ]
    wrong = [
        (names[i], names[j], int(counts[i, j]), f"{shares[i, j]:.0%}")
        for i, j in zip(*np.nonzero(counts), strict=True)
        if i != j
    ]
    confusions = sorted(wrong, key=lambda one: -one[2])[:TOP]
    heading = f"Confusions of {title}"
    if len(names) > MAX_MATRIX:
        lines[0] = lines[0].split(" Rows are")[0] + f" Of {len(names)} classes, the most frequent confusions:"
        return PredictionView(heading, lines, confusions=confusions)
    cells = [
        [
            MatrixCell(int(count), float(share), f"{share:.0%}" if count and len(names) <= WITH_SHARES else "")
            for count, share in zip(row, row_shares, strict=True)
        ]
        for row, row_shares in zip(counts, shares, strict=True)
    ]
    lines.append("Shading is the share of a row." + (" So is the second number." if len(names) <= WITH_SHARES else ""))
    rows = [(name, int(n), own) for name, n, own in zip(names, occurring, cells, strict=True)]
    return PredictionView(heading, lines, names, rows, confusions[:3], len(names) > 6 or max(map(len, names)) > 12)


def _labels(names: Sequence[str], auroc: Sequence[float | None], title: str, probe: str) -> PredictionView:
    known = sorted(((value, name) for name, value in zip(names, auroc, strict=True) if value is not None), reverse=True)
    undefined = len(names) - len(known)
    lines = [f"AUROC of each label by the {probe} probe from trained features; 0.5 is chance."]
    if undefined:
        lines.append(f"{undefined} of {len(names)} labels have one value only in the scored split, and no AUROC.")
    shown = known
    if len(known) > MAX_LABELS:
        shown = known[:TOP] + known[-TOP:]
        lines.append(f"Of {len(known)} labels the best {TOP} and the worst {TOP}.")
    if not shown:
        return PredictionView(f"Labels of {title}", lines)
    values: dict[str, tuple[float, float | None]] = {}
    for value, name in shown:
        short = _short(name)
        values[f"{short} ({len(values) + 1})" if short in values else short] = value, None
    spoken = ", ".join(f"{name} {value:.3f}" for value, name in shown)
    plot = plots.bars(values, 1.0, f"AUROC of each label: {spoken}", plots.SERIES[:1], "AUROC")
    return PredictionView(f"Labels of {title}", lines, plot=plot)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _numbers(predicted: Predicted) -> PredictionView:
    true, guess = (values.astype(np.float64) for values in (predicted.labels, predicted.predictions))
    error = np.abs(true - guess)
    lines = [
        f"Predictions of the {predicted.probe} probe from trained features for {len(true):,} {predicted.unit}s; on the "
        f"dashed line both are equal. Half of the errors are below {np.median(error):.3g}."
    ]
    label = (
        f"Predicted against true {predicted.title}: true from {true.min():.4g} to {true.max():.4g}, predicted from "
        f"{guess.min():.4g} to {guess.max():.4g}, mean absolute error {error.mean():.4g}"
    )
    return PredictionView(
        f"Predictions of {predicted.title}", lines, plot=plots.predictions(true, guess, _short(predicted.title), label)
    )
