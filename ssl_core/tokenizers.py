"""Base tokenizers for any modality: patches of a grid, vocabulary ids, and several tokenizers joined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssl_core import options as _options
from ssl_core.contracts import Draws, Inputs, PictureStyle, Preprocessing, Tokenizer
from ssl_core.data import Discrete, Fields
from ssl_core.errors import ConfigError
from ssl_core.nn.exporting import is_exporting
from ssl_core.nn.indexing import embedding_lookup
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Geometry, Layout, Segment, Tokens

CHUNK_NUMBERS = 2**24  # largest number of elements that `fit_normalization` converts to float64 at a time


def scale_of(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The deviations by which channels are divided: 1 for a constant channel, whose deviation is rounding error.

    What is rounding error depends on a channel's own size, so that data are normalised alike in any unit. A deviation
    that float32 does not hold at full precision counts as none.
    """
    least = np.maximum(1e-9 * np.abs(mean), np.finfo(np.float32).tiny)
    return np.where(std > least, std, 1.0)


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *space) to (B, L, prod(patch) * C). Patches are row-major; in a patch the channel is the last axis."""
    if torch.compiler.is_compiling() and not x.requires_grad and not is_exporting():
        patches: Tensor = torch.ops.sslx.patchify(x, list(patch))
        return patches
    return _patchify(x, patch)


def _patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    rows, channels, *space = x.shape
    split: list[int] = [rows, channels]
    for size, step in zip(space, patch, strict=True):
        split += [size // step, step]
    axes = len(patch)
    grid_axes = [2 + 2 * axis for axis in range(axes)]
    patch_axes = [3 + 2 * axis for axis in range(axes)]
    return x.reshape(split).permute(0, *grid_axes, *patch_axes, 1).reshape(rows, -1, math.prod(patch) * channels)


# A custom operator, since the compiler would copy patches one element at a time, and once more for each use. That takes
# ten times as long on images of 13 channels.
@torch.library.custom_op("sslx::patchify", mutates_args=())
def _patchify_operator(x: Tensor, patch: Sequence[int]) -> Tensor:
    return _patchify(x, patch).clone(memory_format=torch.contiguous_format)


@_patchify_operator.register_fake
def _(x: Tensor, patch: Sequence[int]) -> Tensor:
    return torch.empty_like(_patchify(x, patch), memory_format=torch.contiguous_format)


def unpatchify(patches: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """The inverse of `patchify`: (B, L, size) to (B, C, *space)."""
    rows, axes = patches.shape[0], len(grid)
    x = patches.reshape(rows, *grid, *patch, -1)
    order = [0, 1 + 2 * axes]
    for axis in range(axes):
        order += [1 + axis, 1 + axes + axis]
    space = [size * step for size, step in zip(grid, patch, strict=True)]
    return x.permute(order).reshape(rows, -1, *space)


class GridTokenizer(Tokenizer):
    """Embeds patches of a grid of real numbers, with any number of axes, by one linear map.

    Targets are the normalised patches, in the order of `patchify`. A subclass defines a modality: its `__init__`
    passes the arguments below.

    Args:
        options: Options of the tokenizer.
        fields: Fields of the data set.
        dim: Width D of a token.
        field: Name of the input, (B, C, *space).
        channels: Number of channels C.
        shape: Size of space along each axis.
        patch: Size of a patch along each axis; it must divide `shape`.
        unit: Factor that is applied to preprocessed inputs first, e.g. 1/255 for uint8 images. Mean and standard
            deviation are in the resulting unit.

    Raises:
        ConfigError: If the patch does not divide the shape, or the number of means or deviations does not fit.
    """

    mean: Tensor
    std: Tensor

    class Options(_options.Options):
        """Options common to all grid tokenizers."""

        normalise: Literal["measured", "given", "none"] = Field(
            "measured",
            description="mean and std: measured on the training data and stored in the model, set by options, or none",
        )
        per_channel: bool = Field(
            True, description="measure one mean and std for each channel, not one for all channels"
        )
        mean: tuple[float, ...] = Field((), description="means for normalise=given: one, or one for each channel")
        std: tuple[float, ...] = Field(
            (), description="standard deviations for normalise=given: one, or one for each channel"
        )
        init: Literal["xavier", "torch"] = Field(
            "xavier",
            description="initial linear map of a patch: Xavier uniform, as MetaMAE's and MAE's code; torch = PyTorch's "
            "default, as DABS's code",
        )

    def __init__(
        self,
        options: Any,
        fields: Fields,
        dim: int,
        *,
        field: str,
        channels: int,
        shape: Sequence[int],
        patch: Sequence[int],
        unit: float = 1.0,
    ) -> None:
        super().__init__(options, fields, dim)
        for size, step in zip(shape, patch, strict=True):
            if step < 1 or size % step:
                raise ConfigError(
                    f"tokenizer '{self.name}': patch {tuple(patch)} does not divide {tuple(shape)}; "
                    f"choose another patch or another size"
                )
        self.field, self.channels, self.unit = field, channels, unit
        self.shape, self.patch = tuple(shape), tuple(patch)
        grid = tuple(size // step for size, step in zip(shape, patch, strict=True))
        width = channels * math.prod(patch)
        self.layout = Layout([Segment(field, grid, "continuous", width)])
        self.embed = nn.Linear(width, dim)
        if options.init == "xavier":  # the bias keeps PyTorch's default, as in MetaMAE's published code
            nn.init.xavier_uniform_(self.embed.weight)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        if options.normalise == "given":
            self._set_constants(options.mean, options.std)

    def _set_constants(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for name, numbers in (("mean", mean), ("std", std)):
            if len(numbers) not in (1, self.channels):
                raise ConfigError(
                    f"tokenizer.{name} holds {len(numbers)} numbers; normalise=given needs 1 or {self.channels}"
                )
        if min(std) <= 0:
            raise ConfigError(f"tokenizer.std must be positive, got {min(std)}")
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Compute mean and standard deviation of the preprocessed training data in one pass, in float64."""
        if self.options.normalise != "measured":
            return
        count, mean, squares = 0, np.zeros(self.channels), np.zeros(self.channels)
        for part in self._parts(chunks):  # merges means and sums of squared deviations: E[x^2] - E[x]^2 would cancel
            x = np.asarray(part, dtype=np.float64) * self.unit
            x = np.moveaxis(x, 1, 0).reshape(self.channels, -1)
            if not self.options.per_channel:
                x = x.reshape(1, -1)
            size, part_mean = x.shape[1], x.mean(axis=1)
            offset = part_mean - mean
            squares = (
                squares + np.square(x - part_mean[:, None]).sum(axis=1) + offset**2 * (count * size / (count + size))
            )
            mean = mean + offset * (size / (count + size))
            count += size
        if count == 0:
            return
        std = np.sqrt(squares / count)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(scale_of(mean, std)))

    def _parts(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """Divide the chunks into pieces of at most `CHUNK_NUMBERS` numbers, to limit the memory of float64 copies."""
        rows = max(1, CHUNK_NUMBERS // (self.channels * math.prod(self.shape)))
        for chunk in chunks:
            array = chunk[self.field]
            for start in range(0, len(array), rows):
                yield array[start : start + rows]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """inputs[field] (B, C, *space) to Tokens with L = prod(space / patch)."""
        x = inputs[self.field]
        if tuple(x.shape[1:]) != (self.channels, *self.shape):
            raise ValueError(f"'{self.field}' is {tuple(x.shape[1:])}, expected {(self.channels, *self.shape)}")
        ones = (1,) * len(self.shape)
        x = x.to(self.embed.weight.dtype)
        if self.unit != 1:
            x = x * self.unit
        x = (x - self.mean.view(-1, *ones)) / self.std.view(-1, *ones)
        patches = patchify(x, self.patch)
        return Tokens(self.embed(patches), (ContinuousTarget(patches),), self.layout, self.geometry(inputs))

    def describe_preprocessing(self) -> Preprocessing:
        """Unit, normalisation and patches, which are inside `forward`."""
        unit = [{"do": f"multiply '{self.field}' by unit", "unit": self.unit}] if self.unit != 1 else []
        normalise = {
            "do": f"subtract mean from each channel of '{self.field}' and divide by std",
            "mean": self.mean.tolist(), "std": self.std.tolist(),
        }  # fmt: skip
        patches = {
            "do": "cut into patches, row by row; in a patch the channel is the last axis", "patch": list(self.patch),
            "grid": list(self.layout.segments[0].grid), "channels": self.channels, "shape": list(self.shape),
        }  # fmt: skip
        return Preprocessing(inside=[*unit, normalise, patches])

    def to_image(self, segment: int, patches: Tensor) -> Tensor:
        """Reassemble patches and invert the normalisation: (B, C, *space), in the unit of the preprocessed input."""
        ones = (1,) * len(self.shape)
        x = unpatchify(patches, self.layout.segments[0].grid, self.patch)
        x = x * self.std.view(-1, *ones) + self.mean.view(-1, *ones)
        return x if self.unit == 1 else x / self.unit


class IdTokenizer(Tokenizer):
    """Embeds vocabulary ids by one table.

    Targets are the ids together with the table itself, not a copy, so that an output layer can be tied to it.

    Args:
        options: Options of the tokenizer.
        fields: Fields of the data set.
        dim: Width D of a token.
        field: Name of the input, (B, length) integers in [0, vocab).
        length: Number of tokens.
        vocab: Size of the vocabulary.
        std: Standard deviation of the initial table. None is Xavier uniform, as in MetaMAE's published code
            (docs/methods/protocol-differences.md), whose vectors are shorter than the position vectors that are added
            to them.
    """

    def __init__(
        self, options: Any, fields: Fields, dim: int, *, field: str, length: int, vocab: int, std: float | None = None
    ) -> None:
        super().__init__(options, fields, dim)
        self.field = field
        self.layout = Layout([Segment(field, (length,), "discrete", vocab)])
        self.table = nn.Parameter(torch.empty(vocab, dim))
        if std is None:
            nn.init.xavier_uniform_(self.table)
        else:
            nn.init.normal_(self.table, std=std)

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """The names of the ids, where the field has names."""
        field = self.fields.get(self.field)
        names = field.names if isinstance(field, Discrete) else ()
        return {"table": names} if len(names) == len(self.table) else {}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """inputs[field] (B, L) to Tokens."""
        ids = inputs[self.field].long()
        target = DiscreteTarget(ids, self.table)
        return Tokens(embedding_lookup(self.table, ids), (target,), self.layout, self.geometry(inputs))

    def describe_preprocessing(self) -> Preprocessing:
        """The look-up in the table, which is inside `forward`."""
        segment = self.layout.segments[0]
        look_up = {
            "do": f"look up '{self.field}' in a table of vectors; an id is a whole number from 0 to vocabulary - 1",
            "length": segment.length, "vocabulary": segment.size,
        }  # fmt: skip
        return Preprocessing(inside=[look_up])


class JointTokenizer(Tokenizer):
    """Joins several tokenizers: their tokens, targets and segments follow each other in one row.

    Each part reads its own fields. Tokens of different parts are never neighbours.
    """

    def __init__(self, options: Any, fields: Fields, dim: int, *, parts: Sequence[Tokenizer]) -> None:
        super().__init__(options, fields, dim)
        self.parts = nn.ModuleList(parts)
        self.augments = any(part.augments for part in parts)
        self.layout = Layout([segment for part in parts for segment in part.layout.segments])
        self.fact_options = {name: cure for part in parts for name, cure in part.fact_options.items()}

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Fit each part in turn."""
        for part in self.parts:
            part.fit(samples)  # type: ignore[operator]

    def fit_fingerprint(self) -> str:
        """The fingerprints of all parts."""
        return "\0".join(part.fit_fingerprint() for part in self.parts).strip("\0")  # type: ignore[operator]

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """Those of all parts."""
        return {
            f"parts.{number}.{name}": names
            for number, part in enumerate(self.parts)
            for name, names in part.entry_names().items()  # type: ignore[operator]
        }

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Apply the preprocessing of each part in turn."""
        for part in self.parts:
            inputs = part.preprocess(inputs)  # type: ignore[operator]
        return inputs

    def describe_preprocessing(self) -> Preprocessing:
        """The steps of each part in turn."""
        parts: list[Preprocessing] = [part.describe_preprocessing() for part in self.parts]  # type: ignore[operator]
        return Preprocessing(
            [step for part in parts for step in part.steps],
            [step for part in parts for step in part.inside],
            {name: content for part in parts for name, content in part.files.items()},
        )

    def facts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The facts of all parts; of two parts that report the same, the larger share."""
        facts: dict[str, float] = {}
        for part in self.parts:
            for name, share in part.facts(inputs).items():  # type: ignore[operator]
                facts[name] = max(share, facts.get(name, 0.0))
        return facts

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Fit the normalisation of each part in turn."""
        views = list(chunks)  # memory-mapped; each part iterates over them once
        for part in self.parts:
            part.fit_normalization(views)  # type: ignore[operator]

    def draw_crop(self, batch: int, generator: torch.Generator) -> Draws:
        """The draws of all parts, named NUMBER.NAME by the number of the part."""
        return {
            f"{number}.{name}": value
            for number, part in enumerate(self.parts)
            for name, value in part.draw_crop(batch, generator).items()  # type: ignore[operator]
        }

    def crop(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """Crop the fields of each part in turn."""
        for number, part in enumerate(self.parts):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): value for name, value in draws.items() if name.startswith(prefix)}
            inputs = part.crop(inputs, own)  # type: ignore[operator]
        return inputs

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """The geometries of all parts, joined."""
        rows = next(iter(inputs.values())).shape[0]
        geometries = [part.geometry(inputs) for part in self.parts]  # type: ignore[operator]
        return _join_geometries(geometries, [part.layout for part in self.parts], rows)  # type: ignore[misc]

    def handmade(self, inputs: Inputs) -> np.ndarray | None:
        """The hand-made features of all parts that have some, one after the other."""
        known = [features for part in self.parts if (features := part.handmade(inputs)) is not None]  # type: ignore[operator]
        return np.concatenate(known) if known else None

    def draw_view(self, batch: int, generator: torch.Generator) -> Draws:
        """The draws of all parts, each with the number of its part in front."""
        drawn = [part.draw_view(batch, generator) for part in self.parts]  # type: ignore[operator]
        return {f"{number}.{name}": value for number, draws in enumerate(drawn) for name, value in draws.items()}

    def view(self, inputs: Mapping[str, Tensor], draws: Draws) -> Mapping[str, Tensor]:
        """The view of each part in turn."""
        for number, part in enumerate(self.parts):
            prefix = f"{number}."
            own = {name.removeprefix(prefix): value for name, value in draws.items() if name.startswith(prefix)}
            inputs = part.view(inputs, own)  # type: ignore[operator]
        return inputs

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Tokens of all parts, in order."""
        parts: list[Tokens] = [part(inputs) for part in self.parts]
        embeddings = torch.cat([tokens.embeddings for tokens in parts], dim=1)
        targets = tuple(target for tokens in parts for target in tokens.targets)
        layouts = [tokens.layout for tokens in parts]
        geometry = _join_geometries([tokens.geometry for tokens in parts], layouts, embeddings.shape[0])
        return Tokens(embeddings, targets, self.layout, geometry)

    def to_image(self, segment: int, patches: Tensor) -> Tensor | None:
        """The image from the part that owns the segment, or None."""
        part, own = self._owner(segment)
        return part.to_image(own, patches)

    def to_text(self, segment: int, ids: Tensor) -> list[list[str]] | None:
        """The text from the part that owns the segment, or None."""
        part, own = self._owner(segment)
        return part.to_text(own, ids)

    def to_audio(self, segment: int, patches: Tensor) -> tuple[np.ndarray, float] | None:
        """The sound from the part that owns the segment, or None."""
        part, own = self._owner(segment)
        return part.to_audio(own, patches)

    def recording(self, inputs: Inputs) -> tuple[np.ndarray, float] | None:
        """The recording of the first part that has one, or None."""
        recordings = (part.recording(inputs) for part in self.parts)  # type: ignore[operator]
        return next((one for one in recordings if one is not None), None)

    def picture_style(self, segment: int) -> PictureStyle:
        """The style of the part that owns the segment."""
        part, own = self._owner(segment)
        return part.picture_style(own)

    def _owner(self, segment: int) -> tuple[Tokenizer, int]:
        """The part that owns a segment, and the number of the segment in that part."""
        for part in self.parts:
            assert isinstance(part, Tokenizer)
            count = len(part.layout.segments)
            if segment < count:
                return part, segment
            segment -= count
        raise IndexError("no such segment")


def _join_geometries(geometries: Sequence[Geometry], layouts: Sequence[Layout], rows: int) -> Geometry:
    """The geometry of rows that consist of several parts.

    A part without coordinates or neighbours gets those of its grid. The bias between parts is zero.
    """
    parts = list(zip(geometries, layouts, strict=True))
    device = next((t.device for geometry in geometries for t in geometry.tensors().values()), torch.device("cpu"))
    joined: dict[str, Tensor] = {}
    if any(geometry.valid is not None for geometry in geometries):
        all_valid = torch.ones(rows, 1, dtype=torch.bool, device=device)
        joined["valid"] = torch.cat(
            [all_valid.expand(-1, layout.length) if g.valid is None else g.valid for g, layout in parts], dim=1
        )
    if any(geometry.coords is not None for geometry in geometries):
        own = [_expand_rows(layout.coordinates, rows, device) if g.coords is None else g.coords for g, layout in parts]
        width = max(coords.shape[-1] for coords in own)
        joined["coords"] = torch.cat([F.pad(coords, (0, width - coords.shape[-1])) for coords in own], dim=1)
    if any(geometry.neighbours is not None for geometry in geometries):
        joined["neighbours"] = _join_neighbours(parts, rows, device)
    if any(geometry.bias is not None for geometry in geometries):
        length, start = sum(layout.length for layout in layouts), 0
        bias = torch.zeros(rows, length, length, device=device)
        for geometry, layout in parts:
            span = slice(start, start + layout.length)
            if geometry.bias is not None:
                bias[:, span, span] = geometry.bias
            start += layout.length
        joined["bias"] = bias
    return Geometry(**joined)


def _expand_rows(table: Tensor, rows: int, device: torch.device) -> Tensor:
    """Expand a table (L, k) to (rows, L, k)."""
    return table.to(device).expand(rows, -1, -1)


def _join_neighbours(parts: Sequence[tuple[Geometry, Layout]], rows: int, device: torch.device) -> Tensor:
    """(rows, L, K) long. Missing neighbours are filled with the token itself."""
    own = [
        _expand_rows(layout.neighbours, rows, device) if g.neighbours is None else g.neighbours for g, layout in parts
    ]
    most, start, tables = max(table.shape[-1] for table in own), 0, []
    for table in own:
        itself = torch.arange(table.shape[1], device=device).view(1, -1, 1)
        filler = itself.expand(rows, -1, most - table.shape[-1])
        tables.append(torch.cat([table, filler], dim=2) + start)
        start += table.shape[1]
    return torch.cat(tables, dim=1)
