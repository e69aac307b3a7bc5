"""Tokenizer `multilingual-text`: subwords of texts in many languages and scripts.

DABS takes the vocabulary of xlm-roberta-base (`file`; 250,002 entries, <pad> = 1) and 128 tokens, and treats padding as
data (`mask_padding=false`). Without a file a byte-level BPE is trained on the training data: it encodes every script
without unknown tokens, and keeps case, which carries meaning in some languages.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._subword import SubwordTokenizer


class MultilingualTextTokenizer(SubwordTokenizer):
    """Subwords (byte-level BPE) of texts in any languages, from a vocabulary file or trained on the data.

    Reads the field "text": one text, or the two of a pair.
    """

    name = "multilingual-text"

    class Options(SubwordTokenizer.Options):
        """Options of the multilingual text tokenizer."""

        model: Literal["wordpiece", "bpe"] = Field(
            "bpe", description="model to train: WordPiece as in BERT, or byte-level BPE, which has no [UNK]"
        )
        lowercase: bool = Field(
            False, description="a trained vocabulary ignores case, and with WordPiece accents (`strip_accents`)"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, field="text")


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [MultilingualTextTokenizer]
