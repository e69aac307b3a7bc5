"""Columns of a table as fields of the tokenizer `tabular`: numbers with gaps, and categories by value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_core.errors import DataError

RESOLUTION = 1e-3
"""Least part of a column's standard deviation that float32 must resolve; else the column's mean is subtracted."""


@dataclass
class TableColumns:
    """Kinds and categories of the columns that an estimator was fitted on.

    Attributes:
        names: of the columns; None for an array.
        numeric: positions of the columns of numbers.
        categories: values of each column of categories, by its position; value i has id i + 1, a missing or unknown
            one id 0.
        shift: (columns of numbers,) float64 subtracted before the numbers become float32; 0 where they fit.
    """

    names: tuple[str, ...] | None
    numeric: list[int]
    categories: dict[int, list[Any]] = field(default_factory=dict)
    shift: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def fit(cls, x: Any) -> TableColumns:
        """The columns of a float array (n, columns) or of a pandas DataFrame.

        Raises:
            DataError: a column holds neither numbers nor categories, or no value.
        """
        if isinstance(x, np.ndarray):
            columns = cls(None, list(range(x.shape[1])))
        else:
            columns = cls(tuple(map(str, x.columns)), [])
            for position, name in enumerate(x.columns):
                columns._add(position, x.iloc[:, position], name)
        columns.shift = np.zeros(len(columns.numeric))
        numbers = columns._numbers(x)
        with np.errstate(all="ignore"):
            spread = np.array([np.nanstd(one) if np.isfinite(one).any() else 0.0 for one in numbers.T])
            largest = np.array([np.nanmax(np.abs(one)) if np.isfinite(one).any() else 0.0 for one in numbers.T])
            middle = np.array([np.nanmean(one) if np.isfinite(one).any() else 0.0 for one in numbers.T])
        coarse = (spread > 0) & (largest * np.finfo(np.float32).eps > RESOLUTION * spread)
        columns.shift = np.where(coarse, middle, 0.0)
        return columns

    def _add(self, position: int, column: Any, name: Any) -> None:
        from pandas.api import types

        if types.is_bool_dtype(column.dtype) or types.is_numeric_dtype(column.dtype):
            if types.is_complex_dtype(column.dtype):
                raise DataError(f"column '{name}' holds complex numbers; convert it to real numbers")
            self.numeric.append(position)
            return
        if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
            raise DataError(
                f"column '{name}' holds times; convert it to numbers, e.g. to seconds or to hour and weekday"
            )
        try:
            values = column.cat.categories if isinstance(column.dtype, _categorical()) else column.dropna().unique()
        except TypeError:  # lists
            raise DataError(
                f"column '{name}' holds other values than numbers and texts; leave it out or convert it"
            ) from None
        if not all(isinstance(value, str | bytes | int | float | bool | np.generic) for value in values):
            raise DataError(f"column '{name}' holds other values than numbers and texts; leave it out or convert it")
        self.categories[position] = sorted(values, key=lambda value: (str(type(value)), str(value)))

    def _numbers(self, x: Any) -> np.ndarray:
        """(n, columns of numbers) float64, NaN where missing."""
        if isinstance(x, np.ndarray):
            return np.asarray(x, np.float64)
        numbers = np.empty((len(x), len(self.numeric)))
        for place, position in enumerate(self.numeric):
            try:
                numbers[:, place] = x.iloc[:, position].to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                name = (self.names or {position: position})[position]
                raise DataError(f"column '{name}' held numbers when the encoder was fitted: {error}") from None
        return numbers

    def encode(self, x: Any) -> dict[str, np.ndarray]:
        """The rows of a table by field: "numeric" (n, columns) float32 and "category_I" (n, 1) ids.

        Raises:
            DataError: a number is infinite or too large, or a column of numbers holds texts.
        """
        if not isinstance(x, np.ndarray) or not self.categories:
            frame = x
        else:
            import pandas

            frame = pandas.DataFrame(x, columns=list(self.names or ()))
        fields: dict[str, np.ndarray] = {}
        if self.numeric:
            with np.errstate(over="ignore"):
                numbers = (self._numbers(frame) - self.shift).astype(np.float32)
            if np.isinf(numbers).any():
                raise DataError("Input X contains infinity or a value too large for dtype('float32').")
            fields["numeric"] = numbers
        for position, values in self.categories.items():
            import pandas

            column = frame.iloc[:, position].astype(object)
            ids = pandas.Index(values, dtype=object).get_indexer(column) + 1
            fields[f"category_{position}"] = ids.astype(np.int64)[:, np.newaxis]
        return fields

    def vocabularies(self) -> dict[str, int]:
        """Number of ids of each field of categories."""
        return {f"category_{position}": len(values) + 1 for position, values in self.categories.items()}


def _categorical() -> type:
    import pandas

    return pandas.CategoricalDtype
