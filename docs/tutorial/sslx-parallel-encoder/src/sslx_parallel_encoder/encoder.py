"""An encoder whose blocks apply attention and a gated MLP to the same input and add both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from ssl_core import ConfigError, Geometry, Layout, hookimpl
from ssl_core.nn import Attention, Encoder, Positions, embedding_lookup, prepend_cls
from torch import Tensor, nn

SSLX_API = ">=2.0,<3"
EPS = 1e-6  # added to the mean square by RMSNorm


class GatedMlp(nn.Module):
    """SwiGLU, W3 (silu(W1 x) * W2 x), without biases (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(dim, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class ParallelBlock(nn.Module):
    """x + Attention(n) + SwiGLU(n) with n = RMSNorm(x), one residual sum in place of two.

    Parallel blocks: Wang and Komatsuzaki, GPT-J, 2021; in vision ViT-22B, Dehghani et al., ICML 2023. RMSNorm: Zhang
    and Sennrich, NeurIPS 2019.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=EPS)
        self.attention = Attention(dim, heads)
        self.mlp = GatedMlp(dim, hidden)

    def forward(self, x: Tensor, key_mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """x: (B, N, D) to (B, N, D). key_mask: (B, N) bool, the keys that count. bias: (B, N, N)."""
        normed = self.norm(x)
        return x + self.attention(normed, key_mask=key_mask, bias=bias) + self.mlp(normed)


class ParallelEncoder(Encoder):
    """Attention and a SwiGLU MLP side by side in each block, with RMSNorm (GPT-J, ViT-22B)."""

    name = "parallel"

    class Options(Encoder.Options):
        """Options of the encoder: `--set encoder.depth=6`."""

        depth: int = Field(12, ge=1, description="number of blocks")
        heads: int = Field(8, ge=1, description="attention heads")
        mlp_ratio: float = Field(2.0, gt=0, description="hidden width of the gated MLP as a multiple of dim")

    def __init__(self, options: Options, layout: Layout) -> None:
        super().__init__(options, layout)
        if options.dim % options.heads:
            raise ConfigError(f"encoder.dim={options.dim} is not a multiple of encoder.heads={options.heads}")
        hidden = max(1, round(options.dim * options.mlp_ratio))
        self.cls_token = nn.Parameter(0.02 * torch.randn(options.dim))
        self.positions = Positions(layout, options.dim)
        self.blocks = nn.ModuleList(ParallelBlock(options.dim, options.heads, hidden) for _ in range(options.depth))
        self.norm = nn.RMSNorm(options.dim, eps=EPS)

    def forward(
        self,
        embeddings: Tensor,
        position_ids: Tensor | None = None,
        geometry: Geometry | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Tensor | list[Tensor]:
        """As `Encoder.forward`. The last layer's output has the final norm, those of other layers have none.

        Raises:
            ValueError: For a layer that does not exist.
        """
        depth = len(self.blocks)
        chosen = (depth,) if layers is None else tuple(layers)
        if not chosen or min(chosen) < 1 or max(chosen) > depth:
            raise ValueError(f"layers {chosen}; the encoder has layers 1 to {depth}")
        local = geometry or Geometry()
        if position_ids is not None:
            local = local.gather(position_ids)
        x = torch.cat([self._cls(embeddings), embeddings + self._positions(position_ids, local)], dim=1)
        key_mask = prepend_cls(local.valid)
        bias = None if local.bias is None else F.pad(local.bias, (1, 0, 1, 0))  # the cls token attends to every token
        outputs: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(chosen)], start=1):
            x = block(x, key_mask, bias)
            outputs[number] = self.norm(x) if number == depth else x
        return outputs[depth] if layers is None else [outputs[number] for number in chosen]

    def _cls(self, embeddings: Tensor) -> Tensor:
        """The cls token of each row, (B, 1, D), with its position."""
        return (self.cls_token + self.positions()[0]).expand(embeddings.shape[0], 1, -1)

    def _positions(self, position_ids: Tensor | None, local: Geometry) -> Tensor:
        """Position vectors of the tokens: of their coordinates, or of their places in the layout."""
        if local.coords is not None:
            return self.positions.from_coords(local.coords, position_ids)
        table = self.positions()
        return table[1:] if position_ids is None else embedding_lookup(table, 1 + position_ids)


@hookimpl
def register_encoders() -> list[type[Encoder]]:
    return [ParallelEncoder]
