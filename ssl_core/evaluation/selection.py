"""The best probe and post-processing of features, chosen on validation samples and never on those that are scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_core.data import Task
from ssl_core.evaluation.options import EvaluateOptions
from ssl_core.evaluation.postprocess import POSTPROCESSES, PostprocessName
from ssl_core.evaluation.protocols import Postprocess, Probe, random_subset, score

SELECTED = "selected"
"""Name of the probe in rows of scores whose probe and post-processing were chosen."""
MOST_ROWS = 5000
"""Most samples that candidates are fitted on, and most that they are compared on: it bounds the cost."""

Split = tuple[np.ndarray, np.ndarray | None]
"""Features (n, ...) and labels (n, ...) of some samples."""


@dataclass(frozen=True)
class Candidate:
    """A probe by name with a post-processing."""

    probe: str
    postprocess: PostprocessName

    def __str__(self) -> str:
        return self.probe if self.postprocess == "none" else f"{self.probe}, {self.postprocess}"


@dataclass(frozen=True)
class Selection:
    """The best candidate, and the validation score of each; None where it is undefined."""

    best: Candidate
    values: Mapping[Candidate, float | None]

    def details(self, selected_on: str) -> dict[str, Any]:
        """For the details of a row of scores. selected_on: the validation samples in words."""
        return {
            "probe": self.best.probe, "postprocess": self.best.postprocess, "selected_on": selected_on,
            "validation": {str(candidate): value for candidate, value in self.values.items()},
        }  # fmt: skip


def candidates(probes: Mapping[str, Probe], options: EvaluateOptions) -> Iterator[Candidate]:
    """Every probe with every post-processing; logistic regression standardises by itself, so it is not done twice."""
    for name in probes:
        for postprocess in POSTPROCESSES:
            if not (name == "linear" and options.linear == "logistic" and postprocess == "standardise"):
                yield Candidate(name, postprocess)


def select(
    task: Task, fit: Split, validation: Split, probes: Mapping[str, Probe], options: EvaluateOptions, seed: int
) -> Selection:
    """The candidate with the best value of the task's metric on validation samples; of equal ones the first.

    Args:
        task: Task of the labels.
        fit: Samples that candidates are fitted on; at most `MOST_ROWS` of them are used, drawn by the seed.
        validation: Samples that they are compared on; the same limit holds.
        probes: Probes by name, all of which read these features.
        options: Options of the evaluation.
        seed: Seed of the draws.

    Raises:
        DataError: If labels or features do not fit the task.
    """
    fit, validation = _limited(fit, seed), _limited(validation, seed)
    values: dict[Candidate, float | None] = {}
    best, best_value = None, -np.inf
    for candidate in candidates(probes, options):
        postprocess = Postprocess(candidate.postprocess, options.components)
        probe = {candidate.probe: probes[candidate.probe]}
        row = score(task, fit, validation, probe, seed=seed, postprocess=postprocess)[0]
        values[candidate] = value = row["value"]
        signed = -np.inf if value is None else value if row["higher_is_better"] else -value
        if best is None or signed > best_value:
            best, best_value = candidate, signed
    if best is None:
        raise ValueError("no probe to choose from")
    return Selection(best, values)


def held_out(samples: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the samples to fit on and of a share of all samples, drawn by the seed, to compare on; in order."""
    order = np.random.default_rng(seed).permutation(samples)
    count = max(1, round(share * samples))
    return np.sort(order[count:]), np.sort(order[:count])


def _limited(split: Split, seed: int) -> Split:
    index = random_subset(len(split[0]), MOST_ROWS, seed)
    if index is None:
        return split
    return split[0][index], None if split[1] is None else split[1][index]
