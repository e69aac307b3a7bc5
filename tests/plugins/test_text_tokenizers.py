"""Text and multilingual text: vocabularies read and trained, ids by hand, pairs, padding, what is stored."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
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


def texts(*given):
    return [{"text": np.array(text)} for text in given]


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(ENTRIES) + "\n")
    return path


# --- a given vocabulary ----------------------------------------------------------------------------------------------


def test_ids_of_a_text_by_hand(vocabulary):
    tokenizer = build(file=str(vocabulary), length=10)
    out = tokenizer.preprocess({"text": np.array("The CATS sat on the zebra. café")})
    # [CLS] the cat ##s sat on the [UNK] . cafe is 10 without [SEP], so the last word is cut
    assert out["text"].tolist() == [2, 5, 6, 8, 7, 9, 5, 1, 11, 3]
    assert out["text"].dtype == np.int32
    segment = tokenizer.layout.segments[0]
    assert (segment.grid, segment.target, segment.size) == ((10,), "discrete", len(ENTRIES))


def test_pair_has_a_mark_between(vocabulary):
    tokenizer = build(file=str(vocabulary), length=9)
    out = tokenizer.preprocess({"text": np.array(["the cat", "sat"])})
    assert out["text"].tolist() == [2, 5, 6, 3, 7, 3, 0, 0, 0]
    assert tokenizer.preprocess({"text": np.array(["the cat", ""])})["text"].tolist() == [2, 5, 6, 3, 3, 0, 0, 0, 0]


def test_long_pair_loses_the_end_of_the_longer_text(vocabulary):
    tokenizer = build(file=str(vocabulary), length=8)
    out = tokenizer.preprocess({"text": np.array(["the cat sat on the mat", "sat ."])})
    assert out["text"].tolist() == [2, 5, 6, 7, 3, 7, 11, 3]


def test_padding_is_absent_unless_it_is_kept_in(vocabulary):
    arrays = {"text": torch.tensor([[2, 5, 3, 0, 0], [2, 5, 6, 7, 3]])}
    masked = build(file=str(vocabulary), length=5)(arrays)
    assert masked.valid.tolist() == [[True, True, True, False, False], [True] * 5]
    published = build(file=str(vocabulary), length=5, mask_padding=False)(arrays)
    assert published.valid is None
    assert isinstance(published.targets[0], DiscreteTarget)
    assert published.targets[0].ids.tolist() == arrays["text"].tolist()


def test_one_text_of_shape_one_is_a_text(vocabulary):
    tokenizer = build(file=str(vocabulary), length=6)
    one, other = (tokenizer.preprocess({"text": np.array(text)})["text"] for text in ("the cat", ["the cat"]))
    assert one.tolist() == other.tolist()


def test_json_of_the_library_with_its_own_padding(tmp_path):
    words = Tokenizer(
        models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build(MultilingualTextTokenizer, file=str(tmp_path / "tokenizer.json"), length=6)
    assert tokenizer.pad == 1
    ids = tokenizer.preprocess({"text": np.array("a b z")})["text"]
    assert ids.tolist() == [0, 4, 5, 3, 2, 1]
    valid = tokenizer({"text": torch.from_numpy(ids)[None]}).valid
    assert valid.tolist() == [[True] * 5 + [False]]


def test_vocabulary_without_padding_gets_one(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "u": 2}, unk_token="u"))
    words.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build(file=str(tmp_path / "tokenizer.json"), length=4)
    assert tokenizer.layout.segments[0].size == 4
    assert tokenizer.preprocess({"text": np.array("b")})["text"].tolist() == [1, 3, 3, 3]


def test_published_sizes(tmp_path):
    """bert-base-uncased has 30,522 entries and 128 tokens (protocol 2.0: B128)."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", *(f"w{i}" for i in range(30_517)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    tokenizer = build(file=str(path))
    assert tokenizer.layout.length == 128
    assert tokenizer.table.shape == (30_522, 8)


@pytest.mark.parametrize("name", ["none.json", "none.txt"])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"tokenizer.file .*{name} does not exist") as caught:
        build(file=str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.json").write_text('{"version": ')
    with pytest.raises(ConfigError, match=r"bad\.json cannot be read as a vocabulary") as caught:
        build(file=str(tmp_path / "bad.json"))
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.bin").write_text("")
    with pytest.raises(ConfigError, match="neither a tokenizer.json nor a vocab.txt"):
        build(file=str(tmp_path / "bad.bin"))


# --- a trained vocabulary --------------------------------------------------------------------------------------------

SAID = texts(*[f"{a} {b} runs to {c}." for a in ("the dog", "A cat") for b in ("often", "never") for c in ("hé", "us")])
MANY = """
import numpy as np
from ssl_core import Text
from ssl_plugins.tokenizers.text import TextTokenizer
from ssl_plugins.tokenizers.multilingual_text import MultilingualTextTokenizer
rng = np.random.default_rng(0)
words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(60)]
said = [dict(text=np.array(" ".join(rng.choice(words, 12)))) for _ in range(60)]
made = []
for cls in (TextTokenizer, MultilingualTextTokenizer):
    tokenizer = cls(cls.Options(vocab_size=300), dict(text=Text()), 8)
    tokenizer.fit(said)
    made.append(tokenizer.learned())
print("\\n".join(made))
"""


def test_training_gives_the_same_vocabularies_in_another_process():
    """The library numbers the letters by a hash table, unless they are named beforehand."""
    here: dict = {}
    exec(MANY.replace("print", "str"), here)
    there = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True).stdout
    assert min(map(len, here["made"])) > 1000
    assert there.splitlines() == here["made"]


