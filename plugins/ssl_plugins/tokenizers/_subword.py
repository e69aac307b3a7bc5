"""Base class of the text tokenizers: WordPiece or byte-level BPE, from a vocabulary file or trained on the data."""

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

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_TOKENS = (PAD, "<pad>", "<|padding|>")  # names of the padding token in vocabulary files
DELIMITERS = ((CLS, SEP), ("<s>", "</s>"))  # begin and end of a text in vocabulary files
MAX_ALPHABET = 1000  # characters of a trained WordPiece vocabulary; rarer characters become [UNK]
MAX_CHARACTERS = 200_000_000  # of training text, which is held in memory
MAX_TEXTS = 2  # per sample: one text or a pair


class SubwordTokenizer(IdTokenizer):
    """Subwords of a text or a pair of texts: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], as in BERT.

    Reads the text field `field`. The vocabulary comes from a file, or is trained on the training data before any sample
    is preprocessed. Training is deterministic, and the vocabulary is stored with the model.
    """

    class Options(Tokenizer.Options):
        """Options common to all text tokenizers."""

        file: str | None = Field(
            None,
            description="vocabulary file: a tokenizer.json of the tokenizers library, or BERT's vocab.txt; by default "
            "a vocabulary is trained on the training data",
        )
        model: Literal["wordpiece", "bpe"] = Field(
            "wordpiece", description="model to train: WordPiece as in BERT, or byte-level BPE, which has no [UNK]"
        )
        vocab_size: int = Field(8192, ge=16, description="largest size of a trained vocabulary")
        lowercase: bool = Field(True, description="a trained vocabulary ignores case (and accents with WordPiece)")
        fit_samples: int = Field(50_000, ge=1, description="number of training samples to train the vocabulary on")
        length: int = Field(
            128, ge=4, description="tokens of a text or pair, special tokens included; longer texts are truncated"
        )
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
        empty: Literal["refuse", "absent"] = Field(
            "refuse", description="a sample without text: refuse = bad sample; absent = none of its tokens is valid"
        )

        @field_validator("file", mode="after")
        @classmethod
        def _absolute(cls, value: str | None) -> str | None:
            """Resolve the path, so that a saved configuration works from another folder."""
            return None if value is None else str(Path(value).expanduser().absolute())

    def __init__(self, options: Options, fields: Fields, dim: int, *, field: str) -> None:
        if not isinstance(fields.get(field), Text):
            offered = ", ".join(f"'{name}': {value}" for name, value in fields.items()) or "no field"
            raise ConfigError(f"tokenizer '{self.name}' reads a field '{field}' of text; the data set offers {offered}")
        backend = None if options.file is None else _configure(read_vocabulary(Path(options.file), options), options)
        vocab = options.vocab_size if backend is None else 1 + max(backend.get_vocab().values())
        super().__init__(
            options, fields, dim, field=field, length=options.length, vocab=vocab, std=options.init_std or None
        )
        self.backend = backend
        """Tokenizer of the tokenizers library; None until a vocabulary is trained or loaded."""
        # a trained vocabulary has the padding token first
        self.pad_id = 0 if backend is None or backend.padding is None else backend.padding["pad_id"]

    def fit(self, samples: Iterable[Inputs]) -> None:
        """Train the vocabulary, unless it comes from a file.

        Reads `fit_samples` samples, or fewer if these hold more than MAX_CHARACTERS characters.

        Raises:
            DataError: The samples hold no text.
            ConfigError: `vocab_size` is too small.
        """
        if self.options.file is not None:
            return
        texts: list[str] = []
        count = 0
        for sample in itertools.islice(samples, self.options.fit_samples):
            new = [text for text in texts_of(sample[self.field]) if text.strip()]
            texts += new
            count += sum(map(len, new))
            if count >= MAX_CHARACTERS:
                break
        if not texts:
            raise DataError(f"the training data holds no text in '{self.field}' to train a vocabulary on")
        self.backend = _configure(train_vocabulary(texts, self.options), self.options)

    def fit_fingerprint(self) -> str:
        """The vocabulary in the JSON format of the tokenizers library."""
        return "" if self.backend is None else self.backend.to_str()

    def get_extra_state(self) -> Tensor:
        """The vocabulary as bytes, (n,) uint8, for the state dict."""
        return torch.frombuffer(bytearray(self.fit_fingerprint().encode() or b" "), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Load the vocabulary from a state dict."""
        text = state.cpu().numpy().tobytes().decode().strip()
        self.backend = hf.Tokenizer.from_str(text) if text else None

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Encode a text or pair as (length,) int32 ids; other fields are kept.

        Raises:
            BadSample: The sample has no text where `empty=refuse`, or more than two.
            RuntimeError: There is no vocabulary yet.
        """
        if self.backend is None:
            raise RuntimeError(f"tokenizer '{self.name}' has no vocabulary yet; call fit, or load a state dict")
        texts = texts_of(inputs[self.field])
        if len(texts) > MAX_TEXTS:
            raise BadSample(f"'{self.field}' holds {len(texts)} texts; a sample is one text or a pair")
        if not any(text.strip() for text in texts):
            if self.options.empty == "refuse":
                raise BadSample(f"'{self.field}' holds no text")
            ids = np.full(self.options.length, self.pad_id, dtype=np.int32)
        else:
            encoding = self.backend.encode(texts[0], texts[1] if len(texts) > 1 else None)
            ids = np.array(encoding.ids, dtype=np.int32)
        return {**inputs, self.field: ids}

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Padding is not valid if `mask_padding` is set."""
        return Geometry(valid=inputs[self.field] != self.pad_id) if self.options.mask_padding else Geometry()


def texts_of(value: np.ndarray) -> list[str]:
    """The texts of one sample, () or (n,)."""
    return [str(text) for text in np.atleast_1d(value).tolist()]


def read_vocabulary(path: Path, options: SubwordTokenizer.Options) -> hf.Tokenizer:
    """Read a vocabulary file.

    Raises:
        ConfigError: The file does not exist or cannot be read as a vocabulary.
    """
    try:
        if path.suffix == ".json":
            return hf.Tokenizer.from_file(str(path))
        if path.suffix == ".txt":
            entries = path.read_text(encoding="utf-8").splitlines()
            return _wordpiece({entry: index for index, entry in enumerate(entries)}, options.lowercase)
    except FileNotFoundError:
        raise ConfigError(f"tokenizer.file {path} does not exist") from None
    except Exception as error:  # the library raises bare exceptions
        if not path.exists():
            raise ConfigError(f"tokenizer.file {path} does not exist") from None
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"tokenizer.file {path} cannot be read as a vocabulary ({reason})") from None
    raise ConfigError(f"tokenizer.file {path} is neither a tokenizer.json nor a vocab.txt")


def train_vocabulary(texts: list[str], options: SubwordTokenizer.Options) -> hf.Tokenizer:
    """Train a vocabulary of at most `vocab_size` entries, special tokens first. Equal texts give equal vocabularies.

    Raises:
        ConfigError: `vocab_size` is smaller than the alphabet.
    """
    backend = _wordpiece({}, options.lowercase) if options.model == "wordpiece" else _byte_bpe(options.lowercase)
    initial = list(SPECIAL_TOKENS)
    if options.model == "wordpiece":
        # The library numbers characters in the order of a hash table and breaks ties between merges by these numbers,
        # so that two trainings differ. As special tokens the characters have fixed numbers.
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(backend.normalizer.normalize_str(text))
        letters = sorted(sorted(c for c in counts if not c.isspace()), key=lambda c: -counts[c])[:MAX_ALPHABET]
        initial += [*letters, *(f"##{letter}" for letter in letters)]
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=options.vocab_size, special_tokens=initial, show_progress=False
        )
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=options.vocab_size, special_tokens=initial, initial_alphabet=alphabet, show_progress=False
        )
        initial += alphabet
    if len(initial) > options.vocab_size:
        raise ConfigError(
            f"tokenizer.vocab_size={options.vocab_size} is smaller than the alphabet of the data; "
            f"set it to more than {len(initial)}"
        )
    backend.train_from_iterator(texts, trainer)
    return backend if options.model == "bpe" else _wordpiece(backend.get_vocab(), options.lowercase)


def _wordpiece(vocabulary: dict[str, int], lowercase: bool) -> hf.Tokenizer:
    backend = hf.Tokenizer(models.WordPiece(vocabulary, unk_token=UNK))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return backend


def _byte_bpe(lowercase: bool) -> hf.Tokenizer:
    backend = hf.Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return backend


def _configure(backend: hf.Tokenizer, options: SubwordTokenizer.Options) -> hf.Tokenizer:
    """Add delimiters around texts, truncation and padding to the length."""
    present = [pad for pad in PAD_TOKENS if backend.token_to_id(pad) is not None]
    pad = backend.padding["pad_token"] if backend.padding else present[0] if present else PAD
    backend.add_special_tokens([pad])  # no effect if the vocabulary has it
    pairs = (pair for pair in DELIMITERS if all(backend.token_to_id(token) is not None for token in pair))
    delimiters = next(pairs, None)
    if backend.post_processor is None and delimiters is not None:
        begin, end = delimiters
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} $B:1 {end}:1",
            special_tokens=[(token, backend.token_to_id(token)) for token in delimiters],
        )
    backend.enable_truncation(options.length)
    backend.enable_padding(length=options.length, pad_id=backend.token_to_id(pad), pad_token=pad)
    return backend
