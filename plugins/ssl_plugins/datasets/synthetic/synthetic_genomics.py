"""Embedded DNA: stretches ruled by one base each, long or short by the genus; no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Discrete, Sample, Split, Task, hookimpl
from ssl_plugins.datasets.synthetic._random_runs import draw_stretches

SPLITS: tuple[Split, ...] = ("train", "test")
BASES = "ACGT"


class SyntheticGenomics(Dataset):
    """Synthetic DNA of genera that differ in the length of stretches ruled by one base; embedded, no download.

    A sequence is a row of stretches, each ruled by one base, which makes up a `purity` share of it beyond chance; the
    next one is ruled by any other base. A genus has its own mean length of a stretch. In every genus every base is
    equally likely at every position, so that no single position and no count of bases tells genera apart, and so many
    sequences are possible that hardly two are alike. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "genomics"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic DNA."""

        n_train: int = Field(2000, ge=1, description="sequences for training")
        n_test: int = Field(500, ge=1, description="sequences for the test")
        length: int = Field(64, ge=8, description="bases of a sequence (protocol: 250)")
        stretches: tuple[float, ...] = Field(
            (3.0, 6.0, 12.0), min_length=2, description="mean length of a stretch in bases, for each genus"
        )
        purity: float = Field(0.85, gt=0, le=1, description="share of bases that are the ruling one, beyond chance")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"sequence": Discrete(options.length, len(BASES))}
        names = tuple(f"stretches of {mean:g}" for mean in options.stretches)
        self.task = Task("classes", len(names), "accuracy", names=names, title="genus")

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": (length,) uint8, A 0, C 1, G 2, T 3} and the number of the genus."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options = self.options
        genus = index % len(options.stretches)
        rng = np.random.default_rng([options.seed, SPLITS.index(self.split), index])
        ruling = draw_stretches(options.length, len(BASES), options.stretches[genus], rng)
        free = rng.random(options.length) >= options.purity
        sequence = np.where(free, rng.integers(0, len(BASES), options.length), ruling).astype(np.uint8)
        return {"inputs": {"sequence": sequence}, "label": genus}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticGenomics]
