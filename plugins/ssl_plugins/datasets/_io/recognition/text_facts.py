"""What texts look like: sequences of letters, numbers, or language in one script or several."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_core import DataError
from ssl_plugins.datasets._io.files.kind import read_head
from ssl_plugins.datasets._io.texts.encodings import BOMS, encoding_of
from ssl_plugins.datasets._io.texts.sequence_records import kind_of_letters

HEAD = 1 << 18
SEQUENCE_LETTERS = 12
"""Letters without a blank from which on a text may be a sequence."""
SECOND_SCRIPT = 0.1
"""Share of letters of a second script from which on texts are of several languages."""
PATH = re.compile(r"\.(?:png|jpe?g|bmp|gif|tiff?|webp|npy|dcm|wav|flac|mp3|ogg|opus|aiff?|m4a)$", re.IGNORECASE)
LANGUAGE = re.compile(r"(?:^|[._-])([a-z]{2,3}(?:[-_][A-Z]{2})?)(?:[._-]|$)")
CODES = (
    "ar bg bn cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr sv sw ta te th "
    "tr uk ur vi zh"
)
LANGUAGES = frozenset(CODES.split())


@dataclass(frozen=True)
class TextFacts:
    """What some texts look like.

    Args:
        words: median number of words between blanks.
        letters: "DNA", "RNA" or "protein" if the texts are sequences, else "".
        lengths: number of characters of each text.
        scripts: share of the letters by script, such as LATIN, the most frequent first.
        numbers: share of texts that are numbers or rows of numbers.
        distinct: share of different texts.
        paths: share of texts that end as the name of a picture or a recording does.
        ending: the ending of these names.
    """

    words: float = 0.0
    letters: str = ""
    lengths: tuple[int, ...] = ()
    scripts: tuple[tuple[str, float], ...] = ()
    numbers: float = 0.0
    distinct: float = 0.0
    paths: float = 0.0
    ending: str = ""

    @property
    def is_prose(self) -> bool:
        """Whether the texts are phrases or longer."""
        script = self.scripts[0][0] if self.scripts else ""
        joined = script in ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
        long = bool(self.lengths) and float(np.median(self.lengths)) >= 8
        return self.numbers < 0.5 and not self.letters and (self.words >= 3 or (joined and long))

    @property
    def is_multilingual(self) -> bool:
        """Whether a tenth of the letters or more are of a second script."""
        return len(self.scripts) > 1 and self.scripts[1][1] >= SECOND_SCRIPT


def facts_of(texts: Sequence[str]) -> TextFacts:
    """The facts of some texts that are not empty."""
    texts = [text for text in (text.strip() for text in texts) if text]
    if not texts:
        return TextFacts()
    endings = Counter(match[0].lower() for text in texts if (match := PATH.search(text)))
    return TextFacts(
        words=float(np.median([len(text.split()) for text in texts])),
        letters=_letters(texts),
        lengths=tuple(map(len, texts)),
        scripts=_scripts(texts),
        numbers=sum(map(_is_numbers, texts)) / len(texts),
        distinct=len(set(texts)) / len(texts),
        paths=endings.total() / len(texts),
        ending=endings.most_common(1)[0][0] if endings else "",
    )


def _letters(texts: Sequence[str]) -> str:
    """The kind of sequence that nearly all texts are."""
    plain = [text.upper().rstrip("*") for text in texts]
    fitting = [text for text in plain if len(text) >= SEQUENCE_LETTERS and text.isascii() and text.isalpha()]
    if len(fitting) < 0.9 * len(plain):
        return ""
    joined = "".join(text[:4000] for text in fitting[:500]).encode()
    return kind_of_letters(np.bincount(np.frombuffer(joined, np.uint8), minlength=256))


def _is_numbers(text: str) -> bool:
    parts = re.split(r"[\s,;]+", text[:2000].strip())[:50]
    try:
        return bool([float(part) for part in parts if part])
    except ValueError:
        return False


def _scripts(texts: Iterable[str]) -> tuple[tuple[str, float], ...]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_script(letter) for letter in text[:200] if letter.isalpha())
    total = counts.total()
    return tuple((script, count / total) for script, count in counts.most_common())


def _script(letter: str) -> str:
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "OTHER").split()[0]


def lines_of(path: Path, most: int = 400) -> list[str]:
    """The first lines of a text file that are not empty; none if it cannot be read or is binary."""
    try:
        _, head = read_head(path, HEAD)
    except DataError:
        return []
    if not any(head.startswith(mark) for mark, _ in BOMS) and b"\0" in head:
        return []
    lines = head.decode(encoding_of(head).name, "replace").splitlines()
    lines = lines[:-1] if len(head) == HEAD and len(lines) > 1 else lines
    return [line for line in (line.strip("\ufeff \r\n\t") for line in lines) if line][:most]


def names_languages(paths: Sequence[Path]) -> bool:
    """Whether the names of several files differ in the code of a language."""
    codes = [[code for code in LANGUAGE.findall(path.name) if code[:2] in LANGUAGES] for path in paths]
    return len(paths) > 1 and all(codes) and len({found[-1] for found in codes}) == len(paths)
