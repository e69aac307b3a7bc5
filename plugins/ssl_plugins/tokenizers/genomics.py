"""Genomics: a token for each base of a DNA sequence (protocol section 2.8).

The protocol's numbers are the defaults: A 0, C 1, G 2, T 3 and no special symbol, 250 bases. Another letter, such as N,
makes a sequence a bad sample; `alphabet=ACGTN unknown=N` keeps it.
"""

from __future__ import annotations

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._letters import NO_LETTER, LetterTokenizer


class Genomics(LetterTokenizer):
    """One token for each base of a DNA sequence, from letters or ids.

    Reads the field "sequence": a string of bases, or ids of a fixed length.
    """

    name = "genomics"

    class Options(LetterTokenizer.Options):
        """Options of the genomics tokenizer."""

        alphabet: str = Field(
            "ACGT", min_length=1, max_length=NO_LETTER - 1, description="the letters; index = position"
        )
        length: int | None = Field(
            None, ge=1, description="bases of a sequence; by default as many as the data's ids, 250 for strings"
        )

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, usual_length=250)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Genomics]
