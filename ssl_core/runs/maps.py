"""Maps of features: samples as points in the plane, by principal components or UMAP, in groups of their labels."""

from __future__ import annotations

import importlib.util
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ssl_core.data import Task
from ssl_core.errors import ConfigError
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.report.figures import Map, Maps
from ssl_core.report.schema import FeatureKind
from ssl_core.runs.kept import KeptFeatures

MAX_GROUPS = 20
"""Groups with a mark of their own; of more the rarest are one group without a name."""
BINS = 5
"""Groups of a number, by its quantiles."""
UMAP_INPUT = 50
"""Principal components that UMAP reads."""
UMAP_LEAST = 20
"""Samples below which a map is always by principal components."""


def check_map(options: EvaluateOptions) -> None:
    """Check, before anything is computed, that the library for the map is there.

    Raises:
        ConfigError: it is not.
    """
    if options.figures and options.map == "umap" and importlib.util.find_spec("umap") is None:
        raise ConfigError(
            "evaluate.map=umap needs the package umap-learn; run pip install 'sslx[umap]', or leave evaluate.map out"
        )


def make_maps(
    features: Mapping[FeatureKind, KeptFeatures], labels: np.ndarray | None, task: Task | None, options: Any, seed: int
) -> Maps:
    """Maps of features, of all kinds by the same method.

    Args:
        features: by kind; `rows` are those of the scored split.
        labels: (n, ...) labels of the whole split; None without labels.
        task: what the labels mean; None without labels.
        options: `EvaluateOptions` with the method.
        seed: seed of the method.
    """
    enough = min(len(kept.x) for kept in features.values()) >= UMAP_LEAST
    method: Literal["PCA", "UMAP"] = "UMAP" if options.map == "umap" and enough else "PCA"
    groups: Sequence[str] = ()
    ordered = False
    group = None
    if labels is not None and task is not None and not task.per_token:
        shown = np.unique(np.concatenate([kept.rows for kept in features.values()]))
        group, groups, ordered = np.full(len(labels), -1), (), task.kind == "number"
        group[shown], groups = group_labels(task, labels[shown])
    maps = {}
    for kind, kept in features.items():
        points, explained = (umap(kept.x, seed), None) if method == "UMAP" else pca(kept.x, seed)
        own = np.full(len(points), -1) if group is None else group[kept.rows]
        maps[kind] = Map(points, own, explained)
    title = task.title if groups and task is not None else ""
    return Maps(maps, method, groups, ordered, title)


def pca(x: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Two principal components of features (n, D), not scaled: points (n, 2), shares of the variance."""
    from sklearn.decomposition import PCA

    count = min(2, *x.shape)
    model = PCA(count, svd_solver="full" if min(x.shape) < 10 else "randomized", random_state=seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # equal samples have no variance to explain
        points = model.fit_transform(x.astype(np.float64 if x.size < 10**6 else np.float32))
        shares = np.nan_to_num(model.explained_variance_ratio_)
    points, shares = np.pad(points, ((0, 0), (0, 2 - count))), np.pad(shares, (0, 2 - count))
    return points, (float(shares[0]), float(shares[1]))


def umap(x: np.ndarray, seed: int) -> np.ndarray:
    """UMAP of features (n, D), of their first principal components if these are many: points (n, 2)."""
    import warnings

    from sklearn.decomposition import PCA
    from umap import UMAP

    if min(x.shape) > UMAP_INPUT:
        x = PCA(UMAP_INPUT, svd_solver="randomized", random_state=seed).fit_transform(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points: np.ndarray = UMAP(n_components=2, random_state=seed, n_jobs=1).fit_transform(x)
    return points


def group_labels(task: Task, labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The group of each label, -1 for a rare one, and the names of the groups.

    Args:
        task: of kind "classes": a group is a class. "labels": a group is a set of labels. "number": a group is a range
            between quantiles.
        labels: (n,), or (n, size) for several labels.
    """
    if task.kind == "number":
        return _number_groups(np.asarray(labels, dtype=np.float64).reshape(-1))
    if task.kind == "labels":
        texts = [label_text(task, row) for row in labels]
        common = [text for text, _ in Counter(texts).most_common()]
    else:
        numbers = labels.reshape(-1).astype(int)
        texts = [label_text(task, number) for number in numbers]
        present, counts = np.unique(numbers[numbers != task.ignore], return_counts=True)
        if len(present) > MAX_GROUPS:
            present = present[np.argsort(-counts, kind="stable")]
        common = list(dict.fromkeys(label_text(task, number) for number in present))
    names = common if len(common) <= MAX_GROUPS else common[: MAX_GROUPS - 1]
    place = {name: number for number, name in enumerate(names)}
    return np.array([place.get(text, -1) for text in texts]), names


def _number_groups(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 2:
        return np.zeros(len(values), dtype=int), [f"{edges[0]:.4g}"]
    group = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return group, [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]


def label_text(task: Task, label: Any) -> str:
    """A label in words: the name of a class, a number, or the names of several labels."""
    if task.kind == "labels":
        names = task.names or tuple(map(str, range(task.size)))
        present = [
            name for name, value in zip(names, np.asarray(label).reshape(-1).tolist(), strict=True) if value == 1
        ]
        return " + ".join(present) or "none"
    if task.kind == "number":
        return f"{float(np.asarray(label).reshape(())):.4g}"
    number = int(np.asarray(label).reshape(()))
    return task.names[number] if 0 <= number < len(task.names) else str(number)
