"""sslx from Python. `import sslx` offers these names; the command line calls the same functions below them.

All functions are silent unless they are given a console, and raise `ssl_core.SslxError` for errors that a user can
mend.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from ssl_core import plugins as installed
from ssl_core.config.resolve import budgeted, flatten
from ssl_core.contracts import Dataset
from ssl_core.errors import BadSample, ConfigError, DataError, nearest
from ssl_core.hookspecs import hookimpl
from ssl_core.pipeline.memory import MEMORY, ORIGIN, memory_dataset
from ssl_core.plugins import Catalogue, Origin
from ssl_core.report import Report
from ssl_core.runs.build import load_checkpoint
from ssl_core.runs.embed import own_options
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder, Provenance
from ssl_core.runs.evaluate import evaluate_run
from ssl_core.runs.fields import fields_from_json
from ssl_core.runs.pretrain import RunRequest, plan_run, run_folder
from ssl_core.runs.pretrain import pretrain as pretrain_run
from ssl_core.runs.run import Run, RunContext
from ssl_core.runs.run_dir import default_folder, load_config, place_of_evaluation
from ssl_core.training import checkpoint
from ssl_core.training.device import pick_device
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.console import Console

__all__ = ["EvaluateKeywords", "PretrainKeywords", "PretrainedEncoder", "Report", "Run", "embed", "evaluate", "load"]
__all__ += ["pretrain"]


class DataKeywords(TypedDict, total=False):
    """Keywords common to `pretrain` and `evaluate`.

    rate: samples per second of recordings in memory. label_pattern: regular
    expression over file names with the groups label and group. set: options by dotted path or by section, such as
    {"train.lr": 1e-3} or {"train": {"lr": 1e-3}}. device: auto, cpu, cuda or cuda:N. console: where lines and progress
    go; silent by default.
    """

    rate: float
    label_pattern: str
    set: Mapping[str, Any]
    device: str
    console: Console


class PretrainKeywords(DataKeywords, total=False):
    """Keywords of `pretrain` beside its named parameters.

    y: labels (n,) or (n, k) of data in memory. steps: optimiser steps. budget: training time instead of steps, such as
    "10m". batch_size: samples in a batch. seed: seed of all randomness. preset: published numbers by name. masking: a
    masking by name. probe_every: steps between online probes. precision: auto, fp32 or bf16. strict: refuse bad samples
    instead of skipping them. resume: continue the run in `out`. overwrite: replace the run in `out`.
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


class EvaluateKeywords(DataKeywords, total=False):
    """Keywords of `evaluate` beside its named parameters.

    dataset: another data set by name. out: folder of the report. strict: refuse bad samples.
    """

    dataset: str
    out: str | os.PathLike[str]
    strict: bool


PATHS = {
    "steps": "train.steps", "batch_size": "train.batch_size", "seed": "seed", "preset": "preset",
    "masking": "masking.name", "probe_every": "evaluate.every", "precision": "train.precision", "strict": "strict",
    "device": "device", "label_pattern": "dataset.label_pattern",
}  # fmt: skip
"""Option path of each keyword that stands for an option."""


