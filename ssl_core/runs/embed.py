"""Features of files by a trained encoder, written as a table."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ssl_core.config.resolve import validate
from ssl_core.config.schema import RunConfig
from ssl_core.contracts import Dataset, Inputs
from ssl_core.errors import BadSample, ConfigError, DataError
from ssl_core.nn.distributed import Group
from ssl_core.pipeline.cache import PreprocessedSplit
from ssl_core.pipeline.measure import SAMPLES, FieldStats, measure_fields
from ssl_core.pipeline.preprocess import prepare_sample
from ssl_core.plugins import Catalogue
from ssl_core.runs.data import far_values
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder
from ssl_core.runs.fields import adapt_fields
from ssl_core.runs.inspection.candidates import OF_ENCODER, naming_modality
from ssl_core.runs.tables import TablePart, check_ending, write_csv, write_parquet, write_whole
from ssl_core.training.parallel import gather_bytes
from ssl_core.utils.console import Console, as_utf8

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


def open_files(
    encoder: PretrainedEncoder,
    request: EmbedRequest,
    catalogue: Catalogue,
    labels: Mapping[str, Any] = MappingProxyType({}),
) -> list[Dataset]:
    """The files as data sets in the form of the data trained on, one for each split that they name.

    Args:
        encoder: the encoder.
        request: the files, and options of the data set.
        catalogue: the plugins.
        labels: options that say what the labels are, unless the request does; files without these have no labels.

    Raises:
        ConfigError: an unknown option, or a value that does not fit.
        DataError: the files cannot be read, or do not fit the encoder.
    """
    if labels.keys() - {"task"} and not labels.keys() & request.options.keys():
        with contextlib.suppress(ConfigError, DataError):
            return open_files(encoder, replace(request, options={**labels, **request.options}), catalogue)
    kind = catalogue.dataset("files", encoder.config.modality)
    values = {**own_options(encoder.config), "test_fraction": 0, "root": request.path}
    known = kind.Options.model_fields
    values = {name: value for name, value in values.items() if name in known}
    options = validate("dataset", kind.Options, {**values, **request.options})
    with naming_modality(request.path, encoder.config.modality, catalogue, OF_ENCODER):
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
    encoder: PretrainedEncoder,
    datasets: Sequence[Dataset],
    request: EmbedRequest,
    console: Console,
    group: Group | None = None,
) -> Iterator[Rows]:
    """Features of all samples that can be used, a batch at a time; the others are named on the console.

    Several processes read, prepare and compute a batch each in turn. All have to iterate to the end, and all get all
    rows, in order. Doubts about values are of the samples of rank 0.

    Args:
        encoder: the encoder.
        datasets: the data.
        request: what to embed, and how.
        console: shows the progress.
        group: the processes.

    Raises:
        DataError: no sample can be used, or with `strict` the first that cannot.
    """
    doubt, skipped = _Doubts(encoder, console), _Skipped(console)
    ranges, count = _ranges(datasets, request.batch_size), 0
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    with console.progress("embedding", sum(map(len, datasets))) as progress:
        for first in range(0, len(ranges), size):
            rows, lines = None, list[str]()
            if first + rank < len(ranges):
                batch, lines = _prepare(encoder, *ranges[first + rank], request.strict)
                if batch is not None:
                    doubt.add(batch.inputs)
                    features = encoder.features(batch.inputs, request.per_token, request.layers, request.readout)
                    rows = Rows(batch.ids, batch.labels, features)
            for part, found in [(rows, lines)] if group is None else _gather(group, rows, lines):
                skipped.add(found)
                if part is not None:
                    count += len(part.ids)
                    yield part
            progress.advance(sum(len(index) for _, index in ranges[first : first + size]))
    doubt.end()
    skipped.end(request.path, count)


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
    doubt, skipped, count = _Doubts(encoder, console), _Skipped(console), 0
    with console.progress(title, sum(map(len, datasets))) as progress:
        for dataset, index in _ranges(datasets, request.batch_size):
            batch, lines = _prepare(encoder, dataset, index, request.strict)
            skipped.add(lines)
            progress.advance(len(index))
            if batch is not None:
                count += len(batch.ids)
                doubt.add(batch.inputs)
                yield batch
    doubt.end()
    skipped.end(request.path, count)


def _ranges(datasets: Sequence[Dataset], size: int) -> list[tuple[Dataset, range]]:
    """The numbers of the samples of each batch."""
    return [
        (dataset, range(start, min(start + size, len(dataset))))
        for dataset in datasets
        for start in range(0, len(dataset), size)
    ]


def _prepare(
    encoder: PretrainedEncoder, dataset: Dataset, index: range, strict: bool
) -> tuple[SampleBatch | None, list[str]]:
    """The samples of a batch that can be used, None without any; and a line for each of the others.

    Raises:
        BadSample: with `strict`, the first that cannot be used.
    """
    ids, labels, inputs, lines = list[str](), list[Any](), list[Inputs](), list[str]()
    for number in index:
        try:
            sample = dataset[number]
            prepared = prepare_sample(encoder.tokenizer, sample["inputs"])
        except BadSample as error:
            line = f"{dataset.describe(number)}: {error}"
            if strict:
                raise BadSample(f"{line} (strict: no sample may be skipped)") from None
            lines.append(as_utf8(line))
            continue
        ids.append(as_utf8(dataset.identify(number)))
        labels.append(sample["label"])
        inputs.append(prepared)
    if not inputs:
        return None, lines
    return SampleBatch(dataset, ids, [_label(dataset, label) for label in labels], labels, inputs), lines


class _Skipped:
    """Names the first samples that cannot be used, and counts all."""

    def __init__(self, console: Console) -> None:
        self.console, self.count = console, 0

    def add(self, lines: Sequence[str]) -> None:
        """Take samples, a line for each."""
        for line in lines[: max(0, 3 - self.count)]:
            self.console.info(f"skipped    {line}")
        self.count += len(lines)

    def end(self, path: str, used: int) -> None:
        """Print the number of all.

        Raises:
            DataError: no sample could be used.
        """
        if self.count > 3:
            self.console.info(f"skipped    {self.count} samples in all")
        if not used:
            raise DataError(f"{path}: no sample can be used ({self.count} skipped)")


def _gather(group: Group, rows: Rows | None, lines: Sequence[str]) -> Iterator[tuple[Rows | None, list[str]]]:
    """Rows and lines of all processes, in the order of their ranks."""
    head: dict[str, Any] = {"lines": list(lines)}
    if rows is not None:
        head |= {"ids": list(rows.ids), "labels": list(map(_packed, rows.labels)), "shape": rows.features.shape}
        head["dtype"] = str(rows.features.dtype)
    text = json.dumps(head).encode()
    data = b"" if rows is None else np.ascontiguousarray(rows.features).tobytes()
    for one in gather_bytes(group, len(text).to_bytes(8, "little") + text + data):
        end = 8 + int.from_bytes(one[:8], "little")
        found = json.loads(one[8:end])
        part = None
        if "ids" in found:
            features = np.frombuffer(one[end:], found["dtype"]).reshape(found["shape"])
            part = Rows(found["ids"], list(map(_unpacked, found["labels"])), features)
        yield part, found["lines"]


def _packed(label: Any) -> Any:
    """A label for JSON: None, a text, or a number with its type."""
    if label is None or isinstance(label, str):
        return label
    value = np.asarray(label)
    return {"value": value.tolist(), "dtype": str(value.dtype), "numpy": isinstance(label, np.generic | np.ndarray)}


def _unpacked(label: Any) -> Any:
    if not isinstance(label, dict):
        return label
    return np.asarray(label["value"], label["dtype"])[()] if label["numpy"] else label["value"]


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
