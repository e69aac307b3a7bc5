"""Protein: a token for each residue of an amino-acid sequence (protocol section 2.9).

The protocol's numbers are the defaults: the 26 letters below in this order, the first 128 residues, short sequences
filled up with X, which is letter 0. The published code keeps this padding in (`mask_padding` false).
"""

from __future__ import annotations

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._letters import NO_LETTER, LetterTokenizer

ALPHABET = "XARNDCQEGHILKMFPSTWYVUOBZJ"


class Protein(LetterTokenizer):
    """One token for each residue of an amino-acid sequence, from letters or ids.

    Reads the field "sequence": a string of residues, or ids of a fixed length.
    """

    name = "protein"

    class Options(LetterTokenizer.Options):
        """Options of the protein tokenizer."""

        alphabet: str = Field(
            ALPHABET, min_length=1, max_length=NO_LETTER - 1, description="the letters; index = position"
        )
        length: int | None = Field(
            None, ge=1, description="residues of a sequence; by default as many as the data's ids, 128 for strings"
        )
        pad: str | None = Field(
            "X", min_length=1, max_length=1,
            description="letter of the alphabet that fills up short sequences; none = these are refused",
        )  # fmt: skip

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, usual_length=128)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [Protein]
