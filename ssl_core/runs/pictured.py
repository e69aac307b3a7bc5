"""What pictures take from the data set: names and units of columns and channels, raw recordings, names of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ssl_core.contracts import Tokenizer
from ssl_core.data import Split
from ssl_core.errors import BadSample
from ssl_core.pipeline.preprocess import sample_digest
from ssl_core.report.reconstruction import Reconstruction, SegmentValues, Sound
from ssl_core.runs.run import Run
from ssl_core.utils.console import as_utf8

SEARCHES = 100
"""Most raw samples that are read to find the one of a prepared row, where bad samples were skipped."""
Pictured = TypeVar("Pictured", Reconstruction, SegmentValues)
Column = Mapping[str, Any]


def add_names(run: Run, pictures: Sequence[Pictured]) -> list[Pictured]:
    """The segments that are drawn, with the names that the data set gives columns, categories and channels."""
    columns = [dict(column) for column in run.splits["train"].schema().get("columns", [])]
    numbers = [column for column in columns if column.get("kind", "number") in ("number", "channel")]
    categories = iter([column for column in columns if column.get("kind") == "category"])
    categorical = [one for one in pictures if one.target == "discrete" and len(one.style.names) == 1]
    named = len(categorical) == sum(column.get("kind") == "category" for column in columns)
    out = []
    for one in pictures:
        style = one.style
        if not style.drawn:
            continue
        if one.target == "discrete" and len(style.names) == 1 and named:
            column = next(categories)
            style = replace(style, names=(as_utf8(str(column["name"])),))
            one = _mapped(one, _category(column.get("categories", ())))
        elif one.target == "continuous" and style.names and len(style.names) == len(numbers):
            style = replace(style, names=tuple(as_utf8(str(column["name"])) for column in numbers))
            one = _mapped(one, _units(numbers))
        elif one.target == "continuous" and not style.names and _channels(one) == len(numbers) > 1:
            style = replace(style, channels=tuple(as_utf8(str(column["name"])) for column in numbers))
        out.append(replace(one, style=style))
    return out


def _channels(picture: Pictured) -> int:
    values = picture.original if isinstance(picture, Reconstruction) else picture.values
    return int(values.shape[1]) if values.ndim > 2 else 0


def _mapped(picture: Pictured, function: Callable[[np.ndarray], np.ndarray]) -> Pictured:
    """The same with other values."""
    names = ("original", "masked", "reconstruction") if isinstance(picture, Reconstruction) else ("values",)
    changes: dict[str, Any] = {name: function(getattr(picture, name)) for name in names}
    return replace(picture, **changes)


def _category(names: Sequence[Any]) -> Callable[[np.ndarray], np.ndarray]:
    """Ids as names. Id 0 is a missing or unknown category, as data sets of tables have it."""
    texts = ["missing", *(as_utf8(str(name)) for name in names)]

    def to_names(ids: np.ndarray) -> np.ndarray:
        return np.array([[texts[i] if 0 <= i < len(texts) else str(i) for i in row] for row in ids.tolist()])

    return to_names


def _units(columns: Sequence[Column]) -> Callable[[np.ndarray], np.ndarray]:
    """Numbers (n, 1, columns) in the units of the file, which a data set may have shifted and scaled."""
    shift = np.array([float(column.get("shift", 0)) for column in columns])
    scale = np.array([float(column.get("scale", 1)) for column in columns])
    return lambda values: values * scale + shift


# --- raw samples -----------------------------------------------------------------------------------------------------


def dataset_index(run: Run, split: Split, row: int) -> int | None:
    """The number in the data set of a prepared sample, which differs from its row if bad samples were skipped.

    None if it is not found among SEARCHES samples.
    """
    data, dataset = run.data[split], run.splits[split]
    if not data.bad:
        return row
    if data.digests is None:
        return None
    for index in range(row, min(row + data.bad + 1, row + SEARCHES, len(dataset))):
        try:
            prepared = run.learner.tokenizer.preprocess(dataset[index]["inputs"])
        except BadSample:
            continue
        if sample_digest(prepared) == int(data.digests[row]):
            return index
    return None


def describe(run: Run, split: Split, row: int) -> str:
    """The name of a prepared sample: a path, a row."""
    index = dataset_index(run, split, row)
    return f"row {row} of the {split} split" if index is None else as_utf8(run.splits[split].describe(index))


def recordings(run: Run, rows: Sequence[tuple[Split, int]]) -> Iterator[tuple[int, Sound]]:
    """The raw recordings of prepared samples, each with its place in `rows`; none for data that is no sound."""
    tokenizer = run.learner.tokenizer
    if type(tokenizer).recording is Tokenizer.recording:
        return
    for place, (split, row) in enumerate(rows):
        index = dataset_index(run, split, row)
        sound = None if index is None else tokenizer.recording(run.splits[split][index]["inputs"])
        if sound is not None:
            yield place, sound


def add_recordings(run: Run, pictures: Sequence[Reconstruction], split: Split, count: int) -> list[Reconstruction]:
    """Reconstructions of the first samples of a split, with the raw recordings of the first `count` of them.

    They belong to the first segment that has a sound.
    """
    place = next((number for number, one in enumerate(pictures) if one.rebuilt), 0)
    sounds = dict(recordings(run, [(split, row) for row in range(count)])) if pictures else {}
    return [replace(one, recordings=sounds) if n == place and sounds else one for n, one in enumerate(pictures)]
