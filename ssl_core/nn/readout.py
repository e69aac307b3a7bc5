"""Read-outs: from the encoder's layers to one feature vector for each sample.

`READOUTS` holds them by name. Each is a pure function of the outputs of layers, of which tokens hold data, and of the
encoder's pooling; `read_out` runs an encoder and applies one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ssl_core.nn.encoder import Encoder
from ssl_core.tokens import Tokens

Pool: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""Maps the output of a layer (B, 1 + L, D), cls token first, and `valid` (B, L) to (B, D), as `Encoder.pool`."""


def last(layers: Sequence[Tensor], valid: Tensor | None, pool: Pool) -> Tensor:
    """The pooled output of the last layer, (B, D): the protocol of the papers."""
    return pool(layers[-1], valid)


def all_layers(layers: Sequence[Tensor], valid: Tensor | None, pool: Pool) -> Tensor:
    """The pooled outputs of all K layers side by side, first layer first: (B, K D)."""
    return torch.cat([pool(layer, valid) for layer in layers], dim=-1)


def all_layers_with_stats(layers: Sequence[Tensor], valid: Tensor | None, pool: Pool) -> Tensor:
    """`all_layers`, then standard deviation and maximum of the last layer over valid tokens: (B, (K + 2) D)."""
    tokens = layers[-1][:, 1:]
    return torch.cat([all_layers(layers, valid, pool), deviation(tokens, valid), maximum(tokens, valid)], dim=-1)


def deviation(tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """Standard deviation over valid tokens, (B, L, D) to (B, D); zero for a row without any.

    The mean of squared differences has the number of valid tokens as its denominator. It is computed in at least
    float32.
    """
    tokens = tokens if tokens.dtype == torch.float64 else tokens.float()
    weights = tokens.new_ones(tokens.shape[:2]) if valid is None else valid.to(tokens.dtype)
    weights = (weights / weights.sum(dim=1, keepdim=True).clamp(min=1)).unsqueeze(-1)
    mean = (weights * tokens).sum(dim=1, keepdim=True)
    variance = (weights * (tokens - mean).square()).sum(dim=1)
    is_zero = variance == 0  # the gradient of the root is infinite there, and NaN in the product with that of a square
    return torch.where(is_zero, 0, torch.where(is_zero, 1, variance).sqrt())


def maximum(tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """Largest value over valid tokens, (B, L, D) to (B, D); zero for a row without any."""
    if valid is None:
        return tokens.amax(dim=1)
    largest = tokens.masked_fill(~valid.unsqueeze(-1), -torch.inf).amax(dim=1)
    return largest.masked_fill(~valid.any(dim=1, keepdim=True), 0)


@dataclass(frozen=True)
class Readout:
    """A read-out.

    description: what it gives, for tables. function: see the functions of this module. layers_read: whether it reads
    all layers, or the last one only. extra: vectors of width D beside one for each layer that it reads. per_token:
    whether it also defines features of single tokens: those of the layers that it reads, side by side.
    """

    description: str
    function: Callable[[Sequence[Tensor], Tensor | None, Pool], Tensor]
    layers_read: bool
    extra: int = 0
    per_token: bool = True

    def width(self, dim: int, depth: int) -> int:
        """Numbers in a feature vector, for an encoder of width `dim` with `depth` layers."""
        return dim * ((depth if self.layers_read else 1) + self.extra)


READOUTS: dict[str, Readout] = {
    "last": Readout("mean over tokens of the last layer", last, False),
    "layers": Readout("means over tokens of all layers", all_layers, True),
    "layers+stats": Readout(
        "means of all layers, with deviation and maximum of the last", all_layers_with_stats, True, 2, False
    ),
}
"""By name; a new read-out is one entry here and one choice of `evaluate.readout`."""


def encoder_depth(encoder: Encoder) -> int | None:
    """The number of layers that an encoder's option `depth` states; None if it has no such option."""
    depth = getattr(encoder.options, "depth", None)
    return depth if isinstance(depth, int) else None


def readout_problem(name: str, depth: int | None, per_token: bool = False) -> str | None:
    """Why a read-out cannot be used with an encoder of so many layers, with the cure; None if it can."""
    readout = READOUTS.get(name)
    if readout is None:
        return f"unknown read-out '{name}'; use one of {', '.join(READOUTS)}"
    if readout.layers_read and depth is None:
        return f"read-out '{name}' reads all layers, and the encoder has no option depth; use the read-out last"
    if per_token and not readout.per_token:
        return f"read-out '{name}' summarises the tokens of a sample, so single tokens have none; use layers or last"
    return None


def read_out(name: str, encoder: Encoder, tokens: Tokens, per_token: bool = False) -> Tensor:
    """Features of whole rows by a read-out.

    Args:
        name: Name in `READOUTS`.
        encoder: The encoder.
        tokens: What a tokenizer returned for a batch of B samples.
        per_token: Return the features of each token instead of one vector for each sample.

    Returns:
        (B, W), or (B, L, W) with `per_token`; W is `Readout.width`.

    Raises:
        ValueError: If the read-out cannot be used, see `readout_problem`.
    """
    depth = encoder_depth(encoder)
    problem = readout_problem(name, depth, per_token)
    if problem is not None:
        raise ValueError(problem)
    readout = READOUTS[name]
    if readout.layers_read:
        outputs = encoder(tokens.embeddings, geometry=tokens.geometry, layers=tuple(range(1, (depth or 0) + 1)))
    else:
        outputs = [encoder(tokens.embeddings, geometry=tokens.geometry)]
    if per_token:
        return torch.cat([output[:, 1:] for output in outputs], dim=-1)
    return readout.function(outputs, tokens.valid, encoder.pool)
