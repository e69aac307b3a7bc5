"""Classical hand-made features, and their scores in a run beside those of encoders."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import sslx
from ssl_core import ConfigError, Continuous, PluginError
from ssl_core.plugins import load
from ssl_core.runs.classical import ClassicalFeatures, has_classical
from ssl_plugins.tokenizers._handmade import (
    image_statistics,
    kmer_frequencies,
    mfcc_statistics,
    ngram_frequencies,
    one_hot_columns,
    series_statistics,
)

MODALITIES = (
    "speech", "time-series", "tabular", "image", "multispectral", "medical-image", "wafer", "text", "multilingual-text",
    "genomics", "protein", "image-text",
)  # fmt: skip


def test_statistics_of_a_series_by_hand():
    x = np.array([[0.0, 1.0, 0.0, -1.0] * 16, [2.0, 4.0] * 32])
    features = series_statistics(x)
    assert features.shape == (2 * 25 + 1,)
    np.testing.assert_allclose(features[:2], [0, 3])
    np.testing.assert_allclose(features[2:4], [np.sqrt(0.5), 1], rtol=1e-6)
    np.testing.assert_allclose(features[4:14:2], [-1, -0.25, 0, 0.25, 1])
    np.testing.assert_allclose(features[14:16], [1, 2])
    np.testing.assert_allclose(features[17], 1)  # the second channel crosses its mean at every step
    bands = features[18:50].reshape(2, 16)
    assert bands[0].argmax() == 7  # 16 of 32 frequencies
    assert bands[1].argmax() == 15
    np.testing.assert_allclose(features[50], np.mean(x[0] * (x[1] - 3)) / np.sqrt(0.5), atol=1e-6)
    assert np.isfinite(series_statistics(np.ones((3, 1)))).all()
    assert len(series_statistics(np.ones((3, 1)))) == len(series_statistics(np.random.randn(3, 500)))


def test_words_of_letters():
    counts = kmer_frequencies(np.array([0, 1, 0, 1, 1], dtype=np.uint8), 32)
    assert counts.shape == (1024,)
    assert {i: v for i, v in enumerate(counts) if v} == {1: 0.5, 32: 0.25, 33: 0.25}
    assert kmer_frequencies(np.array([3]), 4).shape == (1024,)
    assert not kmer_frequencies(np.array([3]), 4).any()
    assert kmer_frequencies(np.arange(30), 2000).shape == (2000,)


def test_the_length_of_features_does_not_depend_on_that_of_the_sample():
    rng = np.random.default_rng(0)
    clips = [mfcc_statistics(rng.normal(size=count), 8000) for count in (10, 1000, 16000)]
    assert {clip.shape for clip in clips} == {(80,)}
    texts = [ngram_frequencies(text) for text in ([""], ["word"], ["a longer text", "and another"])]
    assert {text.shape for text in texts} == {(2048,)}
    assert not texts[0].any()
    assert np.square(texts[1]).sum() == pytest.approx(1)


def test_an_image_has_gradients_and_values():
    pytest.importorskip("skimage")
    stripes = np.zeros((3, 32, 32), dtype=np.uint8)
    stripes[:, :, ::8] = 255
    across, down = image_statistics(stripes), image_statistics(np.swapaxes(stripes, 1, 2).copy())
    assert across.shape == (8 * 8 * 8 + 3 * 16,)
    assert np.abs(across[:512] - down[:512]).max() > 0.5
    np.testing.assert_allclose(across[512:], down[512:])
    np.testing.assert_allclose(across[512:528], [7 / 8, *[0] * 14, 1 / 8])
    assert image_statistics(stripes.astype(np.float32)).shape == across.shape


def test_images_without_scikit_image_name_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(ConfigError, match=r"scikit-image, which is not installed: pip install 'sslx\[classical\]'"):
        image_statistics(np.zeros((1, 8, 8)))


def test_categories():
    assert one_hot_columns(np.array([1, 0]), 3).tolist() == [0, 1, 0, 1, 0, 0]
    assert one_hot_columns(np.array([1, 700]), 800).tolist() == [1, 700]


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_shipped_modality_has_hand_made_features(modality):
    if "image" in modality or modality in ("multispectral", "wafer"):
        pytest.importorskip("skimage")
    catalogue = load()
    kind = catalogue.default_dataset(modality)
    names = {name for name in ("n_train", "n_test", "n_validation") if name in kind.Options.model_fields}
    dataset = kind(kind.Options(**dict.fromkeys(names, 20)), "train")
    cls = catalogue.tokenizer(modality)
    tokenizer = cls(cls.Options(), dataset.fields, 16)
    tokenizer.fit([dataset[i]["inputs"] for i in range(8)])
    first, second = (tokenizer.handmade(dataset[i]["inputs"]) for i in (0, 1))
    assert first.shape == second.shape
    assert first.ndim == 1
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, tokenizer.handmade(dataset[0]["inputs"]))


# --- in a run --------------------------------------------------------------------------------------------------------

SMALL = {
    "encoder": {"dim": 16, "depth": 2, "heads": 2}, "objective.width": 16, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32", "evaluate.classical": True, "evaluate.select": True,
}  # fmt: skip


def waves(count=120):
    """Series of two frequencies at random phases, and their class."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    phase = rng.uniform(0, 6, size=(count, 1))
    x = np.sin(np.arange(64) * (0.4 + 0.3 * y[:, None]) + phase) + 0.3 * rng.normal(size=(count, 64))
    return x[:, None].astype(np.float32), y


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handmade")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSLX_CACHE_DIR", str(folder / "cache"))
        x, y = waves()
        values = {"objective": "mae", "modality": "time-series", "steps": 3, "batch_size": 16, "preset": "none"}
        yield sslx.pretrain(x, y=y, out=folder / "run", set=SMALL | {"tokenizer.patch": 8}, **values)


