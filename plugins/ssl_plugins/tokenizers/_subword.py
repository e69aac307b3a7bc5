"""Base class of the text tokenizers: WordPiece or byte-level BPE, from a vocabulary file or trained on the data."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import tokenizers as hf
import torch
from pydantic import Field, field_validator
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from ssl_core import BadSample, ConfigError, DataError, Fields, Geometry, Inputs, Preprocessing, Text, Tokenizer
from ssl_core.tokenizers import IdTokenizer
from ssl_plugins.tokenizers._handmade import ngram_frequencies

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_TOKENS = (PAD, "<pad>", "<|padding|>")  # names of the padding token in vocabulary files
UNKNOWN_TOKENS = (UNK, "<unk>")  # names of the token of unknown words in vocabulary files
DELIMITERS = ((CLS, SEP), ("<s>", "</s>"))  # begin and end of a text in vocabulary files
MAX_ALPHABET = 2000  # entries of characters in a trained WordPiece vocabulary, or
ALPHABET_SHARE = 0.75  # this share of the vocabulary, if that is more; rarer characters become [UNK]
MAX_WORD = 100  # characters of a word; the library makes longer ones [UNK], and takes their length's square of time
MAX_CHARACTERS = 200_000_000  # of training text, which is held in memory
MAX_TEXTS = 2  # per sample: one text or a pair
SYLLABLES = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA")  # Unicode names of letters that are words
BLANKLESS = "".join(
    rf"\p{{{script}}}"
    for script in (
        "Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese", "Balinese", "Tai_Le",
        "Tai_Tham", "Tai_Viet", "New_Tai_Lue",
    )
)  # fmt: skip
"""Scripts that are written without blanks between words, as classes of a regular expression."""
STACKED = r"(?:(?<=[\x{17D2}\x{1039}])\p{L}\p{M}*)*"  # a consonant below another, in Khmer and Burmese
GRAPHEME = rf"[{BLANKLESS}\x{{30FC}}]\p{{M}}*{STACKED}"
CONTROL = r"[[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]&&[^\t\n\r\x{200C}\x{200D}]]"  # joiners shape letters, and are kept
LATIN_MARKS = r"(?<=\p{Latin})\p{Mn}+"


class SubwordTokenizer(IdTokenizer):
    """Subwords of a text or a pair of texts: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], as in BERT.

    Reads the text field `field`. The vocabulary comes from a file, or is trained on the training data before any sample
    is preprocessed. Training is deterministic, and the vocabulary is stored with the model.

    A trained WordPiece splits words as BERT does, with three differences: in scripts without blanks between words every
    letter with its marks is a word, as Chinese characters are in BERT; longer words than 100 characters are divided;
    only Latin letters lose their accents.
    """

    fits_sizes = True
    file_options = ("file",)
    fact_options: Mapping[str, str] = MappingProxyType(
        {
            "unknown": "tokenizer.model=bpe, which has no unknown tokens, or a larger tokenizer.vocab_size",
            "cropped": "tokenizer.length",
            "padded": "tokenizer.length",
        }
    )

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
        lowercase: bool = Field(
            True, description="a trained vocabulary ignores case, and with WordPiece accents (`strip_accents`)"
        )
        strip_accents: Literal["auto", "latin", "all", "none"] = Field(
            "auto",
            description="combining marks that WordPiece removes if it ignores case: latin = those of Latin letters; "
            "all = as BERT, which also removes vowel signs of Hindi, Thai, Hebrew and others; none; auto = all with a "
            "vocab.txt, latin with a trained vocabulary",
        )
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
            try:
                new = [text for text in texts_of(sample[self.field], self.field) if text.strip()]
            except BadSample:  # it is named where it is prepared
                continue
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

    def entry_names(self) -> Mapping[str, Sequence[str]]:
        """The tokens of the vocabulary; an id without a token has an empty name."""
        if self.backend is None:
            return {}
        names = [""] * len(self.table)
        for token, index in self.backend.get_vocab().items():
            if index < len(names):
                names[index] = token
        return {"table": names}

    def get_extra_state(self) -> Tensor:
        """The vocabulary as bytes, (n,) uint8, for the state dict."""
        return torch.frombuffer(bytearray(self.fit_fingerprint().encode() or b" "), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Load the vocabulary from a state dict."""
        text = state.cpu().numpy().tobytes().decode().strip()
        # the length is that of this tokenizer: a run that continues another may have its own
        self.backend = _configure(hf.Tokenizer.from_str(text), self.options) if text else None

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Encode a text or pair.

        Returns:
            The text field: (length,) int32 ids. "FIELD_cropped": () float32, the share of the text's characters that
            are beyond the length.

        Raises:
            BadSample: The sample has no text where `empty=refuse`, more than two, or something else than text.
            RuntimeError: There is no vocabulary yet.
        """
        if self.backend is None:
            raise RuntimeError(f"tokenizer '{self.name}' has no vocabulary yet; call fit, or load a state dict")
        texts = texts_of(inputs[self.field], self.field)
        if len(texts) > MAX_TEXTS:
            raise BadSample(f"'{self.field}' holds {len(texts)} texts; a sample is one text or a pair")
        if not any(text.strip() for text in texts):
            if self.options.empty == "refuse":
                raise BadSample(f"'{self.field}' holds no text")
            ids, cropped = np.full(self.options.length, self.pad_id, dtype=np.int32), 0.0
        else:
            encoding = self.backend.encode(texts[0], texts[1] if len(texts) > 1 else None)
            ids, cropped = np.array(encoding.ids, dtype=np.int32), _cropped_share(encoding, texts)
        return {self.field: ids, f"{self.field}_cropped": np.array(cropped, dtype=np.float32)}

    def handmade(self, inputs: Inputs) -> np.ndarray:
        """Frequencies of short runs of characters in the whole text or pair."""
        return ngram_frequencies(texts_of(inputs[self.field], self.field))

    def describe_preprocessing(self) -> Preprocessing:
        """Texts to ids, by a file of the tokenizers library, which also truncates, delimits and pads."""
        length, name = self.options.length, f"{self.field}-tokenizer.json"
        encode: dict[str, Any] = {
            "do": f"encode '{self.field}', one text or a pair, by the file, with the library tokenizers: ids = "
            f"Tokenizer.from_file(file).encode(text).ids, or encode(one, other).ids; the file normalises, delimits, "
            f"cuts off and pads to `length` ids, int32",
            "file": f"files/{name}", "length": length, "library": f"tokenizers {hf.__version__}",
        }  # fmt: skip
        if self.options.empty == "refuse":
            without: dict[str, Any] = {"do": "refuse a sample without text"}
        else:
            without = {"do": "a sample without text is `length` times the id `pad`", "pad": self.pad_id}
        inside = [*super().describe_preprocessing().inside]
        if self.options.mask_padding:
            inside.append({"do": "ids of `pad` are padding: not attended to, and in no feature", "pad": self.pad_id})
        return Preprocessing([encode, without], inside, {name: self.fit_fingerprint().encode()})

    def facts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Shares of unknown and padding tokens, and of characters beyond the length."""
        ids = np.atleast_2d(inputs[self.field])
        is_padding = ids == self.pad_id
        words = ids[~is_padding & ~np.isin(ids, self._delimiter_ids())]
        facts = {"cropped": float(np.mean(inputs[f"{self.field}_cropped"])), "padded": float(is_padding.mean())}
        unknown = self._unknown_id()
        if unknown is not None:
            facts["unknown"] = float((words == unknown).mean()) if len(words) else 0.0
        return facts

    def _unknown_id(self) -> int | None:
        """The id of the token for unknown words; None if the vocabulary has none."""
        if self.backend is None:
            return None
        tokens = (getattr(self.backend.model, "unk_token", None), *UNKNOWN_TOKENS)
        ids = (self.backend.token_to_id(token) for token in tokens if token is not None)
        return next((index for index in ids if index is not None), None)

    def _delimiter_ids(self) -> list[int]:
        """The ids of the tokens around texts."""
        if self.backend is None:
            return []
        ids = (self.backend.token_to_id(token) for pair in DELIMITERS for token in pair)
        return [index for index in ids if index is not None]

    def geometry(self, inputs: Mapping[str, Tensor]) -> Geometry:
        """Padding is not valid if `mask_padding` is set."""
        return Geometry(valid=inputs[self.field] != self.pad_id) if self.options.mask_padding else Geometry()

    def to_text(self, segment: int, ids: Tensor) -> list[list[str]] | None:
        """The subwords, with a blank before each that begins a word."""
        if self.backend is None:
            return None
        special = {token for token in self.backend.get_vocab() if token in SPECIAL_TOKENS + PAD_TOKENS + UNKNOWN_TOKENS}
        special |= {token for pair in DELIMITERS for token in pair}
        byte_level = isinstance(self.backend.model, models.BPE)
        decoder = decoders.ByteLevel()

        def word(number: int) -> str:
            token = (self.backend and self.backend.id_to_token(number)) or UNK
            if token in special:
                return f" {token}"
            if byte_level:
                return decoder.decode([token])
            return token[2:] if token.startswith("##") and len(token) > 2 else f" {token}"

        return [[word(number) for number in row] for row in ids.tolist()]


