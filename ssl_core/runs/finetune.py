"""Fine-tuning: the encoder, the same network from scratch, and a linear probe on shares of the labels."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ssl_core.data import Task
from ssl_core.errors import ConfigError
from ssl_core.evaluation.linear import ABSENT_CLASS_SCORE, fit_logistic
from ssl_core.evaluation.metrics import METRICS, check_names, measure, tasks_by_metric
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import random_subset, rows_of
from ssl_core.evaluation.sample_limits import limits
from ssl_core.nn.task_head import TaskHead, task_to_json
from ssl_core.plugins import Catalogue
from ssl_core.report.finetune import (
    FINETUNE,
    FinetuneCurve,
    FinetunePoint,
    FinetuneReport,
    FinetuneScore,
    Method,
)
from ssl_core.runs.build import versions
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder
from ssl_core.runs.finetuned import MODEL, FineTuned, write_finetuned
from ssl_core.runs.labelled import DataRequest, LabelledData, open_labelled, share_of_labels
from ssl_core.runs.tables import stem_of
from ssl_core.training.device import Precision, describe, pick_device, pick_precision
from ssl_core.training.options import FinetuneOptions
from ssl_core.training.supervised import (
    FitResult,
    FitSetting,
    LabelledRows,
    counted_rows,
    fit,
    predict_scores,
)
from ssl_core.utils.console import Console, as_utf8
from ssl_core.utils.files import check_replaceable, new_folder
from ssl_core.utils.seeds import seed_torch

ABSENT_MARGIN = 10.0
"""How far a head's first score of a class without a training sample lies below the lowest other one."""


