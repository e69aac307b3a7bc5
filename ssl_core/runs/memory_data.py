"""Data in memory as the data of a run: arrays and data sets through the catalogue, tables through a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import plugins as installed
from ssl_core.contracts import Dataset, Inputs
from ssl_core.data import Fields
from ssl_core.errors import BadSample, CheckpointError, ConfigError, DataError
from ssl_core.hookspecs import hookimpl
from ssl_core.pipeline.columns import LABEL, is_hugging_face, open_hugging_face
from ssl_core.pipeline.memory import MEMORY, NUMERIC, ORIGIN, memory_dataset, split_pair
from ssl_core.pipeline.streams import is_stream, keep_stream, kept_stream, open_stream, record_use
from ssl_core.pipeline.values import check_container
from ssl_core.plugins import Catalogue, Origin
from ssl_core.runs.embed import EmbedRequest, embed_rows, open_files, sample_batches, say_findings
from ssl_core.runs.encoder import PretrainedEncoder, evaluating
from ssl_core.runs.run_dir import load_config
from ssl_core.training.parallel import gather_bytes, joined, local_rank
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.cache_entries import hold_entry
from ssl_core.utils.console import Console
from ssl_core.utils.digests import file_digest

TABULAR = "tabular"
TABLE_ROWS = 10_000
"""Rows of a streamed table in memory at a time."""


class MemoryPlugin:
    """Offers a data set in memory as a plugin does."""

    def __init__(self, dataset: type[Dataset]) -> None:
        self.dataset = dataset

    @hookimpl
    def register_datasets(self) -> list[type[Dataset]]:
        """The data set."""
        return [self.dataset]


def data_options(
    data: Any, modality: str | None, keywords: Mapping[str, Any], catalogue: Catalogue, trained: Fields | None = None
) -> dict[str, Any]:
    """The options that name the data; data in memory is added to the catalogue as a data set.

    Args:
        data: None, a path, samples in memory, or a stream, which is written into the cache.
        modality: the modality's name; data in memory needs it.
        keywords: of `sslx.pretrain`; `y`, `rate`, `max_samples` and `console` are used.
        catalogue: the plugins.
        trained: the fields of the encoder that reads the data, if it is trained.

    Raises:
        ConfigError: data in memory without a modality, or in an unknown form.
        DataError: samples differ in form, or labels do not fit them.
    """
    folder, most = None, keywords.get("max_samples")
    if most is not None and not is_stream(data):
        check_container(data)  # of several splits another message helps
        raise ConfigError("max_samples is for streamed data sets; leave it out, and give a part of the data")
    if data is None or isinstance(data, str | os.PathLike):
        if keywords.get("y") is not None:
            raise ConfigError(
                "y is for data in memory; leave it out, and name the column of the labels as set={'dataset.label': "
                "NAME}, or give a label_pattern for names of files"
            )
        if keywords.get("rate") is not None:
            raise ConfigError("rate is for data in memory; leave it out: files have their own")
    if data is None:
        return {}
    if isinstance(data, str | os.PathLike):
        return {"dataset.name": "files", "dataset.root": os.fspath(data)}
    _check_order(data, keywords.get("y"))
    if modality is None:
        raise ConfigError("data in memory needs its modality, as modality='image'; see sslx list modalities")
    if is_stream(data):
        data, folder = _kept_once(data, most, keywords.get("console") or Console())
        if modality == TABULAR and NUMERIC not in data.column_names:
            return {"dataset.name": "files", "dataset.root": str(stream_table(data, folder, keywords.get("y")))}
    frame = as_frame(data, modality)
    if frame is not None:
        return {"dataset.name": "files", "dataset.root": str(table_file(frame, keywords.get("y")))}
    default: type[Dataset] = catalogue.default_dataset(modality)
    template = default(default.Options(), "train").fields
    dataset, digest = memory_dataset(data, keywords.get("y"), modality, template, keywords.get("rate"), trained)
    if folder is not None:
        record_use(folder, digest)
    catalogue.add(Origin(ORIGIN), MemoryPlugin(dataset))
    return {"dataset.name": MEMORY, "dataset.digest": digest}


def as_root(data: Any) -> Any:
    """A sequence of paths of files as one text, with commas between them, as `dataset.root` takes it; else the data.

    Texts are paths if a file of each name exists.

    Raises:
        ConfigError: a path holds a comma, is given twice, or an entry is no path.
        DataError: a file does not exist.
    """
    if not isinstance(data, list | tuple | np.ndarray) and not (hasattr(data, "iloc") and not hasattr(data, "columns")):
        return data
    items = data if isinstance(data, list | tuple) else check_container(data)
    if not len(items) or not (isinstance(items[0], os.PathLike) or _is_file(items[0])):
        return data
    paths = list(items)
    if isinstance(paths[0], str) and not all(map(_is_file, paths)):
        return data
    names: dict[str, int] = {}
    for number, path in enumerate(paths):
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"sample {number} is a {type(path).__name__}, sample 0 a path; give paths alone")
        name = os.fspath(path)
        if len(paths) > 1 and "," in name:
            raise ConfigError(
                f"{name}: of several files none may have a comma in its name; rename it, or give a folder"
            )
        if not os.path.exists(name):
            raise DataError(f"sample {number}: {name} does not exist")
        if name in names:
            raise ConfigError(f"{name} is given twice, as samples {names[name]} and {number}; give each file once")
        names[name] = number
    return ",".join(names)


def _is_file(name: Any) -> bool:
    try:
        return isinstance(name, str) and os.path.isfile(name)
    except ValueError:  # a text with a zero byte
        return False


def check_rate(rate: float | None, trained: Fields) -> None:
    """Raises:
    ConfigError: samples in memory have another rate than the encoder was trained on.
    """
    for name, field in trained.items():
        own = getattr(field, "rate", None)
        if rate is not None and own is not None and rate != own:
            raise ConfigError(
                f"rate={rate:g}: the encoder was trained on '{name}' at {own:g} samples per second; resample x to it"
            )


def _check_order(data: Any, y: Any) -> None:
    """Raises:
    ConfigError: samples and labels of pandas have the same index in different orders.
    """
    one: Any = getattr(data, "index", None)
    other: Any = getattr(y, "index", None)
    if not all(hasattr(index, "equals") and hasattr(index, "sort_values") for index in (one, other)):
        return
    if len(one) == len(other) and not one.equals(other) and one.sort_values().equals(other.sort_values()):
        raise ConfigError(
            "the data and y have the same index in different orders; give y.loc[data.index], or y.to_numpy() to pair "
            "them by position"
        )


def _kept_once(data: Any, most: int | None, console: Console) -> tuple[Any, Path]:
    """A stream as `keep_stream` gives it. Of the processes of a machine, the first reads it."""
    group = joined()
    if group is None:
        return keep_stream(data, most, console)
    kept = keep_stream(data, most, console) if local_rank() == 0 else None
    names = gather_bytes(group, b"" if kept is None else kept[1].name.encode())
    if kept is not None:
        return kept
    first = next(name for name in reversed(names[: group.rank]) if name)
    return open_stream(first.decode()) or keep_stream(data, most, console)  # of a cache that is not shared


def kept_data(folder: Path) -> Any:
    """The stream that the run in a folder was trained on, as the cache keeps it; None if there is none.

    Args:
        folder: that of the run, or one without a run.
    """
    try:
        config = load_config(folder)
    except CheckpointError:  # it is refused where the run is resumed
        return None
    return kept_stream(str(config.dataset.options["digest"])) if config.dataset.name == MEMORY else None


def as_frame(data: Any, modality: str) -> Any:
    """Data as a pandas DataFrame, if it is a table; else None.

    A DataFrame is one for every modality. For the modality tabular, so are data sets with columns of single values:
    tables of Arrow, polars and Hugging Face, dicts of columns, sequences of dicts, structured arrays.
    """
    if hasattr(data, "columns") and hasattr(data, "to_parquet"):
        return data
    if modality != TABULAR:
        return None
    data = check_container(data)
    if is_hugging_face(data):
        if NUMERIC in data.column_names:
            return None
        columns = open_hugging_face(data, {})[1]
        frame = data.to_pandas()
        if columns.label is not None:
            labels = [columns.label_of(row) for row in frame[[columns.label]].to_dict("records")]
            frame = frame.drop(columns=columns.label).assign(**{LABEL: labels})
        return frame
    if hasattr(data, "to_pandas"):
        return data.to_pandas()
    import pandas

    if isinstance(data, np.ndarray):
        return pandas.DataFrame(data) if data.dtype.names else None
    if isinstance(data, Mapping):
        is_table = NUMERIC not in data and all(np.ndim(column) == 1 for column in data.values())
        return pandas.DataFrame({name: np.asarray(column) for name, column in data.items()}) if is_table else None
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, str) or not len(data):
        return None
    first = split_pair(data[0])[0]
    if not isinstance(first, Mapping) or NUMERIC in first or "inputs" in first:
        return None
    pairs = [split_pair(data[index]) for index in range(len(data))]
    frame = pandas.DataFrame([row for row, _ in pairs])
    labels = [label for _, label in pairs]
    return frame if all(label is None for label in labels) else frame.assign(**{LABEL: labels})


def table_file(frame: Any, y: Any) -> Path:
    """A Parquet file of a DataFrame in the cache, with `y` as its column label; the same file for the same content.

    Raises:
        ConfigError: `y` is given, and the table has a column label.
        DataError: `y` has another length, or a column cannot be written.
    """
    if y is not None:
        labels = _column_of(y, frame.columns, len(frame))
        frame = frame.assign(**{LABEL: labels})
    import pandas
    from pyarrow import ArrowException

    try:
        digest = hashlib.blake2b(pandas.util.hash_pandas_object(frame).to_numpy().tobytes(), digest_size=16)
    except TypeError as error:
        raise DataError(f"the table holds values that are neither numbers nor texts ({error})") from None
    digest.update(repr([*zip(frame.columns, map(str, frame.dtypes), strict=True)]).encode())
    for column in range(frame.shape[1]):
        if pandas.api.types.is_object_dtype(frame.iloc[:, column]):  # pandas hashes 1 and "1" alike
            digest.update(repr([type(value).__name__ for value in frame.iloc[:, column]]).encode())
    folder = cache_dir() / "tables" / digest.hexdigest()
    path = folder / "table.parquet"
    hold_entry(folder)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        try:
            frame.rename(columns=str).to_parquet(part, index=False)
        except (ArrowException, ValueError, TypeError) as error:
            part.unlink(missing_ok=True)
            raise DataError(f"the table cannot be written as Parquet: {str(error).splitlines()[0]}") from None
        os.replace(part, path)
    return path


def _column_of(y: Any, columns: Iterable[str], count: int) -> list[Any]:
    """Labels as a column of a table of `count` rows, by position: pandas would match the index of a Series.

    Raises:
        ConfigError: the table has a column label.
        DataError: they have another length.
    """
    if LABEL in columns:
        raise ConfigError("the table has a column 'label'; leave out y, or rename the column")
    labels = list(y)
    if len(labels) != count:
        raise DataError(f"there are {count} rows and {len(labels)} labels; give None for a row without one")
    return labels


def stream_table(data: Any, folder: Path, y: Any) -> Path:
    """A Parquet file, in the cache, of a kept stream of rows; the same file for the same content.

    Args:
        data: the stream as a data set with a length; it is read in parts.
        folder: that of the kept stream.
        y: labels (n,), which become the column label; None for those of the stream.

    Raises:
        ConfigError: `y` is given, and the table has a column label.
        DataError: `y` has another length, or a column cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = open_hugging_face(data, {})[1]
    part = folder / f"table.{os.getpid()}"
    try:
        labels = None if y is None else pa.array(_column_of(y, data.column_names, len(data)))
        writer, start = None, 0
        for table in data.with_format("arrow").iter(batch_size=TABLE_ROWS):
            own = labels
            if labels is None and columns.label is not None:
                kind = pa.string() if columns.classes else table.schema.field(columns.label).type
                cells = table[columns.label].to_pylist()
                own = pa.array([columns.label_of({columns.label: cell}) for cell in cells], kind)
                table = table.drop_columns([columns.label])
            elif labels is not None:
                own = labels.slice(start, len(table))
            table = table if own is None else table.append_column(LABEL, own)
            writer = writer or pq.ParquetWriter(part, table.schema.remove_metadata())
            writer.write_table(table.replace_schema_metadata(None))
            start += len(table)
        if writer is not None:
            writer.close()
    except (pa.ArrowException, ValueError, TypeError) as error:
        part.unlink(missing_ok=True)
        raise DataError(f"the table cannot be written as Parquet: {str(error).splitlines()[0]}") from None
    entry = cache_dir() / "tables" / file_digest(part)[:32]
    hold_entry(entry)
    entry.mkdir(parents=True, exist_ok=True)
    os.replace(part, entry / "table.parquet")
    return entry / "table.parquet"


