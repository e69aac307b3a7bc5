"""Tokenizer `image-text`: published sizes, both parts in one row, a missing caption."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_core import BadSample, ConfigError, Continuous, ContinuousTarget, DiscreteTarget, Layout, Text
from ssl_plugins.tokenizers.image_text import ImageTextTokenizer

ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "disc"]
FIELDS = {"image": Continuous((3, 4, 8)), "caption": Text()}


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(ENTRIES) + "\n")
    return str(path)


def build(fields=FIELDS, **options):
    return ImageTextTokenizer(ImageTextTokenizer.Options(**options), fields, 8)


def batch_of(tokenizer, *captions):
    image = np.arange(3 * 4 * 8, dtype=np.uint8).reshape(3, 4, 8)
    prepared = [tokenizer.preprocess({"image": image, "caption": np.array(caption)}) for caption in captions]
    return {name: torch.from_numpy(np.stack([each[name] for each in prepared])) for name in prepared[0]}


def test_published_sizes(tmp_path):
    """DABS: 196 patches of 768 numbers, then 32 ids of 30,522."""
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", *(f"w{i}" for i in range(30_517)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    varying = {"image": Continuous((3, None, None)), "caption": Text()}
    layout = build(varying, size=224, patch=16, file=str(path)).layout
    segments = [(s.name, s.grid, s.target, s.size) for s in layout.segments]
    assert segments == [("image", (14, 14), "continuous", 768), ("caption", (32,), "discrete", 30_522)]
    assert layout.length == 228


def test_row_is_patches_then_caption(vocabulary):
    tokenizer = build(patch=4, length=6, file=vocabulary, normalise="none")
    tokens = tokenizer(batch_of(tokenizer, "a red disc", "red"))
    assert tokens.embeddings.shape == (2, 2 + 6, 8)
    patches, words = tokens.targets
    assert isinstance(patches, ContinuousTarget)
    assert isinstance(words, DiscreteTarget)
    image = np.arange(96).reshape(3, 4, 8) / 255
    first = image[:, :, :4].transpose(1, 2, 0).reshape(-1)  # row, column, channel last
    np.testing.assert_allclose(patches.patches[0, 0].numpy(), first, atol=1e-6)
    assert words.ids.tolist() == [[2, 5, 6, 7, 3, 0], [2, 6, 3, 0, 0, 0]]
    assert tokens.valid.tolist() == [[True] * 7 + [False], [True] * 5 + [False] * 3]


def test_tokens_of_a_missing_caption_are_not_valid(vocabulary):
    tokenizer = build(patch=4, length=4, file=vocabulary)
    tokens = tokenizer(batch_of(tokenizer, "", "red"))
    assert tokens.valid[0].tolist() == [True, True, False, False, False, False]
    missing = np.array(None, dtype=object)
    assert (tokenizer.parts[1].preprocess({"caption": missing})["caption"] == tokenizer.parts[1].pad_id).all()
    published = build(patch=4, length=4, file=vocabulary, mask_padding=False)
    assert published(batch_of(published, "", "red")).valid is None
    with pytest.raises(BadSample, match="'caption' holds no text"):
        batch_of(build(patch=4, file=vocabulary, empty="refuse"), "")


def test_segments_have_no_common_neighbours(vocabulary):
    layout: Layout = build(patch=2, length=5, file=vocabulary).layout
    visible = torch.zeros(1, layout.length, dtype=torch.bool)
    visible[0, 7] = True  # the last patch of the 2 x 4 grid
    assert layout.dilate(visible).nonzero()[:, 1].tolist() == [3, 6, 7]


def test_state_dict_holds_the_vocabulary():
    samples = [
        {"image": np.zeros((3, 4, 8), dtype=np.uint8), "caption": np.array(text)}
        for text in ("red disc", "blue disc", "", "red cross")
    ]
    fitted, fresh = build(patch=4, vocab_size=64), build(patch=4, vocab_size=64)
    fitted.fit(samples)
    fresh.load_state_dict(fitted.state_dict())
    assert fresh.fit_fingerprint() == fitted.fit_fingerprint() != ""
    one, other = (tokenizer.preprocess(samples[1])["caption"].tolist() for tokenizer in (fitted, fresh))
    assert one == other
    assert len(set(one)) > 3


def test_caption_may_be_a_pair(vocabulary):
    tokenizer = build(patch=4, length=7, file=vocabulary)
    assert batch_of(tokenizer, ["a disc", "red"])["caption"].tolist() == [[2, 5, 7, 3, 6, 3, 0]]


def test_missing_field_is_refused_by_name():
    with pytest.raises(ConfigError, match="reads a field 'caption' of text"):
        build({"image": Continuous((3, 4, 8))})


def test_facts_are_those_of_the_caption(vocabulary):
    tokenizer = build(patch=4, length=4, file=vocabulary)
    batch = {name: value.numpy() for name, value in batch_of(tokenizer, "red disc", "a zebra").items()}
    facts = tokenizer.facts(batch)
    assert facts == {"cropped": 0, "padded": 0, "unknown": 0.25}
    assert set(facts) == set(tokenizer.fact_options)
