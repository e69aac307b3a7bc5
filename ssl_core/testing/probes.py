"""Checks of a probe, each on four small tasks whose features separate the labels."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ssl_core.contracts import Predictor, Probe
from ssl_core.data import Task
from ssl_core.errors import ConfigError
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import probe_values
from ssl_core.testing.check import Check, CheckFailed, CheckSpec, expect, expect_equal, registrar
from ssl_core.testing.options import make_options

DIM = 16
"""Width of the features of one layer."""
TOKENS = 5
"""Tokens of a sample, for probes that read token features."""
TRAIN, TEST = 120, 60
"""Rows of the two splits."""
TASKS = {
    "classes": Task("classes", 3, "accuracy"),
    "labels": Task("labels", 3, "auroc"),
    "number": Task("number", 1, "pearson"),
    "token_classes": Task("classes", 3, "accuracy", per_token=True),
}
CASES = tuple(TASKS)
LEAST = {"classes": 0.6, "labels": 0.7, "number": 0.5}
"""The least share of correct classes (chance 1/3), of correct labels (chance 1/2), and correlation (chance 0)."""

CHECKS: list[CheckSpec] = []
check = registrar(CHECKS)


@dataclass(frozen=True)
class Rows:
    """Features, labels, and the sample of each row."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Setting:
    """A probe class on one task."""

    probe: type[Probe]
    values: Mapping[str, Any]
    case: str

    @property
    def task(self) -> Task:
        """The task."""
        return TASKS[self.case]

    def build(self) -> Probe:
        """A new probe."""
        return self.probe(make_options(self.probe, self.values))

    @cached_property
    def splits(self) -> tuple[Rows, Rows]:
        """Training and test rows. The features are noise around a linear function of a hidden vector of 3 numbers."""
        rng = np.random.default_rng(0)
        probe = self.build()
        width = DIM * len(probe.layers or (0,))
        directions = rng.normal(size=(3, width))
        splits = []
        for count in (TRAIN, TEST):
            hidden = rng.normal(size=(count, 3))
            if self.task.kind == "classes":
                labels = np.arange(count) % self.task.size
                hidden = 2.0 * np.eye(3)[labels] + 0.3 * hidden
            elif self.task.kind == "labels":
                labels = (hidden > 0).astype(np.int64)
                hidden = np.sign(hidden) + 0.3 * rng.normal(size=hidden.shape)
            else:
                labels = hidden[:, 0].astype(np.float64)
            tokens = 1 if self.task.per_token or not probe.per_token else TOKENS
            features = np.repeat((hidden @ directions)[:, np.newaxis], tokens, axis=1)
            features = (features + 0.3 * rng.normal(size=features.shape)).astype(np.float32)
            groups = np.arange(count) // (TOKENS if self.task.per_token else 1)
            pooled = self.task.per_token or not probe.per_token
            splits.append(Rows(features[:, 0] if pooled else features, labels, groups))
        return splits[0], splits[1]

    def fit(self, rows: Rows | None = None) -> Predictor | None:
        """A predictor of a new probe; None if the probe refuses this kind of task with a `ConfigError`."""
        rows = rows or self.splits[0]
        try:
            return self.build().fit_groups(rows.features.copy(), rows.labels.copy(), self.task, rows.groups.copy())
        except ConfigError:
            return None

    def scores(self) -> np.ndarray | None:
        """Scores of the test rows; None as in `fit`."""
        predictor = self.fit()
        return None if predictor is None else np.asarray(predictor.predict_scores(self.splits[1].features.copy()))

    def shape(self, count: int) -> tuple[int, ...]:
        """The documented shape of the scores of `count` rows."""
        return (count,) if self.task.kind == "number" else (count, self.task.size)


