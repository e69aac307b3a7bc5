"""The Hugging Face hub, from which `sslx data prepare` fetches text (protocol sections 2.6 and 2.7) as JSON lines.

Nothing here is needed to read what was fetched.
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


def library() -> Any:
    """Hugging Face `datasets`. Errors: DataError that says how to install it."""
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            "this data set comes through the package 'datasets' of Hugging Face; run `pip install 'sslx[text]'`"
        ) from None


def hub_rows(
    path: str, config: str, split: str, columns: Sequence[str], classes: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Some columns of a whole split. Errors: DataError, also if its classes are others than `classes`."""
    table = asked(f"{path} ({config}, {split})", lambda: library().load_dataset(path, config, split=split))
    names = getattr((table.features or {}).get("label"), "names", None)
    known = {*classes, *map(str, range(len(classes)))}
    if names and classes and (len(names) != len(classes) or not known.issuperset(names)):
        raise DataError(f"{path} ({config}, {split}) has the classes {', '.join(names)}, not {', '.join(classes)}")
    order = {
        number: list(classes).index(name) if name in classes else int(name)
        for number, name in enumerate(names if names and classes else ())
    }
    missing = sorted(set(columns) - set(table.features or columns))
    if missing:
        raise DataError(f"{path} ({config}, {split}) has no column '{missing[0]}'")
    for row in table:
        picked = {column: row[column] for column in columns}
        if "label" in picked:
            picked["label"] = order.get(picked["label"], picked["label"])
        yield picked


def asked(what: str, question: Callable[[], Any]) -> Any:
    """The hub's answer. Errors: DataError in one line for whatever goes wrong there."""
    try:
        return question()
    except DataError:
        raise
    except Exception as error:  # the library raises bare exceptions, and those of a dozen other libraries
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"the Hugging Face hub did not hand over {what}: {said}") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """JSON lines, whole or not at all; returns how many."""
    rows = iter(rows)
    first = list(itertools.islice(rows, 1))  # a hub that cannot be reached leaves not even a folder
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, count = path.with_name(path.name + ".part"), 0
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for row in itertools.chain(first, rows):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return count
