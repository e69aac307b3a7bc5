"""Predictions of a fine-tuned model for files, written as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.contracts import Dataset
from ssl_core.data import Task
from ssl_core.errors import DataError
from ssl_core.evaluation.metrics import METRICS, MetricValue, measure
from ssl_core.nn.task_head import probabilities
from ssl_core.report.finetune import FINETUNE
from ssl_core.report.scores import ScoreValue, format_score, metric_title
from ssl_core.runs.embed import EmbedRequest, SampleBatch, sample_batches
from ssl_core.runs.finetuned import FineTuned
from ssl_core.runs.tables import TablePart, check_ending, write_csv, write_parquet, write_whole
from ssl_core.utils.console import Console, as_utf8

FORMATS = (".csv", ".parquet")
PROBABILITY = "probability_"


@dataclass
class Scored:
    """Scores and labels of the samples that have a label of the task, and labels that the model does not know."""

    scores: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of samples."""
        return sum(map(len, self.scores))

    def measure(self, task: Task) -> MetricValue:
        """The task's metric over all of them."""
        scores, labels = np.concatenate(self.scores), np.concatenate(self.labels)
        sample = None
        if task.per_token:
            sample = np.arange(len(labels)).repeat(labels.shape[1])
            scores, labels = scores.reshape(-1, *scores.shape[2:]), labels.reshape(-1, *labels.shape[2:])
        if task.ignore is not None:
            counted = (labels != task.ignore).reshape(len(labels), -1).any(axis=1)
            scores, labels = scores[counted], labels[counted]
            sample = None if sample is None else sample[counted]
        return measure(task, scores, labels, sample)


def write_predictions(
    model: FineTuned, datasets: Sequence[Dataset], request: EmbedRequest, path: Path, console: Console
) -> tuple[int, Scored]:
    """Predict all samples that can be used and write a table, completely or not at all.

    Columns: id; label, if the files have labels; token, for a per-token task; prediction; and probability_NAME for each
    class or label.

    Args:
        model: in evaluation mode.
        datasets: the files, as `runs.embed.open_files` opens them.
        request: the batch size, and whether bad samples are refused.
        path: a .csv or .parquet file.
        console: where lines and progress go.

    Returns:
        The number of samples, and what can be scored.

    Raises:
        ConfigError: the file has another ending.
        DataError: no sample can be used, or the file cannot be written.
    """
    check_ending(path, FORMATS)
    task, scored = model.task, Scored()
    labelled = any(dataset.task is not None for dataset in datasets)
    parts = _parts(model, sample_batches(model.encoder, datasets, request, console, "predicting"), labelled, scored)
    if path.suffix.lower() == ".csv":
        return write_whole(path, lambda file: write_csv(parts, file)), scored
    own = [PROBABILITY + name for name in names_of(task)]
    number = task.kind == "number"
    texts = [name for name, is_text in (("label", not number), ("prediction", not number)) if is_text]
    numbers = (["label", "prediction"] if number else []) + own
    return write_whole(path, lambda file: write_parquet(parts, file, texts, numbers)), scored


def _parts(
    model: FineTuned, batches: Iterator[SampleBatch], labelled: bool, scored: Scored
) -> Iterator[TablePart]:  # fmt: skip
    for batch in batches:
        scores, valid = model.scores(model.encoder.stack(batch.inputs))
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))[0])
            raise DataError(f"{batch.ids[row]}: the prediction is not a number; the model diverged, fine-tune anew")
        labels = _labels(model.task, batch, scored)
        known = np.array([label is not None for label in labels])
        if known.any():
            scored.scores.append(scores[known])
            scored.labels.append(np.stack([np.asarray(label) for label in labels if label is not None]))
        yield TablePart(_columns(model, batch, scores, valid, labelled), len(batch.ids))


