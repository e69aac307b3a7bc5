"""Options that say how a table is to be read; every data set that reads a table has them under these names."""

from __future__ import annotations

import codecs
from typing import Literal

from pydantic import Field, field_validator

from ssl_core import Dataset

METADATA_COLUMNS = ("label", "group", "split")
WORDS_OF_DELIMITERS = {"tab": "\t", r"\t": "\t", "space": " ", "comma": ",", "semicolon": ";", "bar": "|"}


class TableOptions(Dataset.Options):
    """Options common to all tables. Those of CSV files are detected from the first rows unless they are set."""

    columns: tuple[str, ...] = Field((), description="names of the columns of a CSV file without a header line")
    header: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="whether the first row of a CSV file or sheet holds names; auto = no if it clearly holds values, "
        "or with `columns`",
    )
    skip_rows: int = Field(0, ge=0, description="lines above the header line, or above the first row without one")
    delimiter: str | None = Field(
        None,
        description="column separator of a CSV file, one character or the word tab; space = any run of blanks; by "
        "default detected",
    )
    encoding: str | None = Field(
        None, description="encoding of a CSV or JSON file, such as utf-16 or cp1252; by default detected"
    )
    quoting: Literal["auto", "double", "single", "none"] = Field(
        "auto", description="quotation mark around texts of a CSV file; auto = double, or none if not all are in pairs"
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="decimal separator of numbers; by default a point, or a comma where that is unambiguous"
    )
    thousands: str | None = Field(
        None, max_length=1, description="separator of thousands in numbers such as 1,234.50; by default there is none"
    )
    units: tuple[str, ...] = Field((), description="signs to remove from numbers, such as $ or %")
    drop_columns: tuple[str, ...] = Field((), description="columns not to use, such as a row number")
    sheet: str | None = Field(None, description="name of the sheet of an Excel file; by default the first with rows")

    @property
    def role_columns(self) -> tuple[str, ...]:
        """Names of the columns of label, group and split, where there are any."""
        return tuple(getattr(self, kind, None) or kind for kind in METADATA_COLUMNS)

    def dropping(self, *names: str) -> str:
        """The setting that leaves out further columns, as it is typed in."""
        return f"dataset.drop_columns={','.join([*self.drop_columns, *names])}"

    @field_validator("delimiter", mode="after")
    @classmethod
    def _delimiter_of_word(cls, value: str | None) -> str | None:
        value = None if value is None else WORDS_OF_DELIMITERS.get(value, value)
        if value is not None and (len(value) != 1 or value in "\r\n\"'"):
            raise ValueError(f"a column separator is one character, or the word tab, got {value!r}")
        return value

    @field_validator("encoding", mode="after")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            return None if value is None else codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"'{value}' is no known encoding, such as utf-8, utf-16, cp1252 or shift_jis") from None
