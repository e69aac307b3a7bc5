"""What the tokenizers of text share: pieces of words, from a given vocabulary or from one trained on the data."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers as hf
import torch
from pydantic import Field, field_validator
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from ssl_core import BadSample, ConfigError, DataError, Fields, Geometry, Inputs, Text, Tokenizer
from ssl_core.tokenizers import IdTokenizer

PAD, UNKNOWN, BEGIN, BETWEEN, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PADS = (PAD, "<pad>", "<|padding|>")  # what other vocabularies call it
BETWEENS = ((BEGIN, BETWEEN), ("<s>", "</s>"))
LETTERS = 1000  # of a trained WordPiece vocabulary; rarer ones are unknown
CHARACTERS = 200_000_000  # of the texts that a vocabulary is trained on, which are held in memory
MOST = 2  # texts of a sample: a text, or a pair


class WordTokenizer(IdTokenizer):
    """Pieces of words of a text or of a pair of texts: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], as BERT.

    Reads the text field `field`. The vocabulary is that of a given file; without one it is trained on the training
    data before anything is prepared, the same for the same data, and stored with the model.
    """

    class Options(Tokenizer.Options):
        """Options common to the tokenizers of text."""

        file: str | None = Field(
            None,
            description="vocabulary: a tokenizer.json of the tokenizers library, or a vocab.txt of BERT; by default "
            "one is trained on the training data",
        )
        model: Literal["wordpiece", "bpe"] = Field(
            "wordpiece", description="what is trained: WordPiece as BERT, or BPE over bytes, which knows every letter"
        )
        vocab_size: int = Field(8192, ge=16, description="largest size of a trained vocabulary")
        lowercase: bool = Field(True, description="a trained vocabulary takes no notice of capitals (and accents)")
        fit_samples: int = Field(50_000, ge=1, description="training samples that the vocabulary is trained on")
        length: int = Field(128, ge=4, description="tokens of a text or pair, special ones included; longer is cut")
        mask_padding: bool = Field(
            True, description="leave padding out of attention, loss and features; the published code keeps it in (D22)"
        )
        init_std: float = Field(
            0.3, ge=0,
            description="standard deviation of the initial embeddings; 0 = Xavier, as the published code (D05), which "
            "learns more slowly",
        )  # fmt: skip
        empty: Literal["refuse", "absent"] = Field(
            "refuse", description="a sample without any text is a bad sample, or all of its tokens are absent"
        )

        @field_validator("file", mode="after")
        @classmethod
        def _absolute(cls, value: str | None) -> str | None:
            """So that a saved configuration can be used from another folder."""
            return None if value is None else str(Path(value).expanduser().absolute())

    def __init__(self, options: Options, fields: Fields, dim: int, *, field: str) -> None:
        if not isinstance(fields.get(field), Text):
            offered = ", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field"
            raise ConfigError(f"tokenizer '{self.name}' reads a field '{field}' of text; the data set offers {offered}")
        made = None if options.file is None else _finished(read_vocabulary(Path(options.file), options), options)
        vocab = options.vocab_size if made is None else 1 + max(made.get_vocab().values())
        super().__init__(
            options, fields, dim, field=field, length=options.length, vocab=vocab, std=options.init_std or None
        )
        self.words = made
        self.pad = 0 if made is None or made.padding is None else made.padding["pad_id"]  # training puts it first

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Train the vocabulary, unless one is given: on `fit_samples` samples, fewer if they exceed CHARACTERS.

        Errors: DataError without text; ConfigError if it is too small.
        """
        if self.options.file is not None:
            return
        texts: list[str] = []
        count = 0
        for sample in itertools.islice(samples, self.options.fit_samples):
            found = [text for text in texts_of(sample[self.field]) if text.strip()]
            texts += found
            count += sum(map(len, found))
            if count >= CHARACTERS:
                break
        if not texts:
            raise DataError(f"the training data holds no text in '{self.field}' to make a vocabulary of")
        self.words = _finished(train_vocabulary(texts, self.options), self.options)

    def fit_fingerprint(self) -> str:
        """The vocabulary, as the tokenizers library writes it."""
        return "" if self.words is None else self.words.to_str()

    def get_extra_state(self) -> Tensor:
        """`learned` as bytes, for the state dict."""
        return torch.frombuffer(bytearray(self.fit_fingerprint().encode() or b" "), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the vocabulary from a state dict."""
        text = state.cpu().numpy().tobytes().decode().strip()
        self.words = hf.Tokenizer.from_str(text) if text else None

    def preprocess(self, inputs: Inputs) -> Inputs:
        """The text or pair to `length` ids, int32; other fields stay. Errors: BadSample without text, or with three."""
        if self.words is None:
            raise RuntimeError(f"tokenizer '{self.name}' has no vocabulary yet; call fit, or load a state dict")
        texts = texts_of(inputs[self.field])
        if len(texts) > MOST:
            raise BadSample(f"'{self.field}' holds {len(texts)} texts; a sample is one text or a pair")
        if not any(text.strip() for text in texts):
            if self.options.empty == "refuse":
                raise BadSample(f"'{self.field}' holds no text")
            ids = np.full(self.options.length, self.pad, dtype=np.int32)
        else:
            encoding = self.words.encode(texts[0], texts[1] if len(texts) > 1 else None)
            ids = np.array(encoding.ids, dtype=np.int32)
        return {**inputs, self.field: ids}

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Which ids are no padding, if `mask_padding`."""
        return Geometry(valid=inputs[self.field] != self.pad) if self.options.mask_padding else Geometry()


def texts_of(value: np.ndarray) -> list[str]:
    """The texts of one sample, () or (n,)."""
    return [str(text) for text in np.atleast_1d(value).tolist()]


def read_vocabulary(path: Path, options: WordTokenizer.Options) -> hf.Tokenizer:
    """A vocabulary from a file. Errors: ConfigError that names the file."""
    try:
        if path.suffix == ".json":
            return hf.Tokenizer.from_file(str(path))
        if path.suffix == ".txt":
            entries = path.read_text(encoding="utf-8").splitlines()
            return _bert({entry: number for number, entry in enumerate(entries)}, options.lowercase)
    except FileNotFoundError:
        raise ConfigError(f"tokenizer.file {path} does not exist") from None
    except Exception as error:  # the library raises bare exceptions
        if not path.exists():
            raise ConfigError(f"tokenizer.file {path} does not exist") from None
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"tokenizer.file {path} cannot be read as a vocabulary ({reason})") from None
    raise ConfigError(f"tokenizer.file {path} is neither a tokenizer.json nor a vocab.txt")


