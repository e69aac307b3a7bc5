"""Fetch text from the Hugging Face hub as JSON lines, for `sslx data prepare`.

Reading the fetched files needs nothing of this module.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_core import DataError


def datasets_library() -> Any:
    """The package `datasets` of Hugging Face.

    Raises:
        DataError: if it is not installed. The message names the command that installs it.
    """
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            "this data set is fetched by the package 'datasets' of Hugging Face; run `pip install 'sslx[text]'`"
        ) from None


def hub_rows(
    path: str, config: str, split: str, columns: Sequence[str], classes: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a split with the given columns. A label becomes its index in `classes`.

    Raises:
        DataError: if the hub fails, a column is missing, or the hub's classes are not `classes`.
    """
    table = call_hub(f"{path} ({config}, {split})", lambda: datasets_library().load_dataset(path, config, split=split))
    names = getattr((table.features or {}).get("label"), "names", None)
    accepted = {*classes, *map(str, range(len(classes)))}
    if names and classes and (len(names) != len(classes) or not accepted.issuperset(names)):
        raise DataError(f"{path} ({config}, {split}) has the classes {', '.join(names)}, not {', '.join(classes)}")
    order = {
        number: list(classes).index(name) if name in classes else int(name)
        for number, name in enumerate(names if names and classes else ())
    }
    missing = sorted(set(columns) - set(table.features or columns))
    if missing:
        raise DataError(f"{path} ({config}, {split}) has no column '{missing[0]}'")
    for row in table:
        values = {column: row[column] for column in columns}
        if "label" in values:
            values["label"] = order.get(values["label"], values["label"])
        yield values


def call_hub(name: str, request: Callable[[], Any]) -> Any:
    """The result of a request to the hub.

    Args:
        name: data set, for the message.
        request: function that calls the hub.

    Raises:
        DataError: for any error of the request, in one line.
    """
    try:
        return request()
    except DataError:
        raise
    except Exception as error:  # the package raises bare exceptions, and those of many other packages
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"the Hugging Face hub did not hand over {name}: {reason}") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines, all or none. Returns their number."""
    rows = iter(rows)
    first = list(itertools.islice(rows, 1))  # before the folder is created: an unreachable hub leaves nothing
    path.parent.mkdir(parents=True, exist_ok=True)
    part, count = path.with_name(path.name + ".part"), 0
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for row in itertools.chain(first, rows):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count