@pytest.mark.parametrize("cls", [TextTokenizer, MultilingualTextTokenizer])
def test_trained_vocabulary_knows_the_words(cls):
    tokenizer = build(cls, length=16, vocab_size=400)
    tokenizer.fit(SAID)
    ids = tokenizer.preprocess(SAID[0])["text"]
    words = [tokenizer.words.id_to_token(int(token)) for token in ids]
    assert words[0] == "[CLS]"
    assert words[-1] == "[PAD]"
    assert tokenizer.pad == 0 == tokenizer.words.token_to_id("[PAD]")
    kept = [word.lstrip("Ġ") for word in words if word not in ("[CLS]", "[SEP]", "[PAD]")]
    assert kept[:5] == ["the", "dog", "often", "runs", "to"]


def test_only_the_multilingual_one_minds_capitals():
    for cls, same in ((TextTokenizer, True), (MultilingualTextTokenizer, False)):
        tokenizer = build(cls, length=8, vocab_size=400)
        tokenizer.fit(SAID)
        upper, lower = (tokenizer.preprocess(texts(word)[0])["text"].tolist() for word in ("CAT", "cat"))
        assert (upper == lower) is same


def test_bytes_know_every_letter_and_wordpiece_has_unknown_ones():
    piece, bpe = build(TextTokenizer, vocab_size=400), build(MultilingualTextTokenizer, vocab_size=400)
    for tokenizer in (piece, bpe):
        tokenizer.fit(SAID)
    strange = {"text": np.array("მზე 日本")}
    assert piece.words.token_to_id("[UNK]") in piece.preprocess(strange)["text"]
    decoded = bpe.words.decode(bpe.preprocess(strange)["text"].tolist())
    assert "მზე" in decoded.encode("utf-8", "replace").decode() or "Ġ" in decoded  # bytes, not unknown
    assert bpe.words.token_to_id("[UNK]") not in bpe.preprocess(strange)["text"]


def test_every_id_is_in_the_table():
    tokenizer = build(vocab_size=60)
    tokenizer.fit(SAID)
    assert max(tokenizer.words.get_vocab().values()) < tokenizer.table.shape[0] == 60


def test_vocabulary_too_small_for_the_letters():
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size=20 .* use more than \d+"):
        build(vocab_size=20).fit(SAID)
    with pytest.raises(ConfigError, match=r"use more than 261"):
        build(MultilingualTextTokenizer, vocab_size=200).fit(SAID)


def test_no_text_to_train_on():
    with pytest.raises(DataError, match="no text in 'text'"):
        build().fit(texts("", "  "))


def test_only_so_many_samples_are_read():
    def walk():
        yield from SAID[:2]
        pytest.fail("read on")

    build(fit_samples=2).fit(walk())


def test_only_so_many_characters_are_held(monkeypatch):
    def walk():
        yield from SAID[:2]
        pytest.fail("read on")

    monkeypatch.setattr(_subword, "CHARACTERS", len(SAID[0]["text"].item()) + 1)
    build().fit(walk())


def test_state_dict_holds_the_vocabulary():
    fitted, fresh = build(vocab_size=100), build(vocab_size=100)
    fitted.fit(SAID)
    with pytest.raises(RuntimeError, match="no vocabulary yet"):
        fresh.preprocess(SAID[0])
    fresh.load_state_dict(copy.deepcopy(fitted.state_dict()))
    assert fresh.fit_fingerprint() == fitted.fit_fingerprint() != ""
    assert json.loads(fresh.fit_fingerprint())["model"]["type"] == "WordPiece"
    assert fresh.preprocess(SAID[3])["text"].tolist() == fitted.preprocess(SAID[3])["text"].tolist()


def test_empty_state_is_loaded_as_such():
    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    assert second.words is None
    assert second.fit_fingerprint() == ""


# --- bad samples and wrong fields ------------------------------------------------------------------------------------


def test_bad_samples(vocabulary):
    tokenizer = build(file=str(vocabulary))
    with pytest.raises(BadSample, match="'text' holds no text"):
        tokenizer.preprocess({"text": np.array("  ")})
    with pytest.raises(BadSample, match="holds 3 texts"):
        tokenizer.preprocess({"text": np.array(["a", "b", "c"])})
    absent = build(file=str(vocabulary), empty="absent", length=4)
    assert absent.preprocess({"text": np.array("")})["text"].tolist() == [0] * 4


def test_other_fields_are_refused():
    with pytest.raises(ConfigError, match="reads a field 'text' of text; the data set offers 'image'"):
        TextTokenizer(TextTokenizer.Options(), {"image": Continuous((3, 8, 8))}, 8)


def test_initial_embeddings():
    torch.manual_seed(0)
    assert build(dim=64, vocab_size=500).table.std().item() == pytest.approx(0.3, rel=0.02)
    xavier = build(dim=64, vocab_size=500, init_std=0).table
    assert xavier.abs().max().item() <= (6 / 564) ** 0.5
