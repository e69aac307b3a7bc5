"""Repeat the step at which a run stopped because its loss or gradient was not finite."""

from __future__ import annotations

from ssl_core.config.resolve import plugins_of
from ssl_core.errors import CheckpointError
from ssl_core.pipeline.growing import in_blocks
from ssl_core.runs.build import WeightSources, build_run, trained_config
from ssl_core.runs.data import check_same_data
from ssl_core.runs.resume import check_plugins
from ssl_core.runs.run import RunContext
from ssl_core.runs.run_dir import load_config
from ssl_core.training import checkpoint
from ssl_core.training.device import pick_precision
from ssl_core.training.finite import NOT_FINITE
from ssl_core.training.replay import StepReport, replay_step


def replay_run(context: RunContext, device: str | None = None) -> StepReport:
    """Repeat that step from the state before it; nothing is written.

    Args:
        context: plugins, the run's folder and console.
        device: where to repeat it; by default as the run was configured.

    Raises:
        CheckpointError: no such step was saved, or it is damaged.
        ConfigError: a plugin that the run was trained with is missing.
        DataError: the data are not those that the run was trained on.
    """
    saved = load_config(context.folder)
    start = checkpoint.latest(context.folder / NOT_FINITE)
    if start is None:
        raise CheckpointError(
            f"{context.folder} has no step to repeat; one is saved if a loss or gradient is not finite and "
            f"train.on_nan=stop"
        )
    for line in check_plugins(context.folder, saved, context.catalogue, start):
        context.console.info(line)
    config = trained_config(saved, start)
    if device is not None:
        config = config.model_copy(update={"device": device})
    run = build_run(config, plugins_of(config, context.catalogue), context, WeightSources(start), for_training=False)
    train, data = run.config.train, run.data
    if train.start_after is not None:
        data = {**data, "train": in_blocks(data["train"], run.splits["train"], train.start_after)}
    check_same_data(start, run.splits, data)
    learner = run.learner.train()
    steps, limit, seconds = train.steps, train.max_seconds, float(start.state["seconds"])
    share = min(1.0, seconds / limit) if limit is not None else start.step / max(steps, 1)
    return replay_step(
        learner, data["train"], start.step, seed=config.seed, batch_size=train.batch_size,
        accumulate_steps=train.accumulate_steps, device=run.device,
        precision=start.state.get("precision") or pick_precision(train.precision, run.device),
        progress=lambda number: share, describe=run.describe,
    )  # fmt: skip
