"""Made-up words, and texts about two subjects that differ in nothing but how the two take turns."""

from __future__ import annotations

import numpy as np

KINDS = ("mixed", "turns", "halves")
SCRIPTS: dict[str, tuple[str, str]] = {  # consonants and vowels
    "latin": ("bdfgklmnprstvz", "aeiou"),
    "greek": ("βγδζθκλμνπρστφ", "αειου"),
    "cyrillic": ("бвгджзклмнпрст", "аеиоу"),
    "georgian": ("ბგდვზთკლმნპრსტ", "აეიოუ"),
    "armenian": ("բգդզթժլկմնպրստ", "աեիոօ"),
}


def make_words(script: str, count: int, rng: np.random.Generator) -> list[str]:
    """Different words of two or three syllables."""
    consonants, vowels = (list(letters) for letters in SCRIPTS[script])
    words: dict[str, None] = {}
    while len(words) < count:
        syllables = [rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.integers(2, 4))]
        words["".join(syllables)] = None
    return list(words)


def make_subjects(script: str, subjects: int, synonyms: int, rng: np.random.Generator) -> np.ndarray:
    """(subjects, synonyms) words, those of a row about one subject."""
    return np.array(make_words(script, subjects * synonyms, rng)).reshape(subjects, synonyms)


def tell(kind: int, subjects: np.ndarray, sentences: int, words: int, rng: np.random.Generator) -> str:
    """A text about two of the subjects, each with half of the words: see KINDS.

    mixed: both in every sentence; turns: sentence by sentence in turn; halves: first the one, then the other.
    """
    pair = rng.permutation(len(subjects))[:2]
    place = np.arange(sentences)
    rows = np.repeat((place % 2 if KINDS[kind] == "turns" else 2 * place // sentences)[:, np.newaxis], words, axis=1)
    if KINDS[kind] == "mixed":
        rows = rng.permuted(np.repeat(np.arange(words)[np.newaxis] % 2, sentences, axis=0), axis=1)
    chosen = subjects[pair[rows], rng.integers(0, subjects.shape[1], rows.shape)]
    return " ".join(" ".join(sentence) + "." for sentence in chosen)
