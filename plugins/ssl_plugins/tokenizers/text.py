"""Text: English or any other language, to pieces of words (protocol section 2.6).

The protocol's numbers (B128): `file` the vocabulary of bert-base-uncased, 30,522 entries with [PAD] = 0; 128 tokens,
padding kept in (`mask_padding` false). Without a file the vocabulary is trained on the training data.
"""

from __future__ import annotations

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._words import WordTokenizer


class TextTokenizer(WordTokenizer):
    """Pieces of words (WordPiece) of a text or a pair of texts, from a vocabulary file or trained on the data.

    Reads the field "text": one text, or the two of a pair.
    """

    name = "text"

    class Options(WordTokenizer.Options):
        """Options of the text tokenizer."""

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="text")


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [TextTokenizer]
