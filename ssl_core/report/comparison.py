"""Many reports as one comparison: means over seeds, the best method, paired tests, ranks, costs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ssl_core.report.schema import FeatureKind, Report
from ssl_core.report.scores import ALWAYS, FEATURES, PERCENT, features_title, metric_title, postprocess_of

UNTRAINED: tuple[FeatureKind, ...] = ("random_init", "raw_input", "classical")
TRAIN_SPEED_OPTIONS = ("compile", "cuda_graph", "precision")
OPTIONS_OF_PLACE = ("device", "strict", "preset_sources")
OPTIONS_OF_SEED = ("seed", "label", "data_label", "init", "evaluate", "auto")
"""Options in which the runs of a row may differ, or which the scores name."""

RunKey: TypeAlias = tuple[str, str, int]
"""Method, data and seed."""


@dataclass(frozen=True)
class Column:
    """A task of a data set, with a probe and a metric."""

    data: str
    dataset: str
    task: str
    probe: str
    metric: str
    higher_is_better: bool = True
    readout: str = "last"
    postprocess: str = "none"
    split: str = "test"

    @property
    def label(self) -> str:
        """Data and label, and the split if it is not the test split."""
        return f"{self.data}: {self.task}" + ("" if self.split == "test" else f" ({self.split} split)")

    @property
    def title(self) -> str:
        """In words."""
        title = metric_title(self.metric, self.higher_is_better).replace(" %", "")
        return f"{self.label}, {self.probe} on {self.features}, {title}"

    @property
    def features(self) -> str:
        """The read-out and the post-processing in words."""
        return features_title(self.readout, self.postprocess)

    @property
    def scale(self) -> float:
        """100 for metrics in percent."""
        return 100.0 if self.metric in PERCENT else 1.0

    @property
    def sign(self) -> int:
        """1 if larger values are better, else -1."""
        return 1 if self.higher_is_better else -1


@dataclass(frozen=True)
class SeedValues:
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
    """Cost of a method's runs on a data set, each a mean over seeds."""

    steps: float
    train_seconds: float
    wall_seconds: float
    samples_per_second: float
    peak_memory_bytes: float
    runs: int


@dataclass
class Comparison:
    """Scores and costs of methods. Rows are methods in order of appearance, then those without pretraining."""

    methods: list[str]
    columns: list[Column]
    values: dict[tuple[str, Column], SeedValues]
    costs: dict[tuple[str, str], Cost]
    devices: list[str]
    curves: dict[tuple[str, Column], list[tuple[float, float, float]]] = field(default_factory=dict)
    """Steps, seconds and score during training, each a mean over seeds."""
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """A line for each run that failed."""
    folder: Path | None = None
    """Where the tables are written; None if they are not."""

    def to_dict(self) -> dict[str, Any]:
        """The scores as records of plain values, and the failures, as in comparison.json."""
        return {"scores": as_records(self), "failures": list(self.failures)}

    def to_frame(self) -> Any:
        """The scores as a pandas DataFrame, a row for each method, data, task, probe and metric.

        Its columns are those of the records of `to_dict`: mean, std and number of seeds, the gain over the better of
        random init and raw input with the p of a paired t-test, and the values by seed. Scores are not in percent.
        """
        import pandas

        return pandas.DataFrame(as_records(self))

    @property
    def rows(self) -> list[str]:
        """Methods, then random init, raw input and, if measured, classical features."""
        known = {row for row, _ in self.values}
        untrained = (kind for kind in UNTRAINED if kind in ALWAYS or FEATURES[kind] in known)
        return [*self.methods, *(FEATURES[kind] for kind in untrained)]

    def ranking(self, rows: Iterable[str], column: Column) -> list[str]:
        """The rows that have a value in a column, the best mean first; of equal ones the earlier first."""
        known = (row for row in rows if (row, column) in self.values)
        return sorted(known, key=lambda row: -column.sign * self.values[row, column].mean)

    def best(self, column: Column) -> str | None:
        """The row with the best mean."""
        return next(iter(self.ranking(self.rows, column)), None)

    def baseline(self, column: Column) -> str | None:
        """The best of random init, raw input and classical features."""
        return next(iter(self.ranking((FEATURES[kind] for kind in UNTRAINED), column)), None)

    def best_method(self, column: Column) -> str | None:
        """The best method."""
        return next(iter(self.ranking(self.methods, column)), None)

    def runner_up(self, column: Column) -> str | None:
        """The second-best method."""
        return next(iter(self.ranking(self.methods, column)[1:]), None)

    def gain(self, row: str, other: str, column: Column) -> tuple[float, float | None, int]:
        """How much better a row is than another on their common seeds.

        Returns:
            Mean difference, positive if `row` is better, NaN without a common seed; p of the paired t-test, None if it
            is undefined; number of common seeds.
        """
        values, other_values = self.values[row, column].by_seed, self.values[other, column].by_seed
        seeds = sorted(values.keys() & other_values.keys())
        gains = [column.sign * (values[seed] - other_values[seed]) for seed in seeds]
        if not gains:
            return math.nan, None, 0
        return statistics.mean(gains), paired_t(gains), len(gains)

    def ranks(self, probe: str, features: str = "last") -> dict[str, float]:
        """Mean rank of each method over the columns of a probe that all methods have; ties share their rank.

        features: the columns' read-out and post-processing, as `Column.features`.
        """
        from scipy.stats import rankdata

        columns = [
            column
            for column in self.columns
            if (column.probe, column.features) == (probe, features)
            and all((row, column) in self.values for row in self.methods)
        ]
        if not columns:
            return {}
        ranks = [rankdata([-column.sign * self.values[row, column].mean for row in self.methods]) for column in columns]
        return {row: statistics.mean(float(of[i]) for of in ranks) for i, row in enumerate(self.methods)}


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
    """Name of the data of a report: its label, else the one label that other reports give the same data."""
    known = labels.get(_data_key(report), set())
    return str(report.config.get("data_label") or (min(known) if len(known) == 1 else _own_dataset(report)))


