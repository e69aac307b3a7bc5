"""From a configuration to live parts: data sets, learner, scores, and what is said about them."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_core.config.resolve import Plugins
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset, Tokenizer
from ssl_core.data import Split, Task
from ssl_core.errors import ConfigError, DataError
from ssl_core.evaluation.features import features
from ssl_core.evaluation.health import SAMPLES, collapse, health
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.protocols import drawn, score
from ssl_core.nn.attention import choose_kernel
from ssl_core.nn.encoder import Encoder
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.training.accel.compiled_step import decide, key_of
from ssl_core.training.accel.cuda_graph import FIRST_STEPS
from ssl_core.training.accel.threads import describe_threads
from ssl_core.training.device import autocast, describe, pick_precision
from ssl_core.training.learner import Learner
from ssl_core.training.loop import is_graphed
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.console import Console
from ssl_core.utils.seeds import seed_torch

Splits = Mapping[Split, Dataset]
Data = Mapping[Split, PreprocessedSplit]
EMBED_BATCH = 256
SPLITS: tuple[Split, Split] = ("train", "test")


def open_splits(config: RunConfig, plugins: Plugins) -> dict[Split, Dataset]:
    """Both splits of the data set. Errors: DataError if they do not offer the same fields."""
    options = plugins.dataset.Options(**config.dataset.options)
    splits: dict[Split, Dataset] = {split: plugins.dataset(options, split) for split in SPLITS}
    same_fields(fields_of(splits["train"]), splits["test"])
    return splits


def fields_of(dataset: Dataset) -> str:
    """What a data set offers, as text."""
    return repr(dict(dataset.fields))


def same_fields(wanted: str, other: Dataset) -> None:
    """Errors: DataError that shows both, if a data set does not offer the fields that the run was made for."""
    if fields_of(other) != wanted:
        raise DataError(
            f"'{other.name}' ({other.split}) offers {fields_of(other)}, the run needs {wanted}; "
            f"use a data set of the same form, or an option such as dataset.rate that makes it so"
        )


def same_extent(before: Mapping[str, int] | None, now: Mapping[str, int]) -> None:
    """Errors: DataError if a split has not as many samples as when the run was begun (None: not known)."""
    for split, count in (before or {}).items():
        if now.get(split) != count:
            raise DataError(
                f"the {split} split had {count:,} samples when the run was begun and has {now.get(split, 0):,} now; "
                f"put the data back to go on, or start anew"
            )


def build(config: RunConfig, plugins: Plugins, dataset: Dataset) -> Learner:
    """A freshly initialised learner, the same for the same configuration and seed."""
    seed_torch(config.seed, "init")
    tokenizer: Tokenizer = plugins.tokenizer(
        plugins.tokenizer.Options(**config.tokenizer.options), dataset.fields, config.encoder.dim
    )
    layout = tokenizer.layout
    encoder = Encoder(config.encoder, layout)
    masking = None
    if plugins.masking is not None and config.masking is not None:
        masking = plugins.masking(plugins.masking.Options(**config.masking.options), layout)
    options = plugins.objective.Options(**config.objective.options)
    return Learner(tokenizer, encoder, plugins.objective(options, layout, config.encoder.dim, masking))


def resolve_runtime(
    config: RunConfig, learner: Learner, device: torch.device, train: PreprocessedSplit
) -> tuple[RunConfig, list[str]]:
    """Replace what was left open by what is used, and say so. Errors: ConfigError for what cannot work."""
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
    """What the compiled step of a run depends on."""
    return key_of(config.model_dump(mode="json"), describe(device), {type(module) for module in learner.modules()})


def data_warnings(splits: Splits, data: Data) -> list[str]:
    """What the data sets and their preparation have to say."""
    notes = list(dict.fromkeys(note for split in splits.values() for note in split.warnings))
    for split, prepared in data.items():
        if prepared.bad:
            shown = "; ".join(prepared.skipped[:3])
            more = f" and {prepared.bad - 3} more" if prepared.bad > 3 else ""
            notes.append(f"{prepared.bad} bad samples of the {split} split skipped: {shown}{more}")
    if splits["train"].task is None:
        notes.append("the data has no labels, so nothing is probed")
    return [as_utf8(note) for note in notes]


def as_utf8(text: str) -> str:
    """A text that can be written: names of files may be none."""
    return text.encode("utf-8", "backslashreplace").decode()


def header(config: RunConfig, learner: Learner, device: torch.device, splits: Splits, data: Data) -> list[str]:
    """What runs on what, in a few lines."""
    about = (type(splits["train"]).__doc__ or "").strip().splitlines()[0]
    counts = ", ".join(f"{split} {len(prepared):,}" for split, prepared in data.items())
    grids = " + ".join(
        f"{segment.length} tokens ({' x '.join(map(str, segment.grid))}, {segment.target} of {segment.size})"
        for segment in learner.tokenizer.layout.segments
    )
    masking = "" if config.masking is None else f", masking {config.masking.name} {_brief(config.masking.options)}"
    attention = attention_kernel(config, learner, device)
    return [
        f"data       {config.modality}/{config.dataset.name} ({counts}): {about}",
        f"tokens     {grids}",
        f"model      {config.objective.name}{masking}; "
        + ", ".join(f"{part} {count / 1e6:.2f} M" for part, count in learner.parameter_counts().items()),
        f"training   {config.train.steps:,} steps of {config.train.batch_size}, seed {config.seed}, "
        f"{config.train.precision}, attention {attention}, on {describe(device)}",
        *(f"preset     {source}" for source in config.preset_sources),
    ]


def attention_kernel(config: RunConfig, learner: Learner, device: torch.device) -> str:
    """The encoder's attention kernel for whole rows, and whether it was chosen or set."""
    if config.encoder.attention != "auto":
        return config.encoder.attention
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    encoder = config.encoder
    width = encoder.head_dim or encoder.dim // encoder.heads
    length, compiled = learner.tokenizer.layout.length, config.train.compile == "on"
    return f"{choose_kernel(device, dtype, length, 1, width, compiled)} (auto)"


