"""Embedded text: short texts about two subjects, in words of a made-up language; no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._text_synthesis import KINDS, make_subjects, tell

SPLITS: tuple[Split, ...] = ("train", "test")
WORDS, TEXTS = 0, 1  # what a random generator is for


class SyntheticText(Dataset):
    """Synthetic texts about two subjects that take turns in one of three ways; embedded, no download.

    A text is about two of several subjects, and each subject has several words for the same. The label is how its
    sentences relate: both subjects in each of them, one and the other in turn, or first one and then the other. Each
    subject has half of the words in every class, so that counting words says nothing. Sample i is a pure function of
    (seed, split, i).
    """

    name = "synthetic"
    modality = "text"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic texts."""

        n_train: int = Field(2000, ge=1, description="texts for training")
        n_test: int = Field(500, ge=1, description="texts for the test")
        sentences: int = Field(4, ge=2, multiple_of=2, description="sentences of a text")
        words: int = Field(4, ge=2, multiple_of=2, description="words of a sentence")
        subjects: int = Field(4, ge=2, description="what texts may be about")
        synonyms: int = Field(8, ge=1, description="words for the same subject")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.task = Task("classes", len(KINDS), "accuracy", names=KINDS, title="relation of sentences")
        rng = np.random.default_rng([options.seed, WORDS])
        self.subjects = make_subjects("latin", options.subjects, options.synonyms, rng)

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"text": a text} and the number of its kind."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, kind = self.options, index % len(KINDS)
        rng = np.random.default_rng([options.seed, TEXTS, SPLITS.index(self.split), index])
        return {
            "inputs": {"text": np.array(tell(kind, self.subjects, options.sentences, options.words, rng))},
            "label": kind,
        }


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticText]
