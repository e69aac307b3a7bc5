"""Invented words, and texts about two subjects whose only difference is the order of the subjects."""

from __future__ import annotations

import numpy as np

RELATIONS = ("mixed", "turns", "halves")
SCRIPTS: dict[str, tuple[str, str]] = {  # consonants and vowels
    "latin": ("bdfgklmnprstvz", "aeiou"),
    "greek": ("βγδζθκλμνπρστφ", "αειου"),
    "cyrillic": ("бвгджзклмнпрст", "аеиоу"),
    "georgian": ("ბგდვზთკლმნპრსტ", "აეიოუ"),
    "armenian": ("բգդզթժլկմնպրստ", "աեիոօ"),
}


def make_words(script: str, count: int, rng: np.random.Generator) -> list[str]:
    """`count` different words of two or three syllables."""
    consonants, vowels = (list(letters) for letters in SCRIPTS[script])
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = [rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.integers(2, 4))]
        words["".join(syllables)] = None
    return list(words)


def make_subjects(script: str, subjects: int, synonyms: int, rng: np.random.Generator) -> np.ndarray:
    """(subjects, synonyms) words. The words of a row mean the same subject."""
    return np.array(make_words(script, subjects * synonyms, rng)).reshape(subjects, synonyms)


def compose_text(relation: int, subjects: np.ndarray, sentences: int, words: int, rng: np.random.Generator) -> str:
    """A text about two of the subjects, each of which has half of the words.

    Args:
        relation: index in RELATIONS. mixed: both subjects in every sentence. turns: the subject alternates between
            sentences. halves: one subject in the first half of the sentences, the other in the second.
        subjects: (subjects, synonyms) words.
        sentences: number of sentences.
        words: words of a sentence.
    """
    pair = rng.permutation(len(subjects))[:2]
    number = np.arange(sentences)
    per_sentence = number % 2 if RELATIONS[relation] == "turns" else 2 * number // sentences
    which = np.repeat(per_sentence[:, np.newaxis], words, axis=1)
    if RELATIONS[relation] == "mixed":
        which = rng.permuted(np.repeat(np.arange(words)[np.newaxis] % 2, sentences, axis=0), axis=1)
    chosen = subjects[pair[which], rng.integers(0, subjects.shape[1], which.shape)]
    return " ".join(" ".join(sentence) + "." for sentence in chosen)
