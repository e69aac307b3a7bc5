"""Graphs as nodes: a token for each node; edges become neighbours, distances and coordinates."""

from __future__ import annotations

from collections.abc import Mapping

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
GAMMA = 2  # GraphMAE's scaling factor
DEGREES = 8  # degrees that the raw features count one by one; larger ones count as the largest


def path_lengths(adjacency: np.ndarray) -> np.ndarray:
    """Number of edges on the shortest path between each pair of nodes, (n, n); -1 where there is none."""
    count = len(adjacency)
    lengths = np.full((count, count), -1)
    reached = np.eye(count, dtype=bool)
    for length in range(count):
        lengths[reached & (lengths < 0)] = length
        reached = reached @ adjacency
    return lengths


def neighbours_of(adjacency: np.ndarray, count: int) -> np.ndarray:
    """The nodes that share an edge with each node, (n, count); the remaining places hold the node itself."""
    table = np.arange(len(adjacency))[:, None].repeat(count, axis=1)
    for node, row in enumerate(adjacency):
        others = np.flatnonzero(row)[:count]
        table[node, : len(others)] = others
    return table


def laplacian_coordinates(adjacency: np.ndarray, axes: int) -> np.ndarray:
    """Coordinates of nodes, (n, axes): eigenvectors of the graph Laplacian D - A with the smallest eigenvalues above 0.

    The mean over all edges of the squared distance of their ends is 1, and each axis has an equal share of it: the sum
    of squared differences of an eigenvector over all edges is its eigenvalue. The sign makes the sum of cubes
    positive, or the first number that is not 0 where that sum is 0. Axes that a small graph lacks are 0.
    """
    edges = adjacency.sum() / 2
    values, vectors = np.linalg.eigh(np.diag(adjacency.sum(axis=1)) - adjacency.astype(np.float64))
    chosen = np.flatnonzero(values > 1e-9)[:axes]
    coordinates = np.zeros((len(adjacency), axes))
    for axis, index in enumerate(chosen):
        vector = vectors[:, index]
        skew = (vector**3).sum()
        sign = np.sign(skew) if abs(skew) > 1e-9 else np.sign(vector[np.flatnonzero(abs(vector) > 1e-9)[0]])
        coordinates[:, axis] = sign * vector * np.sqrt(edges / (len(chosen) * values[index]))
    return coordinates


def scaled_cosine_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(1 - cosine)^gamma of each pair of vectors, (B, n, size) each, to (B, n), with gamma = 2.

    From GraphMAE (Hou et al., KDD 2022), whose loss is its mean over the hidden nodes.
    """
    scale = (prediction.square().sum(dim=-1) * target.square().sum(dim=-1) + 1e-12).rsqrt()
    return (1 - (prediction * target).sum(dim=-1) * scale) ** GAMMA


class Graph(Tokenizer):
    """The nodes of a graph: each token is the features of one node; edges become neighbours and attention bias.

    Reads the fields "features", (F, n) numbers of each node, and "adjacency", (1, n, n) with 1 for an edge and 0
    elsewhere, symmetric. Loops are ignored. An embedding is a linear map of the node's own features: messages between
    nodes pass in the encoder alone, so that a hidden node reaches no other token.
    """

    name = "graph"

    class Options(Tokenizer.Options):
        """Options of the tokenizer: `--set tokenizer.slope=1`."""

        nodes: int = Field(24, ge=2, description="number of tokens L: the most nodes of a graph")
        axes: int = Field(3, ge=1, description="coordinates of a node: eigenvectors of the graph Laplacian")
        slope: float = Field(0.5, ge=0, description="attention bias: minus this number for each edge between two nodes")
        hops: int | None = Field(None, ge=1, description="more edges apart, nodes do not attend to each other")

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim)
        features, adjacency = fields.get("features"), fields.get("adjacency")
        if not isinstance(features, Continuous) or len(features.shape) != 2 or features.shape[0] is None:
            raise ConfigError(f"tokenizer '{self.name}' needs 'features', a field (F, n) of the nodes' numbers")
        if not isinstance(adjacency, Continuous) or len(adjacency.shape) != 3 or adjacency.shape[0] != 1:
            raise ConfigError(f"tokenizer '{self.name}' needs 'adjacency', a field (1, n, n) of the edges")
        self.size = features.shape[0]
        self.layout = Layout([Segment("nodes", (options.nodes,), "continuous", self.size, scaled_cosine_error)])
        self.embed = nn.Linear(self.size, dim)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """One graph, padded to L nodes: its features, which nodes exist, path lengths, neighbours and coordinates.

        Raises:
            BadSample: If shapes do not fit, the graph is too large, or its numbers are not finite or not symmetric.
        """
        features, adjacency = np.asarray(inputs["features"], np.float32).T, np.asarray(inputs["adjacency"])
        count, most = len(features), self.options.nodes
        if features.shape != (count, self.size) or adjacency.shape != (1, count, count):
            raise BadSample(f"features {features.T.shape} and adjacency {adjacency.shape} do not fit together")
        if not 1 <= count <= most:
            raise BadSample(f"the graph has {count} nodes, not 1 to {most}; see tokenizer.nodes")
        if not np.isfinite(features).all():
            raise BadSample("the graph has features that are not finite")
        edges = adjacency[0] != 0
        if not (edges == edges.T).all():
            raise BadSample("the adjacency is not symmetric; edges have no direction here")
        edges = edges & ~np.eye(count, dtype=bool)
        padding = (0, most - count)
        neighbours = np.arange(most)[:, None].repeat(most - 1, axis=1)
        neighbours[:count] = neighbours_of(edges, most - 1)
        return {
            "features": np.pad(features, (padding, (0, 0))),
            "valid": np.arange(most) < count,
            "lengths": np.pad(path_lengths(edges), (padding, padding), constant_values=-1).astype(np.int16),
            "neighbours": neighbours,
            "coordinates": np.pad(
                laplacian_coordinates(edges, self.options.axes).astype(np.float32), (padding, (0, 0))
            ),
        }

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Which nodes exist, coordinates, edges as neighbours, and an attention bias that grows with the path length.

        The bias is -slope x path length, linear as in ALiBi (Press et al., ICLR 2022); -inf between nodes without a
        path, or more than `hops` apart.
        """
        lengths = inputs["lengths"].float()
        apart = lengths < 0
        if self.options.hops is not None:
            apart = apart | (lengths > self.options.hops)
        bias = (-self.options.slope * lengths).masked_fill(apart, -torch.inf)
        return Geometry(inputs["valid"], inputs["coordinates"], inputs["neighbours"], bias)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Features to embeddings (B, L, dim); the features are the targets (B, L, F)."""
        features = inputs["features"]
        return Tokens(self.embed(features), (ContinuousTarget(features),), self.layout, self.geometry(inputs))

    def raw(self, inputs: Mapping[str, Tensor], per_token: bool = False) -> Tensor:
        """Features and degrees, in a form that does not depend on the order of nodes.

        For a token (B, L, F + 1): its features and its degree. For a row (B, F + 9): the mean of the features and the
        share of nodes of each degree 0, 1, ..., 7 and 8 or more.
        """
        degrees = (inputs["lengths"] == 1).sum(dim=-1)
        if per_token:
            return torch.cat([inputs["features"], degrees.unsqueeze(-1).float()], dim=-1)
        counts = nn.functional.one_hot(degrees.clamp(max=DEGREES), DEGREES + 1)
        each = torch.cat([inputs["features"], counts.float()], dim=-1) * inputs["valid"].unsqueeze(-1)
        return each.sum(dim=1) / inputs["valid"].sum(dim=1, keepdim=True)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Graph]
