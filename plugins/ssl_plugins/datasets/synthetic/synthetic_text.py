"""Synthetic text: short texts about two subjects, in the words of an invented language."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._text_synthesis import RELATIONS, compose_text, make_subjects


class SyntheticText(SyntheticDataset):
    """Synthetic texts about two subjects in one of three orders; embedded, no download.

    A text is about two of several subjects, and each subject has several synonyms. The class is the order of the
    subjects: both in each sentence, in alternate sentences, or one in each half of the text. Each subject has half of
    the words in every class, so word counts do not predict the class.
    """

    modality = "text"
    noun = "text"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic texts."""

        sentences: int = Field(4, ge=2, multiple_of=2, description="sentences of a text")
        words: int = Field(4, ge=2, multiple_of=2, description="words of a sentence")
        subjects: int = Field(4, ge=2, description="number of subjects; a text is about two of them")
        synonyms: int = Field(8, ge=1, description="words for a subject")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.task = Task("classes", len(RELATIONS), "accuracy", names=RELATIONS, title="order of subjects")
        self.subjects = make_subjects("latin", options.subjects, options.synonyms, self.shared_rng())

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"text": a text} and the order of its subjects."""
        options, label = self.options, self.label(index)
        text = compose_text(label, self.subjects, options.sentences, options.words, rng)
        return {"inputs": {"text": np.array(text)}, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticText]
