"""Streamed data sets of the library `datasets`: read once, in order and in bounded memory, into a file of the cache.

What follows reads that file as it reads any other data set of the library, which has a length and is memory-mapped. So
the identity of a stream is its content: the digest of its samples, as of all data in memory. A stream whose source
changed, or that is shuffled without a seed, is other data, whatever it is called.
"""

from __future__ import annotations

import importlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ssl_core.errors import ConfigError, DataError, SslxError
from ssl_core.pipeline.preprocess import NO_ROOM
from ssl_core.utils.cache import cache_dir
from ssl_core.utils.cache_entries import MAKING, guard_file, hold_entry, write_about
from ssl_core.utils.console import Console
from ssl_core.utils.digests import file_digest
from ssl_core.utils.locks import file_lock

FOLDER = "streams"
ROWS = "rows.arrow"
TITLE = "reading the stream"
USES = "digests"
"""Folder of a kept stream with a file for each data set that was made of it, called by its digest."""
BATCH = 128  # samples in memory at a time; pictures and recordings stay encoded
DIGITS = 32  # of the digest that a kept stream is called by
ENCODED = ("Audio", "Image")
"""Types of columns that are kept as they are stored, and decoded when a sample is used."""


def is_stream(x: Any) -> bool:
    """Whether data is a streamed data set of the library `datasets`."""
    return hasattr(x, "column_names") and hasattr(x, "take") and hasattr(x, "__iter__") and not hasattr(x, "__len__")


def check_end(x: Any, max_samples: int | None) -> None:
    """Refuse a stream that may have no end.

    It has one if `max_samples` or x.take(n) limits it, or if the library knows the number of its samples.

    Args:
        x: a stream.
        max_samples: the most samples to take; None for all.

    Raises:
        ConfigError: it has none, or may have none; or `max_samples` is no number of samples.
    """
    if max_samples is not None:
        if isinstance(max_samples, bool) or not isinstance(max_samples, int) or max_samples < 1:
            raise ConfigError(f"max_samples={max_samples!r} is no number of samples, which is a whole number from 1 on")
        return
    split = (x.info.splits or {}).get(str(x.split)) if getattr(x, "info", None) is not None else None
    end = _end(getattr(x, "_ex_iterable", None), "known" if getattr(split, "num_examples", None) else "unknown")
    if end != "known":
        what = "is repeated without end" if end == "none" else "does not say how many samples it has"
        raise ConfigError(
            f"x is a streamed data set that {what}; give the most samples to take, as max_samples=100_000, or a part "
            f"of it, as x.take(100_000)"
        )


def _end(node: Any, source: Literal["known", "unknown"]) -> Literal["known", "unknown", "none"]:
    """Whether a step of a stream has an end. source: whether that of the source is known."""
    kind = type(node).__name__
    if kind == "TakeExamplesIterable":
        return "known"
    if kind == "RepeatExamplesIterable" and node.num_times is None:
        return "none"
    before = [node.ex_iterable] if hasattr(node, "ex_iterable") else list(getattr(node, "ex_iterables", ()))
    ends = {_end(one, source) for one in before}
    return "none" if "none" in ends else "unknown" if "unknown" in ends else "known" if ends else source


def _batches(x: Any, max_samples: int | None, console: Console) -> Iterator[Any]:
    """The samples of a stream in order, at most `BATCH` at a time: Arrow tables, or dicts of lists by column.

    Tables where the source has some: their files stay encoded. Others would have to agree in types that are not
    declared.

    Raises:
        DataError: the stream cannot be read.
    """
    if getattr(getattr(x, "_ex_iterable", None), "iter_arrow", None) is not None:
        x = x.with_format("arrow")
    count = 0
    split = (x.info.splits or {}).get(str(x.split))
    total = max_samples or getattr(split, "num_examples", None)
    bar = console.progress(TITLE, total) if total else console.waiting(TITLE)
    try:
        with bar as progress:
            for batch in x.iter(batch_size=BATCH):
                part = batch if max_samples is None else _first(batch, max_samples - count)
                rows = _rows(part)
                count += rows
                if progress is not None:
                    progress.advance(rows)
                yield part
                if count == max_samples:
                    break
    except (SslxError, GeneratorExit):
        raise
    except Exception as error:  # of the network, of a file, or of a function of the user
        raise _unreadable(error, count) from error
    if not count:
        raise DataError("the stream holds no sample")


