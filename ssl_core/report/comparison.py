"""Many reports as one comparison: means over seeds, the best, paired tests, ranks, costs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_core.report.schema import FeatureKind, Report
from ssl_core.report.scores import FEATURES, METRICS, PERCENT

UNTRAINED: tuple[FeatureKind, ...] = ("random_init", "raw_input")


@dataclass(frozen=True)
class Column:
    """One thing that was measured: a task of a data set, read by a probe."""

    data: str
    dataset: str
    task: str
    probe: str
    metric: str

    @property
    def title(self) -> str:
        """In words."""
        return f"{self.data}: {self.task}, {self.probe}, {METRICS.get(self.metric, self.metric)}"

    @property
    def scale(self) -> float:
        """Percent for accuracy and F1."""
        return 100.0 if self.metric in PERCENT else 1.0


@dataclass(frozen=True)
class ContinuousTarget:
    """A row's values in a column, by seed."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.mean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for one seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Cost:
    """What a method's runs cost on a data set, each a mean over seeds."""

    steps: float
    train_seconds: float
    wall_seconds: float
    samples_per_second: float
    peak_memory_bytes: float
    runs: int


@dataclass
class Comparison:
    """Rows are methods in order of appearance, then the two untrained ones."""

    methods: list[str]
    columns: list[Column]
    values: dict[tuple[str, Column], ContinuousTarget]
    costs: dict[tuple[str, str], Cost]
    devices: list[str]
    curves: dict[tuple[str, Column], list[tuple[float, float, float]]] = field(default_factory=dict)
    """Steps, seconds and score in the course of training, each a mean over the seeds that have it."""
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """Methods, then random init and raw input."""
        return [*self.methods, *(FEATURES[kind] for kind in UNTRAINED)]

    def best(self, column: Column) -> str | None:
        """The row with the highest mean."""
        known = {row: self.values[row, column].mean for row in self.rows if (row, column) in self.values}
        return max(known, key=lambda row: known[row]) if known else None

    def baseline(self, column: Column) -> str | None:
        """The better of random init and raw input."""
        known = {
            name: self.values[name, column].mean
            for kind in UNTRAINED
            if (name := FEATURES[kind], column) in self.values
        }
        return max(known, key=lambda row: known[row]) if known else None

    def runner_up(self, column: Column) -> str | None:
        """The best method but one."""
        known = sorted(
            (row for row in self.methods if (row, column) in self.values),
            key=lambda row: -self.values[row, column].mean,
        )
        return known[1] if len(known) > 1 else None

    def leader(self, column: Column) -> str | None:
        """The best method."""
        known = [row for row in self.methods if (row, column) in self.values]
        return max(known, key=lambda row: self.values[row, column].mean) if known else None

    def against(self, row: str, other: str, column: Column) -> tuple[float, float | None, int]:
        """Mean difference over common seeds, p of the paired t-test (None if undefined), and their number."""
        mine, theirs = self.values[row, column].by_seed, self.values[other, column].by_seed
        seeds = sorted(mine.keys() & theirs.keys())
        gains = [mine[seed] - theirs[seed] for seed in seeds]
        if not gains:
            return math.nan, None, 0
        return statistics.mean(gains), paired_t(gains), len(gains)

    def ranks(self, probe: str) -> dict[str, float]:
        """Mean rank of each method over the columns of a probe that all methods have; ties share their rank."""
        from scipy.stats import rankdata

        columns = [
            column
            for column in self.columns
            if column.probe == probe and all((row, column) in self.values for row in self.methods)
        ]
        if not columns:
            return {}
        each = [rankdata([-self.values[row, column].mean for row in self.methods]) for column in columns]
        return {row: statistics.mean(float(ranks[i]) for ranks in each) for i, row in enumerate(self.methods)}


def paired_t(gains: Sequence[float]) -> float | None:
    """Two-sided p of the hypothesis that the mean gain is zero; None for fewer than two or equal gains."""
    if len(gains) < 2 or statistics.pstdev(gains) < 1e-12:
        return None
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(gains, 0.0).pvalue)


def method_of(report: Report) -> str:
    """The row that a report belongs to."""
    return str(report.config.get("label") or report.objective)


def data_of(report: Report, labels: Mapping[str, set[str]]) -> str:
    """The data that a report belongs to: as it calls it, else as others call just the same data, if they agree."""
    known = labels.get(_same_data(report), set())
    return str(report.config.get("data_label") or (min(known) if len(known) == 1 else _own(report)))


def labels_of(reports: Iterable[Report]) -> dict[str, set[str]]:
    """By data set with its options: what reports call it."""
    found: dict[str, set[str]] = {}
    for report in reports:
        if report.config.get("data_label"):
            found.setdefault(_same_data(report), set()).add(str(report.config["data_label"]))
    return found


def _same_data(report: Report) -> str:
    return json.dumps([report.modality, report.dataset, report.config.get("dataset")], sort_keys=True, default=str)


def _options(report: Report) -> dict[str, Any]:
    """What makes a run what it is, without where and how fast it ran."""
    kept = {key: value for key, value in report.config.items() if key not in ("device", "strict", "preset_sources")}
    train = {
        key: value for key, value in kept.get("train", {}).items() if key not in ("compile", "cuda_graph", "precision")
    }
    return {**kept, "train": train}


