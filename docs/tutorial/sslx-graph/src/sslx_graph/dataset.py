"""Small graphs of five families, generated from a seed: the family is the label."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from pydantic import Field
from ssl_core import Continuous, Dataset, Preset, Sample, Split, Task, hookimpl

SSLX_API = ">=2.0,<3"
NAMES = ("tree", "cycle", "grid", "cliques", "communities")
MOST = 24  # nodes
SEEDS = 3  # nodes whose types the other nodes take over


def draw_edges(name: str, rng: np.random.Generator) -> tuple[int, list[tuple[int, int]]]:
    """The number of nodes, from 10 to 24, and the edges of a random connected graph of a family."""
    count = int(rng.integers(10, MOST + 1))
    if name == "tree":  # each node hangs on one of the nodes before it
        return count, [(int(rng.integers(node)), node) for node in range(1, count)]
    if name == "cycle":  # a ring with some chords
        chords = [tuple(rng.choice(count, 2, replace=False).tolist()) for _ in range(count // 6)]
        return count, [(node, (node + 1) % count) for node in range(count)] + chords
    if name == "grid":
        rows, columns = int(rng.integers(3, 5)), int(rng.integers(4, 7))
        nodes = np.arange(rows * columns).reshape(rows, columns)
        pairs = [(nodes[1:], nodes[:-1]), (nodes[:, 1:], nodes[:, :-1])]
        return nodes.size, [pair for a, b in pairs for pair in zip(a.flat, b.flat, strict=True)]
    if name == "cliques":  # a hub, joined to one node of each clique
        size = int(rng.integers(3, 5))
        starts = range(1, 1 + size * int(rng.integers(3, (MOST - 1) // size + 1)), size)
        inner = [pair for start in starts for pair in combinations(range(start, start + size), 2)]
        return starts[-1] + size, inner + [(0, start) for start in starts]
    if name == "communities":  # two dense halves, each connected by a path, and two edges between them
        halves = np.array_split(np.arange(count), 2)
        paths = [pair for half in halves for pair in zip(half[1:], half[:-1], strict=True)]
        dense = [pair for half in halves for pair in combinations(half, 2) if rng.random() < 0.3]
        return count, paths + dense + [(rng.choice(halves[0]), rng.choice(halves[1])) for _ in range(2)]
    raise ValueError(f"no family '{name}'")


def nearest_seed(adjacency: np.ndarray, seeds: int) -> np.ndarray:
    """For each node of a connected graph which of the nodes 0, 1, ..., seeds - 1 is nearest, the lowest of equals."""
    nearest = np.full(len(adjacency), -1)
    nearest[:seeds] = np.arange(seeds)
    while (nearest < 0).any():
        reached = nearest.copy()
        for seed in range(seeds):
            reached[adjacency[nearest == seed].any(axis=0) & (reached < 0)] = seed
        nearest = reached
    return nearest


class SyntheticGraph(Dataset):
    """Connected graphs of 10 to 24 nodes of five families; node features are noisy types; generated, no download.

    Three random nodes have three random types, and every node has the type of the nearest of them, so that neighbours
    often have the same type. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "graph"
    is_default = True
    splits = ("train", "validation", "test")

    class Options(Dataset.Options):
        """Options of the data set: `--set dataset.n_train=100`."""

        n_train: int = Field(2000, ge=1, description="graphs for training")
        n_validation: int = Field(500, ge=1, description="graphs for validation")
        n_test: int = Field(500, ge=1, description="graphs for the test")
        types: int = Field(6, ge=SEEDS, description="types of nodes, the number of features F")
        noise: float = Field(0.3, ge=0, description="deviation of the noise on each feature; a type adds 1 to its own")
        seed: int = Field(0, ge=0, description="seed of all samples")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"features": Continuous((options.types, None)), "adjacency": Continuous((1, None, None))}
        self.task = Task("classes", len(NAMES), "accuracy", names=NAMES, title="family")

    def __len__(self) -> int:
        return getattr(self.options, f"n_{self.split}")

    def __getitem__(self, index: int) -> Sample:
        """{"features": (types, n) float32, "adjacency": (1, n, n) bytes} and the number of the family."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, label = self.options, index % len(NAMES)
        rng = np.random.default_rng([options.seed, self.splits.index(self.split), index])
        count, edges = draw_edges(NAMES[label], rng)
        order = rng.permutation(count)  # the number of a node tells nothing about its family
        ends = order[np.array(edges)]
        adjacency = np.zeros((count, count), dtype=bool)
        adjacency[ends[:, 0], ends[:, 1]] = adjacency[ends[:, 1], ends[:, 0]] = True
        types = rng.permutation(options.types)[:SEEDS]
        features = np.eye(options.types)[types[nearest_seed(adjacency, SEEDS)]]
        features += options.noise * rng.normal(size=features.shape)
        inputs = {"features": features.T.astype(np.float32), "adjacency": adjacency[np.newaxis].astype(np.uint8)}
        return {"inputs": inputs, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticGraph]


@hookimpl
def register_presets() -> list[Preset]:
    values = {
        "encoder.dim": 128, "encoder.depth": 4, "encoder.heads": 4,
        "train.lr": 1e-3, "train.warmup_steps": 50, "train.steps": 300,
    }  # fmt: skip
    source = "a small encoder and a short run for the embedded data"
    return [Preset("demo-graph", values, source, modality="graph", dataset="synthetic", default=True)]