def _first(batch: Any, count: int) -> Any:
    if isinstance(batch, dict):
        return {name: values[:count] for name, values in batch.items()}
    return batch.slice(0, count)


def _rows(batch: Any) -> int:
    return len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)


def _unreadable(error: Exception, count: int) -> DataError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split()):.120}"
    cure = "try again"
    if isinstance(error, ValueError | TypeError):  # of Arrow: a value is of another type than the first ones
        cure = "if types differ, declare those of all columns, as x.cast(datasets.Features({...}))"
    return DataError(f"the stream cannot be read after {count:,} samples ({reason}); {cure}")


def keep_stream(x: Any, max_samples: int | None, console: Console) -> tuple[Any, Path]:
    """Write a stream into the cache, and open it as a data set with a length.

    Args:
        x: a stream.
        max_samples: the most samples to take; None for all.
        console: shows the progress.

    Returns:
        The data set, memory-mapped, and its folder in the cache; the process holds that until it ends.

    Raises:
        ConfigError: the stream may have no end.
        DataError: it cannot be read, or the disk has no room for it.
    """
    check_end(x, max_samples)
    parent = cache_dir() / FOLDER
    parent.mkdir(exist_ok=True)
    work = parent / f"{MAKING}{uuid.uuid4().hex}"
    with file_lock(guard_file(work), lambda: None):
        work.mkdir()
        try:
            write_about(work, {"data": "a stream", "source": getattr(x.info, "dataset_name", None) or "Python"})
            _write(work / ROWS, x, max_samples, console)
            folder = parent / file_digest(work / ROWS)[:DIGITS]
            hold_entry(folder)
            try:
                os.rename(work, folder)
            except OSError:
                if not (folder / ROWS).exists():  # else it is kept already
                    raise
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DataError(
                f"cannot keep the stream in {parent}: {error.strerror}; free space, set SSLX_CACHE_DIR to a folder "
                f"with more, or give max_samples="
            ) from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _open(folder), folder


def open_stream(name: str) -> tuple[Any, Path] | None:
    """A kept stream by the name of its folder, and the folder; None if the cache does not have it."""
    folder = cache_dir() / FOLDER / name
    hold_entry(folder)
    return (_open(folder), folder) if (folder / ROWS).exists() else None


def _write(path: Path, x: Any, max_samples: int | None, console: Console) -> None:
    writer_of = importlib.import_module("datasets.arrow_writer").ArrowWriter
    features = x.features
    for name, feature in (features or {}).items():
        if type(feature).__name__ in ENCODED:
            x = x.cast_column(name, type(feature)(decode=False))
    # files that the rows name may be gone or changed later, so their content is kept
    writer, count = writer_of(path=str(path), features=features, embed_local_files=True), 0
    for batch in _batches(x, max_samples, console):
        try:
            if isinstance(batch, dict):
                writer.write_batch(batch)
            else:
                writer.write_table(batch)
        except (ValueError, TypeError) as error:
            raise _unreadable(error, count) from error
        count += _rows(batch)
    writer.finalize()


def _open(folder: Path) -> Any:
    return importlib.import_module("datasets").Dataset.from_file(str(folder / ROWS))


def record_use(folder: Path, digest: str) -> None:
    """Record that the data set of this digest is made of a kept stream."""
    (folder / USES).mkdir(exist_ok=True)
    (folder / USES / digest).touch()


def kept_stream(digest: str) -> Any:
    """The kept stream of which the data set of a digest was made; None if the cache has it no more."""
    for use in (cache_dir() / FOLDER).glob(f"*/{USES}/{digest}"):
        folder = use.parent.parent
        hold_entry(folder)
        if (folder / ROWS).exists():
            return _open(folder)
    return None
