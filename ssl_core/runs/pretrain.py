"""A run from its configuration to its report: the ten stops, in order, on one page. Stops 1 to 3 are the caller's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.config.resolve import Plugins, flatten, plugins_of, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.data import Split
from ssl_core.errors import CheckpointError, ConfigError, SslxError
from ssl_core.evaluation.sample_limits import limit_samples
from ssl_core.pipeline.cache import PreprocessedSplit, RawSamples, preprocess_dataset
from ssl_core.plugins import Catalogue
from ssl_core.report import Report, write_html
from ssl_core.report import write_json as write_report
from ssl_core.runs import summary
from ssl_core.runs.build import (
    OnlineProbe,
    attention_kernel,
    build,
    check_health,
    data_warnings,
    evaluate,
    fields_of,
    header,
    open_splits,
    random_init_baseline,
    resolve_runtime,
    same_extent,
    same_fields,
    scores_named,
    step_key,
    versions,
)
from ssl_core.runs.reconstructions import rebuild
from ssl_core.runs.run_dir import CONFIG, PARTS, check_plugins, load_config
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.accel.memory import keep_freed_memory
from ssl_core.training.device import pick_device
from ssl_core.training.learner import Learner
from ssl_core.training.loop import train
from ssl_core.training.metrics_log import METRICS, append_metrics, read_metrics
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.console import Console
from ssl_core.utils.files import write_json

BENCHMARK = ("benchmark", "domain", "transfer")  # keys that say what a run is followed by
CONSTANTS = ("tokenizer.mean", "tokenizer.std")  # belong to the data that is measured, if they were given
FEATURES = ("trained", "random_init", "raw_input")
PICTURES = 6


def run(
    config: RunConfig,
    plugins: Plugins,
    catalogue: Catalogue,
    folder: Path,
    console: Console,
    *,
    resume: bool = False,
    command: str = "",
    announce: bool = True,
) -> Report:
    """Pretrain, evaluate, report. The folder exists; with `resume` it holds what a stopped run left.

    With `announce` the notice `run_finished` is sent; without it the caller has more to do and sends it.
    """
    began = time.perf_counter()
    device = pick_device(config.device)
    keep_freed_memory()

    # 4. data; 5. model
    splits = open_splits(config, plugins)
    learner = build(config, plugins, splits["train"]).to(device)
    start = checkpoint.latest(folder) if resume else None
    before = 0.0 if start is None else float(start.state["seconds"])  # of training, in the part that was stopped
    if start is None:
        learner.tokenizer.fit(RawSamples(splits["train"]))
    else:
        checkpoint.load_model(start, learner)  # with what the tokenizer learned, which preparing needs
    data = {
        split: preprocess_dataset(splits[split], learner.tokenizer, cache_dir(), console, config.strict)
        for split in splits
    }
    extent: dict[str, int] = {split: len(part) for split, part in data.items()}
    if start is not None:
        same_extent(start.state.get("samples"), extent)
    learner.tokenizer.fit_normalization(data["train"].chunks())
    asked = config.train.batch_size
    config, notes = resolve_runtime(config, learner, device, data["train"])
    measure, said = limit_samples(config.evaluate, splits["train"].task, data, learner.raw, config.encoder.dim, device)
    notes += data_warnings(splits, data) + said
    # the batch size as it was asked for: going on, it is lowered to what there is anew
    kept = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": asked})})
    write_json(folder / CONFIG, kept.model_dump(mode="json"))
    for line in (*header(config, learner, device, splits, data), *notes):
        console.info(line)
    notify(catalogue, console, "run_started", config=config, folder=folder)

    # 6. to 8. tokens, outcome, training
    origins: dict[str, Any] = {"versions": versions(), "origins": catalogue.origins()}
    watched = config.model_copy(update={"evaluate": measure["trained"]})
    watch = OnlineProbe(watched, plugins, learner, splits, data, device, console)
    compiled = None

    def warn(text: str) -> None:
        notes.append(text)
        console.info(text)

    if config.train.compile == "on":
        compiled = CompiledStep(learner, step_key(config, device, learner), cache_dir())
    steps, seconds = train(
        learner, data["train"], config.train, seed=config.seed, device=device,
        precision=config.train.precision, folder=folder, console=console,  # type: ignore[arg-type]
        log=lambda step, values: notify(catalogue, console, "metrics_logged", folder=folder, step=step, metrics=values),
        state={
            "config": config.model_dump(mode="json"), "fields": fields_of(splits["train"]), "samples": extent, **origins
        },
        start=start, probe=watch, probe_every=config.evaluate.every,
        compiled=compiled, warn=warn,
    )  # fmt: skip

    # 9. evaluation
    rows = evaluate(config, plugins, learner, splits, data, device, console, measure)
    found = watch.health()
    notes += [watch.warning] if watch.warning else []
    final = {"train/seconds": seconds} | {f"health/{name}": value for name, value in found.items()}
    for kind in FEATURES:
        mine = [row for row in rows if row["features"] == kind]
        final |= scores_named(f"eval/{kind}_", mine) | (scores_named("probe/", mine) if kind == "trained" else {})
    append_metrics(folder / METRICS, steps, final)
    notify(catalogue, console, "metrics_logged", folder=folder, step=steps, metrics=final)

    # 10. report
    report = summary.make(
        config, learner, device, folder, rows, notes, command=command, **origins,
        attention=attention_kernel(config, learner, device),
        pretrain_seconds=seconds, steps=steps, wall_seconds=time.perf_counter() - began + before,
        health={"trained": found, "random_init": watch.fresh},
    )  # fmt: skip
    write(report, folder, learner, data, read_metrics(folder / METRICS))
    if announce:
        notify(catalogue, console, "run_finished", folder=folder, report=report)
    return report


def evaluate_run(
    run_folder: Path,
    given: Mapping[str, Any],
    catalogue: Catalogue,
    folder: Path,
    console: Console,
    *,
    command: str = "",
) -> Report:
    """Measure a run's newest checkpoint again; `given` may name another data set or options of the evaluation.

    Errors: CheckpointError without a checkpoint; ConfigError for an option that training depends on; DataError if the
    other data set does not offer the same fields.
    """
    began = time.perf_counter()
    keep_freed_memory()
    saved = load_config(run_folder)
    start = checkpoint.latest(run_folder)
    if start is None:
        raise CheckpointError(f"{run_folder} has no checkpoint to evaluate; go on with sslx run --resume")
    other_data = "dataset.name" in given and "fields" in start.state  # then the data trained on need not be there
    for line in check_plugins(run_folder, saved, catalogue, PARTS[:-1] if other_data else PARTS):
        console.info(line)
    config, plugins = measured(saved, given, catalogue) if given else (saved, plugins_of(saved, catalogue))
    splits = open_splits(config, plugins)
    if given:
        same_fields(_trained_on(saved, start, catalogue), splits["train"])
    device = pick_device(str(given.get("device", saved.device)))
    learner = build(saved, plugins, splits["train"]).to(device)
    checkpoint.load_model(start, learner)
    trained = start.state.get("config", {}).get("train", {})  # with the batch size that was used, not asked for
    size = trained.get("batch_size", config.train.batch_size)
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})
    if config.tokenizer != saved.tokenizer:
        _give_constants(learner, build(config, plugins, splits["train"]))
    data = {
        split: preprocess_dataset(splits[split], learner.tokenizer, cache_dir(), console, config.strict)
        for split in splits
    }
    measure, said = limit_samples(config.evaluate, splits["train"].task, data, learner.raw, config.encoder.dim, device)
    notes = data_warnings(splits, data) + said
    for line in (*header(config, learner, device, splits, data), *notes):
        console.info(line)
    rows = evaluate(config, plugins, learner, splits, data, device, console, measure)
    if not rows:
        raise ConfigError(
            "there is nothing to evaluate: the data has no labels; give --label-pattern or another --dataset"
        )
    folder.mkdir(parents=True, exist_ok=True)
    report = summary.make(
        config, learner, device, run_folder, rows, notes, command=command, versions=versions(),
        origins=catalogue.origins(), attention=attention_kernel(config, learner, device),
        health={
            "trained": check_health(config, learner, data["train"], device),
            "random_init": check_health(
                config, random_init_baseline(config, plugins, learner, splits, device), data["train"], device
            ),
        },
        pretrain_seconds=float(start.state["seconds"]), steps=start.step, wall_seconds=time.perf_counter() - began,
    )  # fmt: skip
    if config.dataset != saved.dataset:  # what was probed during training was the data trained on
        report = report.model_copy(update={"curve": ()})
    write(report, folder, learner, data, read_metrics(run_folder / METRICS))
    return report


def _give_constants(learner: Learner, given: Learner) -> None:
    """Put the tokenizer's mean and std, and those of its parts, into a learner whose checkpoint has others."""
    constants = dict(given.tokenizer.named_buffers())
    for name, mine in learner.tokenizer.named_buffers():
        if f"tokenizer.{name.rpartition('.')[2]}" in CONSTANTS:
            mine.copy_(constants[name])


