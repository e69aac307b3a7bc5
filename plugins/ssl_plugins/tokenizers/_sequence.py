"""Base class of the sequence tokenizers: one token per letter of an alphabet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssl_core import BadSample, ConfigError, Discrete, Fields, Geometry, Inputs, Preprocessing, Text, Tokenizer
from ssl_core.tokenizers import IdTokenizer
from ssl_plugins.tokenizers._handmade import kmer_frequencies

NOT_IN_ALPHABET = 255  # id of a byte that is no letter; no alphabet is this long


class SequenceTokenizer(IdTokenizer):
    """The first `length` letters of a sequence, each encoded as its index in the alphabet.

    Reads the field "sequence": a string, or ids that index the alphabet. Case is ignored unless the alphabet holds
    both cases of a letter. Letters after the first `length` are not looked at.
    """

    fits_sizes = True
    fact_options: Mapping[str, str] = MappingProxyType(
        {
            "unknown": "tokenizer.unknown",
            "cropped": "dataset.window, or tokenizer.length",
            "padded": "tokenizer.length",
        }
    )
    unknown_letter: ClassVar[str]
    """The letter by which sequences of this kind write that a letter is unknown."""
    synonyms: ClassVar[Mapping[str, str]] = {}
    """Letters that are read as another if the alphabet has only that."""
    end_mark: ClassVar[str] = ""
    """A letter after the last, which is removed unless the alphabet has it."""

    class Options(Tokenizer.Options):
        """Options common to all sequence tokenizers."""

        alphabet: str = Field(
            min_length=1, max_length=NOT_IN_ALPHABET - 1, description="ASCII letters; a letter's id is its index"
        )
        length: int | None = Field(
            None, ge=1, description="letters per sequence, by default those of the data's windows or ids; longer "
            "sequences are truncated",
        )  # fmt: skip
        unknown: str | None = Field(
            None, min_length=1, max_length=1,
            description="letter of the alphabet that replaces letters outside it; none = such sequences are refused",
        )  # fmt: skip
        pad: str | None = Field(
            None, min_length=1, max_length=1,
            description="letter of the alphabet that pads short sequences; none = short sequences are refused",
        )  # fmt: skip
        mask_padding: bool = Field(
            True,
            description="exclude padding from attention, loss and features; false = padding counts as data, as in the "
            "published code of DABS and MetaMAE (docs/methods/protocol-differences.md)",
        )
        init_std: float = Field(
            0.3, ge=0,
            description="standard deviation of the initial embeddings; 0 = Xavier uniform, as MetaMAE's code; 1 = as "
            "DABS's code (docs/methods/protocol-differences.md)",
        )  # fmt: skip

    def __init__(self, options: Options, fields: Fields, dim: int, *, default_length: int) -> None:
        alphabet = options.alphabet
        if len(set(alphabet)) != len(alphabet) or not alphabet.isascii():
            raise ConfigError(f"tokenizer.alphabet '{alphabet}' must be ASCII letters, each once")
        for option, letter in (("unknown", options.unknown), ("pad", options.pad)):
            if letter is not None and letter not in alphabet:
                raise ConfigError(f"tokenizer.{option}='{letter}' is not a letter of the alphabet {alphabet}")
        length = options.length or _data_length(self.name, fields, alphabet) or default_length
        super().__init__(
            options, fields, dim, field="sequence", length=length, vocab=len(alphabet), std=options.init_std or None
        )
        self.pad_id = 0 if options.pad is None else alphabet.index(options.pad)
        self.masks_padding = options.pad is not None and options.mask_padding
        self.byte_to_id = byte_to_id(alphabet, options.unknown, self.synonyms)

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """The letters."""
        return {"table": tuple(self.options.alphabet)}

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Encode one sequence and truncate or pad it to the layout's length.

        Returns:
            "sequence": (length,) uint8, the ids; "letters": () int32, the letters of the whole sequence, which are more
            than `length` if it is truncated, and fewer if it is padded.

        Raises:
            BadSample: The sequence is empty, holds a letter outside the alphabet, or is too short and `pad` is not set.
        """
        length = self.layout.length
        ids, letters = self._ids(np.asarray(inputs["sequence"]), length)
        if letters == 0:
            raise BadSample("the sequence is empty")
        if letters < length and self.options.pad is None:
            raise BadSample(
                f"the sequence has {letters} letters, fewer than {length}; set tokenizer.length={letters} or less, or "
                f"tokenizer.pad={self.options.alphabet[-1]} to pad shorter sequences"
            )
        padded = np.full(length, self.pad_id, dtype=np.uint8)
        padded[: len(ids)] = ids
        return {"sequence": padded, "letters": np.array(letters, dtype=np.int32)}

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Frequencies of short words among the letters that are used."""
        ids, _ = self._ids(np.asarray(inputs["sequence"]), self.layout.length)
        return kmer_frequencies(ids, len(self.options.alphabet))

    def describe_preprocessing(self) -> Preprocessing:
        """Letters to ids of a fixed length."""
        options, length = self.options, self.layout.length
        ids = {
            chr(byte): int(code)
            for byte, code in enumerate(self.byte_to_id[:128])
            if code != NOT_IN_ALPHABET and (chr(byte).isalpha() or chr(byte) in options.alphabet)
        }
        others = "are refused" if options.unknown is None else f"have the id of {options.unknown}"
        steps: list[dict[str, Any]] = []
        if self.end_mark and self.end_mark not in options.alphabet:
            steps.append({"do": f"remove a {self.end_mark} at the end"})
        replace = f"replace each of the first `length` letters by its id, uint8; letters that are not listed {others}"
        steps.append({"do": replace, "length": length, "ids": ids})
        if options.pad is None:
            steps.append({"do": "refuse a shorter sequence"})
        else:
            steps.append({"do": "fill a shorter sequence with the id `pad` at its end", "pad": self.pad_id})
        steps.append({"do": "'letters': the number of letters of the whole sequence, int32, those beyond too"})
        inside = [*super().describe_preprocessing().inside]
        if self.masks_padding:
            inside.append({"do": "tokens from 'letters' on are padding: not attended to, and in no feature"})
        return Preprocessing(steps, inside)

    def facts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Shares of letters beyond the length, of padding and, with `unknown`, of that letter."""
        length = self.layout.length
        letters = np.atleast_1d(inputs["letters"]).astype(np.float64)
        facts = {
            "cropped": float(np.mean(np.maximum(0, letters - length) / letters)),
            "padded": float(np.mean(np.maximum(0, length - letters) / length)),
        }
        if self.options.unknown is not None:
            is_letter = np.arange(length) < letters[:, None]
            unknown = np.atleast_2d(inputs["sequence"]) == self.options.alphabet.index(self.options.unknown)
            facts["unknown"] = float((unknown & is_letter).sum() / is_letter.sum())
        return facts

    def _ids(self, sequence: np.ndarray, length: int) -> tuple[np.ndarray, int]:
        """The ids of the first `length` letters of a sequence, and the number of all its letters."""
        if sequence.dtype.kind in "iu" and sequence.ndim == 1:
            if len(sequence) and not 0 <= sequence.min() <= sequence.max() < len(self.options.alphabet):
                raise BadSample(f"the sequence holds ids outside 0..{len(self.options.alphabet) - 1}")
            return sequence[:length], len(sequence)
        if sequence.dtype.kind != "U" or sequence.size != 1:
            raise BadSample(f"the sequence is {sequence.dtype} of shape {sequence.shape}, neither one text nor ids")
        text = str(sequence.reshape(()))
        if self.end_mark and self.end_mark not in self.options.alphabet:
            text = text.removesuffix(self.end_mark)
        letters, text = len(text), text[:length]
        ids = self.byte_to_id[np.frombuffer(text.encode("latin-1", errors="replace"), dtype=np.uint8)]
        (invalid,) = np.nonzero(ids == NOT_IN_ALPHABET)
        if len(invalid):
            raise BadSample(
                f"letter {int(invalid[0]) + 1} of the sequence is '{text[invalid[0]]}', not in the alphabet "
                f"{self.options.alphabet}; {self._cure()} replaces letters outside it by {self.unknown_letter}"
            )
        return ids, letters

    def _cure(self) -> str:
        """The options that accept letters outside the alphabet."""
        letter, alphabet = self.unknown_letter, self.options.alphabet
        unknown = f"--set tokenizer.unknown={letter}"
        return unknown if letter in alphabet else f"--set tokenizer.alphabet={alphabet}{letter} {unknown}"

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Padding is not valid if `mask_padding` is set."""
        if not self.masks_padding:
            return Geometry()
        count = inputs["letters"].long()[:, None]
        return Geometry(valid=torch.arange(self.layout.length, device=count.device) < count)

    def to_text(self, segment: int, ids: Tensor) -> list[list[str]]:
        """The letters."""
        return [[self.options.alphabet[number] for number in row] for row in ids.tolist()]


def byte_to_id(alphabet: str, unknown: str | None, synonyms: Mapping[str, str] | None = None) -> np.ndarray:
    """(256,) uint8: for each byte its letter's id, else the id of `unknown`, else NOT_IN_ALPHABET.

    synonyms: letters outside the alphabet, and those for which they stand.
    """
    table = np.full(256, NOT_IN_ALPHABET if unknown is None else alphabet.index(unknown), dtype=np.uint8)
    for index, letter in enumerate(alphabet):
        for variant in {letter, letter.lower(), letter.upper()}:
            if variant == letter or variant not in alphabet:
                table[ord(variant)] = index
    for letter, other in (synonyms or {}).items():
        for variant in (letter, letter.lower()):
            if variant not in alphabet and letter not in alphabet and other in alphabet:
                table[ord(variant)] = alphabet.index(other)
    return table


def _data_length(name: str, fields: Fields, alphabet: str) -> int | None:
    """The length of the data's sequences if they are ids or text of one length; None if they differ in length.

    Raises:
        ConfigError: The data set has no such field, or its ids do not fit the alphabet.
    """
    field = fields.get("sequence")
    if isinstance(field, Discrete):
        if field.vocab != len(alphabet):
            raise ConfigError(
                f"tokenizer '{name}': the data's ids count {field.vocab} letters, the alphabet {alphabet} has "
                f"{len(alphabet)}; set tokenizer.alphabet"
            )
        return field.length
    if isinstance(field, Text):
        return field.length
    offered = ", ".join(f"'{key}': {value}" for key, value in fields.items()) or "no field"
    raise ConfigError(f"tokenizer '{name}' reads a field 'sequence' of text or of ids; the data set offers {offered}")