def pretrain(
    data: Any = None,
    *,
    objective: str = "metamae",
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
            - A path: files of your own, as `sslx run --data`.
            - An array or tensor (n, ...): n samples of the modality's first field, such as images (n, C, H, W), series
              (n, C, steps), numbers (n, columns). A missing channel axis is added.
            - A dict of arrays by field, such as {"image": (n, C, H, W), "caption": texts}.
            - A sequence, or a torch or Hugging Face data set, of such samples or of pairs (sample, label).
            - A pandas DataFrame: read as the modality's own tables are; `y`, or a column called label, is the label.

            A fifth of data in memory is held out for the test split (`set={"dataset.test_fraction": 0.2}`).
        objective: what to learn by; see `sslx list objectives`.
        modality: the kind of data; see `sslx list tokenizers`.
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
    catalogue = installed.load()
    keywords = _checked(options, PretrainKeywords)
    values: dict[str, Any] = {"objective.name": objective, "modality": modality, "dataset.name": dataset}
    values |= _data_options(data, modality, keywords, catalogue)
    values |= budgeted(keywords.get("budget")) | _option_paths(keywords)
    values = {path: value for path, value in values.items() if value is not None}
    resume, overwrite = keywords.get("resume", False), keywords.get("overwrite", False)
    folder = None if out is None else Path(out)
    plan = plan_run(RunRequest(values, None, folder, resume, overwrite), catalogue)
    console = keywords.get("console") or Console()
    for line in plan.warnings:
        console.info(line)
    context = RunContext(catalogue, folder or default_folder(plan.config), console)
    with run_folder(plan, context) as current:
        return pretrain_run(current, context)


def load(folder: str | os.PathLike[str], *, device: str = "cpu") -> PretrainedEncoder:
    """Load the encoder of a run's newest checkpoint.

    Neither the data that it was trained on nor the objective's plugin is needed. torch's random generators stay as they
    are.

    Args:
        folder: the run's folder.
        device: auto, cpu, cuda or cuda:N.

    Returns:
        Tokenizer and encoder as one `nn.Module`, in evaluation mode.

    Raises:
        CheckpointError: the folder holds no run or no checkpoint, or it is damaged.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed.
    """
    path = Path(folder)
    config, start = load_config(path), load_checkpoint(path)
    fields = fields_from_json(start.state["fields"])
    catalogue = installed.load()
    tokenizer_class = catalogue.tokenizer(config.tokenizer.name)
    encoder_class = catalogue.encoder(config.encoder.name)
    with torch.random.fork_rng():
        tokenizer = tokenizer_class(tokenizer_class.Options(**config.tokenizer.options), fields, config.dim)
        encoder = encoder_class(encoder_class.Options(**config.encoder.options), tokenizer.layout)
    state = start.state
    provenance = Provenance(path, start.step, state.get("versions", {}), state.get("origins", {}))
    data = state.get("data", {})
    model = PretrainedEncoder(tokenizer, encoder, fields, config, provenance, data.get("schema", {}))
    model.stats = data.get("stats", {})
    tensors = checkpoint.read_model(start)
    prefixes = {f"{prefix}.": f"{part}." for part, prefix in state["features"].items()}
    own = {
        part + name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        for prefix, part in prefixes.items()
        if name.startswith(prefix)
    }
    checkpoint.load_tensors(start, model, own)
    return model.to(pick_device(device)).eval()


def embed(
    source: Run | PretrainedEncoder | str | os.PathLike[str],
    x: Any,
    *,
    per_token: bool = False,
    layers: Sequence[int] | None = None,
    batch_size: int = EMBED_BATCH,
) -> Any:
    """Features of raw samples.

    Args:
        source: a run, an encoder, or a run's folder.
        x: n samples: an array or tensor (n, ...), a dict of such by field, a sequence of samples, a torch or Hugging
            Face data set, or a pandas DataFrame of n rows, whose columns are matched by name with those trained on.
        per_token: return one feature vector for each of the L tokens instead of one for each sample.
        layers: numbers of encoder layers from 1, whose outputs are returned side by side.
        batch_size: samples in a forward pass.

    Returns:
        float32 features (n, D), or (n, L, D) with `per_token`: a numpy array, or a tensor on the device of `x` if `x`
        is a tensor or a dict of tensors.

    Raises:
        CheckpointError: the folder holds no run or no checkpoint.
        ConfigError: `x` does not fit the fields that the encoder reads.
        DataError: a sample cannot be used; the message names it.
    """
    if isinstance(source, Run):
        encoder = source.encoder
    else:
        encoder = source if isinstance(source, PretrainedEncoder) else load(source, device="auto")
    if hasattr(x, "columns") and hasattr(x, "to_parquet"):
        x = _table_samples(x, encoder)
    return encoder.embed(x, per_token=per_token, layers=layers, batch_size=batch_size)


def evaluate(
    source: Run | str | os.PathLike[str], data: Any = None, y: Any = None, **options: Unpack[EvaluateKeywords]
) -> Report:
    """Score the frozen features of a run with the probes of `sslx eval`.

    The scores are of the trained features, of the same encoder before training, and of the raw input. The report is
    written into the run's folder or, for other data, into `eval/NAME` below it.

    Args:
        source: a run or its folder.
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
    keywords = _checked(options, EvaluateKeywords)
    folder = source.folder if isinstance(source, Run) else Path(source)
    modality, catalogue = load_config(folder).modality, installed.load()
    if isinstance(source, Run) and data is None and "dataset" not in keywords:
        catalogue = source.context.catalogue  # it also knows data in memory
    if y is not None:
        keywords["y"] = y
    values = {"dataset.name": keywords.get("dataset"), **_data_options(data, modality, keywords, catalogue)}
    values |= _option_paths(keywords)
    values = {path: value for path, value in values.items() if value is not None}
    name = None
    if any(path.startswith("dataset.") for path in values):
        name = Path(data).resolve().stem if isinstance(data, str | os.PathLike) else values.get("dataset.name", "own")
    out = keywords.get("out")
    context = RunContext(catalogue, folder, keywords.get("console") or Console())
    return evaluate_run(values, context, place_of_evaluation(folder, name) if out is None else Path(out))


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


def _data_options(data: Any, modality: str | None, keywords: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """The options that name the data; data in memory is added to the catalogue as a data set.

    Raises:
        ConfigError: data in memory without a modality, or in an unknown form.
        DataError: samples differ in form, or labels do not fit them.
    """
    if data is None:
        return {}
    if isinstance(data, str | os.PathLike):
        return {"dataset.name": "files", "dataset.root": os.fspath(data)}
    if modality is None:
        raise ConfigError("data in memory needs its modality, as modality='image'; see sslx list tokenizers")
    if hasattr(data, "columns") and hasattr(data, "to_parquet"):
        return {"dataset.name": "files", "dataset.root": str(_table_file(data, keywords.get("y")))}
    default: type[Dataset] = catalogue.default_dataset(modality)
    template = default(default.Options(), "train").fields
    dataset, digest = memory_dataset(data, keywords.get("y"), modality, template, keywords.get("rate"))
    catalogue.add(Origin(ORIGIN), _MemoryPlugin(dataset))
    return {"dataset.name": MEMORY, "dataset.digest": digest}


class _MemoryPlugin:
    """Offers a data set in memory as a plugin does."""

    def __init__(self, dataset: type[Dataset]) -> None:
        self.dataset = dataset

    @hookimpl
    def register_datasets(self) -> list[type[Dataset]]:
        """The data set."""
        return [self.dataset]


def _table_samples(frame: Any, encoder: PretrainedEncoder) -> list[Any]:
    """The rows of a DataFrame as samples of the encoder: columns matched by name, categories by value.

    Raises:
        ConfigError: the encoder was not trained on a table of such rows.
        DataError: the columns do not fit, or a row cannot be used.
    """
    config = encoder.config
    if config.modality != "tabular" or config.dataset.name != "files":
        raise ConfigError(
            "a DataFrame can be embedded by an encoder that was trained on a table or DataFrame of the modality "
            "tabular; give an array, e.g. frame[columns].to_numpy(), with the columns trained on"
        )
    columns = {column["name"] for column in encoder.schema.get("columns", [])}
    frame = frame.drop(columns=[name for name in ("label", "group", "split") if name not in columns], errors="ignore")
    kind = installed.load().dataset("files", config.modality)
    values = own_options(config) | {"root": str(_table_file(frame, None)), "test_fraction": 0}
    dataset = kind(kind.Options(**values), "train")
    dataset.conform(encoder.schema)
    if len(dataset) != len(frame):
        raise DataError(f"the table has {len(frame):,} rows, and {len(dataset):,} of them can be read")
    try:
        return [dataset[index]["inputs"] for index in range(len(dataset))]
    except BadSample as error:
        raise DataError(f"{error}") from None


def _table_file(frame: Any, y: Any) -> Path:
    """A Parquet file of a DataFrame in the cache, with `y` as its column label; the same file for the same content.

    Raises:
        ConfigError: `y` is given, and the table has a column label.
    """
    if y is not None:
        if "label" in frame.columns:
            raise ConfigError("the table has a column 'label'; leave out y, or rename the column")
        frame = frame.assign(label=y)
    import pandas

    digest = hashlib.blake2b(pandas.util.hash_pandas_object(frame).to_numpy().tobytes(), digest_size=16)
    digest.update(repr([*zip(frame.columns, map(str, frame.dtypes), strict=True)]).encode())
    folder = cache_dir() / "tables" / digest.hexdigest()
    path = folder / "table.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        frame.to_parquet(part, index=False)
        os.replace(part, path)
    return path
