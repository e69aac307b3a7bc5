"""Scores and health of a run's features: trained, of the random initialisation, and the raw input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssl_core.contracts import Tokenizer
from ssl_core.errors import CheckpointError
from ssl_core.evaluation.features import features
from ssl_core.evaluation.health import SAMPLES, collapse, health, lidar
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import (
    FeatureSpec,
    Postprocess,
    Probe,
    group_by_features,
    make_probes,
    probe_seed,
    random_subset,
    score,
)
from ssl_core.evaluation.selection import MOST_ROWS, SELECTED, held_out, select
from ssl_core.nn.distributed import Group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.growing import GrowingSplit
from ssl_core.report.schema import Score
from ssl_core.runs.classical import MOST_COLUMNS, TREES, ClassicalFeatures, has_classical
from ssl_core.runs.data import scored_rows
from ssl_core.runs.encoder import EMBED_BATCH
from ssl_core.runs.init import INITIAL
from ssl_core.runs.kept import Kept
from ssl_core.runs.run import Run
from ssl_core.runs.shared_features import COMPUTED, Compute, Request, in_turns, receive, send
from ssl_core.training import checkpoint
from ssl_core.training.device import autocast
from ssl_core.training.parallel import joined
from ssl_core.utils.seeds import generator

FEATURES = ("trained", "random_init", "raw_input", "classical")
Part: TypeAlias = tuple[PreprocessedSplit, np.ndarray]
"""Samples by their numbers in a split."""
Features: TypeAlias = tuple[np.ndarray, np.ndarray | None]
"""Features and labels of samples."""
HELD_OUT = 0.2
"""Share of the training split that choices are made on, where there is no validation split."""


@dataclass(frozen=True)
class ProbeData:
    """Samples that a probe is fitted on and samples that it is scored on, by their numbers in a split."""

    fit: Part
    scored: Part

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


@dataclass
class Extractor:
    """Features of one kind. With `keep`, those of the last use of each split and spec are kept for the next.

    embed: maps a batch's inputs to features, with `per_token`, and for encoded features `layers` and `readout`; or
    hand-made features.
    """

    run: Run
    kind: str
    embed: Callable[..., Any]
    keep: bool = False
    kept: dict[tuple[int, FeatureSpec], tuple[np.ndarray, Features]] = field(default_factory=dict)

    def __call__(self, part: Part, spec: FeatureSpec) -> Features:
        """Features and labels of the samples `part`."""
        split, index = part
        known = self.kept.get((id(split), spec))
        if known is not None and np.array_equal(known[0], index):
            return known[1]
        computed = self._compute(split, index, spec)
        if self.keep:
            self.kept[id(split), spec] = index, computed
        return computed

    def _compute(self, split: PreprocessedSplit, index: np.ndarray, spec: FeatureSpec) -> Features:
        run, task = self.run, self.run.task
        assert task is not None
        if isinstance(self.embed, ClassicalFeatures):
            return self.embed(split, index)
        compute, group = self.function(spec), run.group
        if group is not None and len(index):
            name = next(name for name, one in run.data.items() if one is split)
            send(group, Request(self.kind, name, spec, index))
            return features(itemgetter(COMPUTED), in_turns(group, compute, split, index, run.device), len(index))
        return features(compute, (batch.to(run.device) for batch in split.sweep(EMBED_BATCH, index)), len(index))

    def function(self, spec: FeatureSpec) -> Compute:
        """Maps a batch's inputs to features, in the run's precision and without gradients."""
        run, task = self.run, self.run.task
        assert task is not None
        own = {} if self.kind == "raw_input" else {"layers": spec.layers, "readout": spec.readout}
        embed = partial(self.embed, per_token=spec.per_token, **own)
        if spec.per_token and not task.per_token:
            embed = partial(zero_padding, run.learner.tokenizer, embed)

        @torch.no_grad()
        def compute(inputs: Mapping[str, Tensor]) -> Tensor:
            with autocast(run.device, run.config.train.precision):  # type: ignore[arg-type]
                out: Tensor = embed(inputs)
                return out

        return compute


@contextmanager
def extractor(run: Run, kind: str, keep: bool = False) -> Iterator[Extractor]:
    """Features of a kind, with the weights of that kind in the learner while the context is open.

    Raises:
        CheckpointError: the initial weights are gone.
    """
    run.learner.eval()
    if kind == "random_init":
        with run.random_init_baseline() as learner:
            yield Extractor(run, kind, learner.embed, keep)
    elif kind == "initial":
        start = checkpoint.latest(run.folder / INITIAL)
        if start is None:
            raise CheckpointError(f"{run.folder / INITIAL} is gone, so that the initial weights have no scores")
        with run.with_weights(checkpoint.read_model(start)) as learner:
            yield Extractor(run, kind, learner.embed, keep)
    else:
        yield Extractor(run, kind, run.learner.raw if kind == "raw_input" else run.learner.embed, keep)


@contextmanager
def shared(run: Run, group: Group | None) -> Iterator[None]:
    """All processes compute features while the context is open: for that of rank 0; the others call `serve`."""
    run.group = group
    try:
        yield
    finally:
        run.group = None
    if group is not None:  # after an error this process ends, which the others notice
        send(group, None)


def serve(run: Run, group: Group) -> None:
    """Compute features with the process of rank 0 until it needs no more."""
    while (request := receive(group)) is not None:
        with extractor(run, request.kind) as extract:
            split = run.data[request.split]  # type: ignore[index]
            for _ in in_turns(group, extract.function(request.spec), split, request.index, run.device):
                pass


def score_run(run: Run, kept: Kept | None = None) -> list[dict[str, Any]]:
    """Rows of scores of all kinds of features on the scored split; empty without labels or without that split.

    kept: takes some of the features, and the predictions from trained ones.
    """
    if run.task is None or run.scored_split not in run.data:
        return []
    data = final_data(run)
    rows: list[dict[str, Any]] = []
    kinds = [kind for kind in FEATURES if kind != "classical" or (run.config.evaluate.classical and is_pooled(run))]
    with run.console.progress("evaluating", len(kinds)) as progress:
        for kind in kinds:
            options = run.sample_limits["raw_input" if kind == "classical" else kind]
            if kind == "classical":
                rows += score_classical(run, data, options)
            else:
                with extractor(run, kind, options.select) as extract:
                    rows += score_kind(extract, data, options, kept=kept)
            progress.advance()
    return rows


def score_initial(run: Run) -> list[dict[str, Any]]:
    """Rows of scores of the weights that the run started with, if they come from another; they also go to `run.init`.

    Empty without labels, and if the folder has not kept the weights.
    """
    if run.init is None or run.task is None or run.scored_split not in run.data:
        return []
    try:
        with extractor(run, "initial") as extract:
            rows = list(score_features(extract, final_data(run), run.sample_limits["random_init"]))
    except CheckpointError as error:
        run.notes.append(str(error))
        return []
    scores = tuple(Score(**row) for row in rows)
    run.init = run.init.model_copy(update={"scores": scores})
    shown = ", ".join(f"{row['probe']} {row['metric']} {row['value']:.4g}" for row in rows if row["value"] is not None)
    run.notes.append(f"initial weights, before training: {shown}")
    run.console.info(run.notes[-1])
    return rows


def is_pooled(run: Run) -> bool:
    """Whether the labels are of samples and not of tokens, of which there are no hand-made features."""
    return run.task is not None and not run.task.per_token


def score_classical(run: Run, data: ProbeData, options: EvaluateOptions) -> Iterator[dict[str, Any]]:
    """Rows of hand-made features by the run's probes and by boosted trees; none if the tokenizer has no such features.

    Boosted trees are left out where there are more than `MOST_COLUMNS` features.
    """
    tokenizer = run.learner.tokenizer
    if not has_classical(tokenizer, run.splits["train"]):
        return
    extract = Extractor(run, "classical", ClassicalFeatures(tokenizer, run.splits, run.data), keep=True)
    # features of the first sample, for their number
    width = extract.embed(data.fit[0], data.fit[1][:1])[0].shape[1]
    entry = run.context.catalogue.find("probe", TREES, None)
    classes = dict(run.plugins.probes)
    if entry is not None and width <= MOST_COLUMNS:
        classes.setdefault(TREES, entry.value)
    yield from score_kind(extract, data, options, pooled_probes(run, options, classes))


def score_kind(
    extract: Extractor, data: ProbeData, options: EvaluateOptions, probes: Mapping[str, Probe] | None = None,
    kept: Kept | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of one kind of features: one for each probe, and with `evaluate.select` that of the best.

    probes: by default those of the run. kept: takes some of the features, and the predictions from trained ones.
    """
    yield from score_features(extract, data, options, probes, kept)
    if options.select:
        yield from score_selected(extract, data, options, probes)