def open_frame(encoder: PretrainedEncoder, frame: Any, request: EmbedRequest) -> list[Dataset]:
    """The rows of a DataFrame as data sets in the form of the data trained on: columns are matched by name.

    Args:
        encoder: trained on a table or DataFrame.
        frame: rows of a table; for other modalities as their tables are read.
        request: its path becomes that of the file which holds the rows.

    Raises:
        ConfigError: the encoder was not trained on tables.
        DataError: there is no row, or the columns do not fit.
    """
    config = encoder.config
    if config.dataset.name != "files":
        raise ConfigError(
            "a DataFrame can be read by an encoder that was trained on a table or DataFrame; give an array, e.g. "
            "frame[columns].to_numpy(), with the columns trained on"
        )
    columns = {column["name"] for column in encoder.schema.get("columns", [])}
    others = ("label", "group", "split") if config.modality == TABULAR else ("label", "split")
    frame = frame.drop(columns=[name for name in others if name not in columns], errors="ignore")
    if not len(frame):
        raise DataError("the table has no row")
    request.path = str(table_file(frame, None))
    with saying_table(request.path):
        datasets = open_files(encoder, request, installed.load())
    count = sum(map(len, datasets))
    if config.modality == TABULAR and count != len(frame):
        raise DataError(f"the table has {len(frame):,} rows, and {count:,} of them can be read")
    return datasets


