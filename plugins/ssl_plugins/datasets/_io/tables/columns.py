"""Converts columns of a table, which are pyarrow arrays, to texts, names and numbers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.arrow import pa, pc

MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "null", "NULL", "None")
MOST_SAMPLED = 2000  # different values of a column that are looked at
NEARLY_ALL = 0.9
BLANKS = " \u00a0\u202f"
APOSTROPHES = "'\u2019"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DATE = re.compile(
    rf"\d{{1,2}}[-/. ]*{MONTH}[-/. ,]*\d{{2,4}}|{MONTH} \d{{1,2}},? \d{{2,4}}|"
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\S*)?"
)
GROUPED = (  # numbers with separators: pattern, and the options with which they are read
    (re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?"), {"thousands": ","}),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+"), {"thousands": ".", "decimal": ","}),
    (re.compile(r"[+-]?\d{1,3}(\.\d{3}){2,}"), {"thousands": "."}),
    (re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?"), {"decimal": ","}),
    (re.compile(rf"[+-]?\d{{1,3}}([{BLANKS}]\d{{3}})+(\.\d+)?"), {"thousands": " "}),
    (re.compile(rf"[+-]?\d{{1,3}}([{BLANKS}]\d{{3}})+,\d+"), {"thousands": " ", "decimal": ","}),
    (re.compile(rf"[+-]?\d{{1,3}}([{APOSTROPHES}]\d{{3}})+(\.\d+)?"), {"thousands": "'"}),
)
AMBIGUOUS = re.compile(r"[+-]?\d{1,3},\d{3}")  # a thousand and something, or one and something


@dataclass(frozen=True)
class NumberStyle:
    """How numbers are written. decimal: decimal separator; thousands: separator of groups; units: signs to remove."""

    decimal: str = "."
    thousands: str | None = None
    units: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as in most files: 1234.5."""
        return self.decimal == "." and not self.thousands and not self.units

    def convert(self, column: Any) -> Any:
        """The texts of a column with the numbers of this style written plainly; others are unchanged."""
        text = pc.utf8_trim_whitespace(column)
        for unit in self.units:
            text = pc.utf8_trim_whitespace(pc.replace_substring(text, unit, ""))
        decimal = f"[{_escaped(self.decimal)}]"
        whole = r"\d+"
        if self.thousands:
            group = "[" + {" ": BLANKS, "'": APOSTROPHES}.get(self.thousands, _escaped(self.thousands)) + "]"
            whole = rf"(?:\d{{1,3}}(?:{group}\d{{3}})+|\d+)"
        pattern = rf"^[+-]?(?:{whole}(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?$"
        is_number = pc.match_substring_regex(text, pattern)
        plain = pc.replace_substring_regex(text, group, "") if self.thousands else text
        plain = pc.replace_substring(plain, self.decimal, ".")
        return pc.if_else(is_number, plain, column)


def _escaped(character: str) -> str:
    """A character within the brackets of a regular expression."""
    return character if character.isalnum() or character.isspace() else "\\" + character


