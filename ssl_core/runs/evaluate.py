"""Evaluate a trained encoder again, on its own data or on other data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssl_core.config.resolve import Plugins, flatten, plugins_of, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError, SslxError
from ssl_core.nn.distributed import Group
from ssl_core.plugins import Catalogue
from ssl_core.report import Report
from ssl_core.report.schema import read
from ssl_core.runs.build import CONSTANTS, WeightSources, announce, build_run, load_checkpoint, trained_config
from ssl_core.runs.encoder import PretrainedEncoder
from ssl_core.runs.fields import fields_to_json
from ssl_core.runs.figures import make_figures
from ssl_core.runs.kept import Kept
from ssl_core.runs.pretrain import BENCHMARK
from ssl_core.runs.report import make_report, write
from ssl_core.runs.resume import PARTS, check_plugins
from ssl_core.runs.run import Run, RunContext
from ssl_core.runs.run_dir import load_config
from ssl_core.runs.scores import baseline_health, measure_health, score_initial, score_run, serve, shared
from ssl_core.training.best import LAST
from ssl_core.training.checkpoint import Checkpoint
from ssl_core.training.learner import Learner
from ssl_core.training.metrics_log import METRICS, lost_text, read_lines
from ssl_core.training.parallel import joined


def evaluate_run(overrides: Mapping[str, Any], context: RunContext, folder: Path, which: str = LAST) -> Report:
    """Score a checkpoint of a run and write the report.

    That of rank 0 of several processes calls this function, the others call `serve_evaluation`.

    Args:
        overrides: options by dotted path: another data set, or options of the evaluation.
        context: plugins, the run's folder and console.
        folder: where the report goes.
        which: "last", the newest checkpoint, or "best".

    Raises:
        CheckpointError: the run has no such checkpoint.
        ConfigError: an option that training depends on, or data without labels.
        DataError: the data set does not offer the fields that the encoder reads.
    """
    saved = load_config(context.folder)
    run = load_for_evaluation(saved, overrides, context, which)
    if which != LAST:
        run.notes.append(f"the weights are those of the {which} checkpoint, of step {run.steps:,}")
    announce(run)
    with shared(run, joined()):
        rows = _scores(run)
    metrics, lost = read_lines(context.folder / METRICS)
    if lost:
        run.notes.append(lost_text(context.folder / METRICS, lost))
        context.console.info(run.notes[-1])
    report = make_report(run, rows, {"trained": measure_health(run), "random_init": baseline_health(run)}, metrics)
    if run.config.dataset != saved.dataset:  # the probes during training read the data trained on
        report = report.model_copy(update={"curve": ()})
    elif protocol_of(run.config) != protocol_of(saved):  # other features than the probes during training read
        report = report.model_copy(update={"curve": tuple(p.model_copy(update={"scores": {}}) for p in report.curve)})
    if folder == context.folder and (trained := _report_before(folder)):  # the costs stay those of the training
        costs = {name: getattr(trained, name) for name in ("wall_seconds", "peak_memory_bytes", "device")}
        report = report.model_copy(update=costs)
    folder.mkdir(parents=True, exist_ok=True)
    write(report, run, metrics, folder)
    context.notify("eval_finished", folder=folder, report=report)
    return report


def _report_before(folder: Path) -> Report | None:
    """The report in a folder; None if there is none, or a damaged one."""
    try:
        return read(folder)
    except SslxError:
        return None


def serve_evaluation(overrides: Mapping[str, Any], context: RunContext, group: Group, which: str = LAST) -> None:
    """Compute features with the process of rank 0, which evaluates by the same arguments.

    Raises:
        SslxError: as `evaluate_run`.
    """
    serve(load_for_evaluation(load_config(context.folder), overrides, context, which), group)


def evaluate_encoder(
    encoder: PretrainedEncoder, overrides: Mapping[str, Any], context: RunContext, folder: Path | None
) -> Report:
    """Score an encoder with the weights that it has now. torch's random generators stay as they are.

    Args:
        encoder: the encoder.
        overrides: options by dotted path: the data, and options of the evaluation.
        context: plugins and console.
        folder: where the report goes; None to write none.

    Raises:
        ConfigError: an option that training depends on, data without labels, or a plugin of the encoder's
            configuration is not installed.
        DataError: the data does not offer the fields that the encoder reads.
    """
    config, plugins = evaluation_config(encoder.config, {"device": str(encoder.device), **overrides}, context.catalogue)
    state = {
        "fields": fields_to_json(encoder.fields), "data": {"schema": encoder.schema, "stats": encoder.stats},
        "step": encoder.provenance.steps, "seconds": 0.0,
    }  # fmt: skip

    def load(learner: Learner) -> None:
        learner.tokenizer.load_state_dict(encoder.tokenizer.state_dict())
        learner.encoder.load_state_dict(encoder.encoder.state_dict())

    with torch.random.fork_rng():
        start = Checkpoint(encoder.provenance.folder, state)
        run = build_run(config, plugins, context, WeightSources(start, load), for_training=False)
        announce(run)
        rows = _scores(run)
        report = make_report(run, rows, {"trained": measure_health(run), "random_init": baseline_health(run)}, [])
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write(report, run, [], folder)
    return report


def _scores(run: Run) -> list[dict[str, Any]]:
    """Rows of scores; the figures are kept in the run.

    Raises:
        ConfigError: the data has no labels, or no split to score.
    """
    kept = Kept(run.config.seed)
    rows = score_run(run, kept)
    if not rows and run.task is not None:
        raise ConfigError(
            f"there is nothing to evaluate: the data has no {run.scored_split} split; set dataset.test_fraction, e.g. "
            f"to 0.2, or give other data"
        )
    if not rows:
        raise ConfigError(
            "there is nothing to evaluate: the data has no labels; give --label-pattern or another --dataset"
        )
    score_initial(run)
    run.figures = make_figures(run, kept)
    return rows


def protocol_of(config: RunConfig) -> tuple[str, str, int]:
    """What is done to features before a probe reads them."""
    return config.evaluate.readout, config.evaluate.postprocess, config.evaluate.components


def load_for_evaluation(
    saved: RunConfig, overrides: Mapping[str, Any], context: RunContext, which: str = LAST
) -> Run:  # fmt: skip
    """The trained run, with other data or options of the evaluation.

    Raises:
        CheckpointError: the run has no such checkpoint.
        ConfigError: an option that training depends on, or a missing plugin.
        DataError: the data set does not offer the fields that the encoder reads.
    """
    start = load_checkpoint(context.folder, which)
    other_data = "dataset.name" in overrides  # the data trained on need not be there
    parts = PARTS[:-1] if other_data else PARTS
    for line in check_plugins(context.folder, saved, context.catalogue, start, parts):
        context.console.info(line)
    if overrides:
        config, plugins = evaluation_config(saved, overrides, context.catalogue)
    else:
        config, plugins = saved, plugins_of(saved, context.catalogue)
    return build_run(trained_config(config, start), plugins, context, WeightSources(start), for_training=False)


def evaluation_config(
    saved: RunConfig, overrides: Mapping[str, Any], catalogue: Catalogue
) -> tuple[RunConfig, Plugins]:
    """The saved configuration with another data set or other options of the evaluation.

    `tokenizer.mean` and `tokenizer.std` may change where the run has `tokenizer.normalise=given`.

    Raises:
        ConfigError: any other change.
    """
    own = saved.tokenizer.options.get("normalise") == "given"
    for path in overrides:
        if path.split(".")[0] not in ("dataset", "evaluate", "device", "strict") and not (own and path in CONSTANTS):
            raise ConfigError(
                f"sslx eval cannot change '{path}', which training depends on; it takes dataset.* and evaluate.*"
                + (f", {' and '.join(CONSTANTS)}" if own else "")
            )
    base = flatten(saved.model_dump(mode="json"))
    base = {path: value for path, value in base.items() if path.partition(".")[0] not in BENCHMARK}
    name = overrides.get("dataset.name", saved.dataset.name)
    entry = catalogue.find("dataset", str(name), saved.modality)
    if entry is None or entry.name != saved.dataset.name:  # an alias is not another data set
        base = {path: value for path, value in base.items() if not path.startswith("dataset.") and path != "data_label"}
    return resolve(catalogue, {**base, **overrides, "preset": "none"})