def _labels(task: Task, batch: SampleBatch, scored: Scored) -> list[Any]:
    """Labels of a batch as the model numbers them; None for those that are missing or that it does not know."""
    own = batch.dataset.task
    if own is None or (own.kind, own.per_token) != (task.kind, task.per_token):
        return [None] * len(batch.ids)
    if task.kind == "number" or not task.names or not own.names:
        return list(batch.raw) if task.kind == "number" or own.size == task.size else [None] * len(batch.ids)
    index = {name: number for number, name in enumerate(task.names)}
    position = np.array([index.get(name, -1) for name in own.names])
    if task.kind == "labels":
        if (position < 0).any():  # a label that no sample of the files has is one that none of them has
            scored.unknown |= {name: len(batch.ids) for name in own.names if name not in index}
            return [None] * len(batch.ids)
        out: list[Any] = []
        for raw in batch.raw:
            row = None if raw is None else np.zeros(task.size, np.int64)
            if row is not None:
                row[position] = np.asarray(raw)
            out.append(row)
        return out
    if task.per_token:
        return list(batch.raw) if own.names == task.names else [None] * len(batch.ids)
    for raw in batch.raw:
        if raw is not None and position[int(raw)] < 0:
            name = own.names[int(raw)]
            scored.unknown[name] = scored.unknown.get(name, 0) + 1
    return [None if raw is None or position[int(raw)] < 0 else int(position[int(raw)]) for raw in batch.raw]


def was_trained_on(folder: Path, path: str) -> bool:
    """Whether a model in the folder of its fine-tuning was fine-tuned on the same files, by their paths."""
    try:
        data = json.loads((folder / FINETUNE).read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, TypeError, KeyError):  # a copy of the model without its report
        return False
    return any(data.get(key) == str(Path(path).expanduser().absolute()) for key in ("root", "test_root"))


def names_of(task: Task) -> tuple[str, ...]:
    """Names of the classes or labels, or their numbers; none for a number."""
    return () if task.kind == "number" else task.names or tuple(map(str, range(task.size)))


def _columns(
    model: FineTuned, batch: SampleBatch, scores: np.ndarray, valid: np.ndarray | None, labelled: bool
) -> dict[str, Any]:
    """Rows of samples, or of tokens, as columns. Tokens that hold no data have no prediction."""
    task, length = model.task, scores.shape[1] if model.task.per_token else 1
    columns: dict[str, Any] = {"id": [name for name in batch.ids for _ in range(length)]}
    if labelled:
        columns["label"] = _token_labels(task, batch, length) if task.per_token else list(batch.labels)
    if task.per_token:
        columns["token"] = np.tile(np.arange(length), len(scores))
        scores = scores.reshape(len(scores) * length, *scores.shape[2:])
    keep = None if valid is None or valid.all() else valid.reshape(-1)

    def shown(values: Sequence[Any]) -> list[Any]:
        return list(values) if keep is None else [v if ok else None for v, ok in zip(values, keep, strict=True)]

    columns["prediction"] = shown(_predictions(model.task, scores))
    if task.kind != "number":
        shares = probabilities(task, scores)
        for number, name in enumerate(names_of(task)):
            columns[PROBABILITY + name] = shown(shares[:, number].tolist())
    return columns


def _predictions(task: Task, scores: np.ndarray) -> list[Any]:
    """Predictions as a table has them: a class, names of labels joined by |, or a number."""
    names = names_of(task)
    if task.kind == "number":
        return [float(value) for value in scores]
    if task.kind == "labels":
        return ["|".join(name for name, value in zip(names, row, strict=True) if value > 0) for row in scores]
    return [names[index] for index in scores.argmax(axis=1)]


def _token_labels(task: Task, batch: SampleBatch, length: int) -> list[Any]:
    """A label for each token; None where there is none or it does not count."""
    own, out = batch.dataset.task, list[Any]()
    for raw in batch.raw:
        if raw is None or own is None or not own.per_token or own.kind != "classes":
            out += [None] * length
            continue
        names = names_of(own)
        out += [None if own.ignore is not None and value == own.ignore else names[int(value)] for value in raw]
    return out


def _score_text(task: Task, result: MetricValue) -> str:
    """Name and value of the task's metric."""
    title = metric_title(task.metric, METRICS[task.metric].higher_is_better)
    return f"{title}: {format_score(task.metric, ScoreValue(result.value, result.standard_error))}"


def score_lines(model: FineTuned, scored: Scored) -> list[str]:
    """The score of the predictions in a line, and what was not scored; none without labels."""
    lines = []
    if scored.unknown:
        names = list(scored.unknown)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(f"{sum(scored.unknown.values()):,} labels are none that the model knows, and not scored: {shown}")
    if scored.count:
        task = model.task
        result = scored.measure(task)
        lines.append(f"{_score_text(task, result)} on {scored.count:,} labelled samples")
        if task.kind == "number" and task.metric != "r2":  # a correlation ignores offset and scale
            other = replace(task, metric="r2")
            lines.append(_score_text(other, scored.measure(other)))
        lines += list(result.notes)
    return [as_utf8(line) for line in lines]