@dataclass(frozen=True)
class FinetuneRequest:
    """What to fine-tune on and how.

    data: options of the data set by name, among them "name"; none for the encoder's own data. options: how to train.
    fractions: shares of the labels, in (0, 1]. seeds: number of seeds, from `seed` on. metrics: metrics besides the
    task's own. label_kind: numpy's kind of class labels in memory, in which the model predicts them; texts by default.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    options: FinetuneOptions = field(default_factory=FinetuneOptions)
    fractions: tuple[float, ...] = (1.0,)
    seeds: int = 1
    seed: int = 0
    metrics: tuple[str, ...] = ()
    device: str = "auto"
    precision: str = "auto"
    strict: bool = False
    command: str = ""
    label_kind: str = "U"

    def __post_init__(self) -> None:
        """Raises:
        ConfigError: there is no share or seed, a share is not in (0, 1], or a metric is unknown.
        """
        wrong = next((share for share in self.fractions if not 0 < share <= 1), None)
        if wrong is not None:
            raise ConfigError(
                f"--label-fractions: {wrong:g} is no share; give numbers above 0 and up to 1, as 0.01,0.1,1"
            )
        if not self.fractions:
            raise ConfigError("--label-fractions is empty; give shares above 0 and up to 1, as 0.01,0.1,1")
        check_names(self.metrics, "--metrics")
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: give at least 1")


def finetune_encoder(
    encoder: PretrainedEncoder, request: FinetuneRequest, catalogue: Catalogue, console: Console | None = None
) -> FineTuned:
    """Fine-tune a copy of an encoder, and compare it with the same network from scratch and with a linear probe.

    The validation split decides when each training stops and which weights are kept; the test split is for the final
    scores alone.

    Args:
        encoder: the encoder; it stays as it is.
        request: data, options, shares of the labels, seeds.
        catalogue: the plugins; it may hold data in memory.
        console: where lines and progress go.

    Returns:
        The model of the first seed with the largest share of the labels; `report` has the scores of all.

    Raises:
        ConfigError: an unknown option, data without labels, or parts to train that the encoder does not have.
        DataError: the data cannot be used.
        SslxError: a loss is not finite.
    """
    console = console or Console()
    device = pick_device(request.device)
    data = open_labelled(
        encoder, DataRequest(request.data, request.options.validation_fraction, request.seed, request.strict),
        catalogue, console,
    )  # fmt: skip
    for line in header(data):
        console.info(line)
    place = next(encoder.parameters()).device
    try:
        study = Study(encoder.to(device), data, request, device, console)
        for seed in range(request.seed, request.seed + request.seeds):
            for fraction in sorted(set(request.fractions), reverse=True):
                study.compare(fraction, seed)
    finally:
        encoder.to(place)
    return study.finish()


def header(data: LabelledData) -> list[str]:
    """Data, doubts and notes of a fine-tuning in a few lines."""
    counts = ", ".join(f"{split} {count:,}" for split, count in data.counts.items())
    what = f"{data.task.size} {data.task.kind}" if data.task.kind != "number" else "a number"
    where = f"{data.dataset.modality}/{data.dataset.name}"
    lines = [
        f"data       {where} (labelled: {counts}), {data.task.title}: {what}{' for each token' * data.task.per_token}",
        f"validation {data.held_out}",
    ]
    lines += [f"doubt      {doubt}" for doubt in data.doubts] + list(data.notes)
    return [as_utf8(line) for line in lines]


class Study:
    """Trainings with several shares of the labels and seeds, their scores and curves, and the model to keep."""

    def __init__(
        self,
        encoder: PretrainedEncoder,
        data: LabelledData,
        request: FinetuneRequest,
        device: torch.device,
        console: Console,
    ) -> None:
        """Raises:
        ConfigError: an option does not fit the task, or a metric is unknown.
        """
        self.encoder, self.data, self.request = encoder, data, request
        self.device, self.console = device, console
        self.precision: Precision = pick_precision(request.precision, device)
        task = data.task
        if request.options.class_weights == "balanced" and task.kind == "number":
            raise ConfigError(
                "--class-weights balanced is for classes and labels, and the label is a number; leave it out"
            )
        metrics = [name for name in encoder.config.evaluate.metrics if name in METRICS and METRICS[name].fits(task)]
        metrics += ["r2"] if task.kind == "number" else []  # a correlation ignores offset and scale
        self.tasks = tasks_by_metric(task, (*request.metrics, *metrics))
        self.scores: list[FinetuneScore] = []
        self.curves: list[FinetuneCurve] = []
        self.notes: list[str] = list(data.notes)
        self.model: FineTuned | None = None
        self.kept: dict[str, Any] = {}

    def compare(self, fraction: float, seed: int) -> None:
        """Fit the three methods with a share of the labels, and keep the first fine-tuned model."""
        data, task = self.data, self.data.task
        index = share_of_labels(task, data.train.labels, fraction, seed)
        held = share_of_labels(task, data.validation.labels, fraction, seed)
        parts = data.train.subset(index), data.validation.subset(held)
        if len(held) > (most := self.request.options.max_validation):
            watched = share_of_labels(task, parts[1].labels, most / len(held), seed)
            parts = parts[0], parts[1].subset(watched)
        head = self.probe(fraction, seed, index, held)
        methods: tuple[Method, ...] = ("fine-tuned", "from scratch")
        for method in methods:
            scratch = method == "from scratch"
            model = self.build(seed, scratch, (self.frozen["train"][index], parts[0].labels), head)
            setting = FitSetting(
                seed,
                self.device,
                self.precision,
                self.console,
                f"{method}, {100 * fraction:.3g} % of the labels, seed {seed}",
            )
            result = fit(model, *parts, self.request.options, setting, scratch)
            self.record(method, fraction, seed, parts, result, model)
            if not scratch and self.model is None:
                self.model, self.kept = model.to("cpu").eval(), {"fraction": fraction, "seed": seed}

    def build(
        self,
        seed: int,
        scratch: bool,
        train: tuple[np.ndarray, np.ndarray],
        first: tuple[np.ndarray, np.ndarray] | None,
    ) -> FineTuned:
        """A model before training: a copy of the encoder, or the same network with fresh weights.

        train: normalised frozen features and labels of the training samples. first: weights and offsets of the head.
        """
        options, task = self.request.options, self.data.task
        features, labels = train
        with torch.random.fork_rng():
            encoder = fresh_encoder(self.encoder, seed) if scratch else copy.deepcopy(self.encoder)
            seed_torch(seed, "finetune-head")
            width = encoder.dim * max(1, len(options.layers))
            head = TaskHead(width, task, options.head_dropout, options.label_smoothing)
        head.fit_labels(counted_labels(task, labels), options.class_weights == "balanced")
        if not scratch:
            head.fit_features(_rows(task, features, labels, "training")[0])
        if first is not None and not scratch:
            weight, bias = first
            shift = head.weights.log().numpy() if task.kind != "number" else 0.0  # the optimum of a weighted loss
            head.set_linear(weight, bias + shift)
        schema = {**self.encoder.schema, "classes": list(task.names)}
        encoder.schema, encoder.stats = schema, {name: one.to_json() for name, one in self.data.stats.items()}
        kind = getattr(self.data.dataset, "label_kind", None) or self.request.label_kind
        return FineTuned(encoder, head, options.layers, kind, self.data.label_options).to(self.device)

    def probe(
        self, fraction: float, seed: int, index: np.ndarray, held: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Score linear probes on frozen features, and return the first weights of the head.

        The scored probe is fitted on the labels of training and validation, as it needs none to stop; without a test
        split on those of training alone, since the validation split is scored. The head's first
        weights are those of a probe fitted on the training labels alone, since the validation split judges them; None
        with head_init=random.
        """
        data, task = self.data, self.data.task
        normed = self.frozen["train"][index], self.frozen["validation"][held]
        train, validation = data.train.labels[index], data.validation.labels[held]
        first = self._fit(normed[0], train, seed)
        value = self._measure(
            self.tasks[0], first(_rows(task, normed[1], validation, "validation")[0]), validation, normed[1]
        )
        fitted = first
        if data.scored != "validation":
            fitted = self._fit(np.concatenate(normed), np.concatenate([train, validation]), seed)
        x, y, sample = _rows(task, self.frozen["test"], data.test.labels, "test")
        scores = fitted(x)
        for one in self.tasks:
            result = measure(one, scores, y, sample if task.per_token else None)
            self._add("linear probe", fraction, seed, one, result, (len(index), len(held), len(y)), validation=value)
        return affine_map(first, normed[0].shape[-1], task) if self.request.options.head_init == "probe" else None

    def _measure(self, task: Task, scores: np.ndarray, labels: np.ndarray, x: np.ndarray) -> float | None:
        _, y, sample = _rows(task, x, labels, "validation")
        return measure(task, scores, y, sample if task.per_token else None).value

    def _fit(self, x: np.ndarray, labels: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """A function from rows of features to scores."""
        rows, y, _ = _rows(self.data.task, x, labels, "training")
        most, _ = limits(EvaluateOptions(probes=("linear",)), self.data.task, len(rows), 1, 1, x.shape[-1])
        chosen = random_subset(len(rows), most.max_train, seed)
        if chosen is not None:
            rows, y = rows[chosen], y[chosen]
        return fit_logistic(self.data.task, rows, y).predict_scores

    @cached_property
    def frozen(self) -> dict[str, np.ndarray]:
        """Normalised features of the encoder before fine-tuning, by split: (n, D), or (n, L, D) for token labels."""
        parts = {"train": self.data.train, "validation": self.data.validation, "test": self.data.test}
        return {name: self._features(part) for name, part in parts.items()}

    @torch.no_grad()
    def _features(self, part: LabelledRows) -> np.ndarray:
        """As the head sees them before training: a LayerNorm without weights."""
        self.encoder.eval()
        layers = self.request.options.layers or None
        out = []
        for batch in part.sweep(EMBED_BATCH):
            features = self.encoder(batch.to(self.device).inputs, self.data.task.per_token, layers)
            out.append(F.layer_norm(features.float(), features.shape[-1:]).cpu().numpy())
        return np.concatenate(out)

    def record(
        self,
        method: Method,
        fraction: float,
        seed: int,
        parts: Sequence[LabelledRows],
        result: FitResult,
        model: FineTuned,
    ) -> None:
        """Score a trained model on the scored split, in single precision as `predict` computes, and keep its curve."""
        test, task = self.data.test, self.data.task
        scores, labels, sample = counted_rows(task, predict_scores(model, test, self.device), test.labels, "test")
        for one in self.tasks:
            value = measure(one, scores, labels, sample if task.per_token else None)
            counts = (*map(len, parts), len(labels))
            self._add(method, fraction, seed, one, value, counts, result=result, validation=result.best.value)
        points = tuple(FinetunePoint(**vars(point)) for point in result.curve)
        self.curves.append(FinetuneCurve(method=method, fraction=fraction, seed=seed, points=points))

    def _add(
        self,
        method: Method,
        fraction: float,
        seed: int,
        task: Task,
        value: Any,
        counts: tuple[int, ...],
        result: FitResult | None = None,
        validation: float | None = None,
    ) -> None:
        done = {} if result is None else {
            "steps": result.steps, "best_step": result.best.step, "seconds": result.seconds,
            "trained_parameters": result.trained,
        }  # fmt: skip
        self.scores.append(
            FinetuneScore(
                method=method, fraction=fraction, seed=seed, metric=task.metric,
                higher_is_better=METRICS[task.metric].higher_is_better, value=value.value,
                standard_error=value.standard_error, validation=validation, n_train=counts[0], n_validation=counts[1],
                n_test=counts[2], notes=value.notes, **done,
            )
        )  # fmt: skip

    def finish(self) -> FineTuned:
        """The model with its report."""
        data, request, model = self.data, self.request, self.model
        assert model is not None
        task = task_to_json(data.task)
        model.report = FinetuneReport(
            run=str(self.encoder.provenance.folder), command=request.command, modality=data.dataset.modality,
            dataset=data.dataset.name, split="validation" if data.scored == "validation" else "test", task=task,
            samples=data.counts, validation=data.held_out,
            options=request.options.model_dump(mode="json") | {"seed": request.seed, "seeds": request.seeds},
            data={"name": data.dataset.name, **data.options}, schema_of_data=dict(model.encoder.schema),
            stats=dict(model.encoder.stats), scores=tuple(sorted(self.scores, key=_order)), curves=tuple(self.curves),
            model=self.kept, device=describe(self.device), precision=self.precision,
            notes=(*data.doubts, *self.notes), versions=versions(),
        )  # fmt: skip
        return model


def _order(score: FinetuneScore) -> tuple[float, int]:
    return score.fraction, score.seed


def _rows(task: Task, x: np.ndarray, labels: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels as rows, without ignored entries, and the sample of each row."""
    rows = rows_of(task, x, labels, split)
    return rows.x, rows.y, rows.sample


def counted_labels(task: Task, labels: np.ndarray) -> np.ndarray:
    """Labels as rows without ignored entries."""
    lead = labels.shape[: 2 if task.per_token else 1]
    return _rows(task, np.zeros((*lead, 1), np.float32), labels, "training")[1]


def fresh_encoder(encoder: PretrainedEncoder, seed: int) -> PretrainedEncoder:
    """The same network with initial weights, on the same device.

    The tokenizer's buffers and vocabulary stay: these constants belong to the data and not to the training.
    """
    tokenizer, own = encoder.tokenizer, encoder.encoder
    seed_torch(seed, "finetune-scratch")
    fresh_tokenizer = type(tokenizer)(tokenizer.options, tokenizer.fields, tokenizer.dim)
    fresh = type(own)(own.options, fresh_tokenizer.layout)
    initial = {name: value.detach().clone() for name, value in fresh_tokenizer.named_parameters()}
    fresh_tokenizer.load_state_dict({**tokenizer.state_dict(), **initial})
    model = PretrainedEncoder(
        fresh_tokenizer, fresh, encoder.fields, encoder.config, encoder.provenance, encoder.schema
    )
    return model.to(encoder.device)


def affine_map(
    predict: Callable[[np.ndarray], np.ndarray], width: int, task: Task
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The weights (width, size) and offsets (size,) of a function that is affine up to a constant for each row.

    Log-probabilities of classes are, and differ from logits by such a constant. A class that the function never
    predicts gets weights of zero and an offset below those of the others, and a label that it always or never predicts
    weights of zero and an offset of that sign.
    """
    points = np.concatenate([np.zeros((1, width)), np.eye(width)])
    scores = np.asarray(predict(points), dtype=np.float64).reshape(width + 1, task.size)
    if task.kind == "classes":
        present = scores[0] > ABSENT_CLASS_SCORE / 2
        scores = scores - scores[:, [int(np.flatnonzero(present)[0])]]
        scores[:, ~present] = scores[0, present].min() - ABSENT_MARGIN
    elif task.kind == "labels":
        constant = np.abs(scores[0]) > -ABSENT_CLASS_SCORE / 2
        scores[:, constant] = np.sign(scores[0, constant]) * ABSENT_MARGIN
    return scores[1:] - scores[0], scores[0]


def write_finetuning(model: FineTuned, folder: Path, *, overwrite: bool = False) -> None:
    """Write finetune.json and the model's folder, completely or not at all.

    Raises:
        ConfigError: the folder holds something that must stay, or cannot be written.
    """
    with new_folder(folder, overwrite=overwrite, marker=FINETUNE, known={MODEL, "predictions"}) as work:
        (work / MODEL).mkdir()
        write_finetuned(model, work / MODEL)
        assert model.report is not None
        model.report.write(work)


def check_free(folder: Path, overwrite: bool) -> None:
    """Check before training that `write_finetuning` can write a folder.

    Raises:
        ConfigError: it cannot.
    """
    check_replaceable(folder, overwrite, {FINETUNE, MODEL, "predictions"}, FINETUNE)


def place_of_finetuning(run: Path, data: Mapping[str, Any]) -> Path:
    """The folder below a run for the results of a fine-tuning, named by the data.

    Args:
        run: folder of the run or of the saved encoder.
        data: options of the data set by name; none for the run's own.
    """
    name = stem_of(str(data["root"])) if "root" in data else str(data.get("name", "own"))
    return run / "finetune" / (re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "own")
