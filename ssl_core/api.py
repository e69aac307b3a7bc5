"""sslx from Python. `import sslx` offers these names; the command line calls the same functions below them.

All functions are silent unless they are given a console, and raise `ssl_core.SslxError` for errors that a user can
mend.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import numpy as np
import torch

from ssl_core import plugins as installed
from ssl_core.compare.request import ComparisonRequest, run_comparison
from ssl_core.config.resolve import budgeted, flatten, validate
from ssl_core.errors import ConfigError, nearest
from ssl_core.pipeline.memory import MEMORY
from ssl_core.pipeline.values import as_array
from ssl_core.report import Report
from ssl_core.report.comparison import Comparison
from ssl_core.runs.build import load_checkpoint
from ssl_core.runs.embed import EmbedRequest
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder
from ssl_core.runs.evaluate import evaluate_encoder, evaluate_run
from ssl_core.runs.fields import fields_from_json
from ssl_core.runs.finetuned import FineTuned, load_finetuned
from ssl_core.runs.init import weights_digest
from ssl_core.runs.init_source import read_source
from ssl_core.runs.inspection.complete import complete_request, recognise_data
from ssl_core.runs.inspection.inspect import OBJECTIVE, inspect_path
from ssl_core.runs.inspection.schema import Inspection
from ssl_core.runs.memory_data import (
    as_frame,
    as_root,
    check_rate,
    data_options,
    embed_frame,
    embed_path,
    kept_data,
    saying_table,
)
from ssl_core.runs.pretrain import RunRequest, plan_run, run_folder
from ssl_core.runs.pretrain import pretrain as pretrain_run
from ssl_core.runs.run import Run, RunContext
from ssl_core.runs.run_dir import default_folder, load_config, place_of_evaluation
from ssl_core.runs.saved import is_saved
from ssl_core.runs.tables import stem_of
from ssl_core.runs.trained import load_trained
from ssl_core.training.best import LAST
from ssl_core.training.device import pick_device
from ssl_core.training.options import FinetuneOptions
from ssl_core.training.parallel import is_main, join
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.cache_entries import hold_entry
from ssl_core.utils.console import Console

if TYPE_CHECKING:
    from ssl_core.estimator import SelfSupervisedEncoder
    from ssl_core.runs.finetune import FinetuneRequest

__all__ = [
    "CompareKeywords",
    "Comparison",
    "EvaluateKeywords",
    "FineTuned",
    "FinetuneKeywords",
    "Inspection",
    "PretrainKeywords",
    "PretrainedEncoder",
    "Report",
    "Run",
]
__all__ += ["SelfSupervisedEncoder", "compare", "embed", "evaluate", "finetune", "inspect", "load", "load_model"]
__all__ += ["pretrain"]


def __getattr__(name: str) -> Any:
    """`SelfSupervisedEncoder` when it is first used: scikit-learn takes a second to import."""
    if name != "SelfSupervisedEncoder":
        raise AttributeError(f"module 'ssl_core.api' has no attribute '{name}'")
    from ssl_core.estimator import SelfSupervisedEncoder

    return SelfSupervisedEncoder


class DataKeywords(TypedDict, total=False):
    """Keywords common to `pretrain` and `evaluate`.

    rate: samples per second of recordings in memory. max_samples: most samples to take of a streamed data set.
    label_pattern: regular expression over file names with the groups label and group. set: options by dotted path or by
    section, such as {"train.lr": 1e-3} or {"train": {"lr": 1e-3}}. device: auto, cpu, cuda or cuda:N. console: where
    lines and progress go; silent by default.
    """

    rate: float
    max_samples: int
    label_pattern: str
    set: Mapping[str, Any]
    device: str
    console: Console


class PretrainKeywords(DataKeywords, total=False):
    """Keywords of `pretrain` beside its named parameters.

    y: labels (n,) or (n, k) of data in memory. steps: optimiser steps. budget: training time instead of steps, such as
    "10m". batch_size: samples in a batch. seed: seed of all randomness. preset: published numbers by name. masking: a
    masking by name. probe_every: steps between online probes. precision: auto, fp32 or bf16. strict: refuse bad samples
    instead of skipping them. resume: continue the run in `out`. overwrite: replace the run in `out`. init_from: start
    from the weights of a run, of an encoder, or of the path of one (docs/continue.md).
    """

    y: Any
    steps: int
    budget: str
    batch_size: int
    seed: int
    preset: str
    masking: str
    probe_every: int
    precision: str
    strict: bool
    resume: bool
    overwrite: bool
    init_from: Run | PretrainedEncoder | str | os.PathLike[str]


class FinetuneKeywords(DataKeywords, total=False):
    """Keywords of `finetune` beside its named parameters; see `sslx finetune --help` and docs/fine-tuning.md.

    dataset: another data set by name. train: all, last:N, lora or head. epochs, steps, budget: length of each training.
    batch_size: samples in a batch. lr: peak learning rate. class_weights: none or balanced. label_fractions: shares of
    the labels to compare. seeds: number of seeds, from `seed` on. metrics: metrics besides the task's own. precision:
    auto, fp32 or bf16. strict: refuse bad samples and doubtful data. overwrite: replace the results in `out`.
    """

    dataset: str
    train: str
    epochs: float
    steps: int
    budget: str
    batch_size: int
    lr: float
    class_weights: str
    label_fractions: Sequence[float]
    seeds: int
    seed: int
    metrics: Sequence[str]
    precision: str
    strict: bool
    overwrite: bool


class EvaluateKeywords(DataKeywords, total=False):
    """Keywords of `evaluate` beside its named parameters.

    dataset: another data set by name. out: folder of the report. strict: refuse bad samples. checkpoint: of a run:
    "last" or "best", as in `load`; the report of the best is written into `eval/own-best`.
    """

    dataset: str
    out: str | os.PathLike[str]
    strict: bool
    checkpoint: str


class CompareKeywords(DataKeywords, total=False):
    """Keywords of `compare` beside its named parameters.

    y: labels (n,) or (n, k) of data in memory. steps: optimiser steps of every run. budget: training time instead of
    steps. batch_size: samples in a batch. preset: published numbers by name. probe_every: steps between online probes.
    precision: auto, fp32 or bf16. jobs: runs at a time, which share the cores; by default one a core, at most 4.
    """

    y: Any
    steps: int
    budget: str
    batch_size: int
    preset: str
    probe_every: int
    precision: str
    jobs: int


PATHS = {
    "steps": "train.steps", "batch_size": "train.batch_size", "seed": "seed", "preset": "preset",
    "masking": "masking.name", "probe_every": "evaluate.every", "precision": "train.precision", "strict": "strict",
    "device": "device", "label_pattern": "dataset.label_pattern",
}  # fmt: skip
"""Option path of each keyword that stands for an option."""
OF_GRID = ("steps", "preset")
"""Keywords that a comparison keeps apart from the options of every run."""


def pretrain(
    data: Any = None,
    *,
    objective: str | None = None,
    modality: str | None = None,
    dataset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Unpack[PretrainKeywords],
) -> Run:
    """Pretrain an encoder, evaluate its features, and write a report.

    Sets torch's global random generators.

    Args:
        data: what to train on.

            - None: `dataset`, or the modality's embedded data.
            - A path: files of your own, as `sslx run --data`; or a sequence of paths of files.
            - An array or tensor (n, ...): n samples of the modality's first field, such as images (n, C, H, W), series
              (n, C, steps), numbers (n, columns). A missing channel axis is added.
            - A dict of arrays by field, such as {"image": (n, C, H, W), "caption": texts}.
            - A sequence, or a torch or Hugging Face data set, of such samples or of pairs (sample, label).
            - A streamed Hugging Face data set: read once, in order, into the cache; `max_samples` limits it.
            - A pandas DataFrame: read as the modality's own tables are; `y`, or a column called label, is the label.

            A fifth of data in memory is held out for the test split (`set={"dataset.test_fraction": 0.2}`).
        objective: what to learn by; see `sslx list objectives`. By default metamae, with `init_from` that of the run.
        modality: the kind of data; see `sslx list modalities`. By default that of the run with
            `init_from`, else that of files of your own as it is recognised.
        dataset: a data set by name; see `sslx list datasets`.
        out: the run's folder. By default a new one under `runs/`.
        **options: see `PretrainKeywords`.

    Returns:
        The trained run: `run.encoder` is the encoder, `run.report` the report, `run.folder` the folder.

    Raises:
        ConfigError: an unknown name or option, or data in an unknown form.
        DataError: the data cannot be used.
        CheckpointError: with `resume`, the folder holds no run or a damaged checkpoint.
        SslxError: training failed, for example because the loss is not finite.
    """
    catalogue, data = installed.load(), as_root(data)
    keywords = _checked(options, PretrainKeywords)
    resume, overwrite = keywords.get("resume", False), keywords.get("overwrite", False)
    source = _source_path(keywords.get("init_from"))
    if data is None and dataset is None and resume and out is not None:
        data = kept_data(Path(out))
    if modality is None and data is not None and resume and out is not None:
        modality = load_config(Path(out)).modality
    elif modality is None and data is not None and source is not None:
        modality = read_source(source, catalogue).options.get("modality")
    if objective is None and source is None and not resume:
        objective = "metamae"
    with join():  # the processes of torchrun, if it has started this one
        values: dict[str, Any] = {"objective.name": objective, "modality": modality, "dataset.name": dataset}
        values |= data_options(data, modality, keywords, catalogue)
        values |= {"init.source": None if source is None else str(source)}
        values |= budgeted(keywords.get("budget")) | _option_paths(keywords)
        values = {path: value for path, value in values.items() if value is not None}
        folder = None if out is None else Path(out)
        console = keywords.get("console") or Console()
        values, lines = (values, []) if resume else complete_request(values, None, catalogue)
        plan = plan_run(RunRequest(values, None, folder, resume, overwrite), catalogue)
        for line in (*lines, *plan.warnings):
            console.info(line)
        own = folder or (default_folder(plan.config) if is_main() else Path("runs"))  # rank 0 alone uses it
        context = RunContext(catalogue, own, console)
        table = None if isinstance(data, str | os.PathLike) else values.get("dataset.root")
        with saying_table(table), run_folder(plan, context) as current:
            run = pretrain_run(current, context)
    if keywords.get("console") is None:
        _warn_of_doubts(run.report)
    return run


def _warn_of_doubts(report: Report | None) -> None:
    """Warn of what may have been misread, where no console says it."""
    for doubt in () if report is None or report.data is None else report.data.doubts:
        warnings.warn(f"{doubt} (a doubt; strict=True refuses such data)", UserWarning, stacklevel=3)


def inspect(path: str | os.PathLike[str], *, modality: str | None = None, objective: str = OBJECTIVE) -> Inspection:
    """What a file or folder of your own is, and the `sslx run` line that trains on it. Nothing is written.

    It reads names, headers and at most 2,000 samples of a split; of large tables an excerpt.

    Args:
        path: a file, a folder, a pattern such as data/*.csv, or several files, as a sequence or with commas between.
        modality: read it as this kind of data; by default as the most likely one.
        objective: the objective of the proposed run.

    Returns:
        What was found: `str()` of it are lines, `to_dict()` is JSON, `command` the line, and `options` the same for
        `pretrain(path, modality=..., set=options)`.

    Raises:
        ConfigError: `path` is none, or there is no such path, modality or objective.
    """
    path = as_root(path)
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"path is a {type(path).__name__}; give a file or folder, as sslx.inspect('data.csv')")
    return inspect_path(os.fspath(path), installed.load(), modality=modality, objective=objective)


def load(folder: str | os.PathLike[str], *, device: str = "cpu", checkpoint: str = LAST) -> PretrainedEncoder:
    """Load the encoder of a run, or one that `PretrainedEncoder.save` wrote.

    Neither the data that it was trained on nor the objective's plugin is needed. torch's random generators stay as they
    are.

    Args:
        folder: the folder of the run or of the saved encoder.
        device: auto, cpu, cuda or cuda:N.
        checkpoint: of a run: "last", its newest checkpoint, or "best", the one that `train.keep_best` kept.

    Returns:
        Tokenizer and encoder as one `nn.Module`, in evaluation mode.

    Raises:
        CheckpointError: the folder holds no saved encoder, no run or no such checkpoint, or it is damaged.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed.
    """
    return load_trained(Path(folder), installed.load(), checkpoint, device)


def embed(
    source: Run | PretrainedEncoder | str | os.PathLike[str],
    x: Any,
    *,
    per_token: bool = False,
    layers: Sequence[int] | None = None,
    batch_size: int = EMBED_BATCH,
    console: Console | None = None,
    readout: str | None = None,
    checkpoint: str = LAST,
    rate: float | None = None,
) -> Any:
    """Features of raw samples.

    Args:
        source: a run, an encoder, or a run's folder.
        x: n samples: an array or tensor (n, ...), a dict of such by field, a sequence of samples, a torch or Hugging
            Face data set, or a pandas DataFrame of n rows, whose columns are matched by name with those trained on. A
            path stands for files, whose samples come in the order in which `sslx embed` writes them, as does a
            sequence of paths of files.
        per_token: return one feature vector for each of the L tokens instead of one for each sample.
        layers: numbers of encoder layers from 1, whose outputs are returned side by side.
        batch_size: samples in a forward pass.
        console: shows the progress; silent by default.
        readout: how features are read out, without `layers`: "last" (the default), "layers" or "layers+stats", see
            `PretrainedEncoder.forward`.
        checkpoint: of a run: "last" or "best", as in `load`.
        rate: samples per second of recordings or series in memory; by default they have that of training. Another one
            is refused.

    Returns:
        float32 features (n, D), or (n, L, D) with `per_token`: a numpy array, or a tensor on the device of `x` if `x`
        is a tensor or a dict of tensors.

    Raises:
        CheckpointError: the folder holds no run or no such checkpoint.
        ConfigError: `x` does not fit the fields that the encoder reads, or `rate` is not that of training.
        DataError: a sample cannot be used; the message names it.
    """
    if isinstance(source, Run) and checkpoint == LAST:
        encoder = source.encoder
    elif isinstance(source, PretrainedEncoder):
        _refuse_checkpoint(checkpoint)
        encoder = source
    else:
        folder = source.folder if isinstance(source, Run) else source
        encoder = load(folder, device="auto", checkpoint=checkpoint)
    check_rate(rate, encoder.fields)
    x = as_root(x)
    console = console or Console()
    request = EmbedRequest("", {}, per_token, None if layers is None else tuple(layers), batch_size)
    request.readout = readout
    if isinstance(x, str | os.PathLike):
        request.path = os.fspath(x)
        return embed_path(encoder, request, console)
    frame = as_frame(x, encoder.config.modality)
    if frame is not None:
        return embed_frame(encoder, frame, request, console)
    return encoder.embed(x, per_token=per_token, layers=layers, batch_size=batch_size, console=console, readout=readout)


def evaluate(
    source: Run | PretrainedEncoder | str | os.PathLike[str],
    data: Any = None,
    y: Any = None,
    **options: Unpack[EvaluateKeywords],
) -> Report:
    """Score the frozen features of a run or of an encoder with the probes of `sslx eval`.

    The scores are of the trained features, of the same encoder before training, and of the raw input. The report of a
    run is written into its folder or, for other data, into `eval/NAME` below it; that of an encoder only with `out`.

    Args:
        source: a run, its folder, an encoder with the weights that it has now, or the folder of a saved encoder.
        data: other data than the run's own, in any form that `pretrain` takes, with the same fields.
        y: labels (n,) or (n, k) of data in memory.
        **options: see `EvaluateKeywords`. `set={"evaluate.split": "validation"}` scores on the validation split.

    Returns:
        The report.

    Raises:
        CheckpointError: the folder holds no run or no checkpoint.
        ConfigError: an option that training depends on, data without labels, or no split of that name.
        DataError: the data does not offer the fields that the encoder reads.
    """
    keywords, data = _checked(options, EvaluateKeywords), as_root(data)
    checkpoint = keywords.pop("checkpoint", LAST)
    if isinstance(source, PretrainedEncoder) or (not isinstance(source, Run) and is_saved(Path(source))):
        _refuse_checkpoint(checkpoint)
        return _evaluate_encoder(source, data, y, keywords)
    folder = source.folder if isinstance(source, Run) else Path(source)
    modality, catalogue = load_config(folder).modality, installed.load()
    if isinstance(source, Run) and data is None and "dataset" not in keywords:
        catalogue = source.context.catalogue  # it also knows data in memory
    if y is not None:
        keywords["y"] = y
    in_memory = not (data is None or isinstance(data, str | os.PathLike))
    trained = fields_from_json(load_checkpoint(folder, checkpoint).state["fields"]) if in_memory else None
    values = {"dataset.name": keywords.get("dataset"), **data_options(data, modality, keywords, catalogue, trained)}
    values |= _option_paths(keywords)
    values = {path: value for path, value in values.items() if value is not None}
    name = None
    if any(path.startswith("dataset.") for path in values):
        name = stem_of(data) if isinstance(data, str | os.PathLike) else values.get("dataset.name", "own")
    out = keywords.get("out")
    context = RunContext(catalogue, folder, keywords.get("console") or Console())
    place = place_of_evaluation(folder, name, checkpoint) if out is None else Path(out)
    report = evaluate_run(values, context, place, checkpoint)
    if keywords.get("console") is None:
        _warn_of_doubts(report)
    return report


def _refuse_checkpoint(checkpoint: str) -> None:
    """Raises:
    ConfigError: another checkpoint than the last is asked for of an encoder, which has one set of weights.
    """
    if checkpoint != LAST:
        raise ConfigError(f"checkpoint={checkpoint} is for a run; load it with sslx.load(folder, checkpoint=...)")


def finetune(
    source: Run | PretrainedEncoder | str | os.PathLike[str],
    x: Any = None,
    y: Any = None,
    *,
    out: str | os.PathLike[str] | None = None,
    **options: Unpack[FinetuneKeywords],
) -> FineTuned:
    """Fine-tune a trained encoder on labels, beside the same network from scratch and a linear probe.

    A validation split decides when a training stops and which weights are kept: the data's own, or a fifth of the
    training split. The test split is for the final scores: the data's own, or a fifth of data in memory
    (`set={"dataset.test_fraction": 0}` trains on all). `source` stays as it is.

    Args:
        source: a run, an encoder, or the folder of one.
        x: labelled data in any form that `pretrain` takes; None for the run's own data or for `dataset`.
        y: labels (n,) or (n, k) of data in memory.
        out: a folder for the model and its scores; nothing is written by default.
        **options: see `FinetuneKeywords`. `set={"finetune.layer_decay": 0.6}` sets any option of `sslx show finetune`.

    Returns:
        The model: `predict(x)`, `predict_proba(x)`, `save(folder)`; `report` holds the scores.

    Raises:
        CheckpointError: the folder holds no run, no checkpoint and no saved encoder.
        ConfigError: an unknown option, data without labels, or parts to train that the encoder does not have.
        DataError: the data cannot be used.
        SslxError: a loss is not finite.
    """
    from ssl_core.runs.finetune import check_free, finetune_encoder, write_finetuning  # it imports scikit-learn

    keywords = _checked(options, FinetuneKeywords)
    folder, overwrite = None if out is None else Path(out), keywords.pop("overwrite", False)
    if folder is not None:
        check_free(folder, overwrite)
    catalogue, x = installed.load(), as_root(x)
    if isinstance(source, Run):
        encoder = source.encoder
        if x is None and "dataset" not in keywords:
            catalogue = source.context.catalogue  # it also knows data in memory
    else:
        encoder = source if isinstance(source, PretrainedEncoder) else load(source)
    if y is not None:
        keywords["y"] = y
    data = data_options(x, encoder.config.modality, keywords, catalogue, encoder.fields)
    request = finetuning_request(keywords, {path.removeprefix("dataset."): value for path, value in data.items()})
    request = replace(request, label_kind=_label_kind(y))
    with saying_table(None if isinstance(x, str | os.PathLike) else data.get("dataset.root")):
        model = finetune_encoder(encoder, request, catalogue, keywords.get("console"))
    if folder is not None:
        write_finetuning(model, folder, overwrite=overwrite)
    return model


def _label_kind(y: Any) -> str:
    """numpy's kind of labels in memory; missing ones do not count."""
    if y is None:
        return "U"
    labels = as_array(y) if isinstance(y, torch.Tensor) else np.asarray(y)
    return np.array([label for label in labels.tolist() if label is not None]).dtype.kind


def finetuning_request(keywords: Mapping[str, Any], data: Mapping[str, Any], command: str = "") -> FinetuneRequest:
    """What to fine-tune on and how, from keywords of `finetune`.

    Args:
        keywords: see `FinetuneKeywords`.
        data: options of the data set by name, as far as the data were given otherwise.
        command: the command line, for the report.

    Raises:
        ConfigError: an unknown option, or a value that does not fit.
    """
    from ssl_core.runs.finetune import FinetuneRequest

    names = ("train", "epochs", "steps", "batch_size", "lr", "class_weights")
    values = {name: keywords[name] for name in names if name in keywords}
    if "budget" in keywords:
        values["max_seconds"] = budgeted(keywords["budget"])["train.max_seconds"]
    named = {"name": keywords.get("dataset"), "label_pattern": keywords.get("label_pattern")}
    chosen = {**data, **{name: value for name, value in named.items() if value is not None}}
    for path, value in flatten(keywords.get("set", {})).items():
        section, _, name = path.partition(".")
        if section == "finetune":
            values[name] = value
        elif section == "dataset" and name:
            chosen[name] = value
        else:
            raise ConfigError(
                f"fine-tuning takes options of finetune and dataset, not '{path}'; see sslx show finetune"
            )
    options = validate("finetune", FinetuneOptions, values)
    return FinetuneRequest(
        chosen, cast(FinetuneOptions, options), tuple(keywords.get("label_fractions", (1.0,))),
        keywords.get("seeds", 1), keywords.get("seed", 0), tuple(keywords.get("metrics", ())),
        keywords.get("device", "auto"), keywords.get("precision", "auto"), keywords.get("strict", False), command,
    )  # fmt: skip


def load_model(folder: str | os.PathLike[str], *, device: str = "cpu") -> FineTuned:
    """Load a fine-tuned model, in evaluation mode. Neither training data nor the run is needed.

    Args:
        folder: a folder that `FineTuned.save`, `finetune(out=...)` or `sslx finetune` wrote.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        CheckpointError: the folder holds no model, or it is damaged.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed.
    """
    return load_finetuned(Path(folder), installed.load()).to(pick_device(device))


def _evaluate_encoder(
    source: PretrainedEncoder | str | os.PathLike[str], data: Any, y: Any, keywords: dict[str, Any]
) -> Report:
    """`evaluate` for an encoder.

    Raises:
        ConfigError: it was trained on data in memory, and no data is given.
    """
    encoder = source if isinstance(source, PretrainedEncoder) else load(source, device=keywords.get("device", "auto"))
    catalogue, config = installed.load(), encoder.config
    if data is None and "dataset" not in keywords and config.dataset.name == MEMORY:
        raise ConfigError("the encoder was trained on data in memory; give the data, as sslx.evaluate(encoder, x, y)")
    keywords |= {} if y is None else {"y": y}
    values = {"dataset.name": keywords.get("dataset")}
    values |= data_options(data, config.modality, keywords, catalogue, encoder.fields)
    values = {path: value for path, value in (values | _option_paths(keywords)).items() if value is not None}
    out = keywords.get("out")
    context = RunContext(catalogue, encoder.provenance.folder, keywords.get("console") or Console())
    return evaluate_encoder(encoder, values, context, None if out is None else Path(out))


def compare(
    data: Any = None,
    *,
    objectives: Sequence[str | Mapping[str, Any]],
    modality: str | Sequence[str] | None = None,
    dataset: str | None = None,
    seeds: int | Sequence[int] = 3,
    out: str | os.PathLike[str] | None = None,
    **options: Unpack[CompareKeywords],
) -> Comparison:
    """Train objectives on the same data with the same steps and seeds, and compare their features, as `sslx compare`.

    Each run is an ordinary run in a folder below `out`, and finished ones are not repeated. Files and data sets by name
    are trained on in processes of their own, several at a time; data in memory in this process, one run after the
    other. Tables are written into `out`.

    Args:
        data: as for `pretrain`; None for `dataset` or the embedded data of `modality`.
        objectives: names, or tables with a name for the row, such as {"name": "mae 0.9", "objective": "mae", "set":
            {"masking.ratio": 0.9}}.
        modality: the kind of data, or several of them, each on its embedded data.
        dataset: a data set by name.
        seeds: how many, or which.
        out: folder of the comparison. By default one of its own under `runs/`, the same for the same call.
        **options: see `CompareKeywords`.

    Returns:
        The comparison: `to_frame()` and `to_dict()` give its scores, `failures` the runs that failed.

    Raises:
        ConfigError: an unknown name or option, or data in an unknown form.
        DataError: the data cannot be used.
        SslxError: every run failed; the message is that of the first.
    """
    keywords, catalogue, data = _checked(options, CompareKeywords), installed.load(), as_root(data)
    modalities = [modality] if isinstance(modality, str) else list(modality or ())
    if isinstance(objectives, str):
        raise ConfigError(f"objectives is a text; give a list, as objectives=['{objectives}', 'mae']")
    if data is not None and len(modalities) > 1:
        raise ConfigError(f"data is of one modality, and {len(modalities)} are named; give one")
    console = keywords.get("console") or Console()
    own = {"dataset.name": dataset} | data_options(data, next(iter(modalities), None), keywords, catalogue)
    if "label_pattern" in keywords:
        own["dataset.label_pattern"] = keywords.pop("label_pattern")
    if isinstance(data, str | os.PathLike) and not modalities:
        own, lines = recognise_data(own, catalogue)
        modalities = [own.pop("modality")] if "modality" in own else []
        for line in lines:
            console.info(line)
    common = _option_paths({name: value for name, value in keywords.items() if name not in OF_GRID})
    request = ComparisonRequest(
        objectives,
        modalities,
        {path: value for path, value in own.items() if value is not None},
        Path(data).name if isinstance(data, str | os.PathLike) else None,
        seeds,
        common=common,
        out=None if out is None else Path(out),
        **{name: keywords[name] for name in ("steps", "budget", "preset", "jobs") if name in keywords},
    )
    return run_comparison(request, catalogue, console)


def _checked(options: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """The keywords without those that are None.

    Raises:
        TypeError: an unknown keyword; the message names the nearest.
    """
    names = known.__annotations__ if hasattr(known, "__annotations__") else {}
    for name in options:
        if name not in names:
            raise TypeError(f"unknown keyword '{name}'; {nearest(name, names, 'keyword')}; options go into set={{...}}")
    return {name: value for name, value in options.items() if value is not None}


def _option_paths(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted path, those of `set` over those of the keywords."""
    named = {path: keywords[name] for name, path in PATHS.items() if name in keywords}
    return named | flatten(keywords.get("set", {}))


def _source_path(source: Any) -> Path | None:
    """The folder or file of what a run starts from; an encoder in memory is saved in the cache."""
    if source is None:
        return None
    if isinstance(source, Run):
        return source.folder
    if not isinstance(source, PretrainedEncoder):
        return Path(source)
    digest = hashlib.blake2b(source.config.model_dump_json().encode(), digest_size=16)
    digest.update(weights_digest({"encoder": source}).encode())
    folder = cache_dir() / "encoders" / digest.hexdigest()
    hold_entry(folder)
    try:
        if not folder.exists():
            source.save(folder)
    except ConfigError:
        if not folder.exists():  # else another process has saved it meanwhile
            raise
    return folder
