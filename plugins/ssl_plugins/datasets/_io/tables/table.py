"""A table of the user in any format, recognised by its content and read in blocks of columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ssl_core import DataError, nearest
from ssl_plugins.datasets._io.arrow import pa, pc
from ssl_plugins.datasets._io.files.kind import FileKind, file_kind, read_head, uncompressed_name
from ssl_plugins.datasets._io.splitting import SPLIT_NAMES
from ssl_plugins.datasets._io.tables.columns import as_names, class_names_in, is_text, named_classes, numeric_share
from ssl_plugins.datasets._io.tables.dialect import DELIMITERS, UNNAMED, Dialect, detect_dialect
from ssl_plugins.datasets._io.tables.encoding import decode_head
from ssl_plugins.datasets._io.tables.formats import ArrowFormat, Block, CsvFormat, Format, ParquetFormat
from ssl_plugins.datasets._io.tables.options import METADATA_COLUMNS, TableOptions
from ssl_plugins.datasets._io.tables.records import JsonLinesFormat, RecordsFormat, read_excel, read_json

ENDINGS = {"parquet": (".parquet", ".pq"), "arrow": (".feather", ".arrow"), "arrow-stream": (".arrow", ".arrows"),
           "xlsx": (".xlsx", ".xlsm"), "csv": (), "json": (".json", ".jsonl", ".ndjson")}  # fmt: skip
WORDS = {"parquet": "Parquet", "arrow": "Feather", "arrow-stream": "an Arrow stream", "xlsx": "Excel", "json": "JSON"}
SIMILAR_NAMES = {
    "label": ("labels", "class", "classes", "target", "targets", "response", "outcome"),
    "group": ("groups",),
    "split": (),
    "id": ("ids",),
}
"""Names of columns that may be meant, beside the name in another case."""
SPLIT_COLUMNS = ("set", "sets", "splits", "subset", "partition", "phase")
"""Columns that name the split if there is none called split, and they hold nothing but names of splits."""
VALIDATION_COLUMNS = ("validation", "is_validation", "is_val", "val")
"""Columns of true and false that name the rows of the training split which are for validation."""
MOST_HEAD_BYTES = 1 << 28
"""What is looked at of a CSV file whose header is longer than the beginning from which its format is detected."""
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")

__all__ = ["Block", "Table", "similar_name"]


class Table:
    """A CSV, JSON, Parquet, Feather or Excel file.

    The format is that of the file's content; a CSV file's encoding, separators and header are detected unless the
    options name them. Columns without a name that count the rows are left out.

    Args:
        path: the file.
        columns: names of the columns of a CSV file without a header line.
        delimiter: column separator of a CSV file.
        options: all options; it replaces the other two.

    Attributes:
        columns: names of the columns.
        left_out: columns that are no data, with the reason.
        types: pyarrow type of each column; empty if all are texts.
        facts, warnings, doubts: what is not plain of the file, by kind.

    Raises:
        DataError: the file cannot be read, is no table, or has two columns of one name.
    """

    def __init__(
        self, path: Path, columns: Sequence[str] = (), delimiter: str | None = None, options: TableOptions | None = None
    ) -> None:
        self.path = path
        self.options = options or TableOptions(columns=tuple(columns), delimiter=delimiter)
        kind = file_kind(path)
        self.found = Dialect()
        self.format = self._open(kind)
        self.parquet = kind.format == "parquet"
        names = self.format.names
        duplicates = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if duplicates:
            raise DataError(f"{path} has two columns '{min(duplicates)}'; rename one")
        self.left_out = self.found.left_out
        for name in names:
            if not isinstance(self.format, CsvFormat) and UNNAMED.fullmatch(name):
                self.left_out[name] = "is the index of the rows"
        self.columns = [name for name in names if name not in self.left_out]
        self.types = self.format.types
        self.facts, self.doubts = self.found.facts, self.found.doubts
        self.numeric_texts: dict[str, bool] = {}  # whether a column of text holds numbers, by its first block
        self.split_column, self.validation_column = self._find_split()
        self.label_column = str(getattr(self.options, "label", None) or "label")
        self.class_names = class_names_in(getattr(self.format, "metadata", None), self.label_column)

    @classmethod
    def open(cls, path: Path, options: Any) -> Table:
        """A table as the options of a data set say; see `TableOptions`."""
        return cls(path, options=options)

    @property
    def warnings(self) -> dict[str, str]:
        """Lines on what was left out, by kind; complete once all blocks are read."""
        return getattr(self.format, "warnings", {})

    def _open(self, kind: FileKind) -> Format:
        path, options, name = self.path, self.options, uncompressed_name(self.path)
        if kind.format in ("parquet", "arrow", "arrow-stream"):
            self._note_format(kind.format)
            return ParquetFormat(path) if kind.format == "parquet" else ArrowFormat(path, kind.format == "arrow-stream")
        if kind.format == "xlsx":
            self._note_format("xlsx")
            return read_excel(path, options, self.found)
        named = next((kind for kind, endings in ENDINGS.items() if endings and name.endswith(endings)), None)
        if named not in (None, "json"):
            raise DataError(
                f"{path} is no {WORDS[str(named)]} file, though its name says so; it holds text: rename it to .csv, or "
                f"fetch it again"
            )
        text, encoding, doubt = decode_head(path, kind.head, kind.is_complete, options.encoding)
        first = text.lstrip()[:1]
        if first == "{" or (first == "[" and (named == "json" or re.match(r"\s*\[\s*\{", text))):
            self._note_format("json")
            self.found.facts |= {"encoding": encoding} if encoding != "utf-8" else {}
            self.found.doubts |= {"encoding": doubt} if doubt else {}
            if first == "{" and _is_json_lines(text, kind.is_complete):
                return JsonLinesFormat(path, kind.compression, encoding)
            return read_json(path, kind.compression, encoding, options.columns)
        if named == "json" and text.strip():
            raise DataError(f"{path} is no JSON, though its name says so: it begins with {text.strip()[:20]!r}")
        is_tsv = name.endswith((".tsv", ".tab"))
        head, is_complete = _head_of_rows(path, kind, options.skip_rows)
        self.found = detect_dialect(path, head, is_complete, options, "\t" if is_tsv else ",")
        self._check_delimiter()
        return CsvFormat(path, kind.compression, self.found, check_quotes=options.quoting == "auto")

    def _check_delimiter(self) -> None:
        """Refuse a single name that holds another delimiter, if rows do not agree on that one."""
        names, own = self.found.names, self.found.delimiter
        if self.options.delimiter or self.options.columns or len(names) != 1:
            return
        for delimiter in DELIMITERS:
            if delimiter != own and delimiter in names[0]:
                other, same = (f"'dataset.delimiter={json.dumps(sign)}'" for sign in (delimiter, own))
                raise DataError(
                    f"{self.path} has a single column {names[0]!r:.60}; set {other}, or {same} if that is its name"
                )

    def _note_format(self, name: str) -> None:
        """Record a format that the file's name does not say."""
        if not uncompressed_name(self.path).endswith(ENDINGS[name]):
            self.found.facts["format"] = WORDS[name]

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The columns in blocks of rows: strings from CSV, JSON and Excel, the file's own types from the others.

        Numbers in strings are written plainly, 1234.5, whatever the style of the file.

        Raises:
            DataError: the file cannot be read.
        """
        style, validation = self.found.style, self.validation_column
        is_merged = validation is not None and self.split_column in columns
        needed = [*columns, validation] if is_merged and validation not in columns else columns
        for block in self.format.blocks([name for name in needed if name is not None]):
            if not style.is_plain:
                block = {name: self._plain(name, column) for name, column in block.items()}
            if self.label_column in block:
                block[self.label_column] = named_classes(block[self.label_column], self.class_names)
            if is_merged:
                merged = _with_validation(block[str(self.split_column)], block[str(validation)])
                block = {name: merged if name == self.split_column else block[name] for name in columns}
            yield block

    def _find_split(self) -> tuple[str | None, str | None]:
        """The column of the split, and one of true and false for the rows of training that are for validation."""
        split = getattr(self.options, "split", None)
        if split is None:
            split = "split" if "split" in self.columns else self._first_with(SPLIT_COLUMNS, _are_splits)
            if split not in (None, "split"):
                self.facts["split column"] = str(split)
        if split not in self.columns:
            return None, None
        validation = self._first_with(VALIDATION_COLUMNS, _are_booleans)
        if validation is not None:
            self.facts["validation column"] = validation
            self.left_out[validation] = "marks the rows for validation"
            self.columns.remove(validation)
        return split, validation

    def _first_with(self, names: Sequence[str], holds: Callable[[set[str]], bool]) -> str | None:
        """The column of one of the names, in any case, whose first values are as they must be."""
        free = {name.lower(): name for name in reversed(self.columns) if name not in self._named_columns()}
        for column in (free[name] for name in names if name in free):
            block = next(self.format.blocks([column]), None)
            if block is None or pa.types.is_nested(block[column].type):
                continue
            values = as_names(block[column], ()).fill_null("").unique().to_pylist()
            if holds({value.strip().lower() for value in values}):
                return column
        return None

    def release(self) -> None:
        """Free what a format holds in memory, once all blocks are read."""
        if isinstance(self.format, RecordsFormat):
            self.format.release()

    def _plain(self, name: str, column: Any) -> Any:
        """A column of text with plain numbers, if most of the values of its first block are numbers."""
        if not is_text(column.type) or self.numeric_texts.get(name) is False:
            return column
        plain = self.found.style.convert(column)
        if name not in self.numeric_texts:
            self.numeric_texts[name] = numeric_share(plain) > 0.5
        return plain if self.numeric_texts[name] else column

    def require(self, column: str, option: str, cure: str = "") -> str:
        """Return `column`.

        Raises:
            DataError: the table has no such column.
        """
        if column not in self.columns and column not in self.left_out:
            known = nearest(column, self.columns, "column")
            raise DataError(f"{self.path} has no column '{column}'; set dataset.{option} to its name: {known}{cure}")
        return column

    def metadata_columns(
        self, label: str | None, group: str | None, split: str | None, row_id: str | None = None
    ) -> dict[str, str]:
        """Map "label", "group" and "split" to the columns that the options name, else to those of the same name.

        With a `row_id`, "id" is mapped to that column. A column of a similar name, such as Label or target, is a doubt.
        """
        columns = {}
        for kind, name in zip(METADATA_COLUMNS, (label, group, split), strict=True):
            if name is not None:
                columns[kind] = self.require(name, kind)
            elif kind == "split" and self.split_column is not None:
                columns[kind] = self.split_column
            elif kind in self.columns:
                columns[kind] = kind
            elif similar := similar_name(kind, [name for name in self.columns if name not in self._named_columns()]):
                self.doubts[kind] = (
                    f"{self.path} has no column '{kind}', but '{similar}'; did you mean dataset.{kind}={similar}? else "
                    f"name it in dataset.drop_columns"
                )
        if row_id is not None:
            columns["id"] = self.require(row_id, "id")
        return columns

    def _named_columns(self) -> set[str]:
        """Columns whose use the options name."""
        options = ("drop_columns", "numeric", "categorical", "channels")
        return {name for option in options for name in getattr(self.options, option, ())}


def _head_of_rows(path: Path, kind: FileKind, lines: int) -> tuple[bytes, bool]:
    """The first bytes of a text, more than `kind` has if these hold no row behind a long header; whether they are all.

    Args:
        path: the file.
        kind: its format and its head.
        lines: how many lines are above the header.

    Raises:
        DataError: the file cannot be read.
    """
    head, is_complete, size = kind.head, kind.is_complete, len(kind.head)
    while not is_complete and size < MOST_HEAD_BYTES and head.count(b"\n") + head.count(b"\r") < lines + 3:
        size *= 4
        head = read_head(path, size)[1]
        is_complete = len(head) < size
    return head, is_complete


def similar_name(kind: str, columns: Sequence[str]) -> str | None:
    """The column that may be meant by "label", "group", "split" or "id": of this name in another case, or similar."""
    names = (kind, *SIMILAR_NAMES[kind])
    found = {name.lower(): name for name in reversed(columns)}
    return next((found[name] for name in names if name in found), None)


def _are_splits(values: set[str]) -> bool:
    return "train" in values and len(values) > 1 and values <= set(SPLIT_NAMES)


def _are_booleans(values: set[str]) -> bool:
    return values <= {*TRUE, *FALSE} and bool(values & set(TRUE))


def _with_validation(split: Any, validation: Any) -> Any:
    """The split of each row: "validation" for rows of training that a column of true and false marks."""
    names = as_names(split)
    marked = pc.is_in(pc.utf8_lower(as_names(validation, ())), value_set=pa.array(TRUE, pa.string()))
    is_train = pc.equal(pc.utf8_lower(names), "train")
    return pc.if_else(pc.and_(marked, pc.fill_null(is_train, False)), "validation", names)


def _is_json_lines(text: str, is_complete: bool) -> bool:
    """Whether each line is an object: the first is a whole one, or the file goes on behind what was read of it."""
    line = text.lstrip().split("\n", 1)[0]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return not is_complete and "\n" not in text.strip()
    if not isinstance(value, dict):
        return False
    has_more = bool(text.lstrip()[len(line) :].strip())
    return has_more or not any(isinstance(part, dict | list) for part in value.values())
