"""Recordings and time series of other files than those that an encoder was trained on."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from ssl_core import DataError
from ssl_core.cli import app
from ssl_plugins.datasets.user.files_series import SeriesFiles
from ssl_plugins.datasets.user.files_speech import SpeechFiles


def table(path, columns="abc", rows=200, shift=0.0, name="x.csv"):
    random = np.random.RandomState(0)
    frame = pd.DataFrame({name: random.standard_normal(rows) + 10 * i for i, name in enumerate("abcde")})
    frame = frame[list(columns)] + shift
    path.mkdir(exist_ok=True)
    frame.to_csv(path / name, index=False)
    return path / name


def series(path, **options):
    return SeriesFiles(SeriesFiles.Options(root=str(path), window=20, **options), "train")


def samples(dataset):
    return np.stack([dataset[i]["inputs"]["series"] for i in range(len(dataset))])


@pytest.fixture
def trained(tmp_path):
    dataset = series(table(tmp_path / "old"))
    return dataset, json.loads(json.dumps(dataset.schema()))


def test_schema_is_json_with_names_and_means(trained):
    dataset, schema = trained
    assert [column["name"] for column in schema["columns"]] == ["a", "b", "c"]
    assert schema["named"]
    means = [column["mean"] for column in schema["columns"]]
    np.testing.assert_allclose(means, samples(dataset).mean(axis=(0, 2)), rtol=1e-5)


def test_same_data_conforms_unchanged(trained, tmp_path):
    dataset, schema = trained
    same = series(tmp_path / "old" / "x.csv")
    before = same.fingerprint()
    same.conform(schema)
    assert same.warnings == ()
    assert same.fingerprint() == before == dataset.fingerprint()
    np.testing.assert_array_equal(samples(same), samples(dataset))


def test_permuted_columns_give_the_same_arrays(trained, tmp_path):
    dataset, schema = trained
    other = series(table(tmp_path / "new", "cab"))
    other.conform(schema)
    np.testing.assert_array_equal(samples(other), samples(dataset))
    assert other.fields == dataset.fields
    assert other.warnings == ()


def test_added_columns_are_left_out(trained, tmp_path):
    dataset, schema = trained
    other = series(table(tmp_path / "new", "eadbc"))
    other.conform(schema)
    np.testing.assert_array_equal(samples(other), samples(dataset))
    assert any("left out" in line and "e, d" in line for line in other.warnings)


def test_missing_column_is_filled_with_the_mean_of_training(trained, tmp_path):
    _, schema = trained
    other = series(table(tmp_path / "new", "ca", shift=5.0))
    other.conform(schema)
    x = samples(other)
    assert x.shape[1] == 3
    np.testing.assert_allclose(x[:, 1], schema["columns"][1]["mean"], rtol=1e-6)
    assert x[:, 0].mean() == pytest.approx(5, abs=0.5)
    assert any("mean of the training data: b" in line for line in other.warnings)


def test_renamed_column_is_refused_with_the_nearest_name_and_a_cure(trained, tmp_path):
    _, schema = trained
    path = table(tmp_path / "new", "abc")
    path.write_text(path.read_text().replace("a,b,c", "a,b2,c"))
    with pytest.raises(DataError, match=r"no column 'b'.*b2.*dataset.drop_columns=b2"):
        series(path).conform(schema)
    other = series(path, drop_columns="b2")
    other.conform(schema)
    assert samples(other).shape[1] == 3


def test_other_columns_altogether_are_refused(trained, tmp_path):
    _, schema = trained
    with pytest.raises(DataError, match=r"no column 'a'"):
        series(table(tmp_path / "new", "de")).conform(schema)


def test_arrays_are_matched_by_number(tmp_path):
    x = np.random.RandomState(0).standard_normal((20, 3, 40)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, :2])
    old = series(tmp_path / "x.npy")
    assert not old.schema()["named"]
    np.save(tmp_path / "z.npy", x[:, [2, 0]])
    series(tmp_path / "x.npy").conform(old.schema())
    with pytest.raises(DataError, match="has 2 channels, and the encoder was trained on 3"):
        series(tmp_path / "y.npy").conform(old.schema())
    chosen = series(tmp_path / "x.npy", channels="2,0")
    chosen.conform(series(tmp_path / "z.npy").schema())
    table_of_three = series(table(tmp_path / "new"))
    table_of_three.conform(old.schema())
    assert any("matched by their order" in line for line in table_of_three.warnings)


def recordings(folder, rate, count=6):
    folder.mkdir()
    for i in range(count):
        soundfile.write(folder / f"{i}.wav", 0.5 * np.sin(2 * np.pi * 400 * np.arange(rate // 2) / rate), rate)
    return folder


@pytest.mark.parametrize("options", [{}, {"window": 0.1}])
def test_recordings_are_resampled_to_the_rate_of_training(tmp_path, options):
    def open_files(folder):
        return SpeechFiles(SpeechFiles.Options(root=str(folder), **options), "train")

    old, new = open_files(recordings(tmp_path / "old", 8000)), open_files(recordings(tmp_path / "new", 16_000))
    before = new.fingerprint()
    new.conform(json.loads(json.dumps(old.schema())))
    assert new.fields == old.fields
    assert new.fingerprint() != before
    assert any("16000 Hz are resampled to 8000 Hz" in line for line in new.warnings)
    for index in range(len(new)):
        one, other = (dataset[index]["inputs"]["waveform"] for dataset in (old, new))
        assert one.shape == other.shape
        inner = slice(100, 700 if options else 3900)
        assert np.abs(one - other)[0, inner].max() < 0.02


def test_edf_is_resampled_to_the_rate_of_training(tmp_path):
    edfio = pytest.importorskip("edfio")
    for name, rate in (("old", 64), ("new", 128)):
        (tmp_path / name).mkdir()
        for i in range(4):
            x = np.sin(2 * np.pi * 2 * np.arange(rate * 10) / rate)
            signals = [edfio.EdfSignal(x * (j + 1), rate, label=f"C{j}") for j in range(2)]
            edfio.Edf(signals[:: 1 if name == "old" else -1]).write(tmp_path / name / f"{i}.edf")
    old, new = series(tmp_path / "old"), series(tmp_path / "new")
    new.conform(json.loads(json.dumps(old.schema())))
    assert new.fields == old.fields
    assert len(new) == len(old)
    assert np.abs(samples(new) - samples(old))[5:-5].max() < 0.05


def labelled_table(path, columns="ab", rows=600):
    """Two activities in turns of 100 rows, of which b is the faster one."""
    path.mkdir(exist_ok=True)
    t = np.arange(rows)
    label = t // 100 % 2
    frame = pd.DataFrame({"a": np.sin(t * (1 + label) / 3), "b": np.cos(t * (1 + label) / 3), "label": label})
    frame["extra"] = 1000.0
    frame[[*columns, "label"]].to_csv(path / "x.csv", index=False)
    return path / "x.csv"


def evaluate(tmp_path, data, *more):
    result = CliRunner().invoke(app.app, ["eval", str(tmp_path / "run"), "--data", str(data), *more])
    return result.exit_code, result.output


@pytest.fixture
def trained_run(tmp_path, run_files):
    return run_files("time-series", labelled_table(tmp_path / "old"), "--set", "dataset.window=32")


def test_trained_encoder_scores_permuted_columns_alike(trained_run, tmp_path):
    one = evaluate(tmp_path, labelled_table(tmp_path / "same"), "--out", str(tmp_path / "one"))
    other = evaluate(tmp_path, labelled_table(tmp_path / "new", ["extra", "b", "a"]), "--out", str(tmp_path / "other"))
    assert one[0] == other[0] == 0, (one, other)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "other")]
    assert reports[0]["scores"] == reports[1]["scores"]
    assert "extra" in other[1]


@pytest.mark.parametrize("window", [16, 48])
def test_trained_encoder_takes_windows_of_another_length(trained_run, tmp_path, window):
    code, output = evaluate(tmp_path, labelled_table(tmp_path / "new"), "--set", f"dataset.window={window}")
    assert code == 0, output
    assert "cropped or padded" in output


def test_trained_encoder_refuses_another_column_by_name(trained_run, tmp_path):
    path = labelled_table(tmp_path / "new")
    path.write_text(path.read_text().replace("a,b,", "a,b_new,"))
    code, output = evaluate(tmp_path, path)
    assert code != 0
    assert "no column 'b'" in " ".join(output.split())
    assert "Traceback" not in output


def test_trained_encoder_takes_recordings_of_another_rate_and_length(tmp_path, run_files):
    run_files("speech", labelled_recordings(tmp_path / "old", 4000, 0.5))
    code, output = evaluate(tmp_path, labelled_recordings(tmp_path / "new", 8000, 1.5))
    assert code == 0, output
    assert "resampled to 4000 Hz" in " ".join(output.split())


def labelled_recordings(folder, rate, seconds):
    for word, pitch in (("low", 300), ("high", 900)):
        (folder / word).mkdir(parents=True)
        for i in range(6):
            sound = 0.5 * np.sin(2 * np.pi * (pitch + 20 * i) * np.arange(round(rate * seconds)) / rate)
            soundfile.write(folder / word / f"{i}.wav", sound, rate)
    return folder
