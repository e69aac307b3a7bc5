"""Tokenizer `genomics`: one token per base of a DNA sequence.

By default 250 bases with the ids A 0, C 1, G 2, T 3 and no special symbol, as DABS and MetaMAE have it (MetaMAE,
Table 16). A sequence with another letter, such as N, is a bad sample; `alphabet=ACGTN unknown=N` accepts it.
"""

from __future__ import annotations

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._sequence import NOT_IN_ALPHABET, SequenceTokenizer


class GenomicsTokenizer(SequenceTokenizer):
    """One token for each base of a DNA sequence, from letters or ids.

    Reads the field "sequence": a string of bases, or ids of a fixed length.
    """

    name = "genomics"

    class Options(SequenceTokenizer.Options):
        """Options of the genomics tokenizer."""

        alphabet: str = Field(
            "ACGT",
            min_length=1,
            max_length=NOT_IN_ALPHABET - 1,
            description="ASCII letters; a letter's id is its index",
        )
        length: int | None = Field(
            None, ge=1, description="bases per sequence; by default the length of the data's ids, 250 for strings"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, default_length=250)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [GenomicsTokenizer]