def default_options(probe: type[Probe], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a run with default options and seed 0 passes to the probe, then `values`."""
    return probe_values(probe.name, probe, EvaluateOptions(), seed=0) | dict(values)


def checks(probe: type[Probe], values: Mapping[str, Any]) -> list[Check]:
    """All checks of a probe class."""
    return [
        Check(probe, spec, Setting(probe, values, case), case)
        for case in CASES
        for spec in CHECKS
        if spec.only in (None, case)
    ]


# --- checks ----------------------------------------------------------------------------------------------------------


@check("__init__", only="classes")
def builds(setting: Setting) -> None:
    """`__init__` takes options and sets them as an attribute; `layers` is None or a tuple of numbers from 1."""
    probe = setting.build()
    expect(isinstance(probe.options, setting.probe.Options), "self.options is not of the class's own Options")
    layers = probe.layers
    valid = layers is None or (
        isinstance(layers, tuple) and layers and all(isinstance(n, int) and n > 0 for n in layers)
    )
    expect(valid, f"layers is {layers!r}")
    most = probe.max_test_rows
    expect(most is None or (isinstance(most, int) and most > 0), f"max_test_rows is {most!r}")


@check("fit", only="classes")
def accepts_a_task(setting: Setting) -> None:
    """It fits at least one kind of task. It may refuse others with a `ConfigError`."""
    predictors = [Setting(setting.probe, setting.values, case).fit() for case in CASES]
    expect(any(predictor is not None for predictor in predictors), "it refuses every kind of task")


@check("predict_scores")
def scores_have_their_shape(setting: Setting) -> None:
    """`predict_scores` returns finite scores: (n, size) for classes and labels, (n,) for a number. One row suffices."""
    predictor = setting.fit()
    if predictor is None:
        return
    for count in (TEST, 1):
        scores = predictor.predict_scores(setting.splits[1].features[:count].copy())
        expect(isinstance(scores, np.ndarray), f"the scores are {type(scores).__name__}, not an array")
        shape = setting.shape(count)
        expect(scores.shape == shape, f"the scores of {count} rows have shape {scores.shape}, not {shape}")
        expect(np.isfinite(scores).all(), f"the scores of {count} rows are not finite")


@check("fit")
def predictions_beat_chance(setting: Setting) -> None:
    """On small data whose features separate the labels, predictions for new rows are clearly better than chance. The
    class of the largest score is predicted, and every label whose score is above zero.
    """
    scores, labels = setting.scores(), setting.splits[1].labels
    if scores is None:
        return
    kind = setting.task.kind
    if kind == "classes":
        value, name = float((scores.argmax(axis=1) == labels).mean()), "accuracy"
    elif kind == "labels":
        value, name = float(((scores > 0) == labels).mean()), "share of correct labels"
    else:
        value, name = float(np.corrcoef(scores, labels)[0, 1]), "correlation"
    expect(value >= LEAST[kind], f"{name} {value:.3f}, expected at least {LEAST[kind]}")


@check("fit")
def equal_input_gives_equal_scores(setting: Setting) -> None:
    """Two probes with the same options, fitted to the same data, give equal scores: all randomness is seeded."""
    results = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        results.append(setting.scores())
    expect_equal(results[0], results[1], "the scores of a second, equal probe")


@check("fit")
def inputs_are_not_modified(setting: Setting) -> None:
    """Neither `fit` nor `predict_scores` writes to features or labels."""
    train, test = setting.splits
    arrays = [array.copy() for array in (train.features, train.labels, train.groups, test.features)]
    try:
        predictor = setting.build().fit_groups(arrays[0], arrays[1], setting.task, arrays[2])
    except ConfigError:
        return
    predictor.predict_scores(arrays[3])
    expect_equal([train.features, train.labels, train.groups, test.features], arrays, "features, labels and groups")


@check("predict_scores")
def rows_are_scored_independently(setting: Setting) -> None:
    """The scores of a row do not depend on the other rows."""
    predictor = setting.fit()
    if predictor is None:
        return
    features = setting.splits[1].features
    whole = np.asarray(predictor.predict_scores(features.copy()))
    part = np.asarray(predictor.predict_scores(features[:7].copy()))
    difference = float(np.abs(whole[:7] - part).max())
    expect(np.allclose(whole[:7], part, rtol=1e-3, atol=1e-4), f"the scores of 7 rows differ by up to {difference:.3g}")


@check("fit", only="classes")
def missing_class_keeps_the_shape(setting: Setting) -> None:
    """If no training row has the last class, scores still have a finite column for it."""
    train, test = setting.splits
    rows = train.labels < setting.task.size - 1
    predictor = setting.fit(Rows(train.features[rows], train.labels[rows], train.groups[rows]))
    if predictor is None:
        return
    scores = np.asarray(predictor.predict_scores(test.features.copy()))
    shape = setting.shape(TEST)
    expect(scores.shape == shape, f"the scores have shape {scores.shape}, not {shape}")
    expect(np.isfinite(scores).all(), "the scores are not finite")


@check("predict_scores")
def details_are_json(setting: Setting) -> None:
    """`details` of a predictor, if it has this attribute, maps names to JSON values; `n_train` is None or a count."""
    predictor = setting.fit()
    if predictor is None:
        return
    details, count = getattr(predictor, "details", {}), getattr(predictor, "n_train", None)
    try:
        json.dumps(dict(details))
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"details {details!r:.80} is no mapping of JSON values ({error})") from None
    expect(count is None or (isinstance(count, int) and 0 < count <= TRAIN), f"n_train is {count!r}")