def _trained_on(saved: RunConfig, start: checkpoint.Checkpoint, catalogue: Catalogue) -> str:
    """The fields of the data trained on: noted in the checkpoint, else read from the data itself."""
    noted = start.state.get("fields")
    return noted or fields_of(open_splits(saved, plugins_of(saved, catalogue))["train"])


def measured(saved: RunConfig, given: Mapping[str, Any], catalogue: Catalogue) -> tuple[RunConfig, Plugins]:
    """The saved configuration with another data set or evaluation. Errors: ConfigError for any other change.

    `CONSTANTS` may change, too, where the run has tokenizer.normalise=given.
    """
    own = saved.tokenizer.options.get("normalise") == "given"
    for path in given:
        if path.split(".")[0] not in ("dataset", "evaluate", "device", "strict") and not (own and path in CONSTANTS):
            raise ConfigError(
                f"sslx eval cannot change '{path}', which training depends on; it takes dataset.* and evaluate.*"
                + (f", {' and '.join(CONSTANTS)}" if own else "")
            )
    base = flatten(saved.model_dump(mode="json"))
    base = {path: value for path, value in base.items() if path.partition(".")[0] not in BENCHMARK}
    name = given.get("dataset.name", saved.dataset.name)
    entry = catalogue.find("dataset", str(name), saved.modality)
    if entry is None or entry.name != saved.dataset.name:  # an alias is not another data set
        base = {path: value for path, value in base.items() if not path.startswith("dataset.") and path != "data_label"}
    return resolve(catalogue, {**base, **given, "preset": "none"})


