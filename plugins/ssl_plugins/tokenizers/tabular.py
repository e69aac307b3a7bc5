"""Tables: numeric columns as value tokens, categorical ones as ids of their own vocabulary (protocol 2.10, HIGGS).

HIGGS is 28 numbers: 28 tokens of one number each through one linear map that all columns share, so that a column is
known by its position alone. `weights=column` gives each its own. Each categorical column is a segment of one token,
scored against its own vocabulary; a missing category is an entry of that vocabulary.

A missing number is absent from its column's place: no key of attention, and no part of a loss or a pooled feature. For
data that declare missing values (a field "missing"), that a number is missing is told by a token of its own, a learned
vector at the column's place in a segment of a vocabulary of one: attended to, and with nothing to predict, so that it
adds zero to a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_core import (
    BadSample,
    ConfigError,
    Continuous,
    ContinuousTarget,
    Discrete,
    DiscreteTarget,
    Fields,
    Geometry,
    Inputs,
    Layout,
    Segment,
    Tokenizer,
    Tokens,
    hookimpl,
)
from ssl_core.nn import embedding_lookup
from ssl_core.tokenizers import IdTokenizer, JointTokenizer

NUMERIC, MISSING = "numeric", "missing"


class Tabular(JointTokenizer):
    """A token for each column of a table: numbers, categories, and missing values.

    Reads the field "numeric", (columns,) or (1, columns), where NaN is a missing value; "missing", (columns,) with 1
    where a number is missing; and every other field of ids as one or several categorical columns of one vocabulary.
    """

    name = "tabular"

    class Options(Tokenizer.Options):
        """Options of the tabular tokenizer. Constants are for each numeric column."""

        normalise: Literal["measured", "given", "none"] = Field(
            "measured",
            description="mean and std of each numeric column: measured from the training data, given, or none",
        )
        mean: tuple[float, ...] = Field((), description="given means: one, or one for each numeric column")
        std: tuple[float, ...] = Field((), description="given standard deviations: one, or one for each numeric column")
        weights: Literal["shared", "column"] = Field(
            "shared", description="one linear map for all numeric columns, as published, or one for each"
        )
        missing: Literal["auto", "token", "absent", "refuse"] = Field(
            "auto",
            description="a missing number: token = absent, and a learned token says so; absent; refuse = leave the row "
            "out; auto = token if the data set declares missing values, else refuse",
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        parts: list[Tokenizer] = []
        numeric = fields.get(NUMERIC)
        if isinstance(numeric, Continuous):
            missing = options.missing
            if missing == "auto":
                missing = "token" if MISSING in fields else "refuse"
            parts.append(NumericColumns(options, fields, dim, missing=missing))
            if missing == "token":
                parts.append(MissingColumns(options, fields, dim, columns=parts[0].layout.length))
        for name, field in fields.items():
            if isinstance(field, Discrete) and name != MISSING:
                parts.append(
                    CategoricalColumns(options, fields, dim, field=name, length=field.length, vocab=field.vocab)
                )
        if not parts:
            offered = ", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field"
            raise ConfigError(
                f"tokenizer 'tabular' reads a field 'numeric' of real numbers, fields of ids, or both; the data set "
                f"offers {offered}"
            )
        super().__init__(options, fields, dim, parts=parts)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """{"numeric": (columns,) float32, "missing": (columns,) bool where needed, ids}. Errors: BadSample."""
        prepared: Inputs = {}
        for part in self.parts:
            prepared |= part.preprocess(inputs)  # type: ignore[operator]
        return prepared


class NumericColumns(Tokenizer):
    """A token for each number, of width 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, options: Any, fields: Fields, dim: int, *, missing: str) -> None:
        super().__init__(options, fields, dim)
        shape = fields[NUMERIC].shape  # type: ignore[union-attr]
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1) or shape[-1] is None:
            raise ConfigError(f"tokenizer 'tabular': 'numeric' has shape {shape}, not (columns,) or (1, columns)")
        count = shape[-1]
        self.count, self.missing = count, missing
        self.layout = Layout([Segment(NUMERIC, (count,), "continuous", 1)])
        maps = 1 if options.weights == "shared" else count
        made = [nn.Linear(1, dim) for _ in range(maps)]
        for one in made:
            nn.init.xavier_uniform_(one.weight)
        self.weight = nn.Parameter(torch.stack([one.weight.detach()[:, 0] for one in made]))
        self.bias = nn.Parameter(torch.stack([one.bias.detach() for one in made]))
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        if options.normalise == "given":
            self._given()

    def _given(self) -> None:
        for what, numbers in (("mean", self.options.mean), ("std", self.options.std)):
            if len(numbers) not in (1, self.count):
                raise ConfigError(
                    f"tokenizer.{what} holds {len(numbers)} numbers; normalise=given needs 1 or {self.count}"
                )
        if min(self.options.std) <= 0:
            raise ConfigError(f"tokenizer.std must be positive, got {min(self.options.std)}")
        self.mean.copy_(torch.tensor(self.options.mean))
        self.std.copy_(torch.tensor(self.options.std))

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Numbers, 0 where missing, and which are. Errors: BadSample for another width, infinity, or refused NaN."""
        x = np.asarray(inputs[NUMERIC], dtype=np.float32).reshape(-1)
        if len(x) != self.count:
            raise BadSample(f"'numeric' has {len(x)} columns, not {self.count}")
        if np.isinf(x).any():
            raise BadSample(f"'numeric' holds infinity in column {np.flatnonzero(np.isinf(x))[0]}")
        gone = np.isnan(x)
        if MISSING in inputs:
            gone |= np.asarray(inputs[MISSING]).reshape(-1).astype(bool)
        if self.missing == "refuse":
            if gone.any():
                raise BadSample(
                    f"'numeric' misses a value in column {np.flatnonzero(gone)[0]}; set tokenizer.missing=token "
                    f"to use it"
                )
            return {NUMERIC: x}
        return {NUMERIC: np.where(gone, np.float32(0), x), MISSING: gone}

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Mean and standard deviation of each column's known numbers, in float64, one pass."""
        if self.options.normalise != "measured":
            return
        count, mean, spread = (np.zeros(self.count) for _ in range(3))
        for chunk in chunks:
            x = np.asarray(chunk[NUMERIC], dtype=np.float64)
            known = ~chunk[MISSING] if MISSING in chunk else np.ones(x.shape, dtype=bool)
            more = known.sum(axis=0)
            middle = np.where(known, x, 0).sum(axis=0) / np.maximum(more, 1)
            both = np.maximum(count + more, 1)
            off = np.where(more > 0, middle - mean, 0)
            spread += np.where(known, np.square(x - middle), 0).sum(axis=0) + off**2 * count * more / both
            mean += off * more / both
            count += more
        std = np.sqrt(spread / np.maximum(count, 1))
        std = np.where(std > 1e-9 * np.maximum(np.abs(mean), 1.0), std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Columns whose number is missing are invalid."""
        return Geometry() if self.missing == "refuse" else Geometry(valid=~inputs[MISSING])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """numeric (B, columns), missing (B, columns) bool, to Tokens; the target of a missing number is 0."""
        x = (inputs[NUMERIC].to(self.weight.dtype) - self.mean) / self.std
        geometry = self.geometry(inputs)
        if geometry.valid is not None:
            x = x * geometry.valid
        x = x.unsqueeze(-1)
        return Tokens(x * self.weight + self.bias, (ContinuousTarget(x),), self.layout, geometry)

    def to_image(self, segment: int, patches: Tensor) -> Tensor:
        """The numbers in their own units, as a curve over the columns: (B, 1, columns)."""
        return (patches.squeeze(-1) * self.std + self.mean).unsqueeze(1)


class MissingColumns(Tokenizer):
    """A token at each column, present where its number is missing: one learned vector, with nothing to predict."""

    def __init__(self, options: Any, fields: Fields, dim: int, *, columns: int) -> None:
        super().__init__(options, fields, dim)
        self.layout = Layout([Segment(MISSING, (columns,), "discrete", 1)])
        self.table = nn.Parameter(torch.empty(1, dim))
        nn.init.xavier_uniform_(self.table)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Nothing: the numeric columns say what is missing."""
        return {}

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Columns whose number is missing are valid."""
        return Geometry(valid=inputs[MISSING])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """missing (B, columns) bool to Tokens, all of the one entry."""
        ids = torch.zeros(inputs[MISSING].shape, dtype=torch.long, device=self.table.device)
        target = DiscreteTarget(ids, self.table)
        return Tokens(embedding_lookup(self.table, ids), (target,), self.layout, self.geometry(inputs))


class CategoricalColumns(IdTokenizer):
    """One token for each categorical column of one vocabulary."""

    def preprocess(self, inputs: Inputs) -> Inputs:
        """The ids as they are. Errors: BadSample for one outside the vocabulary."""
        ids = np.asarray(inputs[self.field]).reshape(-1)
        vocab = self.layout.segments[0].size
        if len(ids) != self.layout.length or ids.min() < 0 or ids.max() >= vocab:
            raise BadSample(f"'{self.field}' holds {ids.tolist()[:8]}, not {self.layout.length} ids below {vocab}")
        return {self.field: ids.astype(np.int64)}


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Tabular]