def class_names_in(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The names of the classes that Hugging Face's metadata of a schema gives for a column; empty if there are none."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        return tuple(str(name) for name in feature["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def named_classes(column: Any, names: Sequence[str]) -> Any:
    """A column of class numbers as their names; -1 and other numbers without a name are missing."""
    if not names or not pa.types.is_integer(column.type):
        return column
    known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
    indices = pc.if_else(known, column, pa.scalar(None, column.type))
    return pa.array(list(names), pa.string()).take(indices)


def decode_dictionary(column: Any) -> Any:
    """A column of categories as the values themselves."""
    return pc.dictionary_decode(column) if pa.types.is_dictionary(column.type) else column


def is_text(kind: Any) -> bool:
    """Whether a pyarrow type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: Any) -> bool:
    """Whether a pyarrow type is a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_text(column: Any) -> Any:
    """Convert a column to strings; missing values and NaN become null.

    Raises:
        DataError: its values are no single values.
    """
    if pa.types.is_string(column.type):
        return column
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False")  # as pandas writes them to CSV
    try:
        text = column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise DataError(f"a column of type {column.type} cannot be read as text; write it as text or numbers") from None
    if pa.types.is_floating(column.type):
        is_nan = np.isnan(column.to_numpy(zero_copy_only=False))
        text = pc.if_else(pa.array(is_nan), pa.scalar(None, pa.string()), text)
    return text


def as_names(column: Any, missing: Sequence[str] = ("",)) -> Any:
    """Convert a column to stripped strings; values in `missing` become null."""
    names = pc.utf8_trim_whitespace(as_text(column))
    return pc.if_else(pc.is_in(names, value_set=pa.array(list(missing), pa.string())), pa.scalar(None), names)


def without_missing(column: Any, missing: Sequence[str]) -> Any:
    """A column of a type of numbers, with null where a value equals one of the texts in `missing` as a number."""
    numbers = _numbers_in(tuple(missing)) if is_number(column.type) else ()
    if not numbers:
        return column
    kind = column.type.to_pandas_dtype() if pa.types.is_floating(column.type) else np.float64
    with np.errstate(over="ignore"):
        rounded = np.array(numbers).astype(kind).astype(np.float64)  # as the column holds -999.9
    values = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_in(values, value_set=pa.array(rounded)), pa.scalar(None, pa.float64()), values)


@lru_cache
def _numbers_in(texts: tuple[str, ...]) -> tuple[float, ...]:
    """Those of some texts that are numbers, infinity included."""
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text))
        except ValueError:
            continue
    return tuple(number for number in numbers if not np.isnan(number))


