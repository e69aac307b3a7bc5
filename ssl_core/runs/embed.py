"""Features of files by a trained encoder, written as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset, Inputs
from ssl_core.errors import BadSample, ConfigError, DataError
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.measure import SAMPLES, FieldStats, measure_fields
from ssl_core.plugins import Catalogue
from ssl_core.runs.data import as_utf8, far_values
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder
from ssl_core.runs.fields import adapt_fields
from ssl_core.runs.tables import TablePart, check_ending, write_csv, write_parquet, write_whole
from ssl_core.utils.console import Console

FORMATS = (".parquet", ".csv", ".npz")
OF_TRAINING = frozenset(
    {
        "root", "test_root", "label", "group", "split", "label_pattern", "task", "test_fraction", "test_groups",
        "train_groups", "validation_fraction", "validation_groups",
    }
)  # fmt: skip
"""Options of the data trained on that say where they lie, what their labels are and how they are split."""


@dataclass(frozen=True)
class Rows:
    """Features of consecutive samples: ids, labels (None where there are none), features (n, D) or (n, L, D)."""

    ids: Sequence[str]
    labels: Sequence[Any]
    features: np.ndarray


@dataclass
class EmbedRequest:
    """What to embed: options of the data set by name, token features instead of pooled ones, encoder layers from 1,
    or a read-out of `ssl_core.nn.readout`; and how."""

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    per_token: bool = False
    layers: tuple[int, ...] | None = None
    batch_size: int = EMBED_BATCH
    strict: bool = False
    readout: str | None = None


def own_options(config: RunConfig) -> dict[str, Any]:
    """The options of the files trained on that also hold for other files, such as the names of channels."""
    if config.dataset.name != "files":
        return {}
    return {name: value for name, value in config.dataset.options.items() if name not in OF_TRAINING}


def open_files(encoder: PretrainedEncoder, request: EmbedRequest, catalogue: Catalogue) -> list[Dataset]:
    """The files as data sets in the form of the data trained on, one for each split that they name.

    Raises:
        ConfigError: an unknown option.
        DataError: the files cannot be read, or do not fit the encoder.
    """
    kind = catalogue.dataset("files", encoder.config.modality)
    values = {**own_options(encoder.config), "test_fraction": 0, "root": request.path, **request.options}
    known = kind.Options.model_fields
    for name in request.options:
        if name not in known:
            raise ConfigError(f"unknown option 'dataset.{name}'; sslx show {encoder.config.modality}/files lists all")
    options = kind.Options(**{name: value for name, value in values.items() if name in known})
    train = kind(options, "train")
    datasets = [train, *(kind(options, split) for split in train.splits if split != "train")]
    for dataset in datasets:
        dataset.conform(encoder.schema)
        notes = adapt_fields(encoder.fields, dataset, type(encoder.tokenizer))
        dataset.warnings += tuple(note for note in notes if note not in dataset.warnings)
    return datasets


@dataclass(frozen=True)
class SampleBatch:
    """Consecutive samples that can be used.

    ids: what they are called. labels: as a table has them, None where there are none. raw: as the data set has them.
    inputs: preprocessed.
    """

    dataset: Dataset
    ids: Sequence[str]
    labels: Sequence[Any]
    raw: Sequence[Any]
    inputs: Sequence[Inputs]


def say_findings(datasets: Sequence[Dataset], console: Console) -> None:
    """Print the doubts and warnings of data sets, each once."""
    for line in dict.fromkeys((*datasets[0].doubts, *(line for dataset in datasets for line in dataset.warnings))):
        console.info(as_utf8(line))


def embed_rows(
    encoder: PretrainedEncoder, datasets: Sequence[Dataset], request: EmbedRequest, console: Console
) -> Iterator[Rows]:
    """Features of all samples that can be used, a batch at a time; the others are named on the console.

    Raises:
        DataError: no sample can be used, or with `strict` the first that cannot.
    """
    for batch in sample_batches(encoder, datasets, request, console):
        features = encoder.features(batch.inputs, request.per_token, request.layers, request.readout)
        yield Rows(batch.ids, batch.labels, features)


def sample_batches(
    encoder: PretrainedEncoder,
    datasets: Sequence[Dataset],
    request: EmbedRequest,
    console: Console,
    title: str = "embedding",
) -> Iterator[SampleBatch]:
    """All samples that can be used, a batch at a time; the others are named on the console, as are doubts about values.

    Raises:
        DataError: no sample can be used, or with `strict` the first that cannot.
    """
    doubt = _Doubts(encoder, console)
    count = bad = 0
    with console.progress(title, sum(map(len, datasets))) as progress:
        for dataset in datasets:
            for start in range(0, len(dataset), request.batch_size):
                index = range(start, min(start + request.batch_size, len(dataset)))
                ids, labels, inputs = list[str](), list[Any](), list[Inputs]()
                for number in index:
                    try:
                        sample = dataset[number]
                        prepared = encoder.tokenizer.preprocess(sample["inputs"])
                    except BadSample as error:
                        line = f"{dataset.describe(number)}: {error}"
                        if request.strict:
                            raise BadSample(f"{line} (strict: no sample may be skipped)") from None
                        bad += 1
                        if bad <= 3:
                            console.info(as_utf8(f"skipped    {line}"))
                        continue
                    ids.append(as_utf8(dataset.describe(number)))
                    labels.append(sample["label"])
                    inputs.append(prepared)
                progress.advance(len(index))
                if inputs:
                    count += len(inputs)
                    doubt.add(inputs)
                    yield SampleBatch(dataset, ids, [_label(dataset, label) for label in labels], labels, inputs)
    doubt.end()
    if bad > 3:
        console.info(f"skipped    {bad} samples in all")
    if not count:
        raise DataError(f"{request.path}: no sample can be used ({bad} skipped)")


def _label(dataset: Dataset, label: Any) -> Any:
    """The label as it is written: the name of a class, a number, or names of labels joined by |."""
    task = dataset.task
    if label is None or task is None or task.per_token:
        return None
    if task.kind == "labels":
        names = task.names or tuple(map(str, range(task.size)))
        return "|".join(name for name, value in zip(names, np.asarray(label).tolist(), strict=True) if value)
    return task.names[int(label)] if task.kind == "classes" and task.names else label


class _Doubts:
    """Compares the first samples with those that the encoder was trained on."""

    def __init__(self, encoder: PretrainedEncoder, console: Console) -> None:
        self.encoder, self.console = encoder, console
        self.inputs: list[Mapping[str, np.ndarray]] | None = []

    def add(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Collect samples until there are enough."""
        if self.inputs is not None:
            self.inputs += inputs
            if len(self.inputs) >= SAMPLES:
                self.end()

    def end(self) -> None:
        """Print the doubts, once."""
        if self.inputs:
            arrays = {name: np.stack([one[name] for one in self.inputs]) for name in self.inputs[0]}
            now = measure_fields(PreprocessedSplit(arrays, None), self.encoder.fields)
            before = {name: FieldStats.from_json(entry) for name, entry in self.encoder.stats.items()}
            for line in far_values(before, now, self.encoder.schema):
                self.console.info(f"doubt      {line}")
        self.inputs = None


