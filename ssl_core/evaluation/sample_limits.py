"""Default numbers of samples and rows of an evaluation, from a budget of memory and work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Batch, Split, Task
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import Probe

TRAIN_BYTES = 4 * 2**30
TEST_BYTES = 2 * 2**30
"""Budget for one set of features and what a probe holds for each row beside them; its own copy comes on top."""
WORK = 3 * 10**13
"""Multiply-adds of the similarities of kNN."""
FEATURE_SETS = ("trained", "random_init", "raw_input")
MIN_KNN_TRAIN = 100_000
"""Training rows that kNN keeps at least while test rows can be left out: these cost precision, those the score."""


class Samples(Protocol):
    """Prepared samples of one split."""

    def __len__(self) -> int: ...

    def take(self, index: np.ndarray) -> Batch:
        """The samples at `index`."""
        ...


def limit_samples(
    options: EvaluateOptions,
    task: Task | None,
    data: Mapping[Split, Samples],
    raw: Callable[..., Tensor],
    dim: int,
    device: torch.device,
    probes: Iterable[Probe] = (),
    readout_factor: int = 1,
) -> tuple[dict[str, EvaluateOptions], list[str]]:
    """Options for each feature set, with a number where one that is None would exceed the budget.

    All feature sets use the same rows, so the widest decides. With a published protocol (`adam`, `adamw`, `lars`) the
    encoded features keep the rows that fit, and only a raw input that does not fit gets fewer. Numbers that are set
    stay.

    Args:
        options: Options of the run.
        task: Task of the data set, None without labels.
        data: Training and test samples.
        raw: Maps inputs to the raw input as features, (B, n), or (B, L, n) with `per_token`.
        dim: Width of the encoder.
        device: Device on which `raw` runs.
        probes: Probes of the run, which may read token features or several layers.
        readout_factor: Width of the read-out as a multiple of `dim`.

    Returns:
        Options by feature set, and a line for each limit.

    Raises:
        PluginError: If the task's metric is unknown or does not fit it.
        ConfigError: If one of `options.metrics` is unknown or does not fit the task.
    """
    if task is None:
        return dict.fromkeys(FEATURE_SETS, options), []
    from ssl_core.evaluation.metrics import tasks_by_metric  # scikit-learn takes a second to import

    tasks_by_metric(task, options.metrics)  # before training and not after it
    inputs = data["train"].take(np.arange(1)).to(device).inputs
    shape = tuple(raw(inputs, per_token=task.per_token).shape[1:])
    tokens = shape[0] if task.per_token else 1
    width = dim * readout_factor
    raw_numbers, encoded_numbers = math.prod(shape), tokens * width
    for probe in probes:
        of_tokens = tuple(raw(inputs, per_token=True).shape[1:]) if probe.per_token else shape
        length = of_tokens[0] if probe.per_token else tokens
        raw_numbers = max(raw_numbers, math.prod(of_tokens))
        encoded_numbers = max(encoded_numbers, length * dim * len(probe.layers or (0,)))
    counts = len(data["train"]), len(data["test"])
    widest = max(raw_numbers, encoded_numbers)
    common, lines = limits(options, task, *counts, tokens, max(shape[-1], width), widest)
    encoded, encoded_lines = limits(
        options, task, *counts, tokens, width, encoded_numbers, subject="trained and random_init"
    )
    if options.linear == "logistic" or encoded == common:
        return dict.fromkeys(FEATURE_SETS, common), lines
    subject = "raw_input alone, not those of the others"
    _, raw_lines = limits(options, task, *counts, tokens, shape[-1], raw_numbers, subject=subject)
    return {**dict.fromkeys(FEATURE_SETS, encoded), "raw_input": common}, encoded_lines + raw_lines


def limits(
    options: EvaluateOptions,
    task: Task,
    train: int,
    test: int,
    tokens: int,
    width: int,
    numbers: int | None = None,
    subject: str = "all features",
) -> tuple[EvaluateOptions, list[str]]:
    """Options with limits for one feature set, and a line if there are any.

    Args:
        options: Options of the run.
        task: Task of the data set.
        train: Training samples.
        test: Test samples.
        tokens: Rows of a sample: its tokens for a per-token task, else 1.
        width: Numbers in a row.
        numbers: Numbers of a sample in memory; by default `tokens` * `width`.
        subject: Feature sets that the line speaks of.
    """
    numbers = tokens * width if numbers is None else numbers
    # room for scores in float64: of training rows for logistic regression, whose blocks have them, and of all test rows
    logits = 8 * task.size if task.kind == "classes" and options.linear == "logistic" else 0
    fitting_train = max(1, TRAIN_BYTES // (4 * numbers + tokens * logits))
    fitting_test = max(1, TEST_BYTES // (4 * numbers + tokens * 8 * task.size))
    values: dict[str, int] = {}
    if options.max_train is None and train > fitting_train:
        values["max_train"] = fitting_train
    if options.max_test is None and test > fitting_test:
        values["max_test"] = fitting_test
    parts = [
        f"{values[key]:,} of {count:,} {split} samples"
        for key, count, split in (("max_train", train, "training"), ("max_test", test, "test"))
        if key in values
    ]
    if "knn" in options.probes:
        rows = tokens * min(train, values.get("max_train", options.max_train or train))
        rows = min(rows, options.knn_tokens) if task.per_token else rows
        queries = tokens * min(test, values.get("max_test", options.max_test or test))
        knn_values = _knn_limits(options, rows, queries, WORK // width)
        values |= knn_values
        unit = "tokens" if task.per_token else "samples"
        for key, count, split in (("knn_train", rows, "training"), ("knn_test", queries, "test")):
            if key in knn_values:
                parts.append(f"kNN {knn_values[key]:,} of {count:,} {split} {unit}")
    if not parts:
        return options, []
    keys = ", ".join(f"evaluate.{key}" for key in values)
    line = (
        f"evaluation takes {'; '.join(parts)}: drawn at random, the same for {subject}, as all would exceed its "
        f"memory or work; {keys} set other numbers"
    )
    return options.model_copy(update=values), [line]


def _knn_limits(options: EvaluateOptions, rows: int, queries: int, pairs: int) -> dict[str, int]:
    """knn_train and knn_test where they are None and rows * queries exceeds `pairs`."""
    rows_set = options.knn_train or options.max_train
    queries_set = options.knn_test or options.max_test
    rows, queries = min(rows, options.knn_train or rows), min(queries, options.knn_test or queries)
    values: dict[str, int] = {}
    if not rows_set and rows * queries > pairs:
        fewest = 1 if queries_set else MIN_KNN_TRAIN
        limit = max(pairs // queries, fewest)
        if limit < rows:
            values["knn_train"] = rows = limit
    if not queries_set and rows * queries > pairs:
        values["knn_test"] = max(1, pairs // rows)
    return values