def as_numbers(column: Any, missing: Sequence[str] = MISSING) -> tuple[np.ndarray, int | None]:
    """Convert a column to (n,) float64 with NaN where missing.

    Returns:
        The numbers, and the index of the first value that is not a number, or None.
    """
    if not is_text(column.type):
        known = without_missing(column, missing)
        return known.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), None
    names = as_names(column, missing)
    try:
        return names.cast(pa.float64()).to_numpy(zero_copy_only=False), None
    except pa.ArrowInvalid:
        import pandas as pd  # slow to import

        values = pd.to_numeric(names.to_pandas(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        invalid = np.flatnonzero(np.isnan(values) & names.is_valid().to_numpy(zero_copy_only=False))
        return values, int(invalid[0]) if len(invalid) else None


def as_numbers_together(columns: Sequence[Any], missing: Sequence[str] = MISSING) -> np.ndarray | None:
    """Convert k columns of strings of one length at once to (k, n) float64 with NaN where missing.

    None if they are not of one type, or if a value needs a look at its column alone; see `as_numbers`.
    """
    if len({column.type for column in columns}) > 1 or not is_text(columns[0].type):
        return None
    try:
        names = as_names(pa.concat_arrays(columns), missing)
        values: np.ndarray = names.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None
    return values.reshape(len(columns), -1)


def numeric_share(column: Any, missing: Sequence[str] = MISSING) -> float:
    """Share of numbers among the values that are not missing.

    1 if all values are missing, NaN if the column's type is neither numeric nor text.
    """
    if pa.types.is_boolean(column.type):
        return 0.0
    if is_number(column.type) or pa.types.is_null(column.type):
        return 1.0
    if not is_text(column.type):
        return float("nan")
    names = as_names(column, missing)
    count = len(names) - names.null_count
    values, invalid = as_numbers(column, missing)
    return 1.0 if invalid is None or not count else int((~np.isnan(values)).sum()) / count


def has_decimals(column: Any) -> bool:
    """Whether most values of a column are numbers, and not all of them whole."""
    if not numeric_share(column) > 0.5:
        return False
    values = as_numbers(column)[0]
    finite = values[np.isfinite(values)]
    return bool((finite != np.rint(finite)).any())


def number_options(value: str) -> dict[str, str] | None:
    """The options of a table with which a text is a number: {"thousands": ","} for "1,234.50", {} for "1234.5".

    None for a text that is no number. "1,234" is read as a thousand and something.
    """
    text = value.strip()
    signs = "".join(character for character in text if _is_unit(character))
    options = {}
    if signs:
        prefix = re.match(r"[^\W\d_]*", text)
        unit = (prefix[0] if prefix else "") + signs  # such as US$
        unit = unit if unit in text else signs
        body = text.strip("+- ")
        if text.count(unit) != 1 or not (body.startswith(unit) or body.endswith(unit)):
            return None
        text = text.replace(unit, "").strip()
        options["units"] = unit
    if NUMBER.fullmatch(text):
        return options
    found = next((found for pattern, found in GROUPED if pattern.fullmatch(text)), None)
    return None if found is None else options | found


def _is_unit(character: str) -> bool:
    return unicodedata.category(character) == "Sc" or character in "%\u2030\u00b0"


def shared_number_options(values: Iterable[str]) -> tuple[float, dict[str, str]]:
    """The share of values that are numbers with some options, and the options of all."""
    count, numbers, ambiguous = 0, 0, 0
    merged: dict[str, str] = {}
    for value in values:
        count += 1
        options = number_options(value)
        if options is None:
            continue
        numbers += 1
        if AMBIGUOUS.fullmatch(value.strip()):
            ambiguous += 1
        elif options:
            for name, sign in options.items():
                known = merged.get(name, "")
                merged[name] = known if sign in known.split(",") else ",".join(filter(None, (known, sign)))
    if ambiguous and "decimal" not in merged:
        merged["thousands"] = ","
    return numbers / max(1, count), merged


def option_settings(options: dict[str, str]) -> str:
    """Options of a table as they are typed: "dataset.thousands=, and dataset.decimal=."."""
    return " and ".join(f"dataset.{name}={sign if sign.strip() else repr(sign)}" for name, sign in options.items())


def distinct_values(column: Any, missing: Sequence[str] = MISSING) -> list[str]:
    """At most `MOST_SAMPLED` different texts of a column, without the missing ones."""
    names = as_names(column.slice(0, 20 * MOST_SAMPLED), missing).unique().drop_null()
    values: list[str] = names.slice(0, MOST_SAMPLED).to_pylist()
    return values


def near_number_error(path: Path, name: str, column: Any, missing: Sequence[str] = MISSING) -> DataError | None:
    """The error for a column of numbers that are written in another style, such as 1,234.50, $5 or 12 %; else None."""
    if not is_text(column.type):
        return None
    values = distinct_values(column, missing)
    share, options = shared_number_options(values)
    if not options or share < NEARLY_ALL:
        return None
    example = next(value for value in values if number_options(value))
    other = ", or dataset.decimal=, if it is a decimal comma" if options == {"thousands": ","} else ""
    return DataError(
        f"{path}: column '{name}' holds numbers such as {shown(example)}; set {option_settings(options)} to read "
        f"them{other}; else name it in dataset.categorical or dataset.drop_columns"
    )


def holds_dates(column: Any, missing: Sequence[str] = MISSING) -> bool:
    """Whether nearly all values of a column are dates."""
    if not is_text(column.type):
        return bool(pa.types.is_temporal(column.type))
    values = distinct_values(column, missing)
    return bool(values) and sum(bool(DATE.fullmatch(value)) for value in values) >= NEARLY_ALL * len(values)


def shown(value: Any) -> str:
    """A value in a message: in quotes, on one line, cut after 40 characters."""
    return f"'{' '.join(str(value).split()):.40}'"


def number_error(table: Path, row: int, name: str, value: Any, cure: str) -> DataError:
    """The error for a value that is not a number. row: counted from 1."""
    if options := number_options(str(value)):
        cure = f"set {option_settings(options)}, or {cure}"
    return DataError(f"{table} row {row}: column '{name}' holds {shown(value)}, which is not a number; {cure}")