def frame_batches(encoder: PretrainedEncoder, frame: Any, size: int) -> Iterator[Sequence[Inputs]]:
    """The rows of a DataFrame as preprocessed samples, `size` at a time; see `open_frame`.

    Raises:
        ConfigError: the encoder was not trained on tables.
        DataError: the columns do not fit, or a row cannot be used.
    """
    request = EmbedRequest("", batch_size=size, strict=True)
    datasets = open_frame(encoder, frame, request)
    with saying_table(request.path):
        for batch in sample_batches(encoder, datasets, request, Console()):
            yield batch.inputs


def file_batches(
    encoder: PretrainedEncoder, path: str | os.PathLike[str], size: int, labels: Mapping[str, Any]
) -> Iterator[Sequence[Inputs]]:
    """The samples of files, preprocessed, `size` at a time, in the order of the rows of `sslx predict`.

    Args:
        encoder: reads the files as those that it was trained on.
        path: the files.
        size: samples in a batch.
        labels: options that say what the labels are.

    Raises:
        ConfigError: the encoder's modality has no reader of files.
        DataError: the files cannot be read, do not fit the encoder, or a sample cannot be used.
    """
    request = EmbedRequest(os.fspath(path), batch_size=size, strict=True)
    datasets = open_files(encoder, request, installed.load(), labels)
    check_files(request.path, datasets)
    say_findings(datasets, Console())
    for batch in sample_batches(encoder, datasets, request, Console()):
        yield batch.inputs