def texts_of(value: np.ndarray, field: str) -> list[str]:
    """The texts of one sample, () or (n,); a missing one is empty, and half a surrogate pair is U+FFFD.

    Raises:
        BadSample: An entry is neither a text nor missing.
    """
    return [_text(entry, field) for entry in np.atleast_1d(value).tolist()]


def _text(entry: Any, field: str) -> str:
    if Text.is_missing(entry):
        return ""
    if not isinstance(entry, str):
        raise BadSample(f"'{field}' holds {str(entry)[:40]!r}, which is {type(entry).__name__} and not str; give text")
    try:
        entry.encode()
    except UnicodeEncodeError:  # the library takes whole characters only, and texts cut at a byte hold halves
        return entry.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return entry


def read_vocabulary(path: Path, options: SubwordTokenizer.Options) -> hf.Tokenizer:
    """Read a vocabulary file.

    Raises:
        ConfigError: The file does not exist, cannot be read as a vocabulary, or lacks the entry of unknown words.
    """
    backend = _read_backend(path, options)
    unknown = str(getattr(backend.model, "unk_token", UNK))
    if isinstance(backend.model, models.WordPiece | models.WordLevel) and backend.token_to_id(unknown) is None:
        raise ConfigError(f"tokenizer.file {path} has no entry {unknown}, which stands for unknown words; add it")
    return backend


