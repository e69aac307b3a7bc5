"""Tokenizer `tabular`: one token per numeric column and per categorical column.

DABS and MetaMAE take HIGGS as 28 tokens of one number each (MetaMAE, Table 16) through one linear map that all columns
share, so that only its position tells a column; `weights=column` gives each column its own map. Each categorical field
is a segment with its own vocabulary, in which a missing category is an entry.

A table of thousands of numeric columns, such as expression levels of genes, has tokens of `patch` consecutive columns.

A missing number is not valid at its column's place: it is no key of attention and no part of a loss or pooled feature.
If the data set declares missing values (a field "missing"), a token at the same place in a second segment marks the
missing number by a learned vector. This segment has a vocabulary of one entry, so it adds zero to a loss. Within a
patch, a missing number is 0 (the mean of its column) beside a mark, and no part of the patch's error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    PictureStyle,
    Preprocessing,
    Segment,
    Text,
    Tokenizer,
    Tokens,
    hookimpl,
)
from ssl_core.nn import embedding_lookup
from ssl_core.tokenizers import IdTokenizer, JointTokenizer, scale_of
from ssl_plugins.tokenizers._handmade import one_hot_columns

NUMERIC, MISSING = "numeric", "missing"
MOST_TOKENS = 512
"""Tokens of numeric columns beyond which a token holds several of them by default."""


class TabularTokenizer(JointTokenizer):
    """One token for each column of a table: numbers, categories, and missing values.

    Reads the field "numeric", (columns,) or (1, columns), where NaN is a missing value; "missing", (columns,), 1 where
    a number is missing; and each other field of ids as categorical columns that share a vocabulary.
    """

    name = "tabular"

    class Options(Tokenizer.Options):
        """Options of the tabular tokenizer. Mean and deviation are those of each numeric column."""

        normalise: Literal["measured", "given", "none"] = Field(
            "measured",
            description="mean and std of each numeric column: measured on the training data, given, or none",
        )
        mean: tuple[float, ...] = Field(
            (), description="means for normalise=given: one, or one for each numeric column"
        )
        std: tuple[float, ...] = Field(
            (), description="standard deviations for normalise=given: one, or one for each numeric column"
        )
        init: Literal["xavier", "torch"] = Field(
            "xavier",
            description="initial maps of numbers: Xavier uniform, as MetaMAE's code; torch = PyTorch's default, as "
            "DABS's code",
        )
        patch: int | None = Field(
            None,
            ge=1,
            description=f"numeric columns of a token; by default 1, and so many that there are at most {MOST_TOKENS} "
            f"tokens of numbers",
        )
        weights: Literal["auto", "shared", "column"] = Field(
            "auto",
            description="one linear map for all tokens of numbers, as in DABS and MetaMAE, or one for each; auto = "
            "shared for tokens of one column, and column for those of several, which differ in what they mean",
        )
        missing: Literal["auto", "token", "absent", "refuse"] = Field(
            "auto",
            description="a missing number: token = not valid, and a learned token marks it; absent = not valid; refuse "
            "= bad sample; auto = token if the data set declares missing values, else refuse",
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        parts: list[Tokenizer] = []
        numeric = fields.get(NUMERIC)
        if isinstance(numeric, Continuous):
            missing = options.missing
            if missing == "auto":
                missing = "token" if MISSING in fields else "refuse"
            count = (numeric.shape or (1,))[-1] or 1
            patch = min(count, options.patch or -(-count // MOST_TOKENS))
            self.patch = patch
            if patch > 1:
                parts.append(ColumnPatches(options, fields, dim, missing=missing, patch=patch))
            else:
                parts.append(NumericColumns(options, fields, dim, missing=missing))
            if missing == "token" and patch == 1:
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
        self.unread = {
            name: field for name, field in fields.items() if name != NUMERIC and not isinstance(field, Discrete)
        }

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Fit each part in turn. An encoder that is trained already is loaded also with fields that it does not read.

        Raises:
            ConfigError: The tokenizer would read nothing of a field.
        """
        for name, field in self.unread.items():
            kind = "text" if isinstance(field, Text) else "real numbers"
            put = "" if isinstance(field, Text) else "put it into 'numeric', or "
            raise ConfigError(
                f"tokenizer 'tabular' reads no field '{name}' of {kind}; {put}give whole numbers for a category"
            )
        super().fit(samples)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Preprocess the columns of one row.

        Returns:
            "numeric": (columns,) float32; "missing": (columns,) bool unless missing numbers are refused; and the ids of
            each categorical field.

        Raises:
            BadSample: A part cannot use the row.
        """
        prepared: Inputs = {}
        for part in self.parts:
            prepared |= part.preprocess(inputs)  # type: ignore[operator]
        return prepared


class NumericColumns(Tokenizer):
    """One token of width 1 for each numeric column."""

    mean: Tensor
    std: Tensor

    def __init__(self, options: Any, fields: Fields, dim: int, *, missing: str) -> None:
        super().__init__(options, fields, dim)
        shape = fields[NUMERIC].shape  # type: ignore[union-attr]
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1) or shape[-1] is None:
            raise ConfigError(f"tokenizer 'tabular': 'numeric' has shape {shape}, not (columns,) or (1, columns)")
        count = shape[-1]
        self.count, self.missing = count, missing
        self._make_maps(dim)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        if options.normalise == "given":
            self._set_constants()

    def _make_maps(self, dim: int) -> None:
        """Set the layout, and weight and bias (maps, dim)."""
        self.layout = Layout([Segment(NUMERIC, (self.count,), "continuous", 1)])
        linears = self._linears(1, dim, self.count if self.options.weights == "column" else 1)
        self.weight = nn.Parameter(torch.stack([linear.weight.detach()[:, 0] for linear in linears]))
        self.bias = nn.Parameter(torch.stack([linear.bias.detach() for linear in linears]))

    def _linears(self, width: int, dim: int, count: int) -> list[nn.Linear]:
        """Linear maps with their initial weights."""
        linears = [nn.Linear(width, dim) for _ in range(count)]
        for linear in linears if self.options.init == "xavier" else []:
            nn.init.xavier_uniform_(linear.weight)  # the bias keeps PyTorch's default, as in MetaMAE's code
        return linears

    def _set_constants(self) -> None:
        """Copy the options `mean` and `std` to the buffers."""
        for option, numbers in (("mean", self.options.mean), ("std", self.options.std)):
            if len(numbers) not in (1, self.count):
                raise ConfigError(
                    f"tokenizer.{option} holds {len(numbers)} numbers; normalise=given needs 1 or {self.count}"
                )
        if min(self.options.std) <= 0:
            raise ConfigError(f"tokenizer.std must be positive, got {min(self.options.std)}")
        self.mean.copy_(torch.tensor(self.options.mean))
        self.std.copy_(torch.tensor(self.options.std))

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """The columns, where each has its own map and a name."""
        names = self.fields[NUMERIC].names  # type: ignore[union-attr]
        return {"weight": names, "bias": names} if len(names) == len(self.weight) == self.count > 1 else {}

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Separate the numbers, 0 where missing, from the mask of the missing ones.

        Raises:
            BadSample: Another number of columns, infinity, or a missing number where these are refused.
        """
        x = np.asarray(inputs[NUMERIC], dtype=np.float32).reshape(-1)
        if len(x) != self.count:
            raise BadSample(f"'numeric' has {len(x)} columns, not {self.count}")
        if np.isinf(x).any():
            raise BadSample(f"'numeric' holds infinity in column {np.flatnonzero(np.isinf(x))[0]}")
        missing = np.isnan(x)
        if MISSING in inputs:
            missing |= np.asarray(inputs[MISSING]).reshape(-1).astype(bool)
        if self.missing == "refuse":
            if missing.any():
                raise BadSample(
                    f"'numeric' misses a value in column {np.flatnonzero(missing)[0]}; set tokenizer.missing=token "
                    f"to use the row"
                )
            return {NUMERIC: x}
        return {NUMERIC: np.where(missing, np.float32(0), x), MISSING: missing}

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """The numbers, 0 where missing, and marks of the missing ones."""
        prepared = self.preprocess(inputs)
        return np.concatenate([np.asarray(value, dtype=np.float32).reshape(-1) for value in prepared.values()])

    def describe_preprocessing(self) -> Preprocessing:
        """Missing numbers; the rest is inside."""
        numbers = "'numeric': the numbers in the order of the columns, in their own units, as float32"
        normalise = "subtract mean from each column of 'numeric' and divide by std"
        inside: list[dict[str, Any]] = [{"do": normalise, "mean": self.mean.tolist(), "std": self.std.tolist()}]
        if self.missing == "refuse":
            missing = "refuse a row that lacks a number"
        else:
            missing = "'missing': whether a number is missing, bool by column; 'numeric' is 0 there"
            inside.append({"do": "a missing number is not attended to, and in no feature"})
        return Preprocessing([{"do": numbers, "columns": self.count}, {"do": missing}], inside)

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Mean and standard deviation of each column's valid numbers, in float64 and one pass."""
        if self.options.normalise != "measured":
            return
        # merges means and squared deviations of chunks; E[x^2] - E[x]^2 would cancel
        count, mean, squares = (np.zeros(self.count) for _ in range(3))
        for chunk in chunks:
            x = np.asarray(chunk[NUMERIC], dtype=np.float64)
            valid = ~chunk[MISSING] if MISSING in chunk else np.ones(x.shape, dtype=bool)
            chunk_count = valid.sum(axis=0)
            chunk_mean = np.where(valid, x, 0).sum(axis=0) / np.maximum(chunk_count, 1)
            total = np.maximum(count + chunk_count, 1)
            shift = np.where(chunk_count > 0, chunk_mean - mean, 0)
            chunk_squares = np.where(valid, np.square(x - chunk_mean), 0).sum(axis=0)
            squares += chunk_squares + shift**2 * count * chunk_count / total
            mean += shift * chunk_count / total
            count += chunk_count
        std = np.sqrt(squares / np.maximum(count, 1))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(scale_of(mean, std)))

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
        """The numbers in their own units, (B, 1, columns), which is drawn as a curve."""
        return (patches.squeeze(-1) * self.std + self.mean).unsqueeze(1)

    def picture_style(self, segment: int) -> PictureStyle:
        """A row of a table."""
        return PictureStyle(names=tuple(f"{NUMERIC} {number}" for number in range(1, self.count + 1)))


