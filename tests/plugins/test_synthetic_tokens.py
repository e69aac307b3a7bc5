"""Synthetic texts, sequences and captions: their structure, and that raw input does not predict the label."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from ssl_core import Text
from ssl_plugins.datasets.synthetic._random_runs import draw_runs
from ssl_plugins.datasets.synthetic._text_synthesis import SCRIPTS, make_words
from ssl_plugins.datasets.synthetic.synthetic_genomics import SyntheticGenomics
from ssl_plugins.datasets.synthetic.synthetic_image_text import COLOURS, SyntheticImageText
from ssl_plugins.datasets.synthetic.synthetic_multilingual_text import SyntheticMultilingualText
from ssl_plugins.datasets.synthetic.synthetic_protein import PADDING, PREFERRED, SyntheticProtein
from ssl_plugins.datasets.synthetic.synthetic_text import SyntheticText


def build(cls, split="train", **options):
    return cls(cls.Options(**options), split)


def accuracy_of_raw(cls, features, size=600, **options):
    """Accuracy of a linear model and of nearest neighbours on `size` raw samples, and the number of classes."""
    splits = []
    for split in ("train", "test"):
        dataset = build(cls, split=split, n_train=size, n_test=size, **options)
        samples = [dataset[i] for i in range(size)]
        splits.append((np.array([features(s["inputs"]) for s in samples], dtype=float), [s["label"] for s in samples]))
    (train_x, train_y), (test_x, test_y) = splits
    model = LogisticRegression(C=0.01, max_iter=200).fit(train_x, train_y)
    near = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(train_x, train_y)
    classes = build(cls, **options).task.size
    return model.score(test_x, test_y), near.score(test_x, test_y), classes


def one_hot(inputs):
    return np.eye(4)[inputs["sequence"]].ravel()


def counts_of(pattern):
    """A function that counts the matches of a pattern, in its own vocabulary."""
    columns: dict[str, int] = {}

    def count(inputs):
        row = np.zeros(400)
        text = str(next(x for x in inputs.values() if x.dtype.kind == "U"))
        for one in re.findall(pattern, text):
            row[columns.setdefault(one, len(columns))] += 1
        return row

    return count


def residues(inputs):
    codes = np.frombuffer(str(inputs["sequence"]).encode(), dtype=np.uint8)
    row = np.zeros((128, 128))
    row[np.arange(len(codes)), codes] = 1
    return row[:, 65:90].ravel()


def pixels_and_words(inputs):
    return np.concatenate([inputs["image"].ravel() / 255, counts_of(r"\w+")(inputs)])


@pytest.mark.parametrize(
    ("cls", "features"),
    [
        (SyntheticGenomics, one_hot),
        (SyntheticText, counts_of(r"\w+|\.")),
        (SyntheticMultilingualText, counts_of(r"\w+|\.")),
        (SyntheticProtein, residues),
        (SyntheticImageText, pixels_and_words),
    ],
)
def test_raw_input_does_not_predict_the_label(cls, features):
    linear, near, classes = accuracy_of_raw(cls, features)
    assert linear < 1 / classes + 0.08
    assert near < 1 / classes + 0.15


def test_bases_are_equally_likely_everywhere_in_every_genus():
    dataset = build(SyntheticGenomics, n_train=6000)
    rows = np.stack([dataset[i]["inputs"]["sequence"] for i in range(6000)]).reshape(2000, 3, -1)
    shares = np.stack([(rows == base).mean(axis=0) for base in range(4)])  # (4, genera, positions)
    assert np.abs(shares - 0.25).max() < 0.05
    assert np.abs(shares.mean(axis=2) - 0.25).max() < 0.01


def test_genera_differ_in_mean_run_length():
    dataset = build(SyntheticGenomics, length=4000, purity=1.0)
    for index, mean in enumerate(dataset.options.run_lengths):
        row = dataset[index]["inputs"]["sequence"]
        assert np.diff(np.flatnonzero(np.diff(row))).mean() == pytest.approx(mean, rel=0.15)


def test_runs_change_state_and_all_positions_are_alike():
    rows = np.stack([draw_runs(30, 3, 5.0, np.random.default_rng(seed)) for seed in range(3000)])
    for kind in range(3):
        assert np.abs((rows == kind).mean(axis=0) - 1 / 3).max() < 0.04
    same = (rows[:, 1:] == rows[:, :-1]).mean(axis=0)
    assert same == pytest.approx(0.8, abs=0.04)  # one position in five ends a run of 5


def test_subjects_of_sentences_in_each_order():
    dataset = build(SyntheticText, words=4)
    subject = {word: number for number, row in enumerate(dataset.subjects.tolist()) for word in row}
    for index in range(30):
        sample = dataset[index]
        sentences = [part.split() for part in str(sample["inputs"]["text"]).rstrip(".").split(". ")]
        assert [len(sentence) for sentence in sentences] == [4, 4, 4, 4]
        about = [sorted(subject[word] for word in sentence) for sentence in sentences]
        assert len({number for row in about for number in row}) == 2
        if sample["label"] == 0:
            assert all(len(set(row)) == 2 and row.count(row[0]) == 2 for row in about)
        else:
            (a,), (b,), (c,), (d,) = (set(row) for row in about)
            turns, halves = (a, b) == (c, d) and a != b, (a, c) == (b, d) and a != c
            assert (turns, halves) == (sample["label"] == 1, sample["label"] == 2)


def test_texts_are_monolingual_and_languages_share_no_word():
    dataset = build(SyntheticMultilingualText)
    words = [set(language.ravel().tolist()) for language in dataset.languages]
    assert sum(map(len, words)) == len(set().union(*words))
    seen = set()
    for index in range(18):
        text_words = set(re.findall(r"\w+", str(dataset[index]["inputs"]["text"])))
        (language,) = [number for number, vocabulary in enumerate(words) if text_words <= vocabulary]
        seen.add((language, dataset[index]["label"]))
    assert len(seen) == 9  # every language has every class


def test_words_of_a_script_differ():
    for script in SCRIPTS:
        words = make_words(script, 50, np.random.default_rng(0))
        assert len(set(words)) == 50


def test_residues_are_those_preferred_by_their_state():
    family, structure = (
        build(SyntheticProtein, preference=1.0),
        build(SyntheticProtein, preference=1.0, label="structure"),
    )
    assert structure.task.per_token
    assert structure.task.ignore == PADDING
    for index in range(20):
        text = str(structure[index]["inputs"]["sequence"])
        assert text == str(family[index]["inputs"]["sequence"])
        states = structure[index]["label"]
        assert states.shape == (128,)
        assert (states[len(text) :] == PADDING).all()
        assert all(letter in PREFERRED[state] for letter, state in zip(text, states, strict=False))
        assert 76 <= len(text) <= 128
    assert len({len(str(family[i]["inputs"]["sequence"])) for i in range(20)}) > 5


def test_caption_is_right_or_wrong_in_every_cell():
    dataset = build(SyntheticImageText, noise=0.0)
    for index in range(40):
        sample = dataset[index]
        cells = sample["inputs"]["image"].reshape(3, 8, 4, 8).transpose(2, 0, 1, 3).reshape(4, 3, 64)
        caption = str(sample["inputs"]["caption"]).split()
        for cell, name in zip(cells, caption, strict=True):
            colour = np.rint(255 * np.array(COLOURS[name])).astype(int)
            present = (colour == cell.T).all(axis=1).any()
            assert present == (sample["label"] == 1)


def test_options_set_the_fields():
    assert isinstance(build(SyntheticText).fields["text"], Text)
    assert build(SyntheticGenomics, length=100).fields["sequence"].length == 100
    assert build(SyntheticImageText, cells=3).fields["image"].shape == (3, 8, 24)
