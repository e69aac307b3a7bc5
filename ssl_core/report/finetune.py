"""The report of a fine-tuning: finetune.json, and its scores as a table for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.markup import escape
from rich.table import Table

from ssl_core.report.scores import ScoreValue, format_score, metric_title
from ssl_core.utils.files import write_text

FINETUNE = "finetune.json"
Method: TypeAlias = Literal["fine-tuned", "from scratch", "linear probe"]
METHODS: tuple[Method, ...] = ("fine-tuned", "from scratch", "linear probe")


class FinetuneScore(BaseModel):
    """The score of one method with one share of the labels and one seed."""

    model_config = ConfigDict(frozen=True)

    method: Method = Field(description="fine-tuned; the same network from scratch; a linear probe on frozen features")
    fraction: float = Field(description="share of the labels of training and validation that was used")
    seed: int = Field(description="seed of labels, weights and batches")
    metric: str = Field(description="name of the metric")
    higher_is_better: bool = Field(True, description="whether a larger value is the better one")
    value: float | None = Field(description="value on the scored split, not in percent; null if undefined")
    standard_error: float | None = Field(None, description="of the value over the scored samples; null if unknown")
    validation: float | None = Field(
        None, description="value of the task's own metric on the validation split, which chose the weights"
    )
    n_train: int = Field(description="samples that were trained on")
    n_validation: int = Field(description="samples that decided when to stop")
    n_test: int = Field(description="samples, or tokens, of the scored split")
    steps: int = Field(0, description="optimiser steps done")
    best_step: int = Field(0, description="step whose weights were kept; 0 is before training")
    seconds: float = Field(0.0, description="seconds of training")
    trained_parameters: int = Field(0, description="number of parameters that were trained")
    notes: tuple[str, ...] = Field((), description="notes of the metric")


class FinetunePoint(BaseModel):
    """One evaluation during a training."""

    model_config = ConfigDict(frozen=True)

    step: int = Field(description="optimiser steps done")
    seconds: float = Field(description="seconds of training until then")
    train_loss: float | None = Field(description="mean loss of the steps since the point before; null at step 0")
    validation_loss: float = Field(description="loss on the validation split")
    value: float | None = Field(description="the task's metric on the validation split")


class FinetuneCurve(BaseModel):
    """The evaluations of one training."""

    model_config = ConfigDict(frozen=True)

    method: Method = Field(description="fine-tuned or from scratch")
    fraction: float = Field(description="share of the labels")
    seed: int = Field(description="seed")
    points: tuple[FinetunePoint, ...] = Field(description="in the order of steps")


class FinetuneReport(BaseModel):
    """What finetune.json holds."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = Field(1, description="version of this schema")
    run: str = Field(description="folder of the run that was fine-tuned")
    created: datetime = Field(default_factory=lambda: datetime.now().astimezone(), description="time of the report")
    command: str = Field("", description="the command line")
    modality: str = Field(description="name of the modality")
    dataset: str = Field(description="name of the data set")
    split: Literal["test", "validation"] = Field(description="split that the scores are computed on")
    task: dict[str, Any] = Field(description="kind, size, metric, names of the classes and title of the label")
    samples: dict[str, int] = Field(description="labelled samples of each split")
    validation: str = Field(description="where the validation split comes from")
    options: dict[str, Any] = Field(description="the options of fine-tuning, resolved")
    data: dict[str, Any] = Field(description="options of the data set")
    schema_of_data: dict[str, Any] = Field({}, description="names, kinds and vocabularies of the inputs, and classes")
    stats: dict[str, Any] = Field({}, description="statistics of the fields of the training split")
    scores: tuple[FinetuneScore, ...] = Field(description="one entry for each method, share, seed and metric")
    curves: tuple[FinetuneCurve, ...] = Field((), description="one entry for each training")
    model: dict[str, Any] = Field({}, description="share of labels and seed of the model that was saved")
    device: str = Field("", description="the hardware in words")
    precision: str = Field("fp32", description="number format of training")
    notes: tuple[str, ...] = Field((), description="notes for the reader")
    versions: dict[str, str] = Field({}, description="versions of Python, sslx and the libraries that compute")

    def write(self, folder: Path) -> None:
        """Write finetune.json into a folder.

        Raises:
            OSError: it cannot be written.
        """
        write_text(folder / FINETUNE, self.model_dump_json(indent=2) + "\n")


def finetune_table(report: FinetuneReport) -> Table:
    """The scores for a terminal: a row for each share of the labels and method, a column for each metric."""
    table = Table(
        title=f"Fine-tuning on {escape(report.modality)}/{escape(report.dataset)}: "
        f"{escape(report.task['title'])}, {report.split} split",
        caption=escape("\n".join(_captions(report))),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    metrics = list(dict.fromkeys((score.metric, score.higher_is_better) for score in report.scores))
    table.add_column("labels", justify="right")
    table.add_column("method", no_wrap=True)
    for metric in metrics:
        table.add_column(metric_title(*metric), justify="right")
    table.add_column("validation", justify="right")
    table.add_column("steps", justify="right")
    table.add_column("seconds", justify="right")
    for fraction in dict.fromkeys(score.fraction for score in report.scores):
        for method in METHODS:
            rows = [one for one in report.scores if one.fraction == fraction and one.method == method]
            if not rows:
                continue
            own = [one for one in rows if one.metric == report.task["metric"]]
            used = own[0].n_train + own[0].n_validation
            steps = statistics.mean(one.best_step for one in own)
            table.add_row(
                f"{100 * fraction:.3g} %: {used:,}" if method == METHODS[0] else "",
                method,
                *(format_score(metric, mean_score([r for r in rows if r.metric == metric])) for metric, _ in metrics),
                format_score(report.task["metric"], ScoreValue(_mean(one.validation for one in own))),
                "-" if method == "linear probe" else f"{steps:.0f} of {statistics.mean(one.steps for one in own):.0f}",
                "-" if method == "linear probe" else f"{statistics.mean(one.seconds for one in own):.0f}",
            )
    return table


def mean_score(rows: Iterable[FinetuneScore]) -> ScoreValue:
    """The mean over seeds and its deviation between seeds; with one seed the standard error over test samples."""
    rows = list(rows)
    if len(rows) == 1:
        return ScoreValue(rows[0].value, rows[0].standard_error)
    values = [row.value for row in rows]
    if any(value is None for value in values):
        return ScoreValue(None)
    known = [value for value in values if value is not None]
    return ScoreValue(statistics.mean(known), statistics.stdev(known))


def _mean(values: Iterable[float | None]) -> float | None:
    values = list(values)
    known = [value for value in values if value is not None]
    return statistics.mean(known) if len(known) == len(values) else None


def _captions(report: FinetuneReport) -> list[str]:
    seeds = {score.seed for score in report.scores}
    spread = (
        f"± is the standard deviation over {len(seeds)} seeds."
        if len(seeds) > 1
        else "± is the standard error over the scored samples; seeds add to it."
    )
    lines = [
        f"labels: share, and samples of training and validation together. {spread}",
        "steps: those of the weights that were kept, of those done. The linear probe has the labels of both splits.",
        f"validation split: {report.validation}; {report.samples['validation']:,} samples.",
    ]
    if report.split == "validation":
        lines.append("There is no test split: the scores are those of the split that chose the weights, so too good.")
    lines += [f"{score.method}: {note}" for score in report.scores for note in score.notes]
    return list(dict.fromkeys(lines))
