"""What the tokenizers of sequences share: one token for each letter of an alphabet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_core import BadSample, ConfigError, Discrete, Fields, Geometry, Inputs, Text, Tokenizer
from ssl_core.tokenizers import IdTokenizer

NO_LETTER = 255


class LetterTokenizer(IdTokenizer):
    """The first `length` letters of a sequence, each an entry of the alphabet.

    Reads the field "sequence": a string (text), or ids that count the alphabet's letters from 0. Strings are looked up
    whole, in one table of bytes; capitals do not matter unless the alphabet holds both.
    """

    class Options(Tokenizer.Options):
        """Options common to the tokenizers of sequences."""

        alphabet: str = Field(min_length=1, max_length=NO_LETTER - 1, description="the letters; index = position")
        length: int | None = Field(None, ge=1, description="letters of a sequence; longer ones are cut at the end")
        unknown: str | None = Field(
            None, min_length=1, max_length=1,
            description="letter of the alphabet that stands for any other; by default these are refused",
        )  # fmt: skip
        pad: str | None = Field(
            None, min_length=1, max_length=1,
            description="letter of the alphabet that fills up short sequences; by default these are refused",
        )  # fmt: skip
        mask_padding: bool = Field(
            True, description="leave padding out of attention, loss and features; the published code keeps it in (D22)"
        )
        init_std: float = Field(
            0.3, ge=0,
            description="standard deviation of the initial embeddings; 0 = Xavier, as the published code (D05), which "
            "learns more slowly",
        )  # fmt: skip

    def __init__(self, options: Options, fields: Fields, dim: int, *, usual_length: int) -> None:
        alphabet = options.alphabet
        if len(set(alphabet)) != len(alphabet) or not alphabet.isascii():
            raise ConfigError(f"tokenizer.alphabet '{alphabet}' must be ASCII letters, each once")
        for what, letter in (("unknown", options.unknown), ("pad", options.pad)):
            if letter is not None and letter not in alphabet:
                raise ConfigError(f"tokenizer.{what}='{letter}' is no letter of the alphabet {alphabet}")
        given = _sequence(self.name, fields, alphabet)
        length = options.length or given or usual_length
        super().__init__(
            options, fields, dim, field="sequence", length=length, vocab=len(alphabet), std=options.init_std or None
        )
        self.filling = 0 if options.pad is None else alphabet.index(options.pad)
        self.absent = options.pad is not None and options.mask_padding
        self.places = byte_table(alphabet, options.unknown)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """{"sequence": text, or ids} to {"sequence": (length,) uint8, "letters": how many of them are not padding}.

        Errors: BadSample for an empty sequence, a letter outside the alphabet, or a short one where none is padded.
        """
        ids = self._ids(np.asarray(inputs["sequence"]))
        length = self.layout.length
        if len(ids) == 0:
            raise BadSample("the sequence is empty")
        if len(ids) < length and self.options.pad is None:
            raise BadSample(
                f"the sequence has {len(ids)} letters, fewer than {length}; "
                f"set tokenizer.pad to the letter that fills it up, or lower tokenizer.length"
            )
        out = np.full(length, self.filling, dtype=np.uint8)
        kept = ids[:length]
        out[: len(kept)] = kept
        return {"sequence": out, "letters": np.array(len(kept), dtype=np.int32)}

    def _ids(self, sequence: np.ndarray) -> np.ndarray:
        if sequence.dtype.kind in "iu" and sequence.ndim == 1:
            if len(sequence) and not 0 <= sequence.min() <= sequence.max() < len(self.options.alphabet):
                raise BadSample(f"the sequence holds ids outside 0..{len(self.options.alphabet) - 1}")
            return sequence
        if sequence.dtype.kind != "U" or sequence.size != 1:
            raise BadSample(f"the sequence is {sequence.dtype} of shape {sequence.shape}, neither one text nor ids")
        text = str(sequence.reshape(()))
        ids = self.places[np.frombuffer(text.encode("latin-1", errors="replace"), dtype=np.uint8)]
        wrong = np.flatnonzero(ids == NO_LETTER)
        if len(wrong):
            raise BadSample(
                f"letter {int(wrong[0]) + 1} of the sequence is '{text[wrong[0]]}', not in the alphabet "
                f"{self.options.alphabet}; set tokenizer.unknown to the letter that stands for others"
            )
        return ids

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Which letters are no padding, if `mask_padding`."""
        if not self.absent:
            return Geometry()
        count = inputs["letters"].long()[:, None]
        return Geometry(valid=torch.arange(self.layout.length, device=count.device) < count)


def byte_table(alphabet: str, unknown: str | None) -> np.ndarray:
    """(256,) uint8: for each byte the letter's place in the alphabet, that of `unknown`, or NO_LETTER."""
    table = np.full(256, NO_LETTER if unknown is None else alphabet.index(unknown), dtype=np.uint8)
    for place, letter in enumerate(alphabet):
        for form in {letter, letter.lower(), letter.upper()}:
            if form == letter or form not in alphabet:
                table[ord(form)] = place
    return table


def _sequence(name: str, fields: Fields, alphabet: str) -> int | None:
    """The length that all sequences of the data have, if they come as ids. Errors: ConfigError if they do not fit."""
    field = fields.get("sequence")
    if isinstance(field, Discrete):
        if field.vocab != len(alphabet):
            raise ConfigError(
                f"tokenizer '{name}': the data's ids count {field.vocab} letters, the alphabet {alphabet} has "
                f"{len(alphabet)}; set tokenizer.alphabet"
            )
        return field.length
    if isinstance(field, Text):
        return None
    offered = ", ".join(f"'{key}': {value}" for key, value in fields.items()) or "no field"
    raise ConfigError(f"tokenizer '{name}' reads a field 'sequence' of text or of ids; the data set offers {offered}")
