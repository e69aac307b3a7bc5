"""Texts in JSON: an object on each line, or a file that is an array of objects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import BadSample, Column, DataError, nearest
from ssl_plugins.datasets._io.arrow import pa
from ssl_plugins.datasets._io.files.kind import uncompressed_name
from ssl_plugins.datasets._io.files.listing import FileEntry
from ssl_plugins.datasets._io.label_lists import LabelLists
from ssl_plugins.datasets._io.tables.row_metadata import MetadataCollector
from ssl_plugins.datasets._io.tables.table import similar_name
from ssl_plugins.datasets._io.texts.encodings import Encoding, decode, read_bytes, with_compressions
from ssl_plugins.datasets._io.texts.lines import Findings, TextLines, columns_of
from ssl_plugins.datasets._io.user_data import RowOptions

JSON_EXTENSIONS = with_compressions((".jsonl", ".ndjson", ".json"))
NAMES_FROM = 1000  # records whose keys are listed
DEPTH = 3  # of nested keys in a hint

OptionOf = Callable[[str], str]


class JsonRecords:
    """Records of keys and values. The texts are the values of `keys`; "a.b" is the key b of the object a.

    Args:
        path: the file.
        keys: the keys of the texts.
        option_of: maps a key to its option's name, for messages.
    """

    unit = ""
    line_numbers: np.ndarray | None = None
    encoding: Encoding | None = None

    def __init__(self, path: Path, keys: Sequence[str], option_of: OptionOf) -> None:
        self.path, self.keys = path, list(keys)
        self.option_of = {key: option_of(key) for key in keys}
        self.columns: tuple[Column, ...] = ()
        self.findings = Findings()

    def __len__(self) -> int:
        raise NotImplementedError

    def _record(self, index: int) -> Any:
        """One record.

        Raises:
            DataError: it is no JSON.
        """
        raise NotImplementedError

    def location(self, index: int) -> str:
        """File and place of a record."""
        raise NotImplementedError

    def entry(self, index: int) -> dict[str, Any]:
        """One object.

        Raises:
            DataError: the record is not a JSON object, or lacks a key.
        """
        entry = self._record(index)
        if not isinstance(entry, dict):
            each = "line is one object" if self.unit == "line" else "entry of the array is an object"
            raise DataError(f"{self.location(index)} is no JSON object but a {type(entry).__name__}; each {each}")
        for key in self.keys:
            if lookup(entry, key) is MISSING:
                known = nearest(key, nested_keys(entry), "key")
                raise DataError(
                    f"{self.location(index)} has no key '{key}'; set dataset.{self.option_of[key]} to its name: {known}"
                )
        return entry

    def collect_metadata(
        self, metadata: MetadataCollector, options: RowOptions, entry: FileEntry, lists: LabelLists | None = None
    ) -> None:
        """Append label, group and split of all records, and set `columns`.

        Args:
            metadata: receives names and numbers.
            options: the options of the data set.
            entry: the file.
            lists: receives the labels if there is a list among them, which is refused without it.

        Raises:
            DataError: a record is invalid, or none has a key that an option names.
        """
        if not len(self):
            return
        option_keys = {"label": options.label, "group": options.group, "split": options.split}
        values: dict[str, list[Any]] = {kind: [] for kind in option_keys}
        names: dict[str, None] = {}
        for index in range(len(self)):
            record = self.entry(index)
            if index < NAMES_FROM:
                names |= dict.fromkeys(nested_keys(record))
            for kind, key in option_keys.items():
                values[kind].append(_present(lookup(record, key or kind)))
        key_of = {kind: key or kind for kind, key in option_keys.items()}
        key_of = {kind: key for kind, key in key_of.items() if any(value is not None for value in values[kind])}
        for kind, option_key in option_keys.items():
            if option_key is not None and kind not in key_of:
                raise DataError(
                    f"{self.path} has no key '{option_key}' in any {self.unit}; set dataset.{kind} to its name"
                )
        self.columns = columns_of(list(names), self.keys, key_of)
        unused = [name for name in names if name not in (*self.keys, *options.drop_columns)]
        meant = {kind: similar_name(kind, unused) for kind in option_keys if kind not in key_of}
        self.findings = Findings(
            doubts={
                kind: f"{self.path} has no key '{kind}', but '{name}'; did you mean dataset.{kind}={name}? else name "
                f"it in dataset.drop_columns"
                for kind, name in meant.items()
                if name is not None and getattr(entry, kind) is None
            }
        )
        if lists is not None and lists.append(values["label"], self.location):
            key_of.pop("label")
            values["label"] = [None] * len(self)
        block = {
            key_of.get(kind, kind): pa.array(
                [self._name(value, kind, row) for row, value in enumerate(column)], pa.string()
            )
            for kind, column in values.items()
        }
        metadata.append(block, key_of, entry, self.location)

    def _name(self, value: Any, kind: str, index: int) -> str | None:
        """The value of a label, group or split as a name; None if it is missing."""
        if isinstance(value, list | dict):
            inner = next(nested_keys(value), "KEY") if isinstance(value, dict) else "0"
            raise DataError(
                f"{self.location(index)}: the {kind} is {json.dumps(value, ensure_ascii=False):.40}, not one name or "
                f"number; dataset.{kind}={kind}.{inner} is a value in it"
            )
        return None if value is None else str(value)

    def texts(self, index: int) -> list[str]:
        """The values of the keys; null is an empty text.

        Raises:
            BadSample: a value is not text.
        """
        entry = self.entry(index)
        values = [lookup(entry, key) for key in self.keys]
        for key, value in zip(self.keys, values, strict=True):
            if not isinstance(value, str | None):
                raise BadSample(f"'{key}' is {json.dumps(value, ensure_ascii=False):.40}, not text")
        return [value or "" for value in values]


class JsonLines(JsonRecords):
    """A JSON object on each line."""

    unit = "line"

    def __init__(self, path: Path, keys: Sequence[str], option_of: OptionOf, encoding: str | None = None) -> None:
        super().__init__(path, keys, option_of)
        self.lines = TextLines(path, encoding)
        self.line_numbers, self.encoding = self.lines.line_numbers, self.lines.encoding

    def __len__(self) -> int:
        return len(self.lines)

    def location(self, index: int) -> str:
        """File and line."""
        return f"{self.path} line {self.lines.line_numbers[index]}"

    def _record(self, index: int) -> Any:
        try:
            return json.loads(self.lines.line(index))
        except (ValueError, RecursionError, BadSample) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.location(index)} is no JSON ({reason}); fix or remove it") from None


class JsonArray(JsonRecords):
    """A file that is an array of objects, or an object that holds such an array or columns. It is held in memory."""

    unit = "entry"

    def __init__(
        self, path: Path, keys: Sequence[str], option_of: OptionOf, records: list[Any], encoding: Encoding
    ) -> None:
        super().__init__(path, keys, option_of)
        self.records, self.encoding = records, encoding

    def __len__(self) -> int:
        return len(self.records)

    def location(self, index: int) -> str:
        """File and number of the entry."""
        return f"{self.path} entry {index + 1}"

    def _record(self, index: int) -> Any:
        return self.records[index]


def _present(value: Any) -> Any:
    """The value; None if it is missing or NaN."""
    return None if value is MISSING or (isinstance(value, float) and math.isnan(value)) else value


class _Missing:
    """The value of a key that is not there."""


MISSING = _Missing()


def lookup(record: Any, key: str) -> Any:
    """The value of a key, else of the path "a.b" through objects and arrays; MISSING if there is none."""
    if isinstance(record, dict) and key in record:
        return record[key]
    head, dot, rest = key.partition(".")
    if isinstance(record, list) and head.isdecimal() and int(head) < len(record):
        record, found = record[int(head)], True
    elif isinstance(record, dict) and head in record and dot:
        record, found = record[head], True
    else:
        found = False
    if not found:
        return MISSING
    return lookup(record, rest) if dot else record


def nested_keys(record: Mapping[str, Any], depth: int = DEPTH) -> Iterator[str]:
    """The keys of an object and, after a dot, those of the objects in it."""
    for key, value in record.items():
        if isinstance(value, dict) and value and depth > 1:
            yield from (f"{key}.{below}" for below in nested_keys(value, depth - 1))
        else:
            yield key


def read_json(path: Path, keys: Sequence[str], option_of: OptionOf, encoding: str | None) -> JsonRecords:
    """Read a file of JSON. One that ends in .json may be an array, columns, or JSON lines.

    Raises:
        DataError: the file cannot be read.
    """
    if not uncompressed_name(path).endswith(".json"):
        return JsonLines(path, keys, option_of, encoding)
    text, found = decode(path, read_bytes(path), encoding)
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        first = next((line for line in text.splitlines() if line.strip()), "")
        if _is_object(first):
            return JsonLines(path, keys, option_of, encoding)
        raise DataError(f"{path} is no JSON ({' '.join(str(error).split())}); fix it, or remove the file") from None
    records = _records(value)
    if records is None:
        raise DataError(
            f"{path} holds a JSON {'object' if isinstance(value, dict) else type(value).__name__} and no array of "
            f"objects; save it as JSON lines or as [{{...}}, {{...}}]"
        )
    return JsonArray(path, keys, option_of, records, found)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line.removeprefix("\ufeff")), dict)
    except (ValueError, RecursionError):
        return False


def _records(value: Any) -> list[Any] | None:
    """The records of an array; of an object with a single array of objects; or of columns, as pandas writes them."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value:
        return None
    arrays = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    if len(arrays) == 1:
        return arrays[0]
    columns = list(value.values())
    if all(isinstance(column, dict) for column in columns) and len({tuple(column) for column in columns}) == 1:
        value, columns = {name: list(column.values()) for name, column in value.items()}, []
    if all(isinstance(column, list) for column in value.values()) and len({len(c) for c in value.values()}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return [value]
