"""A domain of a benchmark: one pretraining, then an evaluation of the frozen encoder on every transfer set.

Each evaluation is one of `sslx eval`. Its report lies in transfer/NAME in the run's folder, and the report of the run
holds all scores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.config.benchmarks import find_domain
from ssl_core.config.resolve import ENGINE_SECTIONS, matching
from ssl_core.config.schema import RunConfig
from ssl_core.errors import CheckpointError, DataError, SslxError
from ssl_core.options import Options, Preset
from ssl_core.plugins import Catalogue
from ssl_core.public_data.dataset import PublicDataset, data_root
from ssl_core.report import Report, read, write_html, write_json
from ssl_core.runs import evaluate as evaluation
from ssl_core.runs.build import as_utf8, load_run
from ssl_core.runs.figures import make_figures
from ssl_core.runs.kept import Kept
from ssl_core.runs.pretrain import RunPlan, pretrain
from ssl_core.runs.report import write
from ssl_core.runs.run import Run, RunContext
from ssl_core.runs.run_dir import load_config
from ssl_core.training.metrics_log import METRICS, read_metrics

FOLDER = "transfer"
NOTE = "transfer: "
NORMALISE = ("normalise", "mean", "std")


def check(config: RunConfig, catalogue: Catalogue, folder: Path | None = None) -> str | None:
    """Check which transfer sets are present.

    Args:
        config: the configuration of the run.
        catalogue: the installed plugins.
        folder: the folder of a run to resume; None for a new run.

    Returns:
        One line that names the missing sets and says how to get them; None if all are present.

    Raises:
        DataError: the data to pretrain on is missing and the folder holds no finished pretraining, or the run is strict
            and a transfer set is missing.
    """
    pretraining = catalogue.dataset(config.dataset.name, config.modality)
    root = config.dataset.options.get("root")
    if issubclass(pretraining, PublicDataset) and (folder is None or finished(folder, config) is None):
        pretraining.locate(root)
    by_command: dict[Any, list[type[PublicDataset]]] = {}
    reasons = []
    for name in transfer_sets(config, catalogue):
        entry = catalogue.find("dataset", name, config.modality)
        if entry is None:
            reasons.append(f"{name} (no plugin offers it)")
        elif issubclass(entry.value, PublicDataset):
            root = options_for(config, catalogue, name).get("dataset.root")
            missing = _missing(entry.value, root)
            if missing:  # data sets that lack the same files are obtained by one command
                by_command.setdefault((entry.value.source.folder, *missing, root), []).append(entry.value)
    for (*_, root), classes in by_command.items():
        reasons.append(f"{', '.join(cls.name for cls in classes)} ({classes[0].how_to_get(root)})")
    if not reasons:
        return None
    line = f"transfer sets that are not here: {'; '.join(reasons)}"
    if config.strict:
        raise DataError(f"{line}; without --strict they are left out")
    return f"{line}; they are left out, and the same command with --resume evaluates them later"


def transfer_sets(config: RunConfig, catalogue: Catalogue) -> list[str]:
    """The domain's transfer sets, without the one that is pretrained on, which the run itself evaluates."""
    domain = find_domain(_presets(catalogue), config.benchmark, config.domain)
    return [name for name in domain.transfer if name != config.dataset.name]


def options_for(config: RunConfig, catalogue: Catalogue, name: str) -> dict[str, Any]:
    """The options of `sslx eval` for a transfer set, by path.

    Options of the data set come from section `transfer`, else from changes by hand to the pretraining data, else from
    the run's preset for this set. The probe, and mean and std of the tokenizer where they are given, are the run's,
    except where they come from the preset and the preset has others for this set.
    """
    cls = catalogue.get("dataset", name, config.modality).value
    trained = catalogue.dataset(config.dataset.name, config.modality)
    tokenizer = catalogue.tokenizer(config.tokenizer.name)
    usual, own = _usual(config, catalogue), _own(config, catalogue, name)

    before = _resolved(trained.Options, usual, "dataset")
    changed = {key: value for key, value in config.dataset.options.items() if value != before.get(key)}
    known = cls.Options.model_fields
    dataset_options = {
        key: value for key, value in (_section(own, "dataset") | changed | config.transfer).items() if key in known
    }
    overrides = {"dataset.name": name, **{f"dataset.{key}": value for key, value in dataset_options.items()}}

    probe = config.evaluate.model_dump(mode="json")
    before, here = (_resolved(ENGINE_SECTIONS["evaluate"], of, "evaluate") for of in (usual, usual | own))
    overrides |= {
        f"evaluate.{key}": here[key] for key in here if here[key] != before[key] and probe[key] == before[key]
    }

    has = config.tokenizer.options
    before, here = (_resolved(tokenizer.Options, of, "tokenizer") for of in (usual, usual | own))
    if has.get("normalise") == here.get("normalise") == "given" and all(
        has.get(key) == before.get(key) for key in NORMALISE
    ):
        overrides |= {f"tokenizer.{key}": here[key] for key in NORMALISE if here.get(key) != before.get(key)}
    return overrides


def _usual(config: RunConfig, catalogue: Catalogue) -> dict[str, Any]:
    """The values that presets give the run, by path."""
    run = (config.objective.name, config.modality, config.dataset.name)
    values: dict[str, Any] = {}
    for preset in matching(_presets(catalogue), *run, config.preset):
        values |= preset.values
    return values