@contextmanager
def saying_table(path: Any) -> Iterator[None]:
    """In messages, "the table" in place of the file in the cache that holds the rows of a DataFrame, unless None."""
    try:
        yield
    except (ConfigError, DataError) as error:
        if path is None:
            raise
        text = str(error).replace(f"dataset.root {path}", "the table").replace(path, "the table")
        raise (DataError if isinstance(error, BadSample) else type(error))(text) from None


def embed_frame(encoder: PretrainedEncoder, frame: Any, request: EmbedRequest, console: Console) -> np.ndarray:
    """Features of the samples of a DataFrame; see `open_frame`.

    Args:
        encoder: trained on a table or DataFrame.
        frame: rows of a table; for other modalities as their tables are read.
        request: token features and layers; its path is not used.
        console: shows the progress.

    Raises:
        ConfigError: the encoder was not trained on tables.
        DataError: the columns do not fit, or a row cannot be used.
    """
    datasets = open_frame(encoder, frame, request)
    with saying_table(request.path):
        return _features(encoder, datasets, request, console)


def embed_path(encoder: PretrainedEncoder, request: EmbedRequest, console: Console) -> np.ndarray:
    """Features of the samples of files, in the order of the rows of `sslx embed`.

    Raises:
        DataError: the files cannot be read, do not fit the encoder, or a sample cannot be used.
    """
    datasets = open_files(encoder, request, installed.load())
    check_files(request.path, datasets)
    return _features(encoder, datasets, request, console)


def check_files(path: str, datasets: Sequence[Dataset]) -> None:
    """Raises:
    DataError: of several files some are not read, or they would not be read in their order.
    """
    if "," not in path or os.path.exists(path):
        return
    if ignored := datasets[0].summary.ignored:
        shown = ", ".join(f"{count} {reason}" for reason, count in ignored.items())
        raise DataError(f"of the files some are not read ({shown}); leave them out")
    if len(datasets) > 1:
        raise DataError("the names of the files tell several splits; give the files of one at a time")


def _features(
    encoder: PretrainedEncoder, datasets: Sequence[Dataset], request: EmbedRequest, console: Console
) -> np.ndarray:
    """Features of all samples; no sample is skipped, since rows have no ids."""
    request.strict = True
    say_findings(datasets, console)
    try:
        with evaluating(encoder):
            parts = [rows.features for rows in embed_rows(encoder, datasets, request, console)]
    except BadSample as error:
        raise DataError(f"{error}") from None
    return np.concatenate(parts)
