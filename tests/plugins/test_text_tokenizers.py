"""Tokenizers `text` and `multilingual-text`: vocabulary files and training, ids by hand, pairs, padding, state."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from ssl_core import BadSample, ConfigError, Continuous, DataError, DiscreteTarget, Text
from ssl_plugins.tokenizers import _subword
from ssl_plugins.tokenizers.multilingual_text import MultilingualTextTokenizer
from ssl_plugins.tokenizers.text import TextTokenizer

FIELDS = {"text": Text()}
ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "on", "mat", ".", "cafe"]


def build(cls=TextTokenizer, dim=8, **options):
    return cls(cls.Options(**options), FIELDS, dim)


def samples_of(*texts):
    return [{"text": np.array(text)} for text in texts]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(ENTRIES) + "\n")
    return path


# --- vocabulary files ------------------------------------------------------------------------------------------------


def test_the_number_of_an_entry_is_that_of_its_line(tmp_path):
    """Only a line feed ends a line: vocabularies of many languages hold other separators as entries."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*ENTRIES[:5], "\u2028", "\x85", "cat"]) + "\n", encoding="utf-8")
    assert build(file=str(path), length=4).preprocess({"text": np.array("cat")})["text"].tolist()[1] == 7


def test_fields_that_are_not_tokenized_are_left_out(vocabulary):
    sample = {"text": np.array("cat"), "title": np.array("a title"), "number": np.zeros(3)}
    assert build(file=str(vocabulary), length=4).preprocess(sample).keys() == {"text", "text_cropped"}


def test_ids_of_a_text_by_hand(vocabulary):
    tokenizer = build(file=str(vocabulary), length=10)
    out = tokenizer.preprocess({"text": np.array("The CATS sat on the zebra. café")})
    # [CLS] the cat ##s sat on the [UNK] . cafe is 10 without [SEP], so the last word is truncated
    assert out["text"].tolist() == [2, 5, 6, 8, 7, 9, 5, 1, 11, 3]
    assert out["text"].dtype == np.int32
    segment = tokenizer.layout.segments[0]
    assert (segment.grid, segment.target, segment.size) == ((10,), "discrete", len(ENTRIES))


def test_pair_is_delimited(vocabulary):
    tokenizer = build(file=str(vocabulary), length=9)
    out = tokenizer.preprocess({"text": np.array(["the cat", "sat"])})
    assert out["text"].tolist() == [2, 5, 6, 3, 7, 3, 0, 0, 0]
    assert tokenizer.preprocess({"text": np.array(["the cat", ""])})["text"].tolist() == [2, 5, 6, 3, 3, 0, 0, 0, 0]


def test_longer_text_of_a_pair_is_truncated_first(vocabulary):
    tokenizer = build(file=str(vocabulary), length=8)
    out = tokenizer.preprocess({"text": np.array(["the cat sat on the mat", "sat ."])})
    assert out["text"].tolist() == [2, 5, 6, 7, 3, 7, 11, 3]


def test_padding_is_not_valid_unless_mask_padding_is_false(vocabulary):
    arrays = {"text": torch.tensor([[2, 5, 3, 0, 0], [2, 5, 6, 7, 3]])}
    masked = build(file=str(vocabulary), length=5)(arrays)
    assert masked.valid.tolist() == [[True, True, True, False, False], [True] * 5]
    published = build(file=str(vocabulary), length=5, mask_padding=False)(arrays)
    assert published.valid is None
    assert isinstance(published.targets[0], DiscreteTarget)
    assert published.targets[0].ids.tolist() == arrays["text"].tolist()


def test_array_of_one_text_equals_a_text(vocabulary):
    tokenizer = build(file=str(vocabulary), length=6)
    one, other = (tokenizer.preprocess({"text": np.array(text)})["text"] for text in ("the cat", ["the cat"]))
    assert one.tolist() == other.tolist()


