"""Synthetic DNA: runs dominated by one base, whose mean length depends on the genus."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Discrete, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._random_runs import draw_runs

BASES = "ACGT"


class SyntheticGenomics(SyntheticDataset):
    """Synthetic DNA of genera that differ in the length of runs of one base; embedded, no download.

    A sequence consists of runs, each dominated by one base: a share `purity` of its bases are that base, the others
    are uniform. The next run is dominated by another base. The class is the genus, which sets the mean run length. In
    every genus all bases are equally likely at every position, so neither single positions nor base counts predict
    the genus.
    """

    modality = "genomics"
    noun = "sequence"

    class Options(SyntheticDataset.Options):
        """Options of the synthetic DNA."""

        length: int = Field(64, ge=8, description="bases of a sequence")
        run_lengths: tuple[float, ...] = Field(
            (3.0, 6.0, 12.0), min_length=2, description="mean length of a run in bases, one for each genus"
        )
        purity: float = Field(0.85, gt=0, le=1, description="share of bases that are the run's own; others are uniform")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"sequence": Discrete(options.length, len(BASES))}
        names = tuple(f"runs of {mean:g}" for mean in options.run_lengths)
        self.task = Task("classes", len(names), "accuracy", names=names, title="genus")

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"sequence": (length,) uint8, A 0, C 1, G 2, T 3} and the genus."""
        options, genus = self.options, self.label(index)
        dominant = draw_runs(options.length, len(BASES), options.run_lengths[genus], rng)
        uniform = rng.random(options.length) >= options.purity
        sequence = np.where(uniform, rng.integers(0, len(BASES), options.length), dominant).astype(np.uint8)
        return {"inputs": {"sequence": sequence}, "label": genus}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticGenomics]