def known_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (B, n) over the numbers that are not missing; prediction, target: (B, n, 2 patch).

    The first half of a target are numbers, 0 where missing; the second half are 1 where missing. That of a prediction
    is not used.
    """
    patch = target.shape[-1] // 2
    known = 1 - target[..., patch:]
    squares = (prediction[..., :patch] - target[..., :patch]).square() * known
    return squares.sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


class ColumnPatches(NumericColumns):
    """One token for each `patch` consecutive numeric columns.

    Where numbers may be missing or the last patch is not full, a token also reads a mark for each column: 1 where there
    is no number. A patch without any number is not valid.
    """

    def __init__(self, options: Any, fields: Fields, dim: int, *, missing: str, patch: int) -> None:
        self.patch = patch
        super().__init__(options, fields, dim, missing=missing)

    def _make_maps(self, dim: int) -> None:
        """Set the layout, weight (maps, width, dim) and bias (maps, dim)."""
        length = -(-self.count // self.patch)
        self.marked = self.missing != "refuse" or length * self.patch > self.count
        width = self.patch * (2 if self.marked else 1)
        score = known_error if self.marked else None
        self.layout = Layout([Segment(NUMERIC, (length,), "continuous", width, score)])
        linears = self._linears(width, dim, 1 if self.options.weights == "shared" else length)
        self.weight = nn.Parameter(torch.stack([linear.weight.detach().T for linear in linears]))
        self.bias = nn.Parameter(torch.stack([linear.bias.detach() for linear in linears]))

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """None: a map is that of several columns."""
        return {}

    def _patches(self, x: Tensor, fill: float) -> Tensor:
        """(B, columns) to (B, L, patch), the last filled up."""
        lacking = self.layout.length * self.patch - self.count
        return nn.functional.pad(x, (0, lacking), value=fill).unflatten(1, (self.layout.length, self.patch))

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Patches without any number are invalid."""
        if self.missing == "refuse":
            return Geometry()
        return Geometry(valid=(self._patches(inputs[MISSING].to(torch.float32), 1.0) < 1).any(dim=-1))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """numeric (B, columns), missing (B, columns) bool, to Tokens; see `known_error` for the targets."""
        x = (inputs[NUMERIC].to(self.weight.dtype) - self.mean) / self.std
        if self.missing != "refuse":
            x = x * ~inputs[MISSING]
        x = self._patches(x, 0.0)
        if self.marked:
            absent = inputs[MISSING] if self.missing != "refuse" else torch.zeros_like(inputs[NUMERIC])
            x = torch.cat([x, self._patches(absent.to(x.dtype), 1.0)], dim=-1)
        weight = self.weight.expand(self.layout.length, -1, -1)
        embeddings = torch.einsum("blp,lpd->bld", x, weight) + self.bias
        return Tokens(embeddings, (ContinuousTarget(x),), self.layout, self.geometry(inputs))

    def to_image(self, segment: int, patches: Tensor) -> Tensor:
        """The numbers in their own units, (B, 1, columns), which is drawn as a curve."""
        numbers = patches[..., : self.patch].flatten(1)[:, : self.count]
        return (numbers * self.std + self.mean).unsqueeze(1)

    def picture_style(self, segment: int) -> PictureStyle:
        """A curve of numbers by column."""
        return PictureStyle(axes=("column",))

    def describe_preprocessing(self) -> Preprocessing:
        """As for single columns, and the patches, which are cut inside."""
        made = super().describe_preprocessing()
        cut = {"do": "map each `patch` consecutive columns to a token", "patch": self.patch}
        return Preprocessing(made.steps, [*made.inside, cut])


