"""Synthetic proteins: chains of helices, strands and coils, whose mean length depends on the family."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._random_runs import draw_runs

STATES = ("helix", "strand", "coil")
RESIDUES = "ARNDCQEGHILKMFPSTWYV"
PREFERRED = ("AELMQKR", "VIYFWTC", "GNPDSH")  # residues of each state
PADDING = 3  # label of positions beyond the chain, not scored


class SyntheticProtein(SyntheticDataset):
    """Synthetic proteins, chains of helices, strands and coils with their preferred residues; embedded, no download.

    A residue is drawn from those that the state of its element prefers with probability `preference`, else from all.
    With label "family" the class is the mean length of an element: neither positions nor residue counts predict it.
    With label "structure" the label is the state of each residue, which the residue alone does not determine. Chains
    differ in length.
    """

    modality = "protein"
    noun = "chain"

    class Options(SyntheticDataset.Options):
        """Options of the synthetic proteins."""

        length: int = Field(
            128, ge=16, description="longest chain, and entries of a per-residue label (set tokenizer.length to it)"
        )
        shortest: float = Field(0.6, gt=0, le=1, description="shortest chain, as a share of the longest")
        label: Literal["family", "structure"] = Field(
            "family", description="label: the family, or each residue's state"
        )
        element_lengths: tuple[float, ...] = Field(
            (3.0, 6.0, 12.0), min_length=2, description="mean length of an element in residues, one for each family"
        )
        preference: float = Field(
            0.85, gt=0, le=1, description="share of residues drawn from the state's preferred ones"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"sequence": Text()}
        self.families = tuple(f"elements of {mean:g}" for mean in options.element_lengths)
        if options.label == "family":
            self.task = Task("classes", len(self.families), "accuracy", names=self.families, title="family")
        else:
            self.task = Task(
                "classes", len(STATES), "accuracy", per_token=True, ignore=PADDING, names=STATES, title="structure"
            )

    def family(self, index: int) -> int:
        """The family of a chain."""
        return index % len(self.families)

    def label_name(self, index: int) -> str:
        """The family's name, with either label."""
        return self.families[self.family(index)]

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"sequence": residues} and the family, or (length,) states with 3 beyond the chain."""
        options, family = self.options, self.family(index)
        length = int(rng.integers(int(options.shortest * options.length), options.length + 1))
        states = draw_runs(length, len(STATES), options.element_lengths[family], rng)
        choices = [np.frombuffer(letters.encode(), dtype=np.uint8) for letters in (*PREFERRED, RESIDUES)]
        uniform = rng.random(length) >= options.preference
        candidates = np.stack([choice[rng.integers(0, len(choice), length)] for choice in choices])
        letters = candidates[np.where(uniform, len(STATES), states), np.arange(length)]
        label: Any = family
        if options.label == "structure":
            label = np.pad(states, (0, options.length - length), constant_values=PADDING)
        return {"inputs": {"sequence": np.array(letters.tobytes().decode())}, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticProtein]
