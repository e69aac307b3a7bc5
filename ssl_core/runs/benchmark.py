"""A benchmark's domain: one run, then the frozen encoder measured on every transfer set, each as by `sslx eval`.

The evaluations lie in the run's folder, transfer/NAME, and all scores in the report of the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_core.config.benchmarks import find_domain
from ssl_core.config.resolve import ENGINE_SECTIONS, Plugins, matching
from ssl_core.config.schema import RunConfig
from ssl_core.errors import CheckpointError, DataError, SslxError
from ssl_core.options import Options, Preset
from ssl_core.plugins import Catalogue
from ssl_core.public_data.dataset import PublicDataset, data_root
from ssl_core.report import Report, read
from ssl_core.runs import pretrain as runs
from ssl_core.runs.build import as_utf8
from ssl_core.utils.console import Console

FOLDER = "transfer"
NOTE = "transfer: "
NORMALISE = ("normalise", "mean", "std")


def check(config: RunConfig, catalogue: Catalogue, folder: Path | None = None) -> str | None:
    """One line about the transfer sets that are not here and how to get them; None if all are.

    Errors: DataError for them if the run is strict, and for missing data to pretrain on, unless `folder` has that done.
    """
    pretraining = catalogue.dataset(config.dataset.name, config.modality)
    root = config.dataset.options.get("root")
    if issubclass(pretraining, PublicDataset) and (folder is None or finished(folder, config) is None):
        pretraining.locate(root)
    found: dict[Any, list[type[PublicDataset]]] = {}
    reasons = []
    for name in transfer_sets(config, catalogue):
        entry = catalogue.find("dataset", name, config.modality)
        if entry is None:
            reasons.append(f"{name} (no plugin offers it)")
        elif issubclass(entry.value, PublicDataset):
            root = options_for(config, catalogue, name).get("dataset.root")
            missing = _missing(entry.value, root)
            if missing:  # what lacks the same files is made by one command
                found.setdefault((entry.value.source.folder, *missing, root), []).append(entry.value)
    for (*_, root), classes in found.items():
        reasons.append(f"{', '.join(cls.name for cls in classes)} ({classes[0].how_to_get(root)})")
    if not reasons:
        return None
    line = f"transfer sets that are not here: {'; '.join(reasons)}"
    if config.strict:
        raise DataError(f"{line}; without --strict they are left out")
    return f"{line}; they are left out, and the same command with --resume measures them later"


def transfer_sets(config: RunConfig, catalogue: Catalogue) -> list[str]:
    """The names of the domain's transfer sets but for the one that is pretrained on, which its run measures."""
    domain = find_domain(_presets(catalogue), config.benchmark, config.domain)
    return [name for name in domain.transfer if name != config.dataset.name]


def options_for(config: RunConfig, catalogue: Catalogue, name: str) -> dict[str, Any]:
    """What `sslx eval` would be given for a transfer set, by option path.

    Its options are those of section `transfer`, else what was changed by hand of the data trained on, else what the
    run's preset has for this very set. The probe, and given mean and std of the tokenizer, are the run's, but where
    these are the preset's and the preset has others for this very set.
    """
    cls = catalogue.get("dataset", name, config.modality).value
    trained = catalogue.dataset(config.dataset.name, config.modality)
    tokenizer = catalogue.tokenizer(config.tokenizer.name)
    usual, own = _usual(config, catalogue), _own(config, catalogue, name)

    before = _resolved(trained.Options, usual, "dataset")
    changed = {key: value for key, value in config.dataset.options.items() if value != before.get(key)}
    known = cls.Options.model_fields
    wanted = {
        key: value for key, value in (_section(own, "dataset") | changed | config.transfer).items() if key in known
    }
    given = {"dataset.name": name, **{f"dataset.{key}": value for key, value in wanted.items()}}

    probe = config.evaluate.model_dump(mode="json")
    before, here = (_resolved(ENGINE_SECTIONS["evaluate"], of, "evaluate") for of in (usual, usual | own))
    given |= {f"evaluate.{key}": here[key] for key in here if here[key] != before[key] and probe[key] == before[key]}

    has = config.tokenizer.options
    before, here = (_resolved(tokenizer.Options, of, "tokenizer") for of in (usual, usual | own))
    if has.get("normalise") == here.get("normalise") == "given" and all(
        has.get(key) == before.get(key) for key in NORMALISE
    ):
        given |= {f"tokenizer.{key}": here[key] for key in NORMALISE if here.get(key) != before.get(key)}
    return given


def _usual(config: RunConfig, catalogue: Catalogue) -> dict[str, Any]:
    """By option path: what presets give the run."""
    run = (config.objective.name, config.modality, config.dataset.name)
    values: dict[str, Any] = {}
    for preset in matching(_presets(catalogue), *run, config.preset):
        values |= preset.values
    return values