class MissingColumns(Tokenizer):
    """One token per numeric column, valid where its number is missing: a learned vector with nothing to predict."""

    def __init__(self, options: Any, fields: Fields, dim: int, *, columns: int) -> None:
        super().__init__(options, fields, dim)
        self.layout = Layout([Segment(MISSING, (columns,), "discrete", 1)])
        self.table = nn.Parameter(torch.empty(1, dim))
        nn.init.xavier_uniform_(self.table)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Return nothing: `NumericColumns` prepares the field "missing"."""
        return {}

    def describe_preprocessing(self) -> Preprocessing:
        """A learned vector for each missing number, inside."""
        return Preprocessing(inside=[{"do": "a learned vector stands for each missing number"}])

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Columns whose number is missing are valid."""
        return Geometry(valid=inputs[MISSING])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """missing (B, columns) bool to Tokens, all of the one entry."""
        ids = torch.zeros(inputs[MISSING].shape, dtype=torch.long, device=self.table.device)
        target = DiscreteTarget(ids, self.table)
        return Tokens(embedding_lookup(self.table, ids), (target,), self.layout, self.geometry(inputs))

    def picture_style(self, segment: int) -> PictureStyle:
        """Not drawn: the numbers that are missing say so."""
        return PictureStyle(drawn=False)


