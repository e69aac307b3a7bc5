"""Tokenizers `genomics` and `protein`: ids by hand, published lengths and alphabets, padding, bad samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_core import BadSample, ConfigError, Discrete, Text
from ssl_plugins.tokenizers.genomics import GenomicsTokenizer
from ssl_plugins.tokenizers.protein import ProteinTokenizer

TEXT = {"sequence": Text()}


def build(cls, fields=TEXT, **options):
    return cls(cls.Options(**options), fields, 8)


def ids_of(tokenizer, text):
    return tokenizer.preprocess({"sequence": np.array(text)})["sequence"].tolist()


def test_default_sizes_are_the_published_ones():
    """MetaMAE, Table 16: 4 x 250 and 26 x 128."""
    for cls, length, vocab in ((GenomicsTokenizer, 250, 4), (ProteinTokenizer, 128, 26)):
        tokenizer = build(cls)
        segment = tokenizer.layout.segments[0]
        assert (segment.grid, segment.target, segment.size) == ((length,), "discrete", vocab)
        assert tokenizer.table.shape == (vocab, 8)


def test_ids_of_bases_by_hand():
    tokenizer = build(GenomicsTokenizer, length=6)
    assert ids_of(tokenizer, "ACGTTAGG") == [0, 1, 2, 3, 3, 0]
    assert ids_of(tokenizer, "acgtta") == [0, 1, 2, 3, 3, 0]
    assert tokenizer.preprocess({"sequence": np.array("ACGTTA")})["sequence"].dtype == np.uint8


def test_ids_of_residues_by_hand():
    """The order X A R N D C Q E G H I L K M F P S T W Y V U O B Z J; padding is X = 0."""
    tokenizer = build(ProteinTokenizer, length=9)
    assert ids_of(tokenizer, "MKVJARX") == [13, 12, 20, 25, 1, 2, 0, 0, 0]
    alphabet = "XARNDCQEGHILKMFPSTWYVUOBZJ"
    assert ids_of(build(ProteinTokenizer, length=26), alphabet) == list(range(26))


def test_padding_is_masked_by_position_not_by_letter():
    tokenizer = build(ProteinTokenizer, length=5)
    prepared = [tokenizer.preprocess({"sequence": np.array(text)}) for text in ("XA", "ARNDC", "ARNDCQ")]
    batch = {name: torch.from_numpy(np.stack([each[name] for each in prepared])) for name in prepared[0]}
    assert tokenizer(batch).valid.tolist() == [[True, True, False, False, False], [True] * 5, [True] * 5]
    assert build(ProteinTokenizer, length=5, mask_padding=False)(batch).valid is None


def test_short_sequence_is_refused_without_pad():
    with pytest.raises(BadSample, match=r"has 3 letters, fewer than 5; set tokenizer.length=3 or .*tokenizer.pad=T"):
        ids_of(build(GenomicsTokenizer, length=5), "ACG")
    padded = build(GenomicsTokenizer, length=5, alphabet="ACGTN", pad="N")
    assert ids_of(padded, "ACG") == [0, 1, 2, 4, 4]
    unpadded = build(GenomicsTokenizer, length=5)
    prepared = unpadded.preprocess({"sequence": np.array("ACGTA")})
    assert unpadded({name: torch.from_numpy(x[None]) for name, x in prepared.items()}).valid is None


def test_letter_outside_the_alphabet_is_refused_or_replaced():
    with pytest.raises(BadSample, match=r"letter 3 of the sequence is 'N', not in the alphabet ACGT") as caught:
        ids_of(build(GenomicsTokenizer, length=4), "ACNT")
    assert "\n" not in str(caught.value)
    with pytest.raises(BadSample, match="letter 2 of the sequence is 'é'"):
        ids_of(build(ProteinTokenizer), "Aé")
    with pytest.raises(BadSample, match="letter 2 of the sequence is '字'"):
        ids_of(build(ProteinTokenizer), "A字")
    assert ids_of(build(GenomicsTokenizer, length=4, alphabet="ACGTN", unknown="N"), "AC字R") == [0, 1, 4, 4]


def test_truncated_letters_are_not_checked():
    assert ids_of(build(GenomicsTokenizer, length=4), "ACGT!") == [0, 1, 2, 3]
    with pytest.raises(BadSample, match="letter 4"):
        ids_of(build(GenomicsTokenizer, length=4), "ACG!T")


def test_terminal_stop_of_a_protein_is_removed():
    tokenizer = build(ProteinTokenizer, length=6)
    assert ids_of(tokenizer, "MKV*") == ids_of(tokenizer, "MKV")
    with pytest.raises(BadSample, match=r"letter 3 of the sequence is '\*'.* --set tokenizer.unknown=X replaces"):
        ids_of(tokenizer, "MK*V*")
    kept = build(ProteinTokenizer, length=4, alphabet="XMKV*")
    assert ids_of(kept, "MKV*") == [1, 2, 3, 4]
    with pytest.raises(BadSample, match="letter 4"):
        ids_of(build(GenomicsTokenizer, length=4), "ACG*")


def test_bases_of_rna_are_those_of_dna():
    assert ids_of(build(GenomicsTokenizer, length=5), "AuGUt") == [0, 3, 2, 3, 3]
    assert ids_of(build(GenomicsTokenizer, length=5, alphabet="ACGU"), "AUGTt") == [0, 3, 2, 3, 3]
    assert ids_of(build(GenomicsTokenizer, length=2, alphabet="ACGTU"), "TU") == [3, 4]


def test_cure_of_an_unknown_letter_works():
    with pytest.raises(BadSample) as error:
        ids_of(build(GenomicsTokenizer, length=4), "ACNT")
    assert "; --set tokenizer.alphabet=ACGTN --set tokenizer.unknown=N replaces" in str(error.value)
    assert ids_of(build(GenomicsTokenizer, length=4, alphabet="ACGTN", unknown="N"), "ACNT") == [0, 1, 4, 3]


def test_length_follows_the_data():
    for text, length in ((Text(), 250), (Text(40), 40)):
        assert build(GenomicsTokenizer, {"sequence": text}).layout.length == length
    assert build(GenomicsTokenizer, {"sequence": Text(40)}, length=30).layout.length == 30
    assert Text(40) == Text()


def test_facts_of_samples():
    tokenizer = build(ProteinTokenizer, length=4, unknown="X")
    assert tokenizer.fits_sizes
    prepared = [tokenizer.preprocess({"sequence": np.array(text)}) for text in ("MKVMKVMK", "MK", "M?VX")]
    assert tokenizer.facts(prepared[0]) == {"cropped": 0.5, "padded": 0.0, "unknown": 0.0}
    assert tokenizer.facts(prepared[1]) == {"cropped": 0.0, "padded": 0.5, "unknown": 0.0}
    chunk = {name: np.stack([each[name] for each in prepared]) for name in prepared[0]}
    facts = tokenizer.facts(chunk)
    assert facts == pytest.approx({"cropped": 0.5 / 3, "padded": 0.5 / 3, "unknown": 2 / 10})
    assert "unknown" not in build(ProteinTokenizer, length=4).facts(chunk)


def test_empty_sequence_is_refused():
    with pytest.raises(BadSample, match="the sequence is empty"):
        ids_of(build(ProteinTokenizer), "")


def test_ids_are_accepted_as_input():
    tokenizer = build(GenomicsTokenizer, {"sequence": Discrete(6, 4)})
    assert tokenizer.layout.length == 6
    assert ids_of(tokenizer, np.array([3, 2, 1, 0, 0, 1], dtype=np.int64)) == [3, 2, 1, 0, 0, 1]
    assert build(GenomicsTokenizer, {"sequence": Discrete(6, 4)}, length=4).layout.length == 4
    with pytest.raises(BadSample, match=r"ids outside 0\.\.3"):
        ids_of(tokenizer, np.array([0, 1, 2, 3, 4, 0]))
    with pytest.raises(BadSample, match="neither one text nor ids"):
        ids_of(tokenizer, np.zeros(6))


def test_alphabet_with_both_cases_is_case_sensitive():
    tokenizer = build(GenomicsTokenizer, length=2, alphabet="aA")
    assert ids_of(tokenizer, "aA") == [0, 1]


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"alphabet": "ACGA"}, TEXT, "must be ASCII letters, each once"),
        ({"pad": "N"}, TEXT, "tokenizer.pad='N' is not a letter of the alphabet ACGT"),
        ({"unknown": "N"}, TEXT, "tokenizer.unknown='N' is not a letter"),
        ({}, {"sequence": Discrete(6, 5)}, "the data's ids count 5 letters, the alphabet ACGT has 4"),
        ({}, {"text": Text()}, "reads a field 'sequence' of text or of ids; the data set offers 'text'"),
    ],
)
def test_invalid_options_and_fields_are_refused(options, fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(GenomicsTokenizer, fields, **options)
    assert "\n" not in str(caught.value)
