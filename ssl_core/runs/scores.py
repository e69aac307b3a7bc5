"""Scores and health of a run's features: trained, of the random initialisation, and the raw input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from ssl_core.contracts import Tokenizer
from ssl_core.evaluation.features import features
from ssl_core.evaluation.health import SAMPLES, collapse, health
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import group_by_features, make_probes, probe_seed, random_subset, score
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.runs.data import scored_rows
from ssl_core.runs.encoder import EMBED_BATCH
from ssl_core.runs.run import Run
from ssl_core.training.device import autocast

FEATURES = ("trained", "random_init", "raw_input")
HELD_OUT = 0.2
"""Share of the training split that online probes are scored on, where there is no validation split."""


@dataclass(frozen=True)
class ProbeData:
    """Samples that a probe is fitted on and samples that it is scored on, by their numbers in a split."""

    fit: tuple[PreprocessedSplit, np.ndarray]
    scored: tuple[PreprocessedSplit, np.ndarray]

    def limited(self, options: EvaluateOptions, seed: int) -> ProbeData:
        """At most `max_train` and `max_test` samples, chosen before their features are computed."""
        fit = random_subset(len(self.fit[1]), options.max_train, seed)
        scored = random_subset(len(self.scored[1]), options.max_test, seed)
        return ProbeData(
            self.fit if fit is None else (self.fit[0], self.fit[1][fit]),
            self.scored if scored is None else (self.scored[0], self.scored[1][scored]),
        )


def final_data(run: Run) -> ProbeData:
    """The training split, and the split of `evaluate.split`; the samples that have a label."""
    train = run.data["train"]
    rows = scored_rows(run.data, run.scored_split, run.config.evaluate.shared == "drop")
    return ProbeData((train, train.labelled_rows), (run.data[run.scored_split], rows))


def online_data(run: Run) -> ProbeData:
    """The training and validation splits; without a validation split a share of the training split, by seed.

    The test split is never used.
    """
    train = run.data["train"]
    if "validation" in run.data:
        validation = run.data["validation"]
        return ProbeData((train, train.labelled_rows), (validation, validation.labelled_rows))
    order = np.random.default_rng(run.config.seed).permutation(train.labelled_rows)
    held_out = max(1, round(HELD_OUT * len(order)))
    return ProbeData((train, np.sort(order[held_out:])), (train, np.sort(order[:held_out])))


def score_run(run: Run) -> list[dict[str, Any]]:
    """Rows of scores of all kinds of features on the scored split; empty without labels or without that split."""
    if run.task is None or run.scored_split not in run.data:
        return []
    data = final_data(run)
    rows: list[dict[str, Any]] = []
    with run.console.progress("evaluating", len(FEATURES)) as progress:
        for kind in FEATURES:
            options = run.sample_limits[kind]
            run.learner.eval()
            if kind == "random_init":
                with run.random_init_baseline() as fresh:
                    rows += score_features(run, kind, fresh.embed, data, options)
            else:
                embed = run.learner.embed if kind == "trained" else run.learner.raw
                rows += score_features(run, kind, embed, data, options)
            progress.advance()
    return rows


def score_features(
    run: Run, kind: str, embed: Callable[..., Tensor], data: ProbeData, options: EvaluateOptions
) -> Iterator[dict[str, Any]]:
    """Rows of scores of one kind of features, one for each probe."""
    task = run.task
    assert task is not None
    seed = probe_seed(options, run.config.seed)
    chosen, dataset = data.limited(options, seed), run.splits["train"]
    for spec, probes in group_by_features(make_probes(run.plugins.probes, options, run.config.seed), task).items():
        layers = {} if kind == "raw_input" else {"layers": spec.layers}
        arrays = []
        for split, index in (chosen.fit, chosen.scored):
            with autocast(run.device, run.config.train.precision):  # type: ignore[arg-type]
                batches = (batch.to(run.device) for batch in split.sweep(EMBED_BATCH, index))
                compute = partial(embed, per_token=spec.per_token, **layers)
                if spec.per_token and not task.per_token:
                    compute = partial(zero_padding, run.learner.tokenizer, compute)
                arrays.append(features(compute, batches, len(index)))
        train, scored = arrays
        for row in score(task, train, scored, probes, options.metrics, seed):
            yield {
                "dataset": f"{dataset.modality}/{dataset.name}", "task": task.title,
                "features": kind, "seed": run.config.seed, **row,
            }  # fmt: skip


def zero_padding(
    tokenizer: Tokenizer, embed: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]
) -> Tensor:  # fmt: skip
    """Token features (B, L, D) of a batch, zero for tokens that hold no data."""
    embedded, valid = embed(inputs), tokenizer.geometry(inputs).valid
    return embedded if valid is None else embedded.masked_fill(~valid.unsqueeze(-1), 0)


def measure_health(run: Run) -> dict[str, float]:
    """Label-free figures of the learner on some training samples, the same samples each time."""
    data = run.data["train"]
    count = min(len(data), SAMPLES)
    index = np.sort(np.random.default_rng(run.config.seed).choice(len(data), count, replace=False))
    parts = np.array_split(index, math.ceil(count / EMBED_BATCH))
    run.learner.eval()
    with autocast(run.device, run.config.train.precision):  # type: ignore[arg-type]
        return health(run.learner.stages, (data.take(part).to(run.device) for part in parts))


def baseline_health(run: Run) -> dict[str, float]:
    """The same figures of the random initialisation."""
    with run.random_init_baseline():
        return measure_health(run)


def scores_named(prefix: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Scores by a name for metrics.jsonl; undefined ones are left out."""
    return {f"{prefix}{row['probe']}_{row['metric']}": float(row["value"]) for row in rows if row["value"] is not None}


class OnlineProbe:
    """The probe during pretraining: scores of the current features, their health, and a warning at a collapse.

    Scores are computed on the validation split or, without one, on a share of the training split that the probe is not
    fitted on.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.data = online_data(run) if run.task is not None and run.config.evaluate.every else None
        self.baseline = baseline_health(run)
        self.warning: str | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Figures named `probe/...` and `health/...`, for metrics.jsonl."""
        scores = self.scores()
        figures = self.health()
        shown = ", ".join(f"{name.removeprefix('probe/').replace('_', ' ')} {v:.3f}" for name, v in scores.items())
        self.run.console.info(f"step {step:,}: {shown}{', ' if shown else ''}RankMe {figures['rankme']:.1f}")
        return scores | {f"health/{name}": value for name, value in figures.items()}

    def scores(self) -> dict[str, float]:
        """Scores of the trained features by `probe/...`; empty without labels or with `evaluate.every=0`."""
        if self.data is None:
            return {}
        options = self.run.sample_limits["trained"]
        self.run.learner.eval()
        return scores_named("probe/", score_features(self.run, "trained", self.run.learner.embed, self.data, options))

    def health(self) -> dict[str, float]:
        """The learner's health now; the first collapse is printed and kept in `warning`."""
        figures = measure_health(self.run)
        problem = collapse(figures, self.baseline)
        if problem and self.warning is None:
            self.warning = f"warning: {problem}"
            self.run.console.info(self.warning)
        return figures