def labels_of(reports: Sequence[Report]) -> dict[str, set[str]]:
    """Labels of data, by data set with its options. Files without a label are told apart by their names."""
    labels: dict[str, set[str]] = {}
    for report in reports:
        if report.config.get("data_label"):
            labels.setdefault(_data_key(report), set()).add(str(report.config["data_label"]))
    roots: dict[str, dict[str, str]] = {}
    for report in reports:
        if root := report.config.get("dataset", {}).get("root"):
            roots.setdefault(_own_dataset(report), {})[_data_key(report)] = str(root)
    for own, found in roots.items():
        different = set(found.values())
        names = {root: Path(root).name for root in different}
        unique = len(set(names.values())) == len(different)
        if len(different) > 1:
            for key, root in found.items():
                labels.setdefault(key, {f"{own} {names[root] if unique else root}"})
    return labels


def _data_key(report: Report) -> str:
    return json.dumps([report.modality, report.dataset, report.config.get("dataset")], sort_keys=True, default=str)


def _options(report: Report) -> dict[str, Any]:
    """The options that change a run's result, without those of its place and speed."""
    options = {key: value for key, value in report.config.items() if key not in OPTIONS_OF_PLACE}
    train = {key: value for key, value in options.get("train", {}).items() if key not in TRAIN_SPEED_OPTIONS}
    return {**options, "train": train}


def _own_dataset(report: Report) -> str:
    return f"{report.modality}/{report.dataset}"


def compare(reports: Iterable[Report]) -> Comparison:
    """Reports of finished runs as one comparison; a later report of the same method, data and seed replaces another."""
    reports = list(reports)
    notes: dict[str, None] = {}
    runs = _latest_runs(reports, notes.setdefault)
    columns, values = _values(runs, notes.setdefault)
    methods = list(dict.fromkeys(method for method, _, _ in runs))
    seeds = {method: {seed for of, _, seed in runs if of == method} for method in methods}
    if len({frozenset(of) for of in seeds.values()}) > 1:
        notes.setdefault(
            "not every method has every seed: "
            + "; ".join(f"{method} {', '.join(map(str, sorted(of)))}" for method, of in seeds.items())
        )
    _note_options(runs, notes.setdefault)
    if len({report.steps for report in runs.values()}) > 1:
        notes.setdefault("the runs differ in steps: see the table of costs")
    return Comparison(
        methods=methods,
        columns=columns,
        values={key: SeedValues(dict(sorted(by_seed.items()))) for key, by_seed in values.items()},
        costs=costs(runs),
        devices=list(dict.fromkeys(f"{report.device}, {report.precision}" for report in runs.values())),
        curves=curves(runs, columns),
        notes=list(notes),
    )


def _latest_runs(reports: Sequence[Report], note: Callable[[str], Any]) -> dict[RunKey, Report]:
    """The last report of each method, data and seed, with a note if an earlier one has other options."""
    labels = labels_of(reports)
    runs: dict[RunKey, Report] = {}
    for report in reports:
        method, data, seed = key = (method_of(report), data_of(report, labels), report.seed)
        if key in runs and _options(runs[key]) != _options(report):
            note(
                f"{method} on {data}, seed {seed}: of runs with different options the last is shown; tell them apart "
                f"by --set label=NAME or data_label=NAME"
            )
        runs[key] = report
    return runs