class CategoricalColumns(IdTokenizer):
    """One token for each categorical column of a field; its columns share a vocabulary."""

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Check the ids of one row.

        Raises:
            BadSample: An id is not whole or outside the vocabulary, or the number of columns differs.
        """
        ids = np.asarray(inputs[self.field]).reshape(-1)
        vocab = self.layout.segments[0].size
        if ids.dtype.kind not in "iub" and not (
            ids.dtype.kind == "f" and (np.isfinite(ids) & (np.trunc(ids) == ids)).all()
        ):
            raise BadSample(f"'{self.field}' holds {ids.tolist()[:8]}; give whole numbers from 0, one for a category")
        if len(ids) != self.layout.length or ids.min() < 0 or ids.max() >= vocab:
            raise BadSample(f"'{self.field}' holds {ids.tolist()[:8]}, not {self.layout.length} ids below {vocab}")
        return {self.field: ids.astype(np.int64)}

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """The categories, one-hot unless there are very many."""
        return one_hot_columns(np.asarray(inputs[self.field]).reshape(-1), self.layout.segments[0].size)

    def describe_preprocessing(self) -> Preprocessing:
        """The ids of the categories."""
        segment = self.layout.segments[0]
        ids = {
            "do": f"'{self.field}': the ids of the categories in the order of the columns, int64; `schema` says which "
            f"category has which id, if the table had names",
            "columns": segment.length, "vocabulary": segment.size,
        }  # fmt: skip
        return Preprocessing([ids], super().describe_preprocessing().inside)

    def picture_style(self, segment: int) -> PictureStyle:
        """A row of a table."""
        length = self.layout.length
        several = tuple(f"{self.field} {number}" for number in range(1, length + 1))
        return PictureStyle(names=several if length > 1 else (self.field,))


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [TabularTokenizer]