def test_tokenizer_json_with_its_own_padding_token(tmp_path):
    backend = Tokenizer(
        models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build(MultilingualTextTokenizer, file=str(tmp_path / "tokenizer.json"), length=6)
    assert tokenizer.pad_id == 1
    ids = tokenizer.preprocess({"text": np.array("a b z")})["text"]
    assert ids.tolist() == [0, 4, 5, 3, 2, 1]
    valid = tokenizer({"text": torch.from_numpy(ids)[None]}).valid
    assert valid.tolist() == [[True] * 5 + [False]]


def test_padding_token_is_added_if_missing(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "u": 2}, unk_token="u"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build(file=str(tmp_path / "tokenizer.json"), length=4)
    assert tokenizer.layout.segments[0].size == 4
    assert tokenizer.preprocess({"text": np.array("b")})["text"].tolist() == [1, 3, 3, 3]


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_a_vocabulary_without_the_entry_of_unknown_words_is_refused(tmp_path, name):
    path = tmp_path / name
    if name == "vocab.txt":
        path.write_text("\n".join(entry for entry in ENTRIES if entry != "[UNK]"))
    else:
        Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]")).save(str(path))
    with pytest.raises(ConfigError, match=rf"tokenizer.file .*{name} has no entry \[UNK\], .*; add it") as caught:
        build(file=str(path))
    assert "\n" not in str(caught.value)


def test_published_sizes(tmp_path):
    """DABS: bert-base-uncased, 30,522 entries and 128 tokens."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", *(f"w{i}" for i in range(30_517)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    tokenizer = build(file=str(path))
    assert tokenizer.layout.length == 128
    assert tokenizer.table.shape == (30_522, 8)


@pytest.mark.parametrize("name", ["none.json", "none.txt"])
def test_missing_vocabulary_file_is_refused_by_name(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"tokenizer.file .*{name} does not exist") as caught:
        build(file=str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_damaged_vocabulary_file_is_refused_by_name(tmp_path):
    (tmp_path / "bad.json").write_text('{"version": ')
    with pytest.raises(ConfigError, match=r"bad\.json cannot be read as a vocabulary") as caught:
        build(file=str(tmp_path / "bad.json"))
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.bin").write_text("")
    with pytest.raises(ConfigError, match="neither a tokenizer.json nor a vocab.txt"):
        build(file=str(tmp_path / "bad.bin"))


# --- trained vocabularies --------------------------------------------------------------------------------------------

SAMPLES = samples_of(
    *[f"{a} {b} runs to {c}." for a in ("the dog", "A cat") for b in ("often", "never") for c in ("hé", "us")]
)
TRAINING_SCRIPT = """
import numpy as np
from ssl_core import Text
from ssl_plugins.tokenizers.text import TextTokenizer
from ssl_plugins.tokenizers.multilingual_text import MultilingualTextTokenizer
rng = np.random.default_rng(0)
words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(60)]
samples = [dict(text=np.array(" ".join(rng.choice(words, 12)))) for _ in range(60)]
vocabularies = []
for cls in (TextTokenizer, MultilingualTextTokenizer):
    tokenizer = cls(cls.Options(vocab_size=300), dict(text=Text()), 8)
    tokenizer.fit(samples)
    vocabularies.append(tokenizer.fit_fingerprint())
