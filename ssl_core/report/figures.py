"""What a report shows beside scores: maps of the features, predictions of a probe, nearest neighbours; as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ssl_core.report.reconstruction import SegmentValues, Sound
from ssl_core.report.schema import FeatureKind, FiguresReport


@dataclass(frozen=True)
class Map:
    """Features of samples in the plane.

    points: (n, 2). group: (n,) int, the group of each sample; -1 for samples in none. explained: share of the variance
    along each axis, for a PCA.
    """

    points: np.ndarray
    group: np.ndarray
    explained: tuple[float, float] | None = None


@dataclass(frozen=True)
class Maps:
    """Maps of samples by kind of features.

    Attributes:
        maps: by kind of features.
        method: how they were made.
        groups: names of the groups, empty without labels.
        ordered: whether the groups follow each other, as ranges of a number.
        title: what the groups are, the name of the label.
    """

    maps: Mapping[FeatureKind, Map]
    method: Literal["PCA", "UMAP"]
    groups: Sequence[str]
    ordered: bool
    title: str


@dataclass(frozen=True)
class Predicted:
    """Predictions of one probe on the scored split, from trained features.

    Attributes:
        probe: name of the probe.
        title: name of the label.
        kind: kind of the task.
        names: names of the classes or labels.
        labels: (n,) classes or numbers; for several labels (n, size).
        predictions: (n,) classes or numbers; for several labels the scores (n, size).
        auroc: area under the ROC curve of each label, None where it is undefined; for several labels only.
        unit: what a row is: "sample" or "token".
    """

    probe: str
    title: str
    kind: Literal["classes", "labels", "number"]
    names: Sequence[str]
    labels: np.ndarray
    predictions: np.ndarray
    auroc: Sequence[float | None] = ()
    unit: str = "sample"

    def confusion(self) -> np.ndarray:
        """(size, size) int, the number of rows of each true class (rows) that were predicted as each class."""
        size = len(self.names)
        counts = np.zeros((size, size), dtype=np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts


@dataclass(frozen=True)
class Neighbour:
    """A sample in the pictures of neighbours. row: its row in `Neighbours.values`; distance: to the query."""

    row: int
    name: str
    label: str
    distance: float | None = None


@dataclass(frozen=True)
class Neighbours:
    """Samples of the scored split with the training samples that are nearest to them.

    Attributes:
        values: the segments of all samples.
        queries: each query with its neighbours, the nearest first.
        recordings: raw recordings by row.
        total: number of training samples that were searched.
    """

    values: Sequence[SegmentValues]
    queries: Sequence[tuple[Neighbour, Sequence[Neighbour]]]
    recordings: Mapping[int, Sound]
    total: int


@dataclass
class Figures:
    """All of it, with the entry for report.json. A part is None where there is nothing to show."""

    report: FiguresReport
    maps: Maps | None = None
    predicted: Predicted | None = None
    neighbours: Neighbours | None = None
    notes: list[str] = field(default_factory=list)
