"""Ready-made tokenizers by geometry: patches of a grid, vocabulary ids, several parts joined. No modality is named."""

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
from ssl_core.contracts import Inputs, Tokenizer
from ssl_core.data import Fields
from ssl_core.errors import ConfigError
from ssl_core.nn.indexing import embedding_lookup
from ssl_core.tokens import ContinuousTarget, DiscreteTarget, Geometry, Layout, Segment, Tokens

MEASURED = 2**24  # numbers measured at a time


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *space) to (B, L, prod(patch) * C): patches row-major, inside a patch space first, channel last."""
    if torch.compiler.is_compiling() and not x.requires_grad:
        cut: Tensor = torch.ops.sslx.cut(x, list(patch))
        return cut
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


# One operation to the compiler, which would otherwise cut patches one number at a time, for each of their uses anew
# (ten times as long on images of 13 channels).
@torch.library.custom_op("sslx::cut", mutates_args=())
def _cut(x: Tensor, patch: Sequence[int]) -> Tensor:
    return _patchify(x, patch).clone(memory_format=torch.contiguous_format)


@_cut.register_fake
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
    """Patches of a grid of real numbers, of any number of axes, through one linear map.

    `field`: the input to read, (B, C, *space) with `channels` C and space `shape`. `patch` must divide `shape`.
    `unit`: what a prepared number is multiplied by before anything else, e.g. 1/255 for images kept as bytes; given
    and measured constants are in these units. Targets are the normalised patches, in the order of `patchify`. A new
    modality is a subclass whose `__init__` names these.
    """

    mean: Tensor
    std: Tensor

    class Options(_options.Options):
        """Options common to all grid tokenizers."""

        normalise: Literal["measured", "given", "none"] = Field(
            "measured",
            description="mean and std: measured from the training data and stored with the model, given, or none",
        )
        per_channel: bool = Field(True, description="measure one mean and std for each channel, not one for all")
        mean: tuple[float, ...] = Field((), description="given means: one, or one for each channel")
        std: tuple[float, ...] = Field((), description="given standard deviations: one, or one for each channel")

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
                    f"choose a patch that does, or another size"
                )
        self.field, self.channels, self.unit = field, channels, unit
        self.shape, self.patch = tuple(shape), tuple(patch)
        grid = tuple(size // step for size, step in zip(shape, patch, strict=True))
        width = channels * math.prod(patch)
        self.layout = Layout([Segment(field, grid, "continuous", width)])
        self.embed = nn.Linear(width, dim)
        nn.init.xavier_uniform_(self.embed.weight)  # the bias keeps torch's default, as in MetaMAE
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        if options.normalise == "given":
            self._given(options.mean, options.std)

    def _given(self, mean: Sequence[float], std: Sequence[float]) -> None:
        for what, numbers in (("mean", mean), ("std", std)):
            if len(numbers) not in (1, self.channels):
                raise ConfigError(
                    f"tokenizer.{what} holds {len(numbers)} numbers; normalise=given needs 1 or {self.channels}"
                )
        if min(std) <= 0:
            raise ConfigError(f"tokenizer.std must be positive, got {min(std)}")
        self.mean.copy_(torch.tensor(mean))
        self.std.copy_(torch.tensor(std))

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Mean and standard deviation of the prepared training data, in float64, one pass."""
        if self.options.normalise != "measured":
            return
        count, mean, spread = 0, np.zeros(self.channels), np.zeros(self.channels)
        for part in self._parts(chunks):  # merge means and squared deviations; E[x^2] - E[x]^2 would cancel
            x = np.asarray(part, dtype=np.float64) * self.unit
            x = np.moveaxis(x, 1, 0).reshape(self.channels, -1)
            if not self.options.per_channel:
                x = x.reshape(1, -1)
            more, middle = x.shape[1], x.mean(axis=1)
            off = middle - mean
            spread = spread + np.square(x - middle[:, None]).sum(axis=1) + off**2 * (count * more / (count + more))
            mean = mean + off * (more / (count + more))
            count += more
        if count == 0:
            return
        std = np.sqrt(spread / count)
        # a constant channel stays as it is; its deviation is rounding and nothing else
        std = np.where(std > 1e-9 * np.maximum(np.abs(mean), 1.0), std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def _parts(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """The chunks in pieces of at most `MEASURED` numbers, so that large samples fit in memory as float64."""
        rows = max(1, MEASURED // (self.channels * math.prod(self.shape)))
        for chunk in chunks:
            whole = chunk[self.field]
            for start in range(0, len(whole), rows):
                yield whole[start : start + rows]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """inputs[field]: (B, C, *space) to Tokens of L = prod(space / patch)."""
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

    def to_image(self, segment: int, patches: Tensor) -> Tensor:
        """Patches put together and the normalisation undone: (B, C, *space), in the units of the prepared input."""
        ones = (1,) * len(self.shape)
        x = unpatchify(patches, self.layout.segments[0].grid, self.patch)
        x = x * self.std.view(-1, *ones) + self.mean.view(-1, *ones)
        return x if self.unit == 1 else x / self.unit


class IdTokenizer(Tokenizer):
    """One token for each vocabulary entry, through one embedding table.

    `field`: the input to read, (B, length) integers in [0, vocab). Targets are the ids, scored against the live table.
    `std`: standard deviation of the initial table; None is Xavier uniform, as the published code (D05). Xavier makes
    vectors so much shorter than the positions added to them that for hundreds of steps little else is seen.
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

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """inputs[field]: (B, L) to Tokens."""
        ids = inputs[self.field].long()
        target = DiscreteTarget(ids, self.table)
        return Tokens(embedding_lookup(self.table, ids), (target,), self.layout, self.geometry(inputs))


class JointTokenizer(Tokenizer):
    """Several tokenizers side by side: their content, targets and segments one after the other.

    Each part reads its own fields; nothing is near across parts.
    """

    def __init__(self, options: Any, fields: Fields, dim: int, *, parts: Sequence[Tokenizer]) -> None:
        super().__init__(options, fields, dim)
        self.parts = nn.ModuleList(parts)
        self.layout = Layout([segment for part in parts for segment in part.layout.segments])

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Each part learns in turn."""
        for part in self.parts:
            part.fit(samples)  # type: ignore[operator]

    def fit_fingerprint(self) -> str:
        """What each part learned."""
        return "\0".join(part.fit_fingerprint() for part in self.parts).strip("\0")  # type: ignore[operator]

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Each part prepares in turn."""
        for part in self.parts:
            inputs = part.preprocess(inputs)  # type: ignore[operator]
        return inputs

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Each part measures in turn."""
        kept = list(chunks)  # memory-mapped views, walked once by each part
        for part in self.parts:
            part.fit_normalization(kept)  # type: ignore[operator]

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """The geometries of all parts, joined."""
        rows = len(next(iter(inputs.values())))
        geometries = [part.geometry(inputs) for part in self.parts]  # type: ignore[operator]
        return _join_geometries(geometries, [part.layout for part in self.parts], rows)  # type: ignore[misc]

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Tokens of all parts, in order."""
        parts: list[Tokens] = [part(inputs) for part in self.parts]
        embeddings = torch.cat([tokens.embeddings for tokens in parts], dim=1)
        targets = tuple(target for tokens in parts for target in tokens.targets)
        layouts = [tokens.layout for tokens in parts]
        geometry = _join_geometries([tokens.geometry for tokens in parts], layouts, len(embeddings))
        return Tokens(embeddings, targets, self.layout, geometry)

    def to_image(self, segment: int, patches: Tensor) -> Tensor | None:
        """The picture that the part which owns the segment makes."""
        for part in self.parts:
            count = len(part.layout.segments)  # type: ignore[union-attr,arg-type]
            if segment < count:
                return part.to_image(segment, patches)  # type: ignore[operator]
            segment -= count
        raise IndexError("no such segment")


def _join_geometries(geometries: Sequence[Geometry], layouts: Sequence[Layout], rows: int) -> Geometry:
    """One geometry for rows that consist of several parts.

    A part without coordinates or neighbours gets those of its grid; bias is zero between parts.
    """
    parts = list(zip(geometries, layouts, strict=True))
    device = next((t.device for geometry in geometries for t in geometry.tensors().values()), torch.device("cpu"))
    joined: dict[str, Tensor] = {}
    if any(geometry.valid is not None for geometry in geometries):
        whole = torch.ones(rows, 1, dtype=torch.bool, device=device)
        joined["valid"] = torch.cat(
            [whole.expand(-1, layout.length) if g.valid is None else g.valid for g, layout in parts], dim=1
        )
    if any(geometry.coords is not None for geometry in geometries):
        own = [_rows_of(layout.coordinates, rows, device) if g.coords is None else g.coords for g, layout in parts]
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


def _rows_of(table: Tensor, rows: int, device: torch.device) -> Tensor:
    """A table (L, k) that is the same in every row: (rows, L, k)."""
    return table.to(device).expand(rows, -1, -1)


def _join_neighbours(parts: Sequence[tuple[Geometry, Layout]], rows: int, device: torch.device) -> Tensor:
    """(rows, L, K) long; a missing neighbour is the token itself."""
    own = [_rows_of(layout.neighbours, rows, device) if g.neighbours is None else g.neighbours for g, layout in parts]
    most, start, tables = max(table.shape[-1] for table in own), 0, []
    for table in own:
        itself = torch.arange(table.shape[1], device=device).view(1, -1, 1)
        filler = itself.expand(rows, -1, most - table.shape[-1])
        tables.append(torch.cat([table, filler], dim=2) + start)
        start += table.shape[1]
    return torch.cat(tables, dim=1)