def _own(config: RunConfig, catalogue: Catalogue, name: str) -> dict[str, Any]:
    """By option path: what the run's preset has for one data set and no other."""
    run = (config.objective.name, config.modality, name)
    mine = [p for p in _presets(catalogue) if p.name == config.preset and p.dataset == name and not p.default]
    values: dict[str, Any] = {}
    for preset in sorted((p for p in mine if p.matches(*run)), key=lambda p: p.specificity):
        values |= preset.values
    return values


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {path.partition(".")[2]: value for path, value in values.items() if path.startswith(f"{section}.")}


def _resolved(options: type[Options], values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """All options of a section, as in a saved configuration; what it does not know is another plugin's."""
    mine = {key: value for key, value in _section(values, section).items() if key in options.model_fields}
    return options(**mine).model_dump(mode="json")


def _presets(catalogue: Catalogue) -> list[Preset]:
    return [entry.value for entry in catalogue.presets]


def _missing(cls: type[PublicDataset], root: str | None) -> list[str]:
    return cls.source.missing_paths(cls.source.locate_in(data_root(root)))


def finished(folder: Path, config: RunConfig) -> Report | None:
    """The report of a run whose training is done, or None."""
    report = _report(folder)
    done = report is not None and (config.train.max_seconds is not None or report.steps >= config.train.steps)
    return report if done else None


def _report(folder: Path) -> Report | None:
    try:
        return read(folder)
    except CheckpointError:
        return None


def run_domain(
    config: RunConfig,
    plugins: Plugins,
    catalogue: Catalogue,
    folder: Path,
    console: Console,
    absent: str | None,
    *,
    resume: bool = False,
    command: str = "",
) -> tuple[Report, list[str]]:
    """Pretrain, measure on every transfer set that is here, report all; what is finished is not done again.

    `absent`: what `check` said. Returns the report and one line for each transfer set that could not be measured.
    Errors: those of a run; with `strict` those of a transfer set, too.
    """
    if absent:
        console.info(f"warning: {absent}")
    report = finished(folder, config) if resume else None
    if report is None:
        report = runs.run(
            config, plugins, catalogue, folder, console, resume=resume, command=command, announce=False
        )  # fmt: skip
    began, failures = time.perf_counter(), []
    names = transfer_sets(config, catalogue)
    measured: dict[str, Report] = {}
    for number, name in enumerate(names, start=1):
        entry = catalogue.find("dataset", name, config.modality)
        given = options_for(config, catalogue, name) if entry else {}
        public = entry is not None and issubclass(entry.value, PublicDataset)
        if entry is None or (public and _missing(entry.value, given.get("dataset.root"))):
            continue
        try:
            done = _measured(folder / FOLDER / name, report, given, catalogue, folder)
            state = "is measured already" if done else "..."
            console.info(f"transfer   {number} of {len(names)}: {config.modality}/{name} {state}")
            given |= {"device": config.device, "strict": config.strict}
            measured[name] = done or runs.evaluate_run(
                folder, given, catalogue, folder / FOLDER / name, console, command=command
            )
        except SslxError as error:
            if config.strict:
                raise
            failures.append(f"{config.modality}/{name}: {error}")
            console.info(f"failed: {failures[-1]}")
    whole = combine(report, measured, [line for line in (absent, *failures) if line], time.perf_counter() - began)
    if (whole.scores, whole.notes) != (report.scores, report.notes):
        runs.rewrite(whole, folder, catalogue, console)
        runs.notify(catalogue, console, "run_finished", folder=folder, report=whole)
    return whole, failures


def _measured(own: Path, report: Report, given: Mapping[str, Any], catalogue: Catalogue, folder: Path) -> Report | None:
    """What was measured already, if it was on the same encoder with the same options."""
    found = _report(own)
    if found is None or found.steps != report.steps:
        return None
    wanted, _ = runs.measured(runs.load_config(folder), given, catalogue)
    same = all(
        found.config[part] == wanted.model_dump(mode="json")[part] for part in ("dataset", "evaluate", "tokenizer")
    )
    return found if same else None


def combine(report: Report, measured: Mapping[str, Report], problems: list[str], seconds: float) -> Report:
    """The report of the run with the scores of the transfer sets behind its own; what it had of them is replaced."""
    own = f"{report.modality}/{report.dataset}"
    scores = [score for score in report.scores if score.dataset == own]
    notes = [note for note in report.notes if not note.startswith(NOTE)]
    for name, one in measured.items():
        scores += one.scores
        notes += [f"{NOTE}{report.modality}/{name}: {note}" for note in one.notes]
    notes += [as_utf8(f"{NOTE}{problem}") for problem in problems]
    return report.model_copy(
        update={"scores": tuple(scores), "notes": tuple(notes), "wall_seconds": report.wall_seconds + seconds}
    )
