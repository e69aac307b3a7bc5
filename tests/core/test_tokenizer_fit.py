"""What a tokenizer learns before anything is prepared: when it learns, what of, and where it is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ssl_core import BadSample, Text, Tokenizer, testing
from ssl_core.cli import app
from ssl_core.pipeline.cache import RawSamples, preprocess_dataset
from ssl_core.tokenizers import IdTokenizer, JointTokenizer
from ssl_core.utils.console import Console
from ssl_plugins.datasets.synthetic.synthetic_text import SyntheticText
from ssl_plugins.tokenizers.text import TextTokenizer


class Letters(IdTokenizer):
    """The first letters of a text, numbered in the order in which they are met."""

    name = "letters"

    def __init__(self, options, fields, dim, field="text"):
        super().__init__(options, fields, dim, field=field, length=3, vocab=30)
        self.known = ""

    def fit(self, samples):
        self.known = "".join(sorted({letter for sample in samples for letter in str(sample[self.field])}))

    def fit_fingerprint(self):
        return self.known

    def get_extra_state(self):
        return torch.tensor(list(self.known.encode()), dtype=torch.uint8)

    def set_extra_state(self, state):
        self.known = bytes(state.tolist()).decode()

    def preprocess(self, inputs):
        ids = [self.known.index(letter) for letter in str(inputs[self.field])[:3]]
        return {**inputs, self.field: np.array(ids, dtype=np.int32)}


class Forgetful(Letters):
    """Keeps what it learned to itself."""

    def get_extra_state(self):
        return torch.zeros(1)

    def set_extra_state(self, state):
        pass


FIELDS = {"text": Text()}
SAMPLES = [{"text": np.array(text)} for text in ("abcd", "bcde", "cdeg", "aaab")]


class Words:
    """A data set of texts, one of them bad."""

    modality = name = split = "words"

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 4:
            raise BadSample("it is bad")
        return {"inputs": {"text": np.array(str(index))}, "label": None}


def test_raw_samples_come_in_one_random_order_without_the_bad():
    raw = RawSamples(Words())
    walks = [[str(inputs["text"]) for inputs in raw] for _ in range(2)]
    assert walks[0] == walks[1]
    assert sorted(walks[0]) == list("012356789")
    assert walks[0] != sorted(walks[0])


def test_raw_samples_are_read_only_as_far_as_walked(monkeypatch):
    read = []
    monkeypatch.setattr(Words, "__getitem__", lambda self, i: read.append(i) or {"inputs": {}, "label": None})
    walk = iter(RawSamples(Words()))
    next(walk)
    next(walk)
    assert len(read) == 2


def test_prepared_cache_knows_what_was_learned(tmp_path):
    """The same data and options, another vocabulary: nothing old is read back."""
    dataset = SyntheticText(SyntheticText.Options(n_train=6), "train")
    made = []
    for size in (60, 100):
        tokenizer = TextTokenizer(TextTokenizer.Options(vocab_size=100, length=12), dataset.fields, 8)
        small = TextTokenizer(TextTokenizer.Options(vocab_size=size, length=12), dataset.fields, 8)
        small.fit(RawSamples(dataset))
        tokenizer.set_extra_state(small.get_extra_state())
        prepared = preprocess_dataset(dataset, tokenizer, tmp_path, Console())
        made.append(np.array(prepared.arrays["text"]))
        wanted = [tokenizer.preprocess(dataset[i]["inputs"])["text"] for i in range(6)]
        np.testing.assert_array_equal(made[-1], wanted)
    assert (made[0] != made[1]).any()


def test_joint_tokenizer_fits_every_part():
    parts = [Letters(Letters.Options(), {}, 8, field) for field in ("a", "b")]
    joint = JointTokenizer(JointTokenizer.Options(), {}, 8, parts=parts)
    assert joint.fit_fingerprint() == ""
    joint.fit([{"a": np.array("xy"), "b": np.array("pq")}])
    assert [part.known for part in parts] == ["xy", "pq"]
    assert joint.fit_fingerprint() == "xy\0pq"
    fresh = JointTokenizer(
        JointTokenizer.Options(), {}, 8, parts=[Letters(Letters.Options(), {}, 8, field) for field in ("a", "b")]
    )
    fresh.load_state_dict(joint.state_dict())
    assert fresh.fit_fingerprint() == joint.fit_fingerprint()


def test_most_tokenizers_learn_nothing():
    tokenizer = Tokenizer(Tokenizer.Options(), {}, 8)
    assert tokenizer.fit(iter([])) is None
    assert tokenizer.fit_fingerprint() == ""
    assert tokenizer.state_dict() == {}
    assert tokenizer.facts({"x": np.zeros(3)}) == {}


def kit(cls):
    checks = {check.name: check for check in testing.checks(cls, fields=FIELDS, samples=SAMPLES)}
    return checks["fit_state_is_in_the_state_dict"]


def test_kit_finds_what_is_not_in_the_state_dict():
    kit(Letters)()
    with pytest.raises(testing.ConformanceError, match="fit_fingerprint after loading"):
        kit(Forgetful)()


# --- a run -----------------------------------------------------------------------------------------------------------

SMALL = [
    "--set", "dataset.n_train=24", "--set", "dataset.n_test=12", "--set", "encoder.dim=32",
    "--set", "encoder.depth=1", "--set", "encoder.heads=2", "--set", "objective.width=16", "--set", "objective.heads=1",
    "--set", "objective.depth=1", "--batch-size", "8", "--preset", "none", "--set", "tokenizer.vocab_size=200",
    "--set", "tokenizer.length=16", "--set", "masking.ratio=0.5",
]  # fmt: skip


@pytest.fixture
def sslx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLX_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        return CliRunner().invoke(app.app, [str(argument) for argument in arguments])

    return call


def scores(folder):
    return [row["value"] for row in json.loads((folder / "report.json").read_text())["scores"]]


def test_vocabulary_is_kept_with_the_run(sslx, tmp_path, monkeypatch):
    """Evaluation and resuming use the vocabulary of the run, and never train another."""
    run = ("run", "--objective", "mae", "--modality", "text", *SMALL, "--set", "train.checkpoint_every=2")
    done = sslx(*run, "--steps", 3, "--out", "r")
    assert done.exit_code == 0, done.output
    fit_fingerprint = []
    load = TextTokenizer.set_extra_state
    monkeypatch.setattr(TextTokenizer, "fit", lambda self, samples: pytest.fail("a vocabulary was trained again"))
    monkeypatch.setattr(
        TextTokenizer,
        "set_extra_state",
        lambda self, state: (load(self, state), fit_fingerprint.append(self.fit_fingerprint()))[0],
    )
    done = sslx("eval", "r", "--out", "again")
    assert done.exit_code == 0, done.output
    assert scores(tmp_path / "again") == scores(tmp_path / "r")
    done = sslx(*run, "--steps", 5, "--out", "r", "--resume")
    assert done.exit_code == 0, done.output
    assert "[CLS]" in fit_fingerprint[0]
    assert len(set(fit_fingerprint)) == 1


def test_evaluation_does_without_the_data_trained_on(sslx, tmp_path, monkeypatch):
    done = sslx("run", "--objective", "mae", "--modality", "text", *SMALL, "--steps", 2, "--out", "r")
    assert done.exit_code == 0, done.output
    opened = SyntheticText.__init__

    def gone(self, options, split):
        if options.seed == 0:
            raise OSError("the training data is gone")
        opened(self, options, split)

    monkeypatch.setattr(SyntheticText, "__init__", gone)
    done = sslx("eval", "r", "--set", "dataset.seed=1", "--out", "other")
    assert done.exit_code == 0, done.output
    assert len(scores(tmp_path / "other")) == len(scores(tmp_path / "r"))
