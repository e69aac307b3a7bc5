"""From a configuration to a Run: open the data, build the model once, preprocess, settle what was left open."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_core import plugins as installed
from ssl_core.config.resolve import Plugins, plugins_of
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Objective, Tokenizer
from ssl_core.data import Fields, Split
from ssl_core.errors import CheckpointError, ConfigError
from ssl_core.evaluation.protocols import make_probes
from ssl_core.evaluation.sample_limits import limit_samples
from ssl_core.nn.attention import choose_kernel
from ssl_core.nn.encoder import Encoder
from ssl_core.pipeline.cache import PreprocessedSplit, RawSamples, preprocess_dataset
from ssl_core.pipeline.measure import measure_facts, measure_fields
from ssl_core.plugins import Catalogue
from ssl_core.report.page import duration
from ssl_core.runs.data import (
    Data,
    as_utf8,
    check_same_data,
    data_doubts,
    data_warnings,
    fact_lines,
    open_splits,
    refuse_doubts,
    summary_lines,
    unlike_trained,
)
from ssl_core.runs.resume import check_plugins
from ssl_core.runs.run import Run, RunContext, snapshot
from ssl_core.runs.run_dir import load_config
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import decide, key_of
from ssl_core.training.accel.cuda_graph import FIRST_STEPS
from ssl_core.training.accel.memory import keep_freed_memory
from ssl_core.training.accel.threads import describe_threads
from ssl_core.training.device import describe, pick_device, pick_precision
from ssl_core.training.learner import Learner
from ssl_core.training.loop import is_graphed
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.seeds import seed_torch

CONSTANTS = ("tokenizer.mean", "tokenizer.std")
"""Options of the tokenizer that an evaluation on other data may change, where they were given and not measured."""


def build_learner(config: RunConfig, plugins: Plugins, fields: Fields) -> Learner:
    """A freshly initialised learner for data with these fields, the same for the same configuration and seed."""
    seed_torch(config.seed, "init")
    tokenizer: Tokenizer = plugins.tokenizer(plugins.tokenizer.Options(**config.tokenizer.options), fields, config.dim)
    layout = tokenizer.layout
    encoder = plugins.encoder(plugins.encoder.Options(**config.encoder.options), layout)
    maskings = {
        name: cls(cls.Options(**config.maskings[name].options), layout) for name, cls in plugins.maskings.items()
    }
    options = plugins.objective.Options(**config.objective.options)
    objective = plugins.objective(options, layout, config.dim, maskings)
    _check_layers(objective, encoder)
    return Learner(tokenizer, encoder, objective)


def _check_layers(objective: Objective, encoder: Encoder) -> None:
    """Raises:
    ConfigError: the objective reads a layer that the encoder does not have.
    """
    depth = encoder.options.model_dump().get("depth")
    if objective.layers and depth is not None and max(objective.layers) > depth:
        raise ConfigError(
            f"objective '{objective.name}' reads encoder layer {max(objective.layers)}, and the encoder has {depth}; "
            f"set encoder.depth={max(objective.layers)} or more"
        )


def build_run(
    config: RunConfig,
    plugins: Plugins,
    context: RunContext,
    start: checkpoint.Checkpoint | None = None,
    *,
    for_training: bool = True,
) -> Run:
    """A run ready to train or, with `for_training=False`, to evaluate.

    Args:
        config: the configuration. For an evaluation it may name other data than the run was trained on.
        plugins: the classes that it names.
        context: plugins, folder and console.
        start: the checkpoint that the weights come from; None to initialise them.
        for_training: settle what the configuration leaves open, such as the batch size and compilation.

    Raises:
        ConfigError: the configuration cannot work on this data or device.
        DataError: the data cannot be used, or is not the data that the checkpoint was trained on.
        CheckpointError: the checkpoint is damaged or does not fit the configuration.
    """
    began = time.perf_counter()
    if config.train.keep_freed_memory:
        keep_freed_memory()
    device = pick_device(config.device)
    if root := config.dataset.options.get("root"):
        context.console.info(f"reading    {as_utf8(str(root))}")
    opened = open_splits(config, plugins, start, for_training=for_training)
    splits = opened.splits
    learner = build_learner(config, plugins, opened.fields)
    initial = snapshot(learner)
    learner.to(device)
    if start is None:
        learner.tokenizer.fit(RawSamples(splits["train"]))
    else:
        constants = {} if for_training else _given_constants(config, learner.tokenizer)
        checkpoint.load_model(start, learner)
        for name, buffer in learner.tokenizer.named_buffers():
            if name in constants:
                buffer.copy_(constants[name])
    data: dict[Split, PreprocessedSplit] = {
        split: preprocess_dataset(dataset, learner.tokenizer, cache_dir(), context.console, config.strict)
        for split, dataset in splits.items()
    }
    notes = [*opened.notes, *learner.tokenizer.warnings]
    stats = measure_fields(data["train"], splits["train"].fields)
    doubts = [*data_doubts(splits, data, stats), *learner.tokenizer.doubts]
    facts = measure_facts(data["train"], learner.tokenizer)
    fact_doubts, lines = fact_lines(facts, learner.tokenizer.fact_options)
    doubts, notes = doubts + fact_doubts, notes + lines
    if start is not None and not for_training:
        doubts += unlike_trained(start, stats)
    if config.strict:
        refuse_doubts(doubts)
    if start is None:
        learner.tokenizer.fit_normalization(data["train"].chunks())
    if for_training:
        if start is not None:
            check_same_data(start, splits, data)
        config, lines = resolve_runtime(config, learner, device, data["train"])
        notes += lines
    scored: Data = {"train": data["train"], "test": data.get(config.evaluate.split, data["train"])}
    task, width = splits["train"].task, config.dim
    probes = make_probes(plugins.probes, config.evaluate, config.seed).values()
    limits, lines = limit_samples(config.evaluate, task, scored, learner.raw, width, device, probes)
    notes += data_warnings(splits, data) + lines
    run = Run(config, plugins, context, device, splits, data, learner, initial, limits, notes, start, began=began)
    run.doubts, run.stats, run.facts = doubts, stats, facts
    if start is not None:
        run.steps, run.seconds = start.step, float(start.state["seconds"])
    return run


def load_run(folder: Path, catalogue: Catalogue | None = None) -> Run:
    """A trained run from its folder, ready to evaluate; see `Run.load`."""
    catalogue = installed.load() if catalogue is None else catalogue
    config, start = load_config(folder), load_checkpoint(folder)
    context = RunContext(catalogue, folder)
    for line in check_plugins(folder, config, catalogue, start):
        context.console.info(line)
    return build_run(trained_config(config, start), plugins_of(config, catalogue), context, start, for_training=False)


def load_checkpoint(folder: Path) -> checkpoint.Checkpoint:
    """The newest checkpoint of a run's folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    start = checkpoint.latest(folder)
    if start is None:
        raise CheckpointError(f"{folder} has no checkpoint to evaluate; go on with sslx run --resume")
    return start


