"""A run from the request to the report: resolve, build, train, evaluate, report; each step once, in this order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl_core.config.resolve import Plugins, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError
from ssl_core.plugins import Catalogue
from ssl_core.runs import resume, run_dir
from ssl_core.runs.build import announce, build_run, step_key, versions
from ssl_core.runs.cost import cost_warnings, estimate_cost
from ssl_core.runs.data import data_state
from ssl_core.runs.fields import fields_to_json
from ssl_core.runs.report import make_report, write
from ssl_core.runs.run import Run, RunContext, feature_prefixes
from ssl_core.runs.scores import FEATURES, OnlineProbe, score_run, scores_named
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.loop import TrainingPlan, train
from ssl_core.utils.cache import cache_dir

BENCHMARK = ("benchmark", "domain", "transfer")
"""Keys of the configuration that say what follows the run; a resume may change them."""


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for.

    options: values by dotted path, such as {"train.steps": 10}. file: a TOML or JSON file of options, below these.
    out: the run's folder; None for a new one under runs/. command: the command line, for the report.
    """

    options: Mapping[str, Any]
    file: Path | None = None
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    command: str = ""


@dataclass(frozen=True)
class RunPlan:
    """A request resolved: its configuration, the classes that it names, and the checkpoint that it continues from."""

    request: RunRequest
    config: RunConfig
    plugins: Plugins
    start: checkpoint.Checkpoint | None = None
    warnings: list[str] = field(default_factory=list)


def plan_run(request: RunRequest, catalogue: Catalogue) -> RunPlan:
    """Resolve a request; nothing is written.

    Raises:
        ConfigError: an unknown name or option, a value that does not fit, or a resume that would change the run.
        CheckpointError: the folder to resume holds no run, or its checkpoint is damaged.
    """
    if not request.resume:
        return RunPlan(request, *resolve(catalogue, request.options, request.file))
    if request.out is None:
        raise ConfigError("--resume needs --out with the folder of the stopped run")
    saved, start = run_dir.load_config(request.out), checkpoint.latest(request.out)
    warnings = resume.check_plugins(request.out, saved, catalogue, start)
    requested, plugins = resolve(catalogue, request.options, request.file or request.out / run_dir.CONFIG)
    config = resume.check_resumable(saved, requested)
    config = config.model_copy(update={key: getattr(requested, key) for key in BENCHMARK})
    return RunPlan(request, config, plugins, start, warnings)


@contextmanager
def run_folder(plan: RunPlan, context: RunContext) -> Iterator[RunPlan]:
    """The run's folder, locked; a failure in it is recorded. Yields the plan with the checkpoint as it is now.

    Raises:
        ConfigError: the folder cannot be used.
    """
    request, folder = plan.request, context.folder
    locked = run_dir.lock_run_dir(folder) if request.resume else run_dir.create_run_dir(
        folder, overwrite=request.overwrite
    )  # fmt: skip
    with locked, run_dir.record_failure(context):
        if request.resume and not checkpoint.is_latest(plan.start, folder):  # another run went on with it meanwhile
            plan = replace(plan, start=checkpoint.latest(folder))
        yield plan


def pretrain(plan: RunPlan, context: RunContext, *, finish: bool = True) -> Run:
    """Train, evaluate and report in a folder that the caller has locked.

    Args:
        plan: what to run.
        context: plugins, folder and console.
        finish: send the notice run_finished; without it, the caller has more to do and sends it.

    Returns:
        The trained run with its report.

    Raises:
        SslxError: in the words of `build_run` and `train`.
    """
    run = build_run(plan.config, plan.plugins, context, plan.start)
    # the batch size as requested: a resumed run lowers it anew
    requested = plan.config.train.batch_size
    saved = run.config.model_copy(update={"train": run.config.train.model_copy(update={"batch_size": requested})})
    run_dir.save_config(run.folder, saved)
    run.cost = estimate_cost(run)
    run.notes += cost_warnings(run.cost, run)
    announce(run)
    context.notify("run_started", config=run.config, folder=run.folder)

    probe = OnlineProbe(run)
    result = train(run.learner, run.data["train"], training_plan(run, probe), plan.start)
    run.steps, run.seconds, run.log = result.steps, result.seconds, result.log

    rows = score_run(run)
    figures = probe.health()
    run.notes += [probe.warning] if probe.warning else []
    final = {"train/seconds": run.seconds} | {f"health/{name}": value for name, value in figures.items()}
    for kind in FEATURES:
        final |= scores_named(f"eval/{kind}_", (row for row in rows if row["features"] == kind))
    result.log.append(run.steps, final | probe.scores())

    run.report = make_report(run, rows, {"trained": figures, "random_init": probe.baseline}, result.log.lines)
    write(run.report, run, result.log.lines, run.folder)
    if finish:
        context.notify("run_finished", folder=run.folder, report=run.report)
    return run


def training_plan(run: Run, probe: OnlineProbe) -> TrainingPlan:
    """What the training loop needs of a run."""
    config, context = run.config, run.context

    def warn(text: str) -> None:
        run.notes.append(text)
        run.console.info(text)

    def log(step: int, metrics: Mapping[str, float]) -> None:
        context.notify("metrics_logged", folder=run.folder, step=step, metrics=metrics)

    compiled = None
    if config.train.compile == "on":
        key = step_key(config, run.device, run.learner)
        compiled = CompiledStep(run.learner, key, cache_dir(), config.train.cpu_matmul)
    return TrainingPlan(
        config.train, config.seed, run.device, config.train.precision, run.folder, run.console,  # type: ignore[arg-type]
        checkpoint_state={
            "config": config.model_dump(mode="json"), "fields": fields_to_json(run.learner.tokenizer.fields),
            "features": feature_prefixes(run.learner),
            "data": data_state(run.splits, run.data, run.stats),
            "versions": versions(), "origins": context.catalogue.origins(),
        },
        probe=probe, probe_every=config.evaluate.every, compiled=compiled, listener=log, warn=warn,
    )  # fmt: skip