def _own(config: RunConfig, catalogue: Catalogue, name: str) -> dict[str, Any]:
    """The values that the run's preset has for one data set alone, by path."""
    run = (config.objective.name, config.modality, name)
    mine = [p for p in _presets(catalogue) if p.name == config.preset and p.dataset == name and not p.default]
    values: dict[str, Any] = {}
    for preset in sorted((p for p in mine if p.matches(*run)), key=lambda p: p.specificity):
        values |= preset.values
    return values


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {path.partition(".")[2]: value for path, value in values.items() if path.startswith(f"{section}.")}


def _resolved(options: type[Options], values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """All options of a section as in a saved configuration; unknown ones belong to another plugin and are ignored."""
    mine = {key: value for key, value in _section(values, section).items() if key in options.model_fields}
    return options(**mine).model_dump(mode="json")


def _presets(catalogue: Catalogue) -> list[Preset]:
    return [entry.value for entry in catalogue.presets]


def _missing(cls: type[PublicDataset], root: str | None) -> list[str]:
    return cls.source.missing_paths(cls.source.locate_in(data_root(root)))


def finished(folder: Path, config: RunConfig) -> Report | None:
    """The report of a run whose training is complete, or None."""
    report = _report(folder)
    done = report is not None and (config.train.max_seconds is not None or report.steps >= config.train.steps)
    return report if done else None


def _report(folder: Path) -> Report | None:
    try:
        return read(folder)
    except CheckpointError:
        return None


def run_domain(plan: RunPlan, context: RunContext, absent: str | None) -> tuple[Report, list[str]]:
    """Pretrain, evaluate on every transfer set that is present, and report all; finished parts are not repeated.

    Args:
        plan: what to run; with `request.resume`, a finished pretraining is read from its folder.
        context: plugins, folder and console.
        absent: what `check` returned.

    Returns:
        The report, and one line for each transfer set whose evaluation failed.

    Raises:
        SslxError: pretraining failed, or with `strict` the evaluation of a transfer set.
    """
    config, catalogue, folder, console = plan.config, context.catalogue, context.folder, context.console
    if absent:
        console.info(f"warning: {absent}")
    run, report = None, finished(folder, config) if plan.request.resume else None
    if report is None:
        run = pretrain(plan, context, finish=False)
        report = run.finished_report
    began, failures = time.perf_counter(), []
    names = transfer_sets(config, catalogue)
    reports: dict[str, Report] = {}
    for number, name in enumerate(names, start=1):
        entry = catalogue.find("dataset", name, config.modality)
        overrides = options_for(config, catalogue, name) if entry else {}
        public = entry is not None and issubclass(entry.value, PublicDataset)
        if entry is None or (public and _missing(entry.value, overrides.get("dataset.root"))):
            continue
        try:
            done = _earlier_report(name, report, overrides, context)
            state = "was evaluated before" if done else "..."
            console.info(f"transfer   {number} of {len(names)}: {config.modality}/{name} {state}")
            overrides |= {"device": config.device, "strict": config.strict}
            reports[name] = done or evaluation.evaluate_run(overrides, context, folder / FOLDER / name)
        except SslxError as error:
            if config.strict:
                raise
            failures.append(f"{config.modality}/{name}: {error}")
            console.info(f"failed: {failures[-1]}")
    whole = combine(report, reports, [line for line in (absent, *failures) if line], time.perf_counter() - began)
    if (whole.scores, whole.notes) != (report.scores, report.notes):
        rewrite(whole, run, context)
        context.notify("run_finished", folder=folder, report=whole)
    return whole, failures


def rewrite(report: Report, run: Run | None, context: RunContext) -> None:
    """Write the report of a run again: report.json, and report.html with its pictures if the data is still there.

    run: the run where it was just trained; None to load it from its folder.
    """
    folder = context.folder
    metrics = read_metrics(folder / METRICS) if run is None or run.log is None else run.log.lines
    try:
        run = load_run(folder, context.catalogue) if run is None else run
    except SslxError as error:
        context.console.info(f"warning: the report has no pictures, as {error}")
        write_json(report, folder)
        write_html(report, folder, [], metrics)
    else:
        if run.figures is None:
            run.figures = make_figures(run, Kept(run.config.seed))
        write(report, run, metrics, folder)


def _earlier_report(name: str, report: Report, overrides: Mapping[str, Any], context: RunContext) -> Report | None:
    """The report of a transfer set from before, if it is of the same encoder with the same options."""
    earlier = _report(context.folder / FOLDER / name)
    if earlier is None or earlier.steps != report.steps:
        return None
    config, _ = evaluation.evaluation_config(load_config(context.folder), overrides, context.catalogue)
    values = config.model_dump(mode="json")
    same = all(earlier.config[part] == values[part] for part in ("dataset", "evaluate", "tokenizer"))
    return earlier if same else None


def combine(report: Report, transfer: Mapping[str, Report], problems: list[str], seconds: float) -> Report:
    """The report of the run with the scores of the transfer sets after its own; earlier ones are replaced."""
    own = f"{report.modality}/{report.dataset}"
    scores = [score for score in report.scores if score.dataset == own]
    notes = [note for note in report.notes if not note.startswith(NOTE)]
    for name, one in transfer.items():
        scores += one.scores
        notes += [f"{NOTE}{report.modality}/{name}: {note}" for note in one.notes]
    notes += [as_utf8(f"{NOTE}{problem}") for problem in problems]
    return report.model_copy(
        update={"scores": tuple(scores), "notes": tuple(notes), "wall_seconds": report.wall_seconds + seconds}
    )