def trained_config(config: RunConfig, start: checkpoint.Checkpoint) -> RunConfig:
    """The configuration with the batch size that training used, which may be lower than the one given."""
    size = start.state.get("config", {}).get("train", {}).get("batch_size", config.train.batch_size)
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})


def _given_constants(config: RunConfig, tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """The tokenizer's mean and std, and those of its parts, where the configuration gives them."""
    if config.tokenizer.options.get("normalise") != "given":
        return {}
    buffers = tokenizer.named_buffers()
    return {name: value.clone() for name, value in buffers if f"tokenizer.{name.rpartition('.')[2]}" in CONSTANTS}


def resolve_runtime(
    config: RunConfig, learner: Learner, device: torch.device, train: PreprocessedSplit
) -> tuple[RunConfig, list[str]]:
    """Replace what the configuration leaves open by what the run uses; return it with lines that say so.

    Raises:
        ConfigError: the batch is too small for the objective.
    """
    options, objective, notes = config.train, learner.objective, []
    values: dict[str, Any] = {"precision": pick_precision(options.precision, device)}
    if options.batch_size > len(train):
        values["batch_size"] = len(train)
        notes.append(f"batch size {options.batch_size} lowered to {len(train)}: there are no more training samples")
    size = values.get("batch_size", options.batch_size)
    if size < objective.min_batch_size:
        raise ConfigError(
            f"objective '{config.objective.name}' compares samples and needs a batch of at least "
            f"{objective.min_batch_size}, got {size}; raise train.batch_size or add data"
        )
    if options.accumulate_steps > 1 and objective.cross_sample_loss:
        notes.append(
            f"warning: the loss of '{config.objective.name}' couples the samples of a batch, so train.accumulate_steps="
            f"{options.accumulate_steps} is not the same as a batch {options.accumulate_steps} times as large"
        )
    trial = config.model_copy(update={"train": options.model_copy(update=values)})
    values["compile"], why = decide(
        options.compile, options.steps, device, step_key(trial, device, learner), cache_dir(), options.max_seconds
    )
    notes.append(f"compile    {why}")
    if device.type == "cpu":
        notes.append(f"cores      {describe_threads(torch.get_num_threads())}")
    if is_graphed(options, device):
        notes.append(f"launching  each step whole, as a CUDA graph, after the first {FIRST_STEPS}")
    return config.model_copy(update={"train": options.model_copy(update=values)}), notes


def step_key(config: RunConfig, device: torch.device, learner: Learner) -> str:
    """The key of the compiled step of a run."""
    return key_of(config.model_dump(mode="json"), describe(device), {type(module) for module in learner.modules()})


def announce(run: Run, lines: Sequence[str] = ()) -> None:
    """Print the header and the notes of a run."""
    for line in (*lines, *header(run), *run.notes):
        run.console.info(line)


def header(run: Run) -> list[str]:
    """Data, tokens, model and training of a run in a few lines."""
    config, learner = run.config, run.learner
    about = (type(run.splits["train"]).__doc__ or "").strip().splitlines()[0]
    counts = ", ".join(f"{split} {len(prepared):,}" for split, prepared in run.data.items())
    grids = " + ".join(
        f"{segment.length} tokens ({' x '.join(map(str, segment.grid))}, {segment.target} of {segment.size})"
        for segment in learner.tokenizer.layout.segments
    )
    masking = "".join(
        f", masking {'' if name == 'mask' else f'{name}: '}{part.name} {_brief(part.options)}"
        for name, part in config.maskings.items()
    )
    ema = learner.objective.teacher
    teacher = "" if ema is None else f", teacher{', which computes the features' if ema.evaluate else ''}"
    kernel, hardware = attention_kernel(config, learner, run.device), describe(run.device)
    return [
        f"data       {config.modality}/{config.dataset.name} ({counts}): {about}",
        *summary_lines(run.splits["train"].summary, run.stats, run.facts),
        *(f"doubt      {doubt}" for doubt in run.doubts),
        f"tokens     {grids}",
        f"model      {config.objective.name}{masking}{teacher}; "
        + ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in learner.parameter_counts().items()),
        f"training   {config.train.steps:,} steps of {config.train.batch_size}, seed {config.seed}, "
        f"{config.train.precision}, attention {kernel}, on {hardware}",
        *cost_lines(run),
        *(f"preset     {source}" for source in config.preset_sources),
    ]


def cost_lines(run: Run) -> list[str]:
    """The estimated cost of training in a line; none for an evaluation."""
    if run.cost is None:
        return []
    steps, memory = run.config.train.steps, run.cost.bytes / 2**30
    return [
        f"cost       at most about {run.cost.seconds:.2g} s and {memory:.2g} GiB a step before compilation; "
        f"{steps:,} steps in {duration(run.cost.seconds * steps)}"
    ]


def attention_kernel(config: RunConfig, learner: Learner, device: torch.device) -> str:
    """The encoder's attention kernel for whole rows, and whether it was chosen or set."""
    options = config.encoder.options
    backend = options.get("attention", "unknown")  # an encoder may have no such option
    if backend != "auto":
        return str(backend)
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    width = options["head_dim"] or options["dim"] // options["heads"]
    length, compiled = learner.tokenizer.layout.length, config.train.compile == "on"
    return f"{choose_kernel(device, dtype, length, 1, width, compiled)} (auto)"


def _brief(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that compute."""
    out = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("sslx", "torch", "timm", "numpy", "scikit-learn", "xformers"):
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