@pytest.mark.slow
def test_scores_of_classical_features_and_of_the_best_probe(run):
    rows = {(score.probe, score.features): score for score in run.report.scores}
    kinds = ("trained", "random_init", "raw_input", "classical")
    expected = {(probe, kind) for probe in ("linear", "knn", "selected") for kind in kinds}
    assert set(rows) == expected | {("trees", "classical")}
    assert rows["trees", "classical"].value > 0.9
    assert rows["linear", "classical"].value > 0.9
    for kind in kinds:
        score = rows["selected", kind]
        details = score.details
        assert details["selected_on"] == "20% of the training samples"
        title = details["probe"] + ("" if score.postprocess == "none" else f", {score.postprocess}")
        assert details["validation"][title] == max(details["validation"].values())
        assert ("trees" in details["validation"]) == (kind == "classical")
        if score.postprocess == "none":
            assert score.value == rows[details["probe"], kind].value  # fitted anew to all training samples
    page = (run.folder / "report.html").read_text("utf-8")
    assert "classical" in page
    assert "chosen on 20% of the training samples" in page


def test_scored_samples_have_no_part_in_the_choice(run, monkeypatch):
    """Other labels of the test split change the score and not the choice."""
    from dataclasses import replace

    from ssl_core.runs.scores import score_run

    before = {r["features"]: r for r in score_run(run) if r["probe"] == "selected"}
    test = run.data["test"]
    monkeypatch.setattr(run, "data", {**run.data, "test": replace(test, labels=1 - test.labels)})
    after = {r["features"]: r for r in score_run(run) if r["probe"] == "selected"}
    for kind, row in before.items():
        assert row["details"]["validation"] == after[kind]["details"]["validation"]
        assert after[kind]["value"] == pytest.approx(1 - row["value"])


def test_rows_belong_to_their_samples_where_some_are_skipped(run):
    """Sample 1 is bad: the second prepared sample is number 2 of the data set."""
    from dataclasses import replace

    from ssl_core import BadSample

    dataset, prepared = run.splits["train"], run.data["train"]
    tokenizer = run.learner.tokenizer
    keep = np.r_[0, 2:10]

    class Short:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            if index == 1:
                raise BadSample("it is corrupt")
            return dataset[index]

        describe = dataset.describe

    arrays = {name: array[keep] for name, array in prepared.arrays.items()}
    split = replace(prepared, arrays=arrays, labels=prepared.labels[keep], bad=1)
    features, labels = ClassicalFeatures(tokenizer, {"train": Short()}, {"train": split})(split, np.array([1, 3]))
    for row, number in zip(features, (2, 4), strict=True):
        np.testing.assert_array_equal(row, tokenizer.handmade(dataset[number]["inputs"]))
    assert labels.tolist() == prepared.labels[[2, 4]].tolist()


def test_a_tokenizer_without_features_and_one_with_bad_ones(run, monkeypatch):
    from ssl_core import Tokenizer

    plain = Tokenizer(Tokenizer.Options(), {"series": Continuous((1, 64))}, 8)
    assert not has_classical(plain, run.splits["train"])
    assert has_classical(run.learner.tokenizer, run.splits["train"])
    monkeypatch.setattr(type(run.learner.tokenizer), "handmade", lambda self, inputs: np.full(3, np.nan))
    split = run.data["train"]
    with pytest.raises(PluginError, match=r"tokenizer 'time-series': handmade features of .* are not finite; return"):
        ClassicalFeatures(run.learner.tokenizer, run.splits, run.data)(split, np.arange(2))
