"""Text in many languages and scripts, to pieces of words (protocol section 2.7).

The protocol's numbers (X128): `file` the vocabulary of xlm-roberta-base, 250,002 entries with <pad> = 1; 128 tokens,
padding kept in (`mask_padding` false). Without a file a byte-level BPE is trained on the training data: it knows every
letter of every script, and keeps capitals, which carry meaning in some languages.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._words import WordTokenizer


class MultilingualText(WordTokenizer):
    """Pieces of words (byte-level BPE) of texts in any languages, from a vocabulary file or trained on the data.

    Reads the field "text": one text, or the two of a pair.
    """

    name = "multilingual-text"

    class Options(WordTokenizer.Options):
        """Options of the tokenizer of text in many languages."""

        model: Literal["wordpiece", "bpe"] = Field(
            "bpe", description="what is trained: WordPiece as BERT, or BPE over bytes, which knows every letter"
        )
        lowercase: bool = Field(False, description="a trained vocabulary takes no notice of capitals")

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="text")


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [MultilingualText]
