"""Point clouds as local patches: farthest-point centres, each with its nearest points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from pydantic import Field
from ssl_core import (
    BadSample,
    ConfigError,
    Continuous,
    ContinuousTarget,
    Fields,
    Geometry,
    Inputs,
    Layout,
    Segment,
    Tokenizer,
    Tokens,
    hookimpl,
)
from torch import Tensor, nn

SSLX_API = ">=2.0,<3"


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Farthest-point sampling: `count` indices into points (n, 3), each the point farthest from those before it.

    The first is the point farthest from the origin. The result depends on the order of the points only through ties.
    """
    chosen = np.empty(count, dtype=np.int64)
    distances = np.full(len(points), np.inf)
    chosen[0] = np.square(points).sum(axis=1).argmax()
    for index in range(1, count):
        distances = np.minimum(distances, np.square(points - points[chosen[index - 1]]).sum(axis=1))
        chosen[index] = distances.argmax()
    return chosen


def nearest(points: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Indices (m, count) of the points (n, 3) nearest to each of the queries (m, 3), the nearest first."""
    distances = np.square(queries[:, None] - points[None]).sum(axis=-1)
    return distances.argsort(axis=1, kind="stable")[:, :count]


def neighbours_of(centres: np.ndarray, count: int) -> np.ndarray:
    """Indices (L, count) of the centres nearest to each centre (L, 3), without itself.

    With fewer than `count` other centres the remaining places hold the centre's own index.
    """
    length = len(centres)
    distances = np.square(centres[:, None] - centres[None]).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)  # itself comes last
    order = distances.argsort(axis=1, kind="stable")[:, : min(count, length - 1)]
    itself = np.arange(length)[:, None].repeat(count - order.shape[1], axis=1)
    return np.concatenate([order, itself], axis=1)


def chamfer_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Symmetric squared Chamfer distance of each pair of patches, (B, n, 3 k) each, to (B, n).

    The mean squared distance of the points of one patch to the nearest point of the other, plus the reverse (Fan et
    al., CVPR 2017; the loss of Point-MAE, Pang et al., ECCV 2022). The order of the points within a patch has no
    effect.
    """
    one, other = (x.unflatten(-1, (-1, 3)) for x in (prediction, target))
    squared = (one.unsqueeze(-2) - other.unsqueeze(-3)).square().sum(dim=-1)  # (B, n, k of one, k of the other)
    return squared.min(dim=-1).values.mean(dim=-1) + squared.min(dim=-2).values.mean(dim=-1)


class PointCloud(Tokenizer):
    """Patches of a point cloud: each token is a centre's nearest points, embedded by a small PointNet.

    Reads the field "points", (3, n): x, y, z of each point, with z vertical. The cloud is centred at its mean and
    scaled to a largest radius of 1. Farthest-point sampling chooses the centres. Patches overlap, so that a hidden
    token shares points with visible ones, as in Point-MAE.
    """

    name = "point-cloud"
    scale: Tensor

    class Options(Tokenizer.Options):
        """Options of the tokenizer: `--set tokenizer.length=64`."""

        length: int = Field(32, ge=2, description="number of tokens L: centres of patches")
        patch_size: int = Field(16, ge=1, description="points of a patch k, the centre included")
        neighbours: int = Field(6, ge=1, description="nearest centres that count as a token's neighbours")
        width: int = Field(64, ge=1, description="hidden width of the PointNet that embeds a patch")

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim)
        form = fields.get("points")
        if not isinstance(form, Continuous) or len(form.shape) != 2 or form.shape[0] != 3:
            raise ConfigError(f"tokenizer '{self.name}' needs 'points', a field (3, n) of coordinates")
        size = 3 * options.patch_size
        self.layout = Layout([Segment("patches", (options.length,), "continuous", size, chamfer_distance)])
        # Centres spread evenly over a sphere of radius 1 are about this far apart: the area 4 pi, shared by L tokens.
        self.spacing = math.sqrt(4 * math.pi / options.length)
        self.register_buffer("scale", torch.ones(()))
        width = options.width
        self.point_mlp = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        self.patch_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim))

    def preprocess(self, inputs: Inputs) -> Inputs:
        """One cloud as centres (L, 3), patches relative to them (L, k, 3) and neighbours (L, K).

        Raises:
            BadSample: If the cloud has the wrong shape, too few points, points that are not finite, or no extent.
        """
        points = np.asarray(inputs["points"], dtype=np.float64)
        least = max(self.options.length, self.options.patch_size)
        if points.ndim != 2 or points.shape[0] != 3:
            raise BadSample(f"the cloud has shape {points.shape}, expected (3, n)")
        if points.shape[1] < least:
            raise BadSample(f"the cloud has {points.shape[1]} points, but {least} are needed")
        if not np.isfinite(points).all():
            raise BadSample("the cloud holds numbers that are not finite")
        points = points.T - points.mean(axis=1)
        radius = np.sqrt(np.square(points).sum(axis=1).max())
        if radius < 1e-12:
            raise BadSample("all points of the cloud are the same")
        points /= radius
        centres = points[farthest_points(points, self.options.length)]
        patches = points[nearest(points, centres, self.options.patch_size)] - centres[:, None]
        return {
            "centres": centres.astype(np.float32),
            "patches": patches.astype(np.float32),
            "neighbours": neighbours_of(centres, self.options.neighbours),
        }

    def fit_normalization(self, chunks: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Measure the root mean square of the relative coordinates, by which patches are divided."""
        total, count = 0.0, 0
        for chunk in chunks:
            total += float(np.square(chunk["patches"], dtype=np.float64).sum())
            count += chunk["patches"].size
        self.scale.fill_(math.sqrt(total / count) if total else 1.0)

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Coordinates of the centres and their nearest centres.

        The unit of length is the spacing of centres on a sphere, so that neighbouring centres are about one apart, as
        neighbouring tokens of a grid are: for that distance the frequencies of sine-cosine positions are chosen.
        """
        return Geometry(coords=inputs["centres"] / self.spacing, neighbours=inputs["neighbours"])

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Patches to embeddings (B, L, dim) and targets (B, L, 3 k)."""
        patches = inputs["patches"] / self.scale
        pooled = self.point_mlp(patches).amax(dim=2)  # over the points of a patch: their order has no effect
        target = ContinuousTarget(patches.flatten(2))
        return Tokens(self.patch_mlp(pooled), (target,), self.layout, self.geometry(inputs))

    def raw(self, inputs: Mapping[str, Tensor], per_token: bool = False) -> Tensor:
        """Sorted statistics in place of coordinates, whose order in a cloud has no meaning.

        For a row (B, 2 L): distances of the centres from the vertical axis, sorted, and their heights, sorted. For a
        token (B, L, 2 k) the same of the points of its patch, from the vertical axis through the centre.
        """
        points = inputs["patches"] if per_token else inputs["centres"]
        distances = points[..., :2].square().sum(dim=-1).sqrt()
        return torch.cat([distances.sort(dim=-1).values, points[..., 2].sort(dim=-1).values], dim=-1)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [PointCloud]
