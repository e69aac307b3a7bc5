"""From a configuration to a Run: open the data, build the model once, preprocess, settle what was left open."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_core import plugins as installed
from ssl_core.config.resolve import Plugins, plugins_of
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset, Objective, Tokenizer
from ssl_core.data import Fields, Split, Task
from ssl_core.errors import CheckpointError, ConfigError, nearest
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import make_probes
from ssl_core.evaluation.sample_limits import limit_samples
from ssl_core.nn.attention import choose_kernel
from ssl_core.nn.encoder import Encoder
from ssl_core.nn.readout import READOUTS, encoder_depth, readout_problem
from ssl_core.pipeline.cache import PreprocessedSplit, RawSamples, preprocess_dataset
from ssl_core.pipeline.growing import GrowingSplit, grow
from ssl_core.pipeline.measure import FieldStats, measure_facts, measure_fields
from ssl_core.plugins import Catalogue
from ssl_core.report.page import duration
from ssl_core.report.schema import InitReport
from ssl_core.runs.classical import has_classical
from ssl_core.runs.data import (
    Data,
    DataForm,
    OpenData,
    check_same_data,
    data_doubts,
    data_warnings,
    fact_lines,
    far_values,
    open_splits,
    refuse_doubts,
    summary_lines,
    unlike_trained,
)
from ssl_core.runs.init import Initialisation, InitSource, form_of, number_columns
from ssl_core.runs.init_distill import add_distillation, load_distillation
from ssl_core.runs.inspection.candidates import OF_ENCODER, OWN, naming_modality
from ssl_core.runs.maps import check_map
from ssl_core.runs.resume import check_plugins
from ssl_core.runs.run import Run, RunContext, snapshot
from ssl_core.runs.run_dir import load_config
from ssl_core.training import checkpoint
from ssl_core.training.accel.compiled_step import decide, key_of
from ssl_core.training.accel.cuda_graph import FIRST_STEPS
from ssl_core.training.accel.memory import keep_freed_memory
from ssl_core.training.accel.threads import describe_threads
from ssl_core.training.best import BEST, CHOICES, LAST
from ssl_core.training.device import describe, pick_device, pick_precision
from ssl_core.training.learner import Learner
from ssl_core.training.parallel import joined, local_rank
from ssl_core.training.plan import is_graphed
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.console import as_utf8
from ssl_core.utils.reading import announced_reading
from ssl_core.utils.seeds import seed_torch
from ssl_core.utils.units import size_text

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


def readout_factor(config: RunConfig, encoder: Encoder, task: Task | None) -> int:
    """The width of the run's read-out as a multiple of the encoder's.

    Raises:
        ConfigError: the read-out cannot be used with this encoder or task.
    """
    name, depth = config.evaluate.readout, encoder_depth(encoder)
    per_token = task is not None and task.per_token
    problem = readout_problem(name, depth, per_token)
    if problem is not None:
        raise ConfigError(f"evaluate.readout: {problem}")
    return READOUTS[name].width(1, depth or 1)


@dataclass(frozen=True)
class WeightSources:
    """Where the weights of a run come from; random numbers without any.

    Attributes:
        start: a checkpoint of the run.
        load: puts weights into the learner, in place of those of `start`.
        init: the encoder that a fresh run starts from, as `init.source` names it.
        teacher: the encoder that `init.distill` names.
    """

    start: checkpoint.Checkpoint | None = None
    load: Callable[[Learner], None] | None = None
    init: InitSource | None = None
    teacher: InitSource | None = None


RANDOM_WEIGHTS = WeightSources()


def build_run(
    config: RunConfig,
    plugins: Plugins,
    context: RunContext,
    weights: WeightSources = RANDOM_WEIGHTS,
    *,
    for_training: bool = True,
    opened: OpenData | None = None,
) -> Run:
    """A run ready to train or, with `for_training=False`, to evaluate.

    Args:
        config: the configuration. For an evaluation it may name other data than the run was trained on.
        plugins: the classes that it names.
        context: plugins, folder and console.
        weights: where the weights come from.
        for_training: settle what the configuration leaves open, such as the batch size and compilation.
        opened: its data, if they are open already.

    Raises:
        ConfigError: the configuration cannot work on this data or device.
        DataError: the data cannot be used, or is not the data that the checkpoint was trained on.
        CheckpointError: the checkpoint is damaged or does not fit the configuration.
    """
    began = time.perf_counter()
    if config.train.keep_freed_memory:
        keep_freed_memory()
    check_map(config.evaluate)
    device = device_of(config.device)
    start, init, teacher = weights.start, weights.init, weights.teacher
    if start is not None:
        init = teacher = None  # the checkpoint holds what came from them
    elif (init is None) != (config.init.source is None) or (teacher is None) != (config.init.distill is None):
        raise ValueError("init.source and init.distill are paths, and build_run takes what read_source reads there")
    initialisation = None if init is None else Initialisation(config, init)
    form = DataForm.of(start) or form_of(config, init)
    if opened is None:
        opened = open_data(config, plugins, context, form, for_training=for_training)
    splits = opened.splits
    learner = build_learner(config, plugins, opened.fields)
    readout_factor(config, learner.encoder, splits["train"].task)  # refuses a read-out that does not fit
    initial = snapshot(learner)  # random, whatever the run starts from
    add_distillation(learner, config)
    learner.to(device)
    if initialisation is not None:
        initialisation.fit(learner.tokenizer, RawSamples(splits["train"]))
    elif start is None:
        learner.tokenizer.fit(RawSamples(splits["train"]))
    else:
        constants = {} if for_training else _given_constants(config, learner.tokenizer)
        (weights.load or functools.partial(checkpoint.load_model, start))(learner)
        for name, buffer in learner.tokenizer.named_buffers():
            if name in constants:
                buffer.copy_(constants[name])
    data = prepare_splits(config, splits, learner.tokenizer, context, check=start is not None, grows=for_training)
    notes = [*opened.notes, *learner.tokenizer.warnings]
    stats = measure_fields(data["train"], splits["train"].fields)
    doubts = [*data_doubts(splits, data, stats), *learner.tokenizer.doubts]
    facts = measure_facts(data["train"], learner.tokenizer)
    fact_doubts, lines = fact_lines(facts, learner.tokenizer.fact_options)
    doubts, notes = doubts + fact_doubts, notes + lines
    if start is not None and not for_training:
        doubts += unlike_trained(start, stats)
    if init is not None and form is not None:
        trained = {name: FieldStats.from_json(entry) for name, entry in init.stats.items()}
        doubts += far_values(trained, stats, init.schema)
    if config.strict:
        refuse_doubts(doubts)
    report = _initialise(initialisation, learner, splits, data, teacher)
    if start is None and initialisation is None:
        learner.tokenizer.fit_normalization(data["train"].chunks())
    asked = config.evaluate.classical and splits["train"].task is not None
    if asked and not has_classical(learner.tokenizer, splits["train"]):  # a missing library is named before training
        notes.append(f"no classical features: tokenizer '{config.tokenizer.name}' has none")
    if for_training:
        if start is not None:
            check_same_data(start, splits, data)
        config, lines = resolve_runtime(config, learner, device, data["train"])
        notes += lines
    limits, lines = limits_of(config, plugins, splits, data, learner, device)
    notes += data_warnings(splits, data) + lines
    run = Run(config, plugins, context, device, splits, data, learner, initial, limits, notes, start, began=began)
    run.doubts, run.stats, run.facts, run.init = doubts, stats, facts, report
    if start is not None:
        run.init = InitReport(**start.state["init"]) if start.state.get("init") else None
        run.steps, run.seconds = start.step, float(start.state["seconds"])
    return run


def prepare_splits(
    config: RunConfig,
    splits: Mapping[Split, Dataset],
    tokenizer: Tokenizer,
    context: RunContext,
    *,
    check: bool,
    grows: bool,
) -> dict[Split, PreprocessedSplit]:
    """The samples of all splits as the tokenizer prepares them.

    With `grows` and `train.start_after`, the training split is a `GrowingSplit`, which is prepared last.

    Raises:
        DataError: the data cannot be used.
    """
    first, cache, console = config.train.start_after, cache_dir(), context.console
    data: dict[Split, PreprocessedSplit] = {}
    for split, dataset in splits.items():
        if split != "train" or first is None or not grows:
            data[split] = preprocess_dataset(
                dataset, tokenizer, cache, console, config.strict, check=check,
                shuffled=split == "train" and first is not None,
            )  # fmt: skip
    if first is not None and grows:
        train = grow(splits["train"], tokenizer, cache, console, first, strict=config.strict, check=check)
        return {"train": train, **data}
    return data


def complete_data(run: Run) -> None:
    """Wait until all training samples are prepared, and measure what was measured on the first of them.

    Raises:
        DataError: they cannot be prepared.
    """
    train = run.data["train"]
    if not isinstance(train, GrowingSplit):
        return
    with run.console.waiting("waiting for the rest of the training data"):
        data = {**run.data, "train": train.whole()}
    stats = measure_fields(data["train"], run.splits["train"].fields)
    doubts = [*data_doubts(run.splits, data, stats), *run.learner.tokenizer.doubts]
    for line in [*data_warnings(run.splits, data), *doubts]:
        if line not in [*run.notes, *run.doubts]:
            run.console.info(line)
    run.notes = list(dict.fromkeys([*run.notes, *data_warnings(run.splits, data)]))
    run.data, run.stats, run.doubts = data, stats, list(dict.fromkeys([*run.doubts, *doubts]))
    run.sample_limits, lines = limits_of(run.config, run.plugins, run.splits, data, run.learner, run.device)
    run.notes += [line for line in lines if line not in run.notes]


def limits_of(
    config: RunConfig,
    plugins: Plugins,
    splits: Mapping[Split, Dataset],
    data: Data,
    learner: Learner,
    device: torch.device,
) -> tuple[Mapping[str, EvaluateOptions], list[str]]:
    """The options of the evaluation for each kind of features, and lines that say what they leave out."""
    scored: Data = {"train": data["train"], "test": data.get(config.evaluate.split, data["train"])}
    task, factor = splits["train"].task, readout_factor(config, learner.encoder, splits["train"].task)
    probes = make_probes(plugins.probes, config.evaluate, config.seed).values()
    return limit_samples(config.evaluate, task, scored, learner.raw, config.dim, device, probes, factor)


def _initialise(
    initialisation: Initialisation | None,
    learner: Learner,
    splits: Mapping[Split, Dataset],
    data: Data,
    teacher: InitSource | None,
) -> InitReport | None:
    """Load the weights that the run starts from, and those of the teacher of a distillation; None without any.

    Raises:
        ConfigError: they do not fit; the message names the option to change.
    """
    if initialisation is None:
        return None
    columns = number_columns(splits["train"].schema(), learner.tokenizer.fields)
    initialisation.load(learner, data["train"].chunks(), columns)
    if teacher is not None:
        lines = load_distillation(learner, initialisation.config, teacher, initialisation.source)
        initialisation.lines += lines
    return initialisation.report()


def open_data(
    config: RunConfig,
    plugins: Plugins,
    context: RunContext,
    form: DataForm | None = None,
    *,
    for_training: bool = True,
) -> OpenData:
    """Say what is read, and open it; see `open_splits`."""
    if root := config.dataset.options.get("root"):
        context.console.info(f"reading    {as_utf8(str(root))}")

    def say(name: str, seconds: float, size: float) -> None:
        context.console.info(
            f"reading    {as_utf8(name)} takes about {duration(seconds)}; its values are {size_text(size)}"
        )

    own = root if config.dataset.name == OWN else None
    named = naming_modality(own, config.modality, context.catalogue, "" if for_training else OF_ENCODER)
    with named, context.console.waiting("reading the data"), announced_reading(say):
        return open_splits(config, plugins, form, for_training=for_training)


def load_run(folder: Path, catalogue: Catalogue | None = None) -> Run:
    """A trained run from its folder, ready to evaluate; see `Run.load`."""
    catalogue = installed.load() if catalogue is None else catalogue
    config, start = load_config(folder), load_checkpoint(folder)
    context = RunContext(catalogue, folder)
    for line in check_plugins(folder, config, catalogue, start):
        context.console.info(line)
    return build_run(
        trained_config(config, start), plugins_of(config, catalogue), context, WeightSources(start), for_training=False
    )


def load_checkpoint(folder: Path, which: str = LAST) -> checkpoint.Checkpoint:
    """A checkpoint of a run's folder: "last", the newest, or "best", that of `train.keep_best`.

    Raises:
        CheckpointError: there is none, or it is damaged.
        ConfigError: another name.
    """
    if which not in CHOICES:
        raise ConfigError(f"unknown checkpoint '{which}'; {nearest(which, CHOICES, 'checkpoint')}")
    start = checkpoint.latest(folder / BEST if which == BEST else folder)
    if start is None and which == BEST:
        load_config(folder)  # a folder that is no run is named as such
        raise CheckpointError(
            f"{folder} has no best checkpoint; train with --set train.keep_best=true, or use the last checkpoint"
        )
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
    if options.start_after is not None and options.start_after < options.batch_size:
        raise ConfigError(
            f"train.start_after={options.start_after} is less than a batch of {options.batch_size} samples; set "
            f"train.start_after={10 * options.batch_size}"
        )
    if options.batch_size > len(train):
        values["batch_size"] = len(train)
        notes.append(f"batch size {options.batch_size} lowered to {len(train)}: there are no more training samples")
    size = values.get("batch_size", options.batch_size)
    group = joined()
    check_processes(size, 1 if group is None else group.size)
    if size < objective.min_batch_size:
        raise ConfigError(
            f"objective '{config.objective.name}' compares samples and needs a batch of at least "
            f"{objective.min_batch_size}, got {size}; raise train.batch_size or add data"
        )
    if options.accumulate_steps > 1 and objective.cross_sample_loss:
        notes.append(
            f"batches    {options.accumulate_steps} micro-batches of {size} in a step, each computed three times: the "
            f"loss of '{config.objective.name}' couples their samples"
        )
    group = joined()
    if group is not None:
        notes.append(f"processes  {group.size}, each with {size // group.size} of the {size} samples of a batch")
    if options.shard != "none":
        notes.append("sharding   the encoder among the processes, by FSDP2")
    trial = config.model_copy(update={"train": options.model_copy(update=values)})
    if group is not None and options.compile == "auto":
        values["compile"], why = "off", "off: there are several processes"
    else:
        key = step_key(trial, device, learner)
        values["compile"], why = decide(options.compile, options.steps, device, key, cache_dir(), options.max_seconds)
    notes.append(f"compile    {why}")
    if device.type == "cpu":
        notes.append(f"cores      {describe_threads(torch.get_num_threads())}")
    if is_graphed(options, device):
        notes.append(f"launching  each step whole, as a CUDA graph, after the first {FIRST_STEPS}")
    return config.model_copy(update={"train": options.model_copy(update=values)}), notes


def device_of(name: str) -> torch.device:
    """The device called `name`; of several processes each has a CUDA device of its own.

    Raises:
        ConfigError: there is no such device.
    """
    device = pick_device(name)
    return device if joined() is None or device.type != "cuda" else pick_device(f"cuda:{local_rank()}")


def check_processes(size: int, count: int) -> None:
    """Check that `count` processes can train together.

    Raises:
        ConfigError: a batch of `size` samples cannot be divided among them.
    """
    if size % count:
        fewer = next(fewer for fewer in range(count, 0, -1) if size % fewer == 0)
        raise ConfigError(
            f"a batch of {size} samples cannot be divided among {count} processes; use {fewer}, or begin a run "
            f"with train.batch_size={max(1, size // count) * count}"
        )


def step_key(config: RunConfig, device: torch.device, learner: Learner) -> str:
    """The key of the compiled step of a run."""
    return key_of(config.model_dump(mode="json"), describe(device), {type(module) for module in learner.modules()})


def announce(run: Run, lines: Sequence[str] = ()) -> None:
    """Print the header and the notes of a run."""
    for line in (*lines, *header(run), *run.notes):
        run.console.info(line)


def count_text(run: Run, split: Split) -> str:
    """The number of samples of a split; of one that is still prepared, how many there are so far."""
    prepared = run.data[split]
    if isinstance(prepared, GrowingSplit) and prepared.preparation is not None:
        return f"{len(prepared):,} of {len(run.splits[split]):,} so far"
    return f"{len(prepared):,}"


def header(run: Run) -> list[str]:
    """Data, tokens, model and training of a run in a few lines."""
    config, learner = run.config, run.learner
    about = (type(run.splits["train"]).__doc__ or "").strip().splitlines()[0]
    counts = ", ".join(f"{split} {count_text(run, split)}" for split in run.data)
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
        *(() if run.init is None else run.init.lines),
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
