"""Tokenizer `text`: subwords of texts in one language.

DABS takes the vocabulary of bert-base-uncased (`file`; 30,522 entries, [PAD] = 0) and 128 tokens, and treats padding as
data (`mask_padding=false`). Without a file a WordPiece vocabulary is trained on the training data.
"""

from __future__ import annotations

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._subword import SubwordTokenizer


class TextTokenizer(SubwordTokenizer):
    """Subwords (WordPiece) of a text or a pair of texts, from a vocabulary file or trained on the data.

    Reads the field "text": one text, or the two of a pair.
    """

    name = "text"

    class Options(SubwordTokenizer.Options):
        """Options of the text tokenizer."""

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="text")


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [TextTokenizer]