def _brief(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


def evaluate(
    config: RunConfig,
    plugins: Plugins,
    learner: Learner,
    splits: Splits,
    data: Data,
    device: torch.device,
    console: Console,
    options: Mapping[str, EvaluateOptions] | None = None,
) -> list[dict[str, Any]]:
    """Rows of scores: trained features, those of the random initialisation, and the raw prepared input.

    `splits` and `data` may be another data set than the one trained on; `options` are by reading. Empty where there are
    no labels.
    """
    task = splits["train"].task
    if task is None:
        return []
    fresh = random_init_baseline(config, plugins, learner, splits, device)
    kinds: dict[str, Callable[..., Tensor]] = {
        "trained": learner.embed,
        "random_init": fresh.embed,
        "raw_input": learner.raw,
    }
    rows: list[dict[str, Any]] = []
    with console.progress("evaluating", len(kinds)) as progress:
        for kind, embed in kinds.items():
            learner.eval()
            fresh.eval()
            rows += _score(
                kind, embed, config, options[kind] if options else config.evaluate, task, splits, data, device
            )
            progress.advance()
    return rows


def random_init_baseline(
    config: RunConfig, plugins: Plugins, learner: Learner, splits: Splits, device: torch.device
) -> Learner:
    """The learner as it was before training, in eval mode."""
    fresh = build(config, plugins, splits["train"]).to(device)
    for mine, theirs in zip(fresh.tokenizer.buffers(), learner.tokenizer.buffers(), strict=True):
        mine.copy_(theirs)  # measured constants belong to the data, not to the training
    return fresh.eval()


def check_health(
    config: RunConfig, learner: Learner, data: PreprocessedSplit, device: torch.device
) -> dict[str, float]:
    """Label-free figures of the learner on some training samples, the same each time."""
    some = min(len(data), SAMPLES)
    index = np.sort(np.random.default_rng(config.seed).choice(len(data), some, replace=False))
    parts = np.array_split(index, math.ceil(some / EMBED_BATCH))
    learner.eval()
    with autocast(device, config.train.precision):  # type: ignore[arg-type]
        return health(learner.stages, (data.take(part).to(device) for part in parts))


def scores_named(prefix: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Scores by a name for metrics.jsonl, those that are undefined left out."""
    return {f"{prefix}{row['probe']}_{row['metric']}": float(row["value"]) for row in rows if row["value"] is not None}


class OnlineProbe:
    """The probe during pretraining: scores of the trained features so far, health, and a warning at a collapse."""

    def __init__(
        self, config: RunConfig, plugins: Plugins, learner: Learner, splits: Splits, data: Data, device: torch.device,
        console: Console,
    ) -> None:  # fmt: skip
        self.config, self.learner, self.splits, self.data = config, learner, splits, data
        self.device, self.console = device, console
        fresh = random_init_baseline(config, plugins, learner, splits, device)
        self.fresh = check_health(config, fresh, data["train"], device)
        self.warning: str | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Figures named probe/... and health/..., for metrics.jsonl."""
        out: dict[str, float] = {}
        task = self.splits["train"].task
        if task is not None:
            args = (self.config, self.config.evaluate, task, self.splits, self.data, self.device)
            rows = _score("trained", self.learner.embed, *args)
            out = scores_named("probe/", rows)
        found = self.health()
        shown = ", ".join(f"{name.removeprefix('probe/').replace('_', ' ')} {value:.3f}" for name, value in out.items())
        self.console.info(f"step {step:,}: {shown}{', ' if shown else ''}RankMe {found['rankme']:.1f}")
        return out | {f"health/{name}": value for name, value in found.items()}

    def health(self) -> dict[str, float]:
        """The learner's health now; says so once if something has collapsed."""
        found = check_health(self.config, self.learner, self.data["train"], self.device)
        problem = collapse(found, self.fresh)
        if problem and self.warning is None:
            self.warning = f"warning: {problem}"
            self.console.info(self.warning)
        return found


def _score(
    kind: str,
    embed: Callable[..., Tensor],
    config: RunConfig,
    options: EvaluateOptions,
    task: Task,
    splits: Splits,
    data: Data,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    taken: list[Any] = []
    seed = config.seed if options.seed is None else options.seed
    for split, most in zip(SPLITS, (options.max_train, options.max_test), strict=True):
        chosen = drawn(len(data[split]), most, seed)  # before their features are computed: there may be millions
        with autocast(device, config.train.precision):  # type: ignore[arg-type]
            batches = (batch.to(device) for batch in data[split].sweep(EMBED_BATCH, chosen))
            count = len(data[split]) if chosen is None else len(chosen)
            taken += features(partial(embed, per_token=task.per_token), batches, count)
    train_x, train_y, test_x, test_y = taken
    for row in score(task, train_x, train_y, test_x, test_y, options, config.seed):
        yield {
            "dataset": f"{splits['train'].modality}/{splits['train'].name}", "task": task.title,
            "features": kind, "seed": config.seed, **row,
        }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what computes."""
    out = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("sslx", "torch", "timm", "numpy", "scikit-learn", "xformers"):
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