"""


def test_training_is_deterministic_across_processes():
    """The library numbers characters in the order of a hash table, unless they are special tokens."""
    here: dict = {}
    exec(TRAINING_SCRIPT, here)
    command = [sys.executable, "-c", TRAINING_SCRIPT + 'print("\\n".join(vocabularies))']
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert min(map(len, here["vocabularies"])) > 1000
    assert there.splitlines() == here["vocabularies"]


@pytest.mark.parametrize("cls", [TextTokenizer, MultilingualTextTokenizer])
def test_trained_vocabulary_has_whole_words(cls):
    tokenizer = build(cls, length=16, vocab_size=400)
    tokenizer.fit(SAMPLES)
    ids = tokenizer.preprocess(SAMPLES[0])["text"]
    words = [tokenizer.backend.id_to_token(int(token)) for token in ids]
    assert words[0] == "[CLS]"
    assert words[-1] == "[PAD]"
    assert tokenizer.pad_id == 0 == tokenizer.backend.token_to_id("[PAD]")
    text = [word.lstrip("Ġ") for word in words if word not in ("[CLS]", "[SEP]", "[PAD]")]
    assert text[:5] == ["the", "dog", "often", "runs", "to"]


def test_only_multilingual_text_is_case_sensitive():
    for cls, ignores_case in ((TextTokenizer, True), (MultilingualTextTokenizer, False)):
        tokenizer = build(cls, length=8, vocab_size=400)
        tokenizer.fit(SAMPLES)
        upper, lower = (tokenizer.preprocess(samples_of(word)[0])["text"].tolist() for word in ("CAT", "cat"))
        assert (upper == lower) is ignores_case


def test_byte_bpe_has_no_unknown_characters():
    piece, bpe = build(TextTokenizer, vocab_size=400), build(MultilingualTextTokenizer, vocab_size=400)
    for tokenizer in (piece, bpe):
        tokenizer.fit(SAMPLES)
    foreign = {"text": np.array("მზე 日本")}
    assert piece.backend.token_to_id("[UNK]") in piece.preprocess(foreign)["text"]
    decoded = bpe.backend.decode(bpe.preprocess(foreign)["text"].tolist())
    assert "მზე" in decoded.encode("utf-8", "replace").decode() or "Ġ" in decoded  # bytes, not [UNK]
    assert bpe.backend.token_to_id("[UNK]") not in bpe.preprocess(foreign)["text"]


def test_every_id_has_an_embedding():
    tokenizer = build(vocab_size=60)
    tokenizer.fit(SAMPLES)
    assert max(tokenizer.backend.get_vocab().values()) < tokenizer.table.shape[0] == 60


def test_vocab_size_below_the_alphabet_is_refused():
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size=20 is smaller .* set it to more than \d+"):
        build(vocab_size=20).fit(SAMPLES)
    with pytest.raises(ConfigError, match="set it to more than 261"):
        build(MultilingualTextTokenizer, vocab_size=200).fit(SAMPLES)


def test_training_without_text_is_refused():
    with pytest.raises(DataError, match="no text in 'text'"):
        build().fit(samples_of("", "  "))


def test_fit_samples_bounds_the_samples_read():
    def samples():
        yield from SAMPLES[:2]
        pytest.fail("read beyond the bound")

    build(fit_samples=2).fit(samples())


def test_training_text_is_bounded(monkeypatch):
    def samples():
        yield from SAMPLES[:2]
        pytest.fail("read beyond the bound")

    monkeypatch.setattr(_subword, "MAX_CHARACTERS", len(SAMPLES[0]["text"].item()) + 1)
    build().fit(samples())


def test_state_dict_holds_the_vocabulary():
    fitted, fresh = build(vocab_size=100), build(vocab_size=100)
    fitted.fit(SAMPLES)
    with pytest.raises(RuntimeError, match="no vocabulary yet"):
        fresh.preprocess(SAMPLES[0])
    fresh.load_state_dict(copy.deepcopy(fitted.state_dict()))
    assert fresh.fit_fingerprint() == fitted.fit_fingerprint() != ""
    assert json.loads(fresh.fit_fingerprint())["model"]["type"] == "WordPiece"
    assert fresh.preprocess(SAMPLES[3])["text"].tolist() == fitted.preprocess(SAMPLES[3])["text"].tolist()


def test_a_loaded_vocabulary_takes_the_length_of_its_tokenizer():
    fitted, shorter, longer = (build(vocab_size=100, length=length) for length in (8, 5, 12))
    fitted.fit(SAMPLES)
    sample = {"text": np.array(" ".join([SAMPLES[0]["text"].item()] * 4))}
    for tokenizer in (shorter, longer):
        tokenizer.load_state_dict(fitted.state_dict())
        ids = tokenizer.preprocess(sample)["text"]
        assert ids.shape == (tokenizer.options.length,)
        assert ids[:4].tolist() == fitted.preprocess(sample)["text"][:4].tolist()


def test_state_without_vocabulary_is_loaded():
    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    assert second.backend is None
    assert second.fit_fingerprint() == ""


# --- scripts and facts ------------------------------------------------------------------------------------------------


def trained(*texts, cls=TextTokenizer, **options):
    tokenizer = build(cls, **{"length": 32, "vocab_size": 600, **options})
    tokenizer.fit(samples_of(*texts))
    return tokenizer


def tokens_of(tokenizer, text):
    ids = tokenizer.preprocess({"text": np.array(text)})["text"]
    tokens = [tokenizer.backend.id_to_token(int(index)) for index in ids]
    return [token for token in tokens if token not in ("[CLS]", "[SEP]", "[PAD]")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ที่นี่", ["ที่", "นี่"]),  # Thai: a consonant with its vowel and tone
        ("ខ្មែរ", ["ខ្មែ", "រ"]),  # Khmer: with the consonant below
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("大きな通り", ["大", "き", "な", "通", "り"]),
        ("スーパー", ["ス", "ー", "パ", "ー"]),
        ("한국어", ["한국어"]),  # Korean has blanks between words
        ("में हूँ", ["में", "हूँ"]),
    ],
)
def test_units_of_scripts(text, expected):
    assert tokens_of(trained(*[text] * 5), text) == expected


def test_only_latin_letters_lose_accents():
    text = "Café ÅNGSTRÖM Ёлка й Ά ガ हूँ"
    assert trained(text).backend.normalizer.normalize_str("Café ÅNGSTRÖM Ёлка й Ά ガ में") == (
        "cafe angstrom ёлка й ά ガ में"
    )
    assert trained(text, strip_accents="none").backend.normalizer.normalize_str("Café Й") == "café й"
    assert "म" in trained(text, strip_accents="all").backend.normalizer.normalize_str("में")
    assert "में" not in trained(text, strip_accents="all").backend.normalizer.normalize_str("में")
    assert trained(text, lowercase=False).backend.normalizer.normalize_str("Café Ё") == "Café Ё"


def test_vocabulary_file_keeps_the_rules_of_bert(vocabulary):
    for options, stripped in (({}, True), ({"strip_accents": "latin"}, False), ({"strip_accents": "all"}, True)):
        normalize = build(file=str(vocabulary), **options).backend.normalizer.normalize_str
        assert "ा" in normalize("मा है")  # a spacing mark, which BERT keeps too
        assert ("ं" not in normalize("में")) is stripped


def test_control_characters_are_removed_and_joiners_kept():
    normalize = trained("a").backend.normalizer.normalize_str
    assert normalize("a\x00b\ufeffc\u00add\te") == "abcd\te"
    assert normalize("می\u200cروم") == "می\u200cروم"


def test_long_words_are_divided():
    word = "abcdefghij" * 30
    tokenizer = trained(word, length=512, vocab_size=100)
    tokens = tokens_of(tokenizer, word)
    assert "[UNK]" not in tokens
    assert "".join(token.removeprefix("##") for token in tokens) == word
    assert sum(not token.startswith("##") for token in tokens) == 3


def test_time_does_not_grow_with_the_square_of_a_text_without_blanks():
    text = "ภาษาไทยเขียนติดกัน" * 3000
    assert len(tokens_of(trained(text[:500]), text)) == 30


def test_alphabet_of_a_script_with_many_characters():
    """Each Chinese character takes one entry, and rare ones are unknown rather than numbered at random."""
    characters = "".join(chr(0x4E00 + i) for i in range(3000))
    whole = trained(characters, vocab_size=8192, length=16)
    assert whole.facts(whole.preprocess({"text": np.array(characters[:10])}))["unknown"] == 0
    assert "##" + characters[0] not in whole.backend.get_vocab()
    few = trained(characters[:1500] * 2 + characters, vocab_size=2100, length=16)
    assert few.facts(few.preprocess({"text": np.array(characters[:10])}))["unknown"] == 0
    assert few.facts(few.preprocess({"text": np.array(characters[-10:])}))["unknown"] == 1


def test_facts_of_samples():
    tokenizer = trained("the cat sat on the mat", length=6)
    assert tokenizer.fits_sizes
    samples = [
        tokenizer.preprocess({"text": np.array(text)}) for text in ("the cat", "the cat sat on the mat", "? cat")
    ]
    first, second, third = (tokenizer.facts(sample) for sample in samples)
    assert first == {"cropped": 0.0, "padded": pytest.approx(2 / 6), "unknown": 0.0}
    assert second == {"cropped": pytest.approx(8 / 22), "padded": 0.0, "unknown": 0.0}
    assert third["unknown"] == 0.5
    chunk = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    assert tokenizer.facts(chunk)["unknown"] == pytest.approx(1 / 8)
    pair = tokenizer.preprocess({"text": np.array(["the cat sat", "on the mat"])})
    assert 0 < tokenizer.facts(pair)["cropped"] < 1
    assert set(tokenizer.facts(chunk)) == set(tokenizer.fact_options)
    assert build(empty="absent", file=None).fact_options["unknown"].startswith("tokenizer.model=bpe")


def test_facts_survive_a_state_dict():
    fitted = trained("the cat sat on the mat", length=6)
    fresh = build(length=6, vocab_size=600)
    fresh.load_state_dict(copy.deepcopy(fitted.state_dict()))
    sample = fitted.preprocess({"text": np.array("the zebra")})
    assert fresh.facts(sample) == fitted.facts(sample)


# --- bad samples and other fields ------------------------------------------------------------------------------------


def test_samples_without_text_or_with_three_are_refused(vocabulary):
    tokenizer = build(file=str(vocabulary))
    with pytest.raises(BadSample, match="'text' holds no text"):
        tokenizer.preprocess({"text": np.array("  ")})
    with pytest.raises(BadSample, match="holds 3 texts"):
        tokenizer.preprocess({"text": np.array(["a", "b", "c"])})
    absent = build(file=str(vocabulary), empty="absent", length=4)
    assert absent.preprocess({"text": np.array("")})["text"].tolist() == [0] * 4


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pandas.NA])
def test_a_missing_text_is_an_empty_one(vocabulary, missing):
    tokenizer = build(file=str(vocabulary), length=6)
    with pytest.raises(BadSample, match="'text' holds no text"):
        tokenizer.preprocess({"text": np.array(missing)})
    one, other = (np.array(["cat", second], dtype=object) for second in (missing, ""))
    assert (
        tokenizer.preprocess({"text": one})["text"].tolist() == tokenizer.preprocess({"text": other})["text"].tolist()
    )
    np.testing.assert_array_equal(tokenizer.handmade({"text": one}), tokenizer.handmade({"text": other}))
    trained = build()
    trained.fit([*samples_of("the cat", "the mat"), {"text": np.array(missing)}])
    assert not {"none", "nan", "<na>"} & trained.backend.get_vocab().keys()


@pytest.mark.parametrize("entry", [3, 1.5, b"cat", ["a"]])
def test_what_is_no_text_is_no_sample(vocabulary, entry):
    sample = {"text": np.empty((), dtype=object)}
    sample["text"][()] = entry
    with pytest.raises(BadSample, match=rf"'text' holds .*, which is {type(entry).__name__} and not str; give text"):
        build(file=str(vocabulary)).preprocess(sample)
    trained = build()
    trained.fit([*samples_of("the cat"), sample])  # the sample is named where it is prepared
    assert "the" in trained.backend.get_vocab()


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_half_a_surrogate_pair_is_a_replacement_character(model):
    tokenizer = build(model=model, vocab_size=400)
    tokenizer.fit(samples_of("the cat \ud83d sat", "a cat \N{GRINNING FACE}"))
    for half, whole in (("cat \ud83d sat", "cat \ufffd sat"), ("cat \ude00", "cat \ufffd")):
        one, other = ({"text": np.array(text)} for text in (half, whole))
        assert tokenizer.preprocess(one)["text"].tolist() == tokenizer.preprocess(other)["text"].tolist()
        np.testing.assert_array_equal(tokenizer.handmade(one), tokenizer.handmade(other))
    assert _subword.texts_of(np.array("\ud83d\ude00"), "text") == ["\N{GRINNING FACE}"]


def test_other_fields_are_refused():
    with pytest.raises(ConfigError, match="reads a field 'text' of text; the data set offers 'image'"):
        TextTokenizer(TextTokenizer.Options(), {"image": Continuous((3, 8, 8))}, 8)


def test_init_std_sets_the_initial_embeddings():
    """0 is Xavier uniform, with the bound sqrt(6 / (500 + 64)) and the deviation bound / sqrt(3)."""
    torch.manual_seed(0)
    assert build(dim=64, vocab_size=500).table.std().item() == pytest.approx(0.3, rel=0.02)
    xavier = build(dim=64, vocab_size=500, init_std=0).table
    assert xavier.abs().max().item() <= (6 / 564) ** 0.5
    assert xavier.std().item() == pytest.approx((2 / 564) ** 0.5, rel=0.02)