def pooled_probes(run: Run, options: EvaluateOptions, classes: Mapping[str, Any] | None = None) -> dict[str, Probe]:
    """The probes of some classes, by default those of the run, that read pooled features by the read-out."""
    probes = make_probes(run.plugins.probes if classes is None else classes, options, run.config.seed)
    return {name: probe for name, probe in probes.items() if not probe.per_token and probe.layers is None}


def score_features(
    extract: Extractor, data: ProbeData, options: EvaluateOptions, probes: Mapping[str, Probe] | None = None,
    kept: Kept | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of scores of one kind of features, one for each probe."""
    run, task = extract.run, extract.run.task
    assert task is not None
    seed = probe_seed(options, run.config.seed)
    chosen = data.limited(options, seed)
    if probes is None:
        probes = make_probes(run.plugins.probes, options, run.config.seed)
    for spec, group in group_by_features(probes, task, options.readout).items():
        train, scored = extract(chosen.fit, spec), extract(chosen.scored, spec)
        observe = kept.keep_predictions if kept is not None and extract.kind == "trained" else None
        if kept is not None:
            kept.keep_features(extract.kind, spec, (train[0], chosen.fit[1]), (scored[0], chosen.scored[1]))
        for row in score(task, train, scored, group, options.metrics, seed, observe, Postprocess.of(options)):
            yield _named(extract, spec, row)


def score_selected(
    extract: Extractor, data: ProbeData, options: EvaluateOptions, probes: Mapping[str, Probe] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of the probe and post-processing that are best on validation samples.

    These are the validation split, if it is not the scored one, or else a share of the training samples, which are
    left out of the fits of the choice. The samples that are scored have no part in it.
    """
    run, task = extract.run, extract.run.task
    assert task is not None
    seed = probe_seed(options, run.config.seed)
    chosen = data.limited(options, seed)
    spec = FeatureSpec(task.per_token, None, options.readout)
    pooled = pooled_probes(run, options) if probes is None else probes
    if not pooled:
        return
    train, scored = extract(chosen.fit, spec), extract(chosen.scored, spec)
    if "validation" in run.data and run.scored_split != "validation":
        validation = run.data["validation"]
        rows = scored_rows(run.data, "validation", run.config.evaluate.shared == "drop")
        limit = random_subset(len(rows), MOST_ROWS, seed)
        fit, compared = train, extract((validation, rows if limit is None else rows[limit]), spec)
        where = "the validation split"
    else:
        first, second = held_out(len(train[0]), HELD_OUT, seed)
        fit, compared = (_take(train, index) for index in (first, second))
        where = f"{HELD_OUT:.0%} of the training samples"
    selection = select(task, fit, compared, pooled, options, seed)
    best = selection.best
    own = {best.probe: pooled[best.probe]}
    postprocess = Postprocess(best.postprocess, options.components)
    for row in score(task, train, scored, own, options.metrics, seed, postprocess=postprocess):
        details = row["details"] | selection.details(where)
        yield _named(extract, spec, row | {"probe": SELECTED, "details": details})


def _take(part: Features, index: np.ndarray) -> Features:
    return part[0][index], None if part[1] is None else part[1][index]


def _named(extract: Extractor, spec: FeatureSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its data set, task, kind of features, read-out and seed."""
    run = extract.run
    dataset, task = run.splits["train"], run.task
    assert task is not None
    return {
        "dataset": f"{dataset.modality}/{dataset.name}", "task": task.title,
        "features": extract.kind, "seed": run.config.seed, "readout": spec.title, **row,
    }  # fmt: skip


def zero_padding(
    tokenizer: Tokenizer, embed: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]
) -> Tensor:  # fmt: skip
    """Token features (B, L, D) of a batch, zero for tokens that hold no data."""
    embedded, valid = embed(inputs), tokenizer.geometry(inputs).valid
    return embedded if valid is None else embedded.masked_fill(~valid.unsqueeze(-1), 0)


def measure_health(run: Run, count: int | None = None) -> dict[str, float]:
    """Label-free figures of the learner on some training samples, the same samples each time.

    count: they are among so many first samples; by default among all.
    """
    data = run.data["train"]
    length = len(data) if count is None else count
    count = min(length, SAMPLES)
    index = np.sort(np.random.default_rng(run.config.seed).choice(length, count, replace=False))
    parts = np.array_split(index, math.ceil(count / EMBED_BATCH))
    run.learner.eval()
    with autocast(run.device, run.config.train.precision):  # type: ignore[arg-type]
        figures = health(run.learner.stages, (data.take(part).to(run.device) for part in parts))
        if run.config.evaluate.lidar_views:
            figures["lidar"] = lidar(views_of(run, parts))
    return figures


def views_of(run: Run, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Features (n, q, D) of random halves of the tokens of training samples, the same halves each time."""
    draws, count = generator(run.config.seed, "lidar"), run.config.evaluate.lidar_views
    batches = (run.data["train"].take(part).to(run.device) for part in parts)
    return np.concatenate([run.learner.halves(batch.inputs, count, draws).float().cpu().numpy() for batch in batches])


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
        self.count = len(run.data["train"])  # there may be more later
        self.baseline = baseline_health(run)
        self.warning: str | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Figures named `probe/...` and `health/...`, for metrics.jsonl."""
        with shared(self.run, joined()):
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
        with extractor(self.run, "trained") as extract:
            train = self.run.data["train"]
            parts = ((train if isinstance(split, GrowingSplit) else split, rows) for split, rows in
                     (self.data.fit, self.data.scored))  # fmt: skip
            return scores_named("probe/", score_features(extract, ProbeData(*parts), options))

    def health(self) -> dict[str, float]:
        """The learner's health now; the first collapse is printed and kept in `warning`."""
        figures = measure_health(self.run, self.count)
        problem = collapse(figures, self.baseline)
        if problem and self.warning is None:
            self.warning = f"warning: {problem}"
            self.run.console.info(self.warning)
        return figures
