"""Synthetic text in several invented languages, each in its own script."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ssl_core import Dataset, Sample, Split, Task, Text, hookimpl
from ssl_plugins.datasets.synthetic._base import SyntheticDataset
from ssl_plugins.datasets.synthetic._text_synthesis import RELATIONS, SCRIPTS, compose_text, make_subjects


class SyntheticMultilingualText(SyntheticDataset):
    """Synthetic texts in several languages and scripts about two subjects each; embedded, no download.

    Each text is in one language. The class is the order of the subjects, in any language: both in each sentence, in
    alternate sentences, or one in each half of the text. Languages share no word, and each subject has half of the
    words in every class, so word counts do not predict the class.
    """

    modality = "multilingual-text"
    noun = "text"
    sample_key = (1,)

    class Options(SyntheticDataset.Options):
        """Options of the synthetic texts in several languages."""

        languages: int = Field(3, ge=1, le=len(SCRIPTS), description="number of languages, each in its own script")
        sentences: int = Field(4, ge=2, multiple_of=2, description="sentences of a text")
        words: int = Field(4, ge=2, multiple_of=2, description="words of a sentence")
        subjects: int = Field(4, ge=2, description="number of subjects; a text is about two of them")
        synonyms: int = Field(8, ge=1, description="words for a subject in each language")

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"text": Text()}
        self.task = Task("classes", len(RELATIONS), "accuracy", names=RELATIONS, title="order of subjects")
        self.languages = [
            make_subjects(script, options.subjects, options.synonyms, self.shared_rng(number))
            for number, script in enumerate(list(SCRIPTS)[: options.languages])
        ]

    def generate(self, index: int, rng: np.random.Generator) -> Sample:
        """{"text": a text} and the order of its subjects."""
        options, label = self.options, self.label(index)
        language = self.languages[index // len(RELATIONS) % len(self.languages)]
        text = compose_text(label, language, options.sentences, options.words, rng)
        return {"inputs": {"text": np.array(text)}, "label": label}


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [SyntheticMultilingualText]
