"""Detects the encoding of a text file from its first bytes."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ssl_core import DataError
from ssl_plugins.datasets._io.tables.columns import shown

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
OTHER_ALPHABETS = frozenset(
    {
        "Latin Extended-A", "Cyrillic", "Greek and Coptic", "Hebrew", "Arabic", "Thai", "Hiragana", "Katakana",
        "CJK Unified Ideographs", "Hangul Syllables",
    }
)  # fmt: skip


def decode_head(path: Path, head: bytes, is_complete: bool, named: str | None) -> tuple[str, str, str]:
    """The first bytes of a file as text, its encoding, and the doubt about it, which is empty unless it is a guess.

    Args:
        path: the file, for messages.
        head: its first bytes.
        is_complete: whether they are the whole file.
        named: the encoding that the options name; None = it is detected.

    Raises:
        DataError: the bytes are not of the encoding.
    """
    encoding = named or next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), None)
    encoding = encoding or _encoding_without_mark(head)
    doubt = ""
    if encoding is None:
        lines = [line for line in head.splitlines() if not line.isascii()]
        encoding = guess_encoding(b"\n".join(lines[:1000]))
        example = next(iter(re.findall(r"\w*[^\x00-\x7f]+\w*", lines[0].decode(encoding, "replace"))), "")
        doubt = (
            f"{path} is not UTF-8 and is read as {encoding}, e.g. {shown(example)}; set dataset.encoding to confirm "
            f"it, or to another encoding"
        )
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    try:
        return decoder.decode(head, final=is_complete), encoding, doubt
    except UnicodeDecodeError as error:
        raise encoding_error(path, encoding, head[error.start : error.start + 20]) from None


def encoding_error(path: Path, encoding: str, example: bytes = b"") -> DataError:
    """The error for a file that is not of an encoding."""
    where = f" (at {example!r})" if example else ""
    other = "utf-8" if encoding != "utf-8" else "cp1252"
    return DataError(f"{path} is not {encoding} text{where}; set dataset.encoding to its own, such as {other}")


def _encoding_without_mark(head: bytes) -> str | None:
    """UTF-16 or UTF-8, if the bytes are that."""
    pairs = max(1, len(head) // 2)
    if head[1::2].count(0) > 0.7 * pairs:
        return "utf-16-le"
    if head[::2].count(0) > 0.7 * pairs:
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return "utf-8"


def guess_encoding(sample: bytes) -> str:
    """The most likely encoding of text that is not Unicode: cp1252 unless letters of another alphabet are clear."""
    from charset_normalizer import from_bytes  # slow to import

    best = from_bytes(sample).best()
    if best is not None and not OTHER_ALPHABETS.isdisjoint(best.alphabets):
        letters = [character for character in str(best) if ord(character) > 127]
        if len(letters) > 3 and sum(character.isalpha() for character in letters) > 0.8 * len(letters):
            return str(best.encoding)
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"