def train_vocabulary(texts: list[str], options: WordTokenizer.Options) -> hf.Tokenizer:
    """A vocabulary of at most `vocab_size` entries, special ones first; the same for the same texts.

    Errors: ConfigError if there are more letters than that.
    """
    words = _bert({}, options.lowercase) if options.model == "wordpiece" else _bytes(options.lowercase)
    special = list(SPECIAL)
    if options.model == "wordpiece":
        # The library numbers the letters in the order of a hash table, and breaks ties of its merges by these numbers:
        # twice trained, twice different. Named beforehand they have fixed numbers.
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(words.normalizer.normalize_str(text))
        letters = sorted(sorted(c for c in counts if not c.isspace()), key=lambda c: -counts[c])[:LETTERS]
        special += [*letters, *(f"##{letter}" for letter in letters)]
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=options.vocab_size, special_tokens=special, show_progress=False
        )
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=options.vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        special += alphabet
    if len(special) > options.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size={options.vocab_size} does not hold the letters alone; use more than {len(special)}"
        )
    words.train_from_iterator(texts, trainer)
    return words if options.model == "bpe" else _bert(words.get_vocab(), options.lowercase)


def _bert(vocabulary: dict[str, int], lowercase: bool) -> hf.Tokenizer:
    words = hf.Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    words.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.add_special_tokens([token for token in SPECIAL if token in vocabulary])
    return words


def _bytes(lowercase: bool) -> hf.Tokenizer:
    words = hf.Tokenizer(models.BPE())
    words.normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return words


def _finished(words: hf.Tokenizer, options: WordTokenizer.Options) -> hf.Tokenizer:
    """With special tokens around a text and between a pair, and cut or padded to the length."""
    known = [pad for pad in PADS if words.token_to_id(pad) is not None]
    pad = words.padding["pad_token"] if words.padding else known[0] if known else PAD
    words.add_special_tokens([pad])  # no news to most
    around = next((pair for pair in BETWEENS if all(words.token_to_id(mark) is not None for mark in pair)), None)
    if words.post_processor is None and around is not None:
        begin, end = around
        words.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} $B:1 {end}:1",
            special_tokens=[(mark, words.token_to_id(mark)) for mark in around],
        )
    words.enable_truncation(options.length)
    words.enable_padding(length=options.length, pad_id=words.token_to_id(pad), pad_token=pad)
    return words