def _read_backend(path: Path, options: SubwordTokenizer.Options) -> hf.Tokenizer:
    try:
        if path.suffix == ".json":
            return hf.Tokenizer.from_file(str(path))
        if path.suffix == ".txt":
            entries = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # not at other ends of lines
            return _bert({entry: index for index, entry in enumerate(entries)}, options)
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
    backend = _wordpiece({}, options) if options.model == "wordpiece" else _byte_bpe(options.lowercase)
    initial = list(SPECIAL_TOKENS)
    if options.model == "wordpiece":
        # The library numbers characters in the order of a hash table and breaks ties between merges by these numbers,
        # so that two trainings differ. As special tokens the characters have fixed numbers.
        normalize = backend.normalizer.normalize_str
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(normalize(text))
        letters, continuations, rare = _choose_alphabet(counts, options.vocab_size)
        initial += [*letters, *continuations]
        if rare:  # the trainer would number them itself
            table = dict.fromkeys(map(ord, rare), " ")
            texts = [normalize(text).translate(table) for text in texts]
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
    return backend if options.model == "bpe" else _wordpiece(backend.get_vocab(), options)


def _choose_alphabet(counts: Mapping[str, int], vocab_size: int) -> tuple[list[str], list[str], list[str]]:
    """The characters of a WordPiece vocabulary by frequency; those that also continue a word; and those too rare."""
    order = sorted(sorted(c for c in counts if not c.isspace()), key=lambda c: -counts[c])
    is_word = [unicodedata.name(letter, "").startswith(SYLLABLES) for letter in order]
    entries = np.cumsum([1 if alone else 2 for alone in is_word])
    kept = int(np.searchsorted(entries, max(MAX_ALPHABET, int(ALPHABET_SHARE * vocab_size)), side="right"))
    continuations = [f"##{letter}" for letter, alone in zip(order[:kept], is_word, strict=False) if not alone]
    return order[:kept], continuations, order[kept:]


def _bert(vocabulary: dict[str, int], options: SubwordTokenizer.Options) -> hf.Tokenizer:
    """WordPiece with the rules of BERT, for a vocabulary that was made with them."""
    backend = hf.Tokenizer(models.WordPiece(vocabulary, unk_token=UNK))
    if options.strip_accents in ("auto", "all"):
        backend.normalizer = normalizers.BertNormalizer(lowercase=options.lowercase)
    else:
        backend.normalizer = _normalizer(options.lowercase, options.strip_accents)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return backend


def _wordpiece(vocabulary: dict[str, int], options: SubwordTokenizer.Options) -> hf.Tokenizer:
    """WordPiece for any script: no word is too long, and marks are kept."""
    backend = hf.Tokenizer(models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=MAX_WORD))
    backend.normalizer = _normalizer(options.lowercase, options.strip_accents)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Split(hf.Regex(GRAPHEME), "isolated"),
            pre_tokenizers.Split(hf.Regex(f".{{{MAX_WORD}}}"), "isolated"),
        ]
    )
    backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return backend


def _normalizer(lowercase: bool, strip_accents: str) -> Any:
    """Composed characters, without control characters; lower case; accents removed as far as the option says."""
    steps: list[Any] = [
        normalizers.Replace(hf.Regex(CONTROL), ""),
        normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False),
    ]
    if lowercase and strip_accents == "all":
        steps += [normalizers.NFD(), normalizers.StripAccents()]
    elif lowercase and strip_accents in ("auto", "latin"):
        steps += [normalizers.NFD(), normalizers.Replace(hf.Regex(LATIN_MARKS), "")]
    steps.append(normalizers.NFC())
    return normalizers.Sequence([*steps, *([normalizers.Lowercase()] if lowercase else [])])


def _cropped_share(encoding: hf.Encoding, texts: list[str]) -> float:
    """The share of the characters that come after the last token of a truncated text or pair."""
    if not encoding.overflowing:
        return 0.0
    ends = [0] * len(texts)
    for sequence, (_, end) in zip(encoding.sequence_ids, encoding.offsets, strict=True):
        if sequence is not None:
            ends[sequence] = max(ends[sequence], end)
    total = sum(map(len, texts))
    return 1 - sum(ends) / total


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
