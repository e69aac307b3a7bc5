"""Tokenizer `genomics`: one token per base of a DNA sequence.

By default 250 bases with the ids A 0, C 1, G 2, T 3 and no special symbol, as DABS and MetaMAE have it (MetaMAE,
Table 16). A sequence with another letter, such as N, among those that are used is a bad sample; `alphabet=ACGTN
unknown=N` accepts it. U is read as T, and with `alphabet=ACGU` T as U.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._sequence import NOT_IN_ALPHABET, SequenceTokenizer


class GenomicsTokenizer(SequenceTokenizer):
    """One token for each base of a DNA sequence, from letters or ids.

    Reads the field "sequence": a string of bases, or ids of a fixed length.
    """

    name = "genomics"
    unknown_letter = "N"
    synonyms: ClassVar[Mapping[str, str]] = {"U": "T", "T": "U"}

    class Options(SequenceTokenizer.Options):
        """Options of the genomics tokenizer."""

        alphabet: str = Field(
            "ACGT",
            min_length=1,
            max_length=NOT_IN_ALPHABET - 1,
            description="ASCII letters; a letter's id is its index; U is read as T, or T as U, if it has one of them",
        )
        length: int | None = Field(
            None, ge=1, description="bases per sequence; by default the length of the data's windows, ids, or "
            "sequences if it is the same for all, else 250",
        )  # fmt: skip

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, default_length=250)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [GenomicsTokenizer]
