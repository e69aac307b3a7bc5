"""A run from the request to the report: resolve, build, train, evaluate, report; each step once, in this order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssl_core.config.auto import apply_auto
from ssl_core.config.resolve import Plugins, read_file, resolve
from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError
from ssl_core.evaluation.metrics import METRICS
from ssl_core.nn.distributed import Group
from ssl_core.plugins import Catalogue
from ssl_core.runs import resume, run_dir
from ssl_core.runs.build import WeightSources, announce, build_run, complete_data, open_data, step_key, versions
from ssl_core.runs.cost import cost_warnings, estimate_cost
from ssl_core.runs.data import DataForm, OpenData, data_state
from ssl_core.runs.fields import fields_to_json
from ssl_core.runs.figures import make_figures
from ssl_core.runs.init import INITIAL, InitSource, form_of
from ssl_core.runs.init_source import SOURCE, check_digest, check_distillation, inherit, options_of, read_source
from ssl_core.runs.kept import Kept
from ssl_core.runs.report import make_report, write
from ssl_core.runs.run import Run, RunContext, feature_prefixes
from ssl_core.runs.scores import FEATURES, OnlineProbe, score_initial, score_run, scores_named, serve, shared
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import CompiledStep
from ssl_core.training.best import BestCheckpoint
from ssl_core.training.loop import train
from ssl_core.training.metrics_log import MetricAverager
from ssl_core.training.optim import make_optimizer
from ssl_core.training.options import InitOptions
from ssl_core.training.parallel import is_main, joined, wait_for_all
from ssl_core.training.plan import Probe, TrainingPlan
from ssl_core.training.shard import check_shard
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
    """A request resolved: its configuration, the classes that it names, and the checkpoint that it continues from.

    init, teacher: the encoders that `init.source` and `init.distill` name, for a run that begins.
    """

    request: RunRequest
    config: RunConfig
    plugins: Plugins
    start: checkpoint.Checkpoint | None = None
    warnings: list[str] = field(default_factory=list)
    init: InitSource | None = None
    teacher: InitSource | None = None


def plan_run(request: RunRequest, catalogue: Catalogue) -> RunPlan:
    """Resolve a request; nothing is written.

    Raises:
        ConfigError: an unknown name or option, a value that does not fit, or a resume that would change the run.
        CheckpointError: the folder to resume holds no run, its checkpoint is damaged, or there are no weights to start
            from.
    """
    if not request.resume:
        return _plan_new_run(request, catalogue)
    if request.out is None:
        raise ConfigError("--resume needs --out with the folder of the stopped run")
    saved, start = run_dir.load_config(request.out), resume_point(request.out)
    warnings = resume.damage_warnings(start) + resume.check_plugins(request.out, saved, catalogue, start)
    options = request.options
    if request.file is not None:  # it leaves open what the run has filled in: the preset auto, and what a source gives
        taken_over = options_of(saved) | {"init.digest": saved.init.digest} if saved.init.source is not None else {}
        options = taken_over | read_file(request.file) | dict(options)
    requested, plugins = resolve(catalogue, options, request.out / run_dir.CONFIG)
    config = resume.check_resumable(saved, requested)
    config = config.model_copy(update={key: getattr(requested, key) for key in BENCHMARK})
    plan = RunPlan(request, config, plugins, start, warnings)
    return plan if start is not None else _with_sources(plan, catalogue)


def _plan_new_run(request: RunRequest, catalogue: Catalogue) -> RunPlan:
    """The plan of a run that begins, from random numbers or from the weights that `init.source` names.

    Raises:
        ConfigError: an unknown name or option, or a value that does not fit.
        CheckpointError: there are no weights to start from.
    """
    options = (read_file(request.file) if request.file else {}) | dict(request.options)
    path = InitOptions(source=options.get(SOURCE)).source if SOURCE in options else None
    if path is None:
        plan = RunPlan(request, *resolve(catalogue, request.options, request.file))
        check_distillation(plan.config)
        return plan
    init = read_source(Path(path), catalogue)
    plan = RunPlan(request, *resolve(catalogue, inherit(init, options, catalogue)))
    return _with_sources(replace(plan, init=init), catalogue)


def _with_sources(plan: RunPlan, catalogue: Catalogue) -> RunPlan:
    """The plan with the encoders that its configuration names, and the digest of the weights in its configuration.

    Raises:
        ConfigError: the weights have another digest than the configuration says.
        CheckpointError: there are none.
    """
    options = plan.config.init
    if options.source is None:
        return plan
    init = plan.init or read_source(Path(options.source), catalogue)
    teacher = None if options.distill is None else read_source(Path(options.distill), catalogue)
    return replace(plan, config=check_digest(plan.config, init), init=init, teacher=teacher)


def resume_point(folder: Path) -> checkpoint.Checkpoint | None:
    """The newest checkpoint of a run that is not damaged, or that of step 0 of a run that started from other weights.

    None without any.

    Raises:
        CheckpointError: all are damaged.
    """
    return checkpoint.newest_whole([folder, folder / INITIAL])


@contextmanager
def run_folder(plan: RunPlan, context: RunContext) -> Iterator[RunPlan]:
    """The run's folder, locked; a failure in it is recorded. Yields the plan with the checkpoint as it is now.

    Raises:
        ConfigError: the folder cannot be used.
    """
    request, folder = plan.request, context.folder
    if not is_main():
        wait_for_all(joined())  # until the process of rank 0 has the folder
        plan = _with_newest(plan, folder)
        with resume.same_threads(plan.start, context.console):
            yield plan
        return
    locked = run_dir.lock_run_dir(folder) if request.resume else run_dir.create_run_dir(
        folder, overwrite=request.overwrite
    )  # fmt: skip
    with locked, run_dir.record_failure(context):
        run_dir.remove_leftovers(folder)
        plan = _with_newest(plan, folder)
        wait_for_all(joined())
        with resume.same_threads(plan.start, context.console):
            yield plan


def _with_newest(plan: RunPlan, folder: Path) -> RunPlan:
    """The plan with the checkpoint to continue from as it is now: another run may have gone on with it meanwhile."""
    if not plan.request.resume or checkpoint.is_latest(plan.start, folder):
        return plan
    return replace(plan, start=resume_point(folder))


def pretrain(plan: RunPlan, context: RunContext, *, finish: bool = True) -> Run:
    """Train, evaluate and report in a folder that the caller has locked.

    Args:
        plan: what to run.
        context: plugins, folder and console.
        finish: send the notice run_finished; without it, the caller has more to do and sends it.

    Returns:
        The trained run with its report. Of several processes all compute features, that of rank 0 evaluates, and the
        others return a run without a report.

    Raises:
        SslxError: in the words of `build_run` and `train`.
    """
    check_shard(plan.config.train, joined())
    form = DataForm.of(plan.start) or form_of(plan.config, plan.init)
    opened = open_data(plan.config, plan.plugins, context, form)
    if plan.config.train.keep_best:
        check_keep_best(plan, opened)
    plan = replace(plan, config=apply_auto(plan.config, plan.plugins.objective, len(opened.splits["train"])))
    weights = WeightSources(plan.start, init=plan.init, teacher=plan.teacher)
    run = build_run(plan.config, plan.plugins, context, weights, opened=opened)
    group = joined()
    with run.data["train"].preparing():
        return _train_and_report(run, plan, group, finish)


def _train_and_report(run: Run, plan: RunPlan, group: Group | None, finish: bool) -> Run:
    context = run.context
    if group is not None and not is_main():
        train(run.learner, run.data["train"], training_plan(run, partial(_serve, run, group), plan.start), plan.start)
        complete_data(run)
        serve(run, group)
        return run
    # the batch size as requested: a resumed run lowers it anew
    requested = plan.config.train.batch_size
    saved = run.config.model_copy(update={"train": run.config.train.model_copy(update={"batch_size": requested})})
    run_dir.save_config(run.folder, saved)
    run.cost = estimate_cost(run)
    run.notes += cost_warnings(run.cost, run)
    announce(run)
    context.notify("run_started", config=run.config, folder=run.folder)

    probe = OnlineProbe(run)
    training = training_plan(run, probe, plan.start)
    if run.init is not None and plan.start is None:
        save_initial(run, training)
    result = train(run.learner, run.data["train"], training, plan.start)
    run.steps, run.seconds, run.log = result.steps, result.seconds, result.log

    complete_data(run)
    kept = Kept(run.config.seed)
    with shared(run, group):
        rows = score_run(run, kept)
        initial = score_initial(run)
        last = {"train/seconds": run.seconds} | probe.scores()
    run.figures = make_figures(run, kept)
    figures = probe.health()
    run.notes += [probe.warning] if probe.warning else []
    if training.best is not None:
        training.best.offer(run.steps, run.learner, last)
        run.notes.append(best_line(training.best))
        run.console.info(run.notes[-1])
    final = {"train/seconds": run.seconds} | {f"health/{name}": value for name, value in figures.items()}
    for kind in FEATURES:
        final |= scores_named(f"eval/{kind}_", (row for row in rows if row["features"] == kind))
    final |= scores_named("eval/initial_", initial)
    result.log.append(run.steps, final | last)

    run.report = make_report(run, rows, {"trained": figures, "random_init": probe.baseline}, result.log.lines)
    write(run.report, run, result.log.lines, run.folder)
    if finish:
        context.notify("run_finished", folder=run.folder, report=run.report)
    return run


def check_keep_best(plan: RunPlan, opened: OpenData) -> None:
    """Check that a probe is scored on a validation split during training, by whose scores weights can be chosen.

    Raises:
        ConfigError: It is not; the message names each option to set.
    """
    missing = []
    if not plan.config.evaluate.every:
        missing.append("evaluate.every=100 (--probe-every 100)")
    if "validation" not in opened.splits:
        known = "validation_fraction" in plan.plugins.dataset.Options.model_fields
        missing.append("dataset.validation_fraction=0.1" if known else "a data set with a validation split")
    if opened.splits["train"].task is None:
        missing.append("labels by dataset.label or label_pattern")
    if not plan.plugins.probes:
        missing.append("evaluate.probes=linear")
    if missing:
        needed = f"{', '.join(missing[:-1])} and {missing[-1]}" if len(missing) > 1 else missing[0]
        raise ConfigError(
            f"train.keep_best chooses weights by the scores of a probe on a validation split during training; set "
            f"{needed}, or leave train.keep_best out"
        )


def best_checkpoint(run: Run, state: Mapping[str, Any]) -> BestCheckpoint | None:
    """What keeps the best weights by the first probe and the task's own metric; None without `train.keep_best`.

    Raises:
        CheckpointError: the best weights so far are damaged.
    """
    if not run.config.train.keep_best or run.task is None:
        return None
    metric, probe = run.task.metric, next(iter(run.plugins.probes))
    return BestCheckpoint(run.folder, f"probe/{probe}_{metric}", METRICS[metric].higher_is_better, state)


def best_line(best: BestCheckpoint) -> str:
    """Which weights are the best, in words."""
    name = best.name.removeprefix("probe/").replace("_", " ")
    if best.step is None:  # the metric was never defined, such as an AUROC of one class
        return f"no best weights are kept: {name} on the validation split is undefined"
    return f"the best weights on the validation split are those of step {best.step:,} ({name} {best.value:.3f})"


def save_initial(run: Run, training: TrainingPlan) -> None:
    """Save the state of step 0: a run that is stopped before its first checkpoint resumes without its source.

    Raises:
        CheckpointError: it cannot be written.
    """
    optimizer = make_optimizer(run.learner, training.options, False)
    entries = {"seed": training.seed, "window": MetricAverager().state(), "seconds": 0.0}
    checkpoint.save(run.folder / INITIAL, 0, run.learner, optimizer, {**training.checkpoint_state, **entries})


def _serve(run: Run, group: Group, step: int) -> dict[str, float]:
    """Take part in the probe of the process of rank 0, which alone has its scores."""
    serve(run, group)
    return {}


def training_plan(run: Run, probe: Probe | None, start: checkpoint.Checkpoint | None = None) -> TrainingPlan:
    """What the training loop needs of a run that begins, or goes on from `start`."""
    config, context = run.config, run.context
    said: list[str] = [] if start is None else list(start.state.get("warnings", ()))
    run.notes += said

    def warn(text: str) -> None:
        run.notes.append(text)
        said.append(text)
        run.console.info(text)

    def log(step: int, metrics: Mapping[str, float]) -> None:
        context.notify("metrics_logged", folder=run.folder, step=step, metrics=metrics)

    compiled = None
    if config.train.compile == "on":
        key = step_key(config, run.device, run.learner)
        compiled = CompiledStep(run.learner, key, cache_dir(), config.train.cpu_matmul)
    state = {
        "config": config.model_dump(mode="json"), "fields": fields_to_json(run.learner.tokenizer.fields),
        "features": feature_prefixes(run.learner),
        "data": data_state(run.splits, run.data, run.stats),
        "threads": torch.get_num_threads(), "versions": versions(), "origins": context.catalogue.origins(),
        "init": None if run.init is None else run.init.model_dump(mode="json"),
    }  # fmt: skip
    return TrainingPlan(
        config.train, config.seed, run.device, config.train.precision, run.folder, run.console,  # type: ignore[arg-type]
        checkpoint_state=state, probe=probe, probe_every=config.evaluate.every,
        best=None if probe is None or not is_main() else best_checkpoint(run, state), compiled=compiled, listener=log,
        warn=warn, said=said, group=joined(), describe=run.describe,
    )  # fmt: skip