def _note_options(runs: Mapping[RunKey, Report], note: Callable[[str], Any]) -> None:
    """A note for each row whose seeds were not trained with the same options."""
    from ssl_core.report.page import flatten

    first: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}
    for (method, data, seed), report in runs.items():
        options = dict(flatten({key: value for key, value in _options(report).items() if key not in OPTIONS_OF_SEED}))
        before, expected = first.setdefault((method, data), (seed, options))
        path = next(
            (path for path in sorted(expected.keys() | options) if expected.get(path) != options.get(path)), None
        )
        if path is not None:
            note(
                f"{method} on {data}: the mean is over runs with different options: {path} is {expected.get(path)} "
                f"with seed {before} and {options.get(path)} with seed {seed}"
            )


def _values(
    runs: Mapping[RunKey, Report], note: Callable[[str], Any]
) -> tuple[list[Column], dict[tuple[str, Column], dict[int, float]]]:  # fmt: skip
    """Columns in order of appearance, and values by row, column and seed."""
    columns: dict[Column, None] = {}
    values: dict[tuple[str, Column], dict[int, float]] = {}
    for (method, data, seed), report in runs.items():
        for score in report.scores:
            # a score of another data set is that of a transfer set of a benchmark
            name = data if score.dataset == _own_dataset(report) else score.dataset
            column = Column(
                name, score.dataset, score.task, score.probe, score.metric, score.higher_is_better, score.readout,
                postprocess_of(score), report.split,
            )  # fmt: skip
            columns.setdefault(column)
            if score.value is None:
                continue
            row = method if score.features == "trained" else FEATURES[score.features]
            by_seed = values.setdefault((row, column), {})
            if score.features != "trained" and abs(by_seed.get(seed, score.value) - score.value) > 1e-9:
                note(
                    f"{data}: {row} differs between methods, because they differ in encoder, data or tokenizer; "
                    f"shown is that of the first"
                )
                continue
            by_seed[seed] = score.value
    return list(columns), values


def curves(
    runs: Mapping[RunKey, Report], columns: Sequence[Column]
) -> dict[tuple[str, Column], list[tuple[float, float, float]]]:  # fmt: skip
    """By method and column: steps, seconds and score during training, means over seeds.

    A curve ends with the shortest of its runs, and has at least two points.
    """
    means_of: dict[tuple[str, Column], list[tuple[float, float, float]]] = {}
    for column in columns:
        key = f"{column.probe}_{column.metric}"
        for method in dict.fromkeys(method for method, _, _ in runs):
            points_of_runs = [
                [(point.step, point.seconds, point.scores[key]) for point in report.curve if key in point.scores]
                for (of, data, _), report in runs.items()
                if (of, data) == (method, column.data)
            ]
            length = min((len(points) for points in points_of_runs), default=0)
            if length > 1:
                aligned = zip(*(points[:length] for points in points_of_runs), strict=True)
                means = [[statistics.mean(part) for part in zip(*points, strict=True)] for points in aligned]
                means_of[method, column] = [(step, seconds, value) for step, seconds, value in means]
    return means_of


def costs(runs: Mapping[RunKey, Report]) -> dict[tuple[str, str], Cost]:
    """Costs by method and data."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for (method, data, _), report in runs.items():
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
    """One record for each row and column, for programs. "gain_over_untrained" is positive if the method is better."""
    records = []
    for column in comparison.columns:
        baseline = comparison.baseline(column)
        for row in comparison.rows:
            values = comparison.values.get((row, column))
            if values is None:
                continue
            gain, p, _ = (math.nan, None, 0)
            if baseline is not None and row in comparison.methods:
                gain, p, _ = comparison.gain(row, baseline, column)
            records.append(
                {
                    "data": column.data, "dataset": column.dataset, "task": column.task, "probe": column.probe,
                    "metric": column.metric, "higher_is_better": column.higher_is_better, "method": row,
                    "readout": column.readout, "postprocess": column.postprocess, "split": column.split,
                    "mean": values.mean, "std": values.deviation,
                    "seeds": len(values.by_seed), "best": comparison.best(column) == row,
                    "gain_over_untrained": None if math.isnan(gain) else gain, "p_paired_t": p,
                    "values": {str(seed): value for seed, value in values.by_seed.items()},
                }
            )  # fmt: skip
    return records
