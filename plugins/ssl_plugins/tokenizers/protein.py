"""Tokenizer `protein`: one token per residue of an amino-acid sequence.

By default the 26 letters of `ALPHABET` in this order and the first 128 residues, short sequences padded with X, as DABS
and MetaMAE have it (MetaMAE, Table 16). Their published code treats this padding as data: `mask_padding=false`. The `*`
that some files write after the last residue is removed.
"""

from __future__ import annotations

from pydantic import Field

from ssl_core import Fields, Tokenizer, hookimpl
from ssl_plugins.tokenizers._sequence import NOT_IN_ALPHABET, SequenceTokenizer

ALPHABET = "XARNDCQEGHILKMFPSTWYVUOBZJ"


class ProteinTokenizer(SequenceTokenizer):
    """One token for each residue of an amino-acid sequence, from letters or ids.

    Reads the field "sequence": a string of residues, or ids of a fixed length.
    """

    name = "protein"
    unknown_letter = "X"
    end_mark = "*"

    class Options(SequenceTokenizer.Options):
        """Options of the protein tokenizer."""

        alphabet: str = Field(
            ALPHABET, min_length=1, max_length=NOT_IN_ALPHABET - 1,
            description="ASCII letters; a letter's id is its index",
        )  # fmt: skip
        length: int | None = Field(
            None, ge=1, description="residues per sequence; by default the length of the data's windows, ids, or "
            "sequences if it is the same for all, else 128",
        )  # fmt: skip
        pad: str | None = Field(
            "X", min_length=1, max_length=1,
            description="letter of the alphabet that pads short sequences; none = short sequences are refused",
        )  # fmt: skip

    def __init__(self, options: Options, fields: Fields, dim: int) -> None:
        super().__init__(options, fields, dim, default_length=128)


@hookimpl
def register_tokenizers() -> list[type[Tokenizer]]:
    return [ProteinTokenizer]