# --- tables ----------------------------------------------------------------------------------------------------------


def write_features(rows: Iterator[Rows], path: Path, numeric_labels: bool = False) -> int:
    """Write features to a .parquet, .csv or .npz file, completely or not at all. Returns the number of samples.

    Columns: id, label, token for token features, and f0, f1, ... In an .npz: id, label and features.

    A table is written a batch at a time; an .npz is built in memory.

    Args:
        rows: the samples.
        path: the file.
        numeric_labels: labels are numbers; else they are texts.

    Raises:
        ConfigError: the file has another ending.
        DataError: the file cannot be written.
    """
    check_ending(path, FORMATS)
    kind = path.suffix.lower()
    if kind == ".npz":
        return write_whole(path, lambda file: _write_npz(rows, file, numeric_labels))
    parts = (TablePart(_columns(part), len(part.ids)) for part in rows)
    if kind == ".csv":
        return write_whole(path, lambda file: write_csv(parts, file))
    texts, numbers = ((), ("label",)) if numeric_labels else (("label",), ())
    return write_whole(path, lambda file: write_parquet(parts, file, texts, numbers))


def _columns(rows: Rows) -> dict[str, Any]:
    """Rows of samples or of tokens as columns."""
    x = rows.features
    if x.ndim == 2:
        columns: dict[str, Any] = {"id": list(rows.ids), "label": list(rows.labels)}
    else:
        length = x.shape[1]
        columns = {"id": [name for name in rows.ids for _ in range(length)]}
        columns["label"] = [label for label in rows.labels for _ in range(length)]
        columns["token"] = np.tile(np.arange(length), len(x))
        x = x.reshape(-1, x.shape[-1])
    return columns | {f"f{number}": x[:, number] for number in range(x.shape[1])}


def _write_npz(rows: Iterator[Rows], path: Path, numeric_labels: bool) -> int:
    ids: list[str] = []
    labels: list[Any] = []
    features = []
    for part in rows:
        ids += part.ids
        labels += part.labels
        features.append(part.features)
    missing: Any = np.nan if numeric_labels else ""
    kind = np.float64 if numeric_labels else np.str_
    known = [missing if label is None else label for label in labels]
    np.savez(path, id=np.array(ids), label=np.array(known, kind), features=np.concatenate(features))
    return len(ids)
