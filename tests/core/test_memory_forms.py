"""Forms of data in memory: images, recordings and tables of other libraries are read as the arrays that they show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
import torch
from PIL import Image

import sslx
from ssl_core.data import Continuous, Discrete, Text
from ssl_core.errors import BadSample, ConfigError, DataError
from ssl_core.pipeline.memory import SampleInputs, memory_dataset
from ssl_core.runs.embed import EmbedRequest, embed_rows
from ssl_core.runs.memory_data import as_frame, table_file
from ssl_core.utils.console import Console

IMAGE = {"image": Continuous((3, 32, 32))}
SERIES = {"series": Continuous((4, 320), 100.0)}
WAVE = {"waveform": Continuous((1, 12000), 8000.0)}
TEXT = {"text": Text()}
BOTH = {"image": Continuous((3, 8, 32)), "caption": Text()}
TABLE = {"numeric": Continuous((10,)), "missing": Discrete(10, 2), "codes": Discrete(10, 25)}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (12, 16, 20, 3), dtype=np.uint8)
Y = np.arange(12) % 2


def opened(x, fields, y=None, modality="any", **options):
    """All samples and labels of data in memory, and the data set."""
    kind, _ = memory_dataset(x, y, modality, fields, **options)
    dataset = kind(kind.Options(test_fraction=0), "train")
    samples = [dataset[index] for index in range(len(dataset))]
    return [sample["inputs"] for sample in samples], [sample["label"] for sample in samples], dataset


def pictures(mode="RGB"):
    return [Image.fromarray(pixels).convert(mode) for pixels in PIXELS]


# --- images -----------------------------------------------------------------------------------------------------------


def test_pillow_images_and_arrays_with_channels_last_are_read_with_channels_first():
    expected = PIXELS.transpose(0, 3, 1, 2)
    for x in (pictures(), PIXELS, list(PIXELS), torch.from_numpy(PIXELS), [(one, 0) for one in pictures()]):
        inputs, _, dataset = opened(x, IMAGE)
        assert dataset.fields["image"].shape == (3, 16, 20)
        np.testing.assert_array_equal(np.stack([one["image"] for one in inputs]), expected)
    _, _, dataset = opened(PIXELS, IMAGE)
    assert dataset.warnings == ("the channels of 'image' are last; they are moved to the front",)
    assert opened(expected, IMAGE)[2].warnings == ()


def test_grey_images_are_one_channel_and_three_among_colour_images():
    grey = pictures("L")
    inputs, _, dataset = opened(grey, IMAGE)
    assert dataset.fields["image"].shape == (1, 16, 20)
    np.testing.assert_array_equal(inputs[3]["image"][0], np.asarray(grey[3]))
    for first in (0, 1):  # the order does not matter
        mixed = [grey[i] if i % 2 == first else pictures()[i] for i in range(12)]
        inputs, _, dataset = opened(mixed, IMAGE)
        assert dataset.fields["image"].shape == (3, 16, 20)
        np.testing.assert_array_equal(inputs[first]["image"], np.stack([np.asarray(grey[first])] * 3))


def test_transparent_images_lie_on_white():
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    inputs, _, _ = opened([clear, Image.new("RGBA", (8, 8), (200, 0, 0, 255))], IMAGE)
    assert inputs[0]["image"].min() == 255
    assert inputs[1]["image"][:, 0, 0].tolist() == [200, 0, 0]


def test_one_colour_image_is_not_read_as_several_without_colour():
    fields = {"image": Continuous((3, 16, 20))}
    for x in (PIXELS[0], PIXELS[0].transpose(2, 0, 1), torch.from_numpy(PIXELS[0])):
        with pytest.raises(ConfigError, match=r"may be one image of 3 channels .*; give x\[None\] for one image"):
            SampleInputs(x, fields)
    assert SampleInputs(PIXELS[0][None], fields)[0]["image"].shape == (3, 16, 20)
    grey = SampleInputs(PIXELS[..., 0], fields)  # twelve images
    assert len(grey) == 12
    assert len(SampleInputs(PIXELS[:1, ..., 0], {"image": Continuous((1, 16, 20))})) == 1


def test_images_are_adapted_to_a_trained_encoder_or_refused():
    samples = SampleInputs(pictures("L"), {"image": Continuous((3, 16, 20))})
    assert samples[0]["image"].shape == (3, 16, 20)
    with pytest.raises(BadSample, match=r"mode RGB, not of one channel; give image.convert\('L'\)"):
        SampleInputs(pictures(), {"image": Continuous((1, 16, 20))})[0]


# --- Hugging Face data sets -------------------------------------------------------------------------------------------


def wav(samples, rate=8000):
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV", subtype="FLOAT")
    return {"bytes": content.getvalue(), "path": None}


@pytest.fixture
def hf():
    return pytest.importorskip("datasets")


def test_a_hugging_face_data_set_of_images(hf):
    features = hf.Features({"img": hf.Image(), "kind": hf.ClassLabel(names=["cat", "dog"]), "id": hf.Value("int64")})
    kinds = [int(label) if index != 5 else -1 for index, label in enumerate(Y)]
    x = hf.Dataset.from_dict({"img": pictures(), "kind": kinds, "id": list(range(12))}, features=features)
    inputs, labels, dataset = opened(x, IMAGE)
    np.testing.assert_array_equal(np.stack([one["image"] for one in inputs]), PIXELS.transpose(0, 3, 1, 2))
    assert dataset.fields.keys() == {"image"}
    assert dataset.task.names == ("cat", "dog")
    assert labels[5] is None  # -1 marks an image without a label
    assert [label for label in labels if label is not None] == [label for label in kinds if label != -1]
    encoded = x.cast_column("img", hf.Image(decode=False))
    np.testing.assert_array_equal(opened(encoded, IMAGE)[0][4]["image"], inputs[4]["image"])


def test_a_hugging_face_data_set_of_recordings(hf):
    waves = [RNG.uniform(-1, 1, length).astype(np.float32) for length in (800, 900)]
    x = hf.Dataset.from_dict({"audio": [wav(one) for one in waves], "label": [0, 1]}).cast_column("audio", hf.Audio())
    inputs, labels, dataset = opened(x, WAVE)
    assert dataset.fields == {"waveform": Continuous((1, None), 8000.0)}
    np.testing.assert_allclose(inputs[1]["waveform"][0], waves[1], atol=1e-6)
    assert labels == [0, 1]
    resampled, _, dataset = opened(x.cast_column("audio", hf.Audio(sampling_rate=4000)), WAVE)
    assert dataset.fields["waveform"].rate == 4000
    assert resampled[0]["waveform"].shape == (1, 400)
    plain = [{"audio": {"array": one, "sampling_rate": 8000}, "label": 0} for one in waves]
    np.testing.assert_allclose(opened(plain, WAVE)[0][1]["waveform"][0], waves[1])
    stereo = hf.Dataset.from_dict({"audio": [wav(np.stack([waves[0], -waves[0]], axis=1))]})
    silent, _, _ = opened(stereo.cast_column("audio", hf.Audio()), WAVE)
    np.testing.assert_allclose(silent[0]["waveform"], 0)


def test_recordings_of_other_rates_are_refused_with_a_cure_that_works(hf):
    wave = RNG.uniform(-1, 1, 800)
    x = hf.Dataset.from_dict({"audio": [wav(wave), wav(wave, 16000)]}).cast_column("audio", hf.Audio())
    with pytest.raises(DataError, match="has 8000, 16000 samples per second; resample them.*sampling_rate=16000"):
        opened(x, WAVE)
    assert opened(x.cast_column("audio", hf.Audio(sampling_rate=16000)), WAVE)[2].fields["waveform"].rate == 16000
    trained = {"waveform": Continuous((1, 800), 4000.0)}
    with pytest.raises(BadSample, match="8000 samples per second, not 4000; resample it"):
        SampleInputs(x, trained)[0]
    assert SampleInputs(x.cast_column("audio", hf.Audio(sampling_rate=4000)), trained)[0]["waveform"].shape == (1, 400)


def test_a_hugging_face_data_set_of_texts(hf):
    texts = [f"text {index}" for index in range(12)]
    x = hf.Dataset.from_dict({"sentence": texts, "label": Y.tolist(), "idx": list(range(12))})
    inputs, labels, dataset = opened(x, TEXT)
    assert [str(one["text"]) for one in inputs] == texts
    assert dataset.fields.keys() == {"text"}
    assert labels == Y.tolist()
    two = hf.Dataset.from_dict({"sentence1": texts, "sentence2": texts})
    with pytest.raises(ConfigError, match="sentence1, sentence2 could each be the field 'text'; rename one"):
        opened(two, TEXT)
    assert str(opened(two.rename_column("sentence1", "text"), TEXT)[0][2]["text"]) == "text 2"
    x.set_transform(lambda batch: {"text": [text.upper() for text in batch["sentence"]]})
    assert str(opened(x, TEXT)[0][1]["text"]) == "TEXT 1"


def test_images_with_texts_are_matched_by_kind(hf):
    texts = [f"text {index}" for index in range(12)]
    by_list = [{"image": image, "text": text} for image, text in zip(pictures(), texts, strict=True)]
    features = hf.Features({"picture": hf.Image(), "words": hf.Value("string")})
    by_library = hf.Dataset.from_dict({"picture": pictures(), "words": texts}, features=features)
    for x in (by_list, by_library, {"picture": PIXELS, "words": texts}, {"image": PIXELS, "caption": texts}):
        inputs, _, dataset = opened(x, BOTH)
        assert dataset.fields.keys() == {"image", "caption"}
        np.testing.assert_array_equal(inputs[7]["image"], PIXELS[7].transpose(2, 0, 1))
        assert str(inputs[7]["caption"]) == "text 7"


def test_data_sets_without_a_length_or_of_several_splits_are_refused(hf):
    x = hf.Dataset.from_dict({"text": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"streamed data set.*pretrain.*read it.*list\(x.take\(10_000\)\)"):
        opened(x.to_iterable_dataset(), TEXT)
    assert len(opened(list(x.to_iterable_dataset().take(10_000)), TEXT)[0]) == 2
    with pytest.raises(ConfigError, match=r"x holds the splits train, test; give one of them, as x\['train'\]"):
        opened(hf.DatasetDict({"train": x, "test": x}), TEXT)
    for stream in ((text for text in "ab"), {"a", "b"}):
        with pytest.raises(ConfigError, match="has no length or no .i.; give a sequence"):
            opened(stream, TEXT)


def test_missing_texts_stay_missing(hf):
    texts = ["text 0", None, "text 2", "text 3"]
    series = pandas.Series([text or float("nan") for text in texts], dtype=object)
    for x in (texts, series, hf.Dataset.from_dict({"text": texts}), {"text": series}, np.array(texts, dtype=object)):
        inputs, _, dataset = opened(x, TEXT)
        assert dataset.fields == TEXT
        assert Text.is_missing(inputs[1]["text"].item())
        assert inputs[2]["text"].item() == "text 2"
    pair = opened([{"text": ["a", float("nan")]}], TEXT)[0][0]["text"].tolist()
    assert pair[0] == "a"
    assert Text.is_missing(pair[1])


@pytest.mark.parametrize(
    ("x", "fields", "words"),
    [
        ([b"text 0", b"text 1"], TEXT, "sample 0: 'text' holds bytes; decode them to text"),
        ([{"text": "text 0"}, {"text": ["a", 3]}], TEXT, "sample 1: 'text' holds an object of type int; give text"),
        (
            np.ones((4, 3), dtype=object),
            TABLE,
            r"sample 0: 'numeric' holds an object of type int; .*astype\('float64'\)",
        ),
    ],
)
def test_objects_that_are_no_text_are_refused(x, fields, words):
    with pytest.raises(DataError, match=words):
        opened(x, fields)


# --- samples, pairs, order --------------------------------------------------------------------------------------------


def test_a_pandas_series_is_read_by_position():
    texts = pandas.Series([f"text {index}" for index in range(12)], index=RNG.permutation(12))
    assert [str(one["text"]) for one in opened(texts, TEXT)[0]] == texts.tolist()
    by_field = {"text": texts}
    assert [str(one["text"]) for one in opened(by_field, TEXT)[0]] == texts.tolist()


def test_pairs_of_a_sample_and_its_label():
    texts = [f"text {index}" for index in range(12)]
    for label in (3, np.int64(3), "a", None):
        pairs = [(np.zeros((2, 8)), label) for _ in texts]
        assert opened(pairs, SERIES, y=Y)[2].fields["series"].shape == (2, 8)
    inputs, labels, _ = opened(list(zip(texts, Y.tolist(), strict=True)), TEXT)
    assert str(inputs[1]["text"]) == "text 1"
    assert labels == Y.tolist()
    nested = [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]] * 4  # two channels of three steps are no pair
    assert opened(nested, SERIES)[0][0]["series"].shape == (2, 3)
    assert opened([[text, text] for text in texts], TEXT)[0][0]["text"].shape == (2,)
    with pytest.raises(ConfigError, match="has 2 different values and seems to be a label"):
        opened([(text, "even" if label else "odd") for text, label in zip(texts, Y, strict=True)], TEXT)
    assert opened([(1.0, 2.0)] * 4, {"numeric": Continuous((2,))})[0][0]["numeric"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["numeric", "values"])
def test_the_label_in_a_dict_of_arrays_is_no_input(name):
    x = np.random.default_rng(0).normal(size=(len(Y), 3))
    inputs, labels, dataset = opened({name: x, "label": Y}, {"numeric": Continuous((3,))})
    assert [list(one) for one in inputs] == [["numeric"]] * len(Y)
    assert labels == Y.tolist()
    assert dataset.task.kind == "classes"
    other = 1 - Y
    assert opened({name: x, "label": Y}, {"numeric": Continuous((3,))}, y=other)[1] == other.tolist()


def test_sequences_of_one_length_tell_it():
    assert opened(["ACGT", "TTTT"], {"sequence": Text()})[2].fields["sequence"].length == 4
    assert opened(["ACGT", "TTT"], {"sequence": Text()})[2].fields["sequence"].length is None
    assert opened(np.array(["ACGT", "TTT"]), {"sequence": Text()})[2].fields["sequence"].length is None


def test_axes_that_may_be_in_another_order_are_doubted():
    assert "64 channels of 3 steps" in opened(np.zeros((4, 64, 3)), SERIES)[2].doubts[0]
    assert opened(np.zeros((4, 3, 64)), SERIES)[2].doubts == ()
    assert "32 channels of 32 x 13" in opened(np.zeros((4, 32, 32, 13)), IMAGE)[2].doubts[0]
    assert opened(np.zeros((4, 13, 32, 32)), IMAGE)[2].doubts == ()


def test_numbers_that_float32_cuts_are_doubted():
    rng = np.random.default_rng(0)
    seconds = np.stack([rng.standard_normal(60), 1.7e9 + rng.uniform(0, 3600, 60)], axis=1)
    (line,) = opened(seconds, TABLE)[2].doubts
    assert line.startswith("column 1 of 'numeric' has mean 1.7e+09 and standard deviation 1")
    assert "of which float32 leaves steps of 128; subtract a constant such as the mean from it" in line
    assert opened(seconds - seconds.mean(axis=0), TABLE)[2].doubts == ()  # the cure works
    pressure = 101325 + 0.01 * rng.standard_normal((12, 2, 64))
    (line,) = opened(pressure, SERIES)[2].doubts
    assert line.startswith("channel 0 of 'series' (and 1 more alike) has mean 101325 and standard deviation 0.0")
    assert opened(pressure - 101325, SERIES)[2].doubts == ()
    assert opened(np.full((12, 2, 64), 101325.3), SERIES)[2].doubts == ()  # constant
    assert opened(1e-13 * rng.standard_normal((12, 2, 64)), SERIES)[2].doubts == ()
    with_gaps = np.where(rng.random(seconds.shape) < 0.2, np.nan, seconds)
    assert len(opened(with_gaps, TABLE)[2].doubts) == 1


def test_tensors_of_types_that_numpy_lacks():
    x = torch.randn(12, 2, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    y = torch.arange(12).to(torch.bfloat16) % 3
    for data, labels in ((x, y), (list(x), list(y)), ([{"series": one} for one in x], y), ({"series": x}, y)):
        inputs, classes, dataset = opened(data, SERIES, y=labels)
        assert dataset.fields["series"].dtype == "float32"
        np.testing.assert_array_equal(np.stack([one["series"] for one in inputs]), x.float().numpy())
        assert [int(one) for one in classes] == (np.arange(12) % 3).tolist()


def test_ids_with_a_gap_are_left_to_the_tokenizer():
    codes = np.array([[0, 3], [1, np.nan], [2, 1]])
    for x in ({"codes": codes}, [{"codes": one} for one in codes]):
        inputs, _, dataset = opened(x, {"codes": Discrete(2, 2)})
        assert dataset.fields["codes"] == Discrete(2, 4)
        assert np.isnan(inputs[1]["codes"][1])


def test_values_that_would_be_changed_in_silence_are_refused():
    with pytest.raises(DataError, match="sample 0: 'series' holds complex128; convert it to real numbers"):
        opened(np.zeros((4, 2, 8), complex), SERIES)
    with pytest.raises(ConfigError, match="sparse matrix; give x.toarray"):
        opened(pytest.importorskip("scipy.sparse").csr_matrix(np.eye(4)), TABLE)
    with pytest.raises(ConfigError, match="single number"):
        opened(np.array(3.0), TABLE)
    with pytest.raises(DataError, match="holds other values than 0 and 1; give y of shape .n,."):
        opened(np.zeros((3, 2, 8)), SERIES, y=np.array([[1], [2], [3]]))
    masked = np.ma.masked_array(np.ones((3, 2)), mask=[[0, 1], [0, 0], [0, 0]])
    assert np.isnan(opened(masked, TABLE)[0][0]["numeric"][1])


def test_a_sample_without_a_field_is_refused():
    with pytest.raises(ConfigError, match="the samples lack the field 'caption'; they hold image"):
        SampleInputs([{"image": PIXELS[0]}], BOTH)[0]
    with pytest.raises(ConfigError, match="the samples lack the field 'caption'"):
        SampleInputs(PIXELS, BOTH)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_an_array_with_missing_numbers_declares_them():
    x = np.where(RNG.random((12, 10)) < 0.2, np.nan, 1.0)
    assert opened(x, TABLE)[2].fields == {"numeric": Continuous((10,)), "missing": Discrete(10, 2)}
    assert opened(np.ones((12, 10)), TABLE)[2].fields == {"numeric": Continuous((10,))}
    trained = {"numeric": Continuous((10,)), "missing": Discrete(10, 2)}
    assert opened(np.ones((12, 10)), TABLE, trained=trained)[2].fields == trained


def test_tables_of_other_libraries_are_one_table(hf):
    frame = pandas.DataFrame({"a": RNG.standard_normal(12), "b": RNG.choice(["u", "v"], 12), "label": Y})
    rows = frame.to_dict("records")
    features = hf.Features(
        {"a": hf.Value("float64"), "b": hf.Value("string"), "kind": hf.ClassLabel(names=["no", "yes"])}
    )
    library = hf.Dataset.from_dict({"a": frame["a"], "b": frame["b"], "kind": Y.tolist()}, features=features)
    for x in (frame, rows, frame.to_dict("list"), frame.to_records(index=False), hf.Dataset.from_pandas(frame)):
        pandas.testing.assert_frame_equal(as_frame(x, "tabular")[["a", "b", "label"]], frame, check_dtype=False)
    assert as_frame(library, "tabular")["label"].tolist() == np.array(["no", "yes"])[Y].tolist()
    pairs = [({"a": row["a"], "b": row["b"]}, row["label"]) for row in rows]
    pandas.testing.assert_frame_equal(as_frame(pairs, "tabular"), frame, check_dtype=False)
    for x in (
        np.zeros((3, 2)),
        {"numeric": np.zeros((3, 2))},
        [[1.0, 2.0]],
        hf.Dataset.from_dict({"numeric": [[1.0]]}),
    ):
        assert as_frame(x, "tabular") is None
    assert as_frame(rows, "text") is None


def test_labels_of_a_table_are_taken_by_position(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLX_CACHE_DIR", str(tmp_path))
    frame = pandas.DataFrame({"a": np.arange(4.0)}, index=[3, 2, 1, 0])
    y = pandas.Series([10, 11, 12, 13])
    written = pandas.read_parquet(table_file(frame, y))
    assert written["label"].tolist() == [10, 11, 12, 13]
    with pytest.raises(DataError, match="there are 4 rows and 3 labels"):
        table_file(frame, y[:3])
    mixed = [frame.assign(b=pandas.Series(list(values), dtype=object).to_numpy()) for values in ("1234", (1, 2, 3, 4))]
    assert table_file(mixed[0], None) != table_file(mixed[1], None), "pandas hashes 1 and '1' alike"
    with pytest.raises(DataError, match="cannot be written as Parquet|neither numbers nor texts"):
        table_file(frame.assign(b=[{1}, {2}, {3}, {4}]), None)


# --- from training to features ----------------------------------------------------------------------------------------

SMALL = {
    "encoder": {"dim": 8, "depth": 1, "heads": 1}, "objective.width": 8, "objective.depth": 1, "objective.heads": 1,
    "train.compile": "off", "train.precision": "fp32",
}  # fmt: skip


def pretrained(x, folder: Path, modality, **options):
    return sslx.pretrain(
        x, modality=modality, objective="mae", steps=2, batch_size=6, preset="none", set=SMALL, out=folder, **options
    )


def test_a_run_on_a_hugging_face_data_set_is_that_on_its_arrays(hf, tmp_path):
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=["cat", "dog"])})
    x = hf.Dataset.from_dict({"img": pictures(), "label": Y.tolist()}, features=features)
    run = pretrained(x, tmp_path / "library", "image")
    arrays = pretrained(PIXELS.transpose(0, 3, 1, 2), tmp_path / "arrays", "image", y=np.array(["cat", "dog"])[Y])
    assert [score.value for score in run.report.scores] == [score.value for score in arrays.report.scores]
    expected = sslx.embed(run, PIXELS.transpose(0, 3, 1, 2))
    for form in (x, pictures(), PIXELS, [(one, 0) for one in pictures()]):
        np.testing.assert_allclose(sslx.embed(run, form), expected, atol=1e-6)
    again = sslx.evaluate(run.folder, x)
    assert {score.dataset for score in again.scores} == {"image/memory"}


@pytest.mark.slow
def test_an_evaluation_of_recordings_takes_the_rate_trained_on(tmp_path):
    x = RNG.standard_normal((12, 1600)).astype(np.float32)
    run = pretrained(x, tmp_path / "run", "speech", rate=8000)
    assert sslx.embed(run, x).shape == (12, 8)
    assert sslx.evaluate(run.folder, x, Y).scores
    with pytest.raises(DataError, match="at 16000 per second, the encoder was trained on"):
        sslx.evaluate(run.folder, x, Y, rate=16000)
    with pytest.raises(ConfigError, match="need rate=, the samples per second"):
        pretrained(x, tmp_path / "none", "speech")


def test_a_sample_that_training_would_skip_has_no_features(tmp_path):
    x = RNG.random((24, 3, 12, 12), dtype=np.float32)
    run = sslx.pretrain(
        x, y=np.arange(24) % 2, modality="image", objective="mae", steps=1, batch_size=8, preset="none", set=SMALL,
        out=tmp_path / "run",
    )  # fmt: skip
    bad = x[:3].copy()
    bad[1, 0, 2, 2] = np.nan
    for embed in (lambda: sslx.embed(run, bad), lambda: run.encoder.preprocess(bad)):
        with pytest.raises(DataError, match="sample 1: 'image' holds NaN or infinity"):
            embed()
    kind, _ = memory_dataset(bad, None, "image", run.encoder.fields)
    dataset = kind(kind.Options(test_fraction=0), "train")
    rows = list(embed_rows(run.encoder, [dataset], EmbedRequest("x"), Console()))
    assert [name for row in rows for name in row.ids] == [dataset.describe(0), dataset.describe(2)]
    with pytest.raises(BadSample, match=r"sample 1 .*: 'image' holds NaN or infinity \(strict"):
        list(embed_rows(run.encoder, [dataset], EmbedRequest("x", strict=True), Console()))


def test_a_table_of_texts_is_embedded_by_its_column(tmp_path):
    words = ["red", "green", "blue", "dark", "light", "house", "tree", "dog", "cat"]
    frame = pandas.DataFrame({"text": [" ".join(RNG.choice(words, 6)) for _ in range(20)], "label": np.arange(20) % 2})
    options = {**SMALL, "tokenizer.vocab_size": 300, "tokenizer.length": 12}
    run = sslx.pretrain(
        frame, modality="text", objective="mae", steps=2, batch_size=6, preset="none", set=options, out=tmp_path / "run"
    )
    features = sslx.embed(run, frame)
    np.testing.assert_allclose(features, sslx.embed(run, frame["text"]), atol=1e-6)
    np.testing.assert_allclose(features, sslx.embed(tmp_path / "run", frame.drop(columns="label")), atol=1e-6)
    frame.to_csv(tmp_path / "texts.csv", index=False)
    np.testing.assert_allclose(features, sslx.embed(run, tmp_path / "texts.csv"), atol=1e-6)
    with pytest.raises(DataError, match="nowhere"):
        sslx.embed(run, str(tmp_path / "nowhere"))
