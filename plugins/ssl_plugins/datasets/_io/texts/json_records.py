"""Texts in JSON: an object on each line, or a file that is an array of objects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
LOOK_RECORDS = 50  # that are searched for keys
LONG_TEXT = 20  # characters that a text has at least in the median, where its key is chosen by its length

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
        self.groups: list[str] | None = None  # the outer record of each, where records are nested

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
        option_keys |= {"id": options.id} if options.id else {}
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
        if self.groups is not None and "group" not in key_of and option_keys["group"] is None and entry.group is None:
            values["group"], key_of["group"] = self.groups, "group"
        for kind, option_key in option_keys.items():
            if option_key is not None and kind not in key_of:
                raise DataError(
                    f"{self.path} has no key '{option_key}' in any {self.unit}; set dataset.{kind} to its name"
                )
        self.columns = columns_of(list(names), self.keys, key_of)
        unused = [name for name in names if name not in (*self.keys, *options.drop_columns)]
        meant = {kind: similar_name(kind, unused) for kind in option_keys if kind not in key_of}
        self.findings = replace(
            self.findings,
            doubts={
                kind: f"{self.path} has no key '{kind}', but '{name}'; did you mean dataset.{kind}={name}? else name "
                f"it in dataset.drop_columns"
                for kind, name in meant.items()
                if name is not None and getattr(entry, kind) is None
            },
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


def read_json(
    path: Path, keys: Sequence[str], option_of: OptionOf, encoding: str | None, choose: bool = False
) -> JsonRecords:
    """Read a file of JSON. One that ends in .json may be an array, columns, or JSON lines.

    A key of objects in arrays in a record, such as `paragraphs.context`, makes each of these objects a record.

    Args:
        path: the file.
        keys: the keys of the texts.
        option_of: maps a key to its option's name, for messages.
        encoding: its encoding; None = it is detected.
        choose: whether the key of nested records that is read may be chosen if no record has the key.

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
    found_keys = list(keys)
    findings = Findings()
    if choose and not any(lookup(record, keys[0]) is not MISSING for record in records[:LOOK_RECORDS]):
        chosen = longest_nested_text(records[:LOOK_RECORDS])
        if chosen is not None:
            found_keys = [chosen]
            line = (
                f"key '{chosen}' of nested objects is read as the {option_of(keys[0])}; dataset.{option_of(keys[0])} "
            )
            findings = Findings(warnings={"key": line + "names another"})
    outer = _outer_key(value)
    found_keys = [key.removeprefix(f"{outer}.") if outer is not None else key for key in found_keys]
    records, groups = flatten(records, found_keys)
    name_of = dict(zip(found_keys, keys, strict=True))
    source = JsonArray(path, found_keys, lambda key: option_of(name_of[key]), records, found)
    facts = {"groups": "the outer objects of the texts"} if groups is not None else {}
    source.findings, source.groups = replace(findings, facts=facts), groups
    return source


def flatten(records: list[Any], keys: Sequence[str]) -> tuple[list[Any], list[str] | None]:
    """The objects of arrays in records as records, if keys lead through such arrays.

    A nested record has the keys of its outer records too; its own are named by their path, as in `paragraphs.context`.

    Returns:
        The records, and the name of the outermost record of each; None if they are not nested.
    """
    paths = [path for key in keys if (path := arrays_on_path(records, key)) is not None]
    path = max(paths, key=len, default=())
    if not path or any(path[: len(other)] != other for other in paths):
        return records, None
    groups = [_name_of_record(record, index) for index, record in enumerate(records)]
    for name in path:
        nested, names = [], []
        for record, group in zip(records, groups, strict=True):
            inner = lookup(record, name) if isinstance(record, dict) else MISSING
            kept = {key: each for key, each in record.items() if not isinstance(each, list)} if inner else {}
            for each in inner if isinstance(inner, list) else ():
                if isinstance(each, dict):
                    nested.append({**kept, **{f"{name}.{key}": value for key, value in each.items()}})
                    names.append(group)
        records, groups = nested, names
    return records, groups if len(set(groups)) > 1 else None


def arrays_on_path(records: Sequence[Any], key: str) -> tuple[str, ...] | None:
    """The keys of the arrays of objects that a key leads through; None if it leads to nothing.

    Each is the whole path, as in `("paragraphs", "paragraphs.qas")`.
    """
    for record in records[:LOOK_RECORDS]:
        node, path, done = record, list[str](), list[str]()
        for part in key.split("."):
            if isinstance(node, list) and not part.isdecimal():
                node = next((each for each in node if isinstance(each, dict)), None)
                path.append(".".join(done))
            node = lookup(node, part)
            done.append(part)
        if node is not MISSING:
            return tuple(path)
    return None


def longest_nested_text(records: Sequence[Any]) -> str | None:
    """The key of the longest texts, in the median, in objects in arrays in the records; None if all are short."""
    lengths: dict[str, list[int]] = {}

    def look(node: Any, path: str, depth: int) -> None:
        if isinstance(node, list) and depth < DEPTH + 1:
            for each in node[:LOOK_RECORDS]:
                if isinstance(each, dict):
                    for key, value in each.items():
                        look(value, f"{path}.{key}", depth + 1)
        elif isinstance(node, str) and depth:
            lengths.setdefault(path, []).append(len(node))

    for record in records:
        if isinstance(record, dict):
            for key, value in record.items():
                look(value, key, 0)
    medians = {path: float(np.median(each)) for path, each in lengths.items()}
    best = max(medians, key=lambda path: medians[path], default=None)
    return best if best is not None and medians[best] >= LONG_TEXT else None


def _name_of_record(record: Any, index: int) -> str:
    """The title or the like of a record, which files of other languages may share, else its number."""
    names = [record.get(key) for key in ("title", "id", "name")] if isinstance(record, dict) else []
    return next((name for name in names if isinstance(name, str) and name.strip()), str(index))


def _outer_key(value: Any) -> str | None:
    """The key of the only array of objects of an object."""
    if not isinstance(value, dict):
        return None
    keys = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    return keys[0] if len(keys) == 1 else None


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