def rewrite(report: Report, run_folder: Path, catalogue: Catalogue, console: Console) -> None:
    """Write a report of a run anew: report.json, and report.html with its pictures if the data is still there."""
    saved, start = load_config(run_folder), checkpoint.latest(run_folder)
    metrics = read_metrics(run_folder / METRICS)
    try:
        if start is None:
            raise CheckpointError(f"{run_folder} has no checkpoint")
        plugins, device = plugins_of(saved, catalogue), pick_device(saved.device)
        splits = open_splits(saved, plugins)
        learner = build(saved, plugins, splits["train"]).to(device)
        checkpoint.load_model(start, learner)
        data: dict[Split, PreprocessedSplit] = {
            "test": preprocess_dataset(splits["test"], learner.tokenizer, cache_dir(), console, saved.strict)
        }
    except SslxError as error:
        console.info(f"warning: the report has no pictures, as {error}")
        write_report(report, run_folder)
        write_html(report, run_folder, [], metrics)
    else:
        write(report, run_folder, learner, data, metrics)


def write(
    report: Report,
    folder: Path,
    learner: Learner,
    data: Mapping[Split, PreprocessedSplit],
    metrics: list[dict[str, float]],
) -> None:
    """report.json and report.html with pictures of a few test samples."""
    some = data["test"].take(np.arange(min(PICTURES, len(data["test"]))))
    write_report(report, folder)
    write_html(report, folder, rebuild(learner, some, report.seed), metrics)


def notify(catalogue: Catalogue, console: Console, hook: str, **values: Any) -> None:
    """Send a notice; a plugin that fails is named and stops nothing."""
    for problem in catalogue.notify(hook, **values):
        console.info(f"warning: {problem}")
