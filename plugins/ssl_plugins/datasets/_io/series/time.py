"""Reads columns of times: numbers, dates, times of day and durations, as numbers that sort like them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_plugins.datasets._io.arrow import pa, pc
from ssl_plugins.datasets._io.tables.row_metadata import as_numbers, as_text, numeric_share

TIME_NAMES = frozenset(
    {"time", "timestamp", "timestamps", "date", "datetime", "epoch", "unixtime", "utctime", "timeutc", "localtime"}
)
"""Names of columns of times, without case, blanks, hyphens and underscores."""

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def plain_name(name: str) -> str:
    """A column's name in lower case without blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name).lower()


@dataclass(frozen=True)
class Times:
    """Times as numbers. values: (n,) float64, None if the column's type is no time. first_invalid: index of the first
    value that is no time. in_seconds: whether the values are seconds, not numbers as the file holds them."""

    values: np.ndarray | None
    first_invalid: int | None = None
    in_seconds: bool = False


def time_unit(times: Times) -> str:
    """The unit of the times, for messages."""
    return " s" if times.in_seconds else ""


def sortable_times(columns: Sequence[Any], time_format: str | None) -> Times:
    """Read one column of times, or a column of dates and one of times of day.

    Args:
        columns: pyarrow arrays.
        time_format: format of texts, for `strptime`; by default ISO 8601.
    """
    if len(columns) == 2:
        column = pc.binary_join_element_wise(as_text(columns[0]), as_text(columns[1]), " ")
        if any(pa.types.is_timestamp(part.type) for part in columns[:1]):  # a date with an empty time of day
            column = pc.binary_join_element_wise(as_text(columns[0].cast(pa.date32())), as_text(columns[1]), " ")
    else:
        column = columns[0]
    in_seconds = True
    if pa.types.is_temporal(column.type):
        values = _temporal_seconds(column)
    elif np.isnan(numeric_share(column)):
        return Times(None, 0)
    else:
        values, invalid = as_numbers(column)
        in_seconds = (invalid is not None and numeric_share(column) <= 0.5) or time_format is not None
        if in_seconds:
            values = _text_seconds(as_text(column), time_format)
    missing = np.flatnonzero(~np.isfinite(values))
    return Times(values, int(missing[0]) if len(missing) else None, in_seconds)


def _temporal_seconds(column: Any) -> np.ndarray:
    """(n,) float64 with NaN where missing. Not every temporal type casts to a float, but all cast to an integer."""
    kind = column.type
    numbers = column.cast(pa.int64() if kind.bit_width == 64 else pa.int32()).cast(pa.float64(), safe=False)
    unit = 86400.0 if pa.types.is_date32(kind) else 1e-3 if pa.types.is_date64(kind) else UNITS[kind.unit]
    return np.asarray(numbers.to_numpy(zero_copy_only=False) * unit)


def _text_seconds(column: Any, time_format: str | None) -> np.ndarray:
    """(n,) float64 seconds of dates or times of day, with NaN where a text is neither."""
    import pandas as pd  # slow to import

    texts = column.to_pandas()
    dates = pd.to_datetime(texts, errors="coerce", format=time_format or "ISO8601", utc=True)
    if time_format is None and dates.isna().all():
        durations = pd.to_timedelta(texts, errors="coerce")
        return durations.dt.total_seconds().to_numpy(np.float64)
    stamps = dates.dt.tz_localize(None).to_numpy("datetime64[ns]")
    return np.where(dates.notna().to_numpy(), stamps.astype(np.float64) * 1e-9, np.nan)
