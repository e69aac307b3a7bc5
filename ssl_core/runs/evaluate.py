"""Evaluate a trained encoder again, on its own data or on other data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.config.resolve import Plugins, flatten, plugins_of, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError
from ssl_core.plugins import Catalogue
from ssl_core.report import Report
from ssl_core.runs.build import CONSTANTS, announce, build_run, load_checkpoint, trained_config
from ssl_core.runs.pretrain import BENCHMARK
from ssl_core.runs.report import make_report, write
from ssl_core.runs.resume import PARTS, check_plugins
from ssl_core.runs.run import Run, RunContext
from ssl_core.runs.run_dir import load_config
from ssl_core.runs.scores import baseline_health, measure_health, score_run
from ssl_core.training.metrics_log import METRICS, read_metrics


def evaluate_run(overrides: Mapping[str, Any], context: RunContext, folder: Path) -> Report:
    """Score the newest checkpoint of a run and write the report.

    Args:
        overrides: options by dotted path: another data set, or options of the evaluation.
        context: plugins, the run's folder and console.
        folder: where the report goes.

    Raises:
        CheckpointError: the run has no checkpoint.
        ConfigError: an option that training depends on, or data without labels.
        DataError: the data set does not offer the fields that the encoder reads.
    """
    saved = load_config(context.folder)
    run = load_for_evaluation(saved, overrides, context)
    announce(run)
    rows = score_run(run)
    if not rows and run.task is not None:
        raise ConfigError(
            f"there is nothing to evaluate: the data has no {run.scored_split} split; set dataset.test_fraction, e.g. "
            f"to 0.2, or give other data"
        )
    if not rows:
        raise ConfigError(
            "there is nothing to evaluate: the data has no labels; give --label-pattern or another --dataset"
        )
    metrics = read_metrics(context.folder / METRICS)
    report = make_report(run, rows, {"trained": measure_health(run), "random_init": baseline_health(run)}, metrics)
    if run.config.dataset != saved.dataset:  # the probes during training read the data trained on
        report = report.model_copy(update={"curve": ()})
    folder.mkdir(parents=True, exist_ok=True)
    write(report, run, metrics, folder)
    context.notify("eval_finished", folder=folder, report=report)
    return report


def load_for_evaluation(saved: RunConfig, overrides: Mapping[str, Any], context: RunContext) -> Run:
    """The trained run, with other data or options of the evaluation.

    Raises:
        CheckpointError: the run has no checkpoint.
        ConfigError: an option that training depends on, or a missing plugin.
        DataError: the data set does not offer the fields that the encoder reads.
    """
    start = load_checkpoint(context.folder)
    other_data = "dataset.name" in overrides  # the data trained on need not be there
    parts = PARTS[:-1] if other_data else PARTS
    for line in check_plugins(context.folder, saved, context.catalogue, start, parts):
        context.console.info(line)
    if overrides:
        config, plugins = evaluation_config(saved, overrides, context.catalogue)
    else:
        config, plugins = saved, plugins_of(saved, context.catalogue)
    return build_run(trained_config(config, start), plugins, context, start, for_training=False)


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
