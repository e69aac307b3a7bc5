"""Embedded proteins: chains of helices, strands and coils, long or short by the family; no download."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._random_runs import draw_stretches

SPLITS: tuple[Split, ...] = ("train", "test")
STATES = ("helix", "strand", "coil")
RESIDUES = "ARNDCQEGHILKMFPSTWYV"
PREFERRED = ("AELMQKR", "VIYFWTC", "GNPDSH")  # residues of each state
PADDING = 3  # state of no residue, not scored (protocol section 2.9)


class SyntheticProtein(Dataset):
    """Synthetic proteins, chains of helices, strands and coils with their preferred residues; embedded, no download.

    The residues of an element are drawn from those that its state prefers with probability `preference`, else from
    all. With label "family" a family has its own mean length of an element: no position and no count of residues tells
    families apart. With label "structure" each residue's state is to be told, for which a residue alone does not
    suffice. Chains differ in length. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "protein"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic proteins."""

        n_train: int = Field(2000, ge=1, description="chains for training")
        n_test: int = Field(500, ge=1, description="chains for the test")
        length: int = Field(
            128, ge=16, description="longest chain, and entries of a label for each residue (as tokenizer.length)"
        )
        shortest: float = Field(0.6, gt=0, le=1, description="shortest chain as a share of the longest")
        label: Literal["family", "structure"] = Field("family", description="what the label is")
        elements: tuple[float, ...] = Field(
            (3.0, 6.0, 12.0), min_length=2, description="mean length of an element in residues, for each family"
        )
        preference: float = Field(0.85, gt=0, le=1, description="share of residues that suit the state, beyond chance")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"sequence": Text()}
        if options.label == "family":
            names = tuple(f"elements of {mean:g}" for mean in options.elements)
            self.task = Task("classes", len(names), "accuracy", names=names, title="family")
        else:
            self.task = Task(
                "classes", len(STATES), "accuracy", per_token=True, ignore=PADDING, names=STATES, title="structure"
            )

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"sequence": residues} and the number of the family, or (length,) states, 3 after the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options = self.options
        family = index % len(options.elements)
        rng = np.random.default_rng([options.seed, SPLITS.index(self.split), index])
        length = int(rng.integers(int(options.shortest * options.length), options.length + 1))
        states = draw_stretches(length, len(STATES), options.elements[family], rng)
        choices = [np.frombuffer(letters.encode(), dtype=np.uint8) for letters in (*PREFERRED, RESIDUES)]
        free = rng.random(length) >= options.preference
        drawn = np.stack([choice[rng.integers(0, len(choice), length)] for choice in choices])
        letters = drawn[np.where(free, len(STATES), states), np.arange(length)]
        label: int | np.ndarray = family
        if options.label == "structure":
            label = np.pad(states, (0, options.length - length), constant_values=PADDING)
        return {"inputs": {"sequence": np.array(letters.tobytes().decode())}, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticProtein]
