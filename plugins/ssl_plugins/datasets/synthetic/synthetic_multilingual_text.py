"""Embedded text in several made-up languages, each with a script of its own; no download."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._text_synthesis import KINDS, SCRIPTS, make_subjects, tell

SPLITS: tuple[Split, ...] = ("train", "test")
WORDS, TEXTS = 0, 1  # what a random generator is for


class SyntheticMultilingualText(Dataset):
    """Synthetic texts in several languages and scripts about two subjects that take turns; embedded, no download.

    Each text is in one language. The label is how its sentences relate, in any language: both subjects in each of them,
    one and the other in turn, or first one and then the other. Languages share no word, and each subject has half of
    the words in every class, so that counting words says nothing. Sample i is a pure function of (seed, split, i).
    """

    name = "synthetic"
    modality = "multilingual-text"
    is_default = True

    class Options(Dataset.Options):
        """Options of the synthetic texts in several languages."""

        n_train: int = Field(2000, ge=1, description="texts for training")
        n_test: int = Field(500, ge=1, description="texts for the test")
        languages: int = Field(3, ge=1, le=len(SCRIPTS), description="languages, each in another script")
        sentences: int = Field(4, ge=2, multiple_of=2, description="sentences of a text")
        words: int = Field(4, ge=2, multiple_of=2, description="words of a sentence")
        subjects: int = Field(4, ge=2, description="what texts may be about")
        synonyms: int = Field(8, ge=1, description="words for the same subject in a language")
        seed: int = Field(0, ge=0, description="seed of everything here")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.task = Task("classes", len(KINDS), "accuracy", names=KINDS, title="relation of sentences")
        scripts = list(SCRIPTS)[: options.languages]
        self.languages = [
            make_subjects(
                script, options.subjects, options.synonyms, np.random.default_rng([options.seed, WORDS, number])
            )
            for number, script in enumerate(scripts)
        ]

    def __len__(self) -> int:
        return self.options.n_train if self.split == "train" else self.options.n_test

    def __getitem__(self, index: int) -> Sample:
        """{"text": a text} and the number of its kind."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        options, kind = self.options, index % len(KINDS)
        language = self.languages[index // len(KINDS) % len(self.languages)]
        rng = np.random.default_rng([options.seed, TEXTS, SPLITS.index(self.split), index])
        text = tell(kind, language, options.sentences, options.words, rng)
        return {"inputs": {"text": np.array(text)}, "label": kind}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMultilingualText]