def _own(report: Report) -> str:
    return f"{report.modality}/{report.dataset}"


def compare(reports: Iterable[Report]) -> Comparison:
    """Reports of finished runs as one comparison; a later report of the same cell replaces an earlier one."""
    reports = list(reports)
    labels = labels_of(reports)
    cells: dict[tuple[str, str, int], Report] = {}
    found: dict[tuple[str, Column], dict[int, float]] = {}
    columns: dict[Column, None] = {}
    notes: dict[str, None] = {}
    for report in reports:
        method, data, seed = cell = (method_of(report), data_of(report, labels), report.seed)
        if cell in cells and _options(cells[cell]) != _options(report):
            notes.setdefault(
                f"{method} on {data}, seed {seed}: of runs with different options the last is shown; tell them apart "
                f"by --set label=NAME or data_label=NAME"
            )
        cells[cell] = report
    for (method, data, seed), report in cells.items():
        for score in report.scores:
            here = data if score.dataset == _own(report) else score.dataset  # else a transfer set of a benchmark
            column = Column(here, score.dataset, score.task, score.probe, score.metric)
            columns.setdefault(column)
            if score.value is None:
                continue
            row = method if score.features == "trained" else FEATURES[score.features]
            by_seed = found.setdefault((row, column), {})
            if score.features != "trained" and abs(by_seed.get(seed, score.value) - score.value) > 1e-9:
                notes.setdefault(
                    f"{data}: {row} differs between methods, because they differ in encoder, data or tokenizer; "
                    f"shown is that of the first"
                )
                continue
            by_seed[seed] = score.value
    methods = list(dict.fromkeys(method for method, _, _ in cells))
    steps = {report.steps for report in cells.values()}
    seeds = {method: {seed for m, _, seed in cells if m == method} for method in methods}
    if len({frozenset(each) for each in seeds.values()}) > 1:
        notes.setdefault(
            "not every method has every seed: "
            + "; ".join(f"{method} {', '.join(map(str, sorted(each)))}" for method, each in seeds.items())
        )
    if len(steps) > 1:
        notes.setdefault("the runs differ in steps: see the table of costs")
    return Comparison(
        methods=methods,
        columns=list(columns),
        values={key: ContinuousTarget(dict(sorted(by_seed.items()))) for key, by_seed in found.items()},
        costs=costs(cells),
        devices=list(dict.fromkeys(f"{report.device}, {report.precision}" for report in cells.values())),
        curves=curves(cells, list(columns)),
        notes=list(notes),
    )


def curves(
    cells: Mapping[tuple[str, str, int], Report], columns: Sequence[Column]
) -> dict[tuple[str, Column], list[tuple[float, float, float]]]:
    """By method and column: what was probed during training, where all its seeds were probed at the same steps."""
    made = {}
    for column in columns:
        key = f"{column.probe}_{column.metric}"
        for method in dict.fromkeys(method for method, _, _ in cells):
            runs = [
                [(point.step, point.seconds, point.scores[key]) for point in report.curve if key in point.scores]
                for (m, data, _), report in cells.items()
                if (m, data) == (method, column.data)
            ]
            length = min((len(run) for run in runs), default=0)
            if length > 1:
                together = zip(*(run[:length] for run in runs), strict=True)
                means = [[statistics.mean(part) for part in zip(*points, strict=True)] for points in together]
                made[method, column] = [(step, seconds, value) for step, seconds, value in means]
    return made


def costs(cells: Mapping[tuple[str, str, int], Report]) -> dict[tuple[str, str], Cost]:
    """By method and data."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for (method, data, _), report in cells.items():
        groups.setdefault((method, data), []).append(report)

    def mean(group: list[Report], key: str) -> float:
        return statistics.mean(float(getattr(report, key)) for report in group)

    return {
        key: Cost(
            steps=mean(group, "steps"),
            train_seconds=mean(group, "pretrain_seconds"),
            wall_seconds=mean(group, "wall_seconds"),
            samples_per_second=mean(group, "samples_per_second"),
            peak_memory_bytes=mean(group, "peak_memory_bytes"),
            runs=len(group),
        )
        for key, group in groups.items()
    }


def as_records(comparison: Comparison) -> list[dict[str, Any]]:
    """One record for each row and column: what a program wants to read."""
    records = []
    for column in comparison.columns:
        baseline = comparison.baseline(column)
        for row in comparison.rows:
            values = comparison.values.get((row, column))
            if values is None:
                continue
            gain, p, _ = (math.nan, None, 0)
            if baseline is not None and row in comparison.methods:
                gain, p, _ = comparison.against(row, baseline, column)
            records.append(
                {
                    "data": column.data, "dataset": column.dataset, "task": column.task, "probe": column.probe,
                    "metric": column.metric, "method": row, "mean": values.mean, "std": values.deviation,
                    "seeds": len(values.by_seed), "best": comparison.best(column) == row,
                    "gain_over_untrained": None if math.isnan(gain) else gain, "p_paired_t": p,
                    "continuous": {str(seed): value for seed, value in values.by_seed.items()},
                }
            )  # fmt: skip
    return records
