"""How many rows an evaluation takes where nothing is said: as many as a stated budget of memory and work holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_core.data import Batch, Split, Task
from ssl_core.evaluation.options import EvaluateOptions

TRAIN_BYTES = 4 * 2**30
TEST_BYTES = 2 * 2**30
"""Of the features of one reading and what a probe holds for each row beside them; its own copy comes on top."""
WORK = 3 * 10**13
"""Multiply-adds of the similarities of kNN."""
FEATURE_SETS = ("trained", "random_init", "raw_input")
NEIGHBOURS = 100_000
"""Training rows below which kNN leaves out queries instead: that costs precision only, fewer rows change the score."""


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
) -> tuple[dict[str, EvaluateOptions], list[str]]:
    """For each reading the options with a number where what is left open exceeds the budget, and lines that say so.

    `raw` maps inputs to the raw input as features, (B, n) or with `per_token` (B, L, n); `dim` is the width of encoded
    features. The same rows serve every reading, so the widest decides; but a published protocol (`adam`, `adamw`) keeps
    the rows of encoded features that fit, and only a raw input that does not gets fewer. What is given stays as it is.
    """
    if task is None:
        return dict.fromkeys(FEATURE_SETS, options), []
    shape = raw(data["train"].take(np.arange(1)).to(device).inputs, per_token=task.per_token).shape[1:]
    tokens = shape[0] if task.per_token else 1
    counts = len(data["train"]), len(data["test"])
    common, lines = fitted(options, task, *counts, tokens, max(shape[-1], dim))
    encoded, said = fitted(options, task, *counts, tokens, dim, "trained and random_init")
    if options.linear == "logistic" or encoded == common:
        return dict.fromkeys(FEATURE_SETS, common), lines
    _, alone = fitted(options, task, *counts, tokens, shape[-1], "raw_input alone, not those of the others")
    return {**dict.fromkeys(FEATURE_SETS, encoded), "raw_input": common}, said + alone


def fitted(
    options: EvaluateOptions,
    task: Task,
    train: int,
    test: int,
    tokens: int,
    width: int,
    whose: str = "all features",
) -> tuple[EvaluateOptions, list[str]]:
    """As `bounded`, for so many samples of `tokens` rows each (1 unless the task is per token) of the given width."""
    # L-BFGS holds a score and a gradient of each training row for each class; a test row has its scores, in float64
    logits = 8 * task.size if task.kind == "classes" and options.linear == "logistic" else 0
    fits_train = max(1, TRAIN_BYTES // (tokens * (4 * width + logits)))
    fits_test = max(1, TEST_BYTES // (tokens * (4 * width + 8 * task.size)))
    values: dict[str, int] = {}
    if options.max_train is None and train > fits_train:
        values["max_train"] = fits_train
    if options.max_test is None and test > fits_test:
        values["max_test"] = fits_test
    said = [
        f"{values[key]:,} of {count:,} {split} samples"
        for key, count, split in (("max_train", train, "training"), ("max_test", test, "test"))
        if key in values
    ]
    if "knn" in options.probes:
        rows = tokens * min(train, values.get("max_train", options.max_train or train))
        rows = min(rows, options.knn_tokens) if task.per_token else rows
        queries = tokens * min(test, values.get("max_test", options.max_test or test))
        few = _knn(options, rows, queries, WORK // width)
        values |= few
        what = "tokens" if task.per_token else "samples"
        for key, count, split in (("knn_train", rows, "training"), ("knn_test", queries, "test")):
            if key in few:
                said.append(f"kNN {few[key]:,} of {count:,} {split} {what}")
    if not said:
        return options, []
    keys = ", ".join(f"evaluate.{key}" for key in values)
    line = (
        f"evaluation takes {'; '.join(said)}: drawn at random, the same for {whose}, as all would exceed its "
        f"memory or work; {keys} set other numbers"
    )
    return options.model_copy(update=values), [line]


def _knn(options: EvaluateOptions, rows: int, queries: int, pairs: int) -> dict[str, int]:
    """knn_train and knn_test where they are open and the pairs are too many."""
    keep_rows = options.knn_train or options.max_train
    keep_queries = options.knn_test or options.max_test
    now_rows, now_queries = min(rows, options.knn_train or rows), min(queries, options.knn_test or queries)
    values: dict[str, int] = {}
    if not keep_rows and now_rows * now_queries > pairs:
        least = 1 if keep_queries else NEIGHBOURS
        fits = max(pairs // now_queries, least)
        if fits < now_rows:
            values["knn_train"] = now_rows = fits
    if not keep_queries and now_rows * now_queries > pairs:
        values["knn_test"] = max(1, pairs // now_rows)
    return values
