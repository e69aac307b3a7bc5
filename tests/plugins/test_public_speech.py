"""Public speech sets on miniatures: files, splits and classes."""

from __future__ import annotations

import os
import runpy
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ssl_core import BadSample, DataError
from ssl_core.plugins import load
from ssl_plugins.datasets.public import audio_mnist, fluent_speech, google_speech, librispeech, voxceleb

MINIATURES = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "speech.py"))
WRITERS = MINIATURES["WRITERS"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder with all of the sets. Tests do not change it."""
    folder = tmp_path_factory.mktemp("data")
    for writer in dict.fromkeys(WRITERS.values()):
        if writer is not WRITERS["speech", "librispeech_transfer"]:  # librispeech writes it as well
            writer(folder)
    return folder


def both(cls: type, root: Path, **options: Any) -> tuple[Any, Any]:
    """The training and the test split."""
    values = cls.Options(root=str(root), **options)
    return cls(values, "train"), cls(values, "test")


def classes_of(dataset: Any) -> list[str]:
    return [dataset.task.names[label] for label in dataset.labels]


# --- LibriSpeech -----------------------------------------------------------------------------------------------------


def test_librispeech_splits(root):
    train, test = both(librispeech.LibriSpeech, root)
    parts = Counter(path.split("/")[1] for path in train.paths)
    assert parts == {"train-clean-100": 9, "train-clean-360": 3, "train-other-500": 3}
    assert {path.split("/")[1] for path in test.paths} == {"dev-clean"}
    assert len(test) == 25
    assert train.task is None
    assert train[0]["label"] is None
    assert train.fields["waveform"].rate == 16_000


def test_librispeech_transfer_follows_the_published_split(root):
    train, test = both(librispeech.LibriSpeechTransfer, root)
    assert train.task.names == ("84", "251", "1272")  # in numerical order
    random = np.random.RandomState(42)
    expected: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for speaker, chapters in ((84, (121123, 121550)), (251, (118436,)), (1272, (128104, 135031))):
        stems = sorted(f"{speaker}-{chapter}-{number:04}" for chapter in chapters for number in range(5))
        order = random.permutation(len(stems))
        cut = int(0.8 * len(stems))
        expected["train"] += [(stems[i], str(speaker)) for i in order[:cut]]
        expected["test"] += [(stems[i], str(speaker)) for i in order[cut:]]
    for dataset in (train, test):
        utterances = list(zip((Path(path).stem for path in dataset.paths), classes_of(dataset), strict=True))
        assert utterances == expected[dataset.split]
    assert not set(train.paths) & set(test.paths)


@pytest.mark.parametrize("layout", ["speech/librispeech", "librispeech", "."])
def test_root_may_be_the_data_folder_or_the_set_itself(root, tmp_path, layout):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LibriSpeech").symlink_to(root / "speech" / "librispeech" / "LibriSpeech")
    train, _ = both(librispeech.LibriSpeech, tmp_path)
    assert len(train) == 15
    assert train.folder == folder


# --- AudioMNIST ------------------------------------------------------------------------------------------------------


def test_audio_mnist_holds_out_the_published_speakers(root):
    train, test = both(audio_mnist.AudioMnist, root)
    speakers = [{int(path.split("/")[1]) for path in dataset.paths} for dataset in (train, test)]
    assert speakers[1] == {26, 52, 60, 18, 32, 42, 5, 13, 22, 33, 45, 51}
    assert speakers[0] == set(range(1, 61)) - speakers[1]
    for dataset in (train, test):
        assert classes_of(dataset) == [Path(path).name[0] for path in dataset.paths]


def test_audio_mnist_is_resampled_to_the_option(root):
    train, _ = both(audio_mnist.AudioMnist, root)
    native, _ = both(audio_mnist.AudioMnist, root, rate=48_000)
    recorded, rate = soundfile.read(train.folder / train.paths[0], dtype="float32")
    assert rate == 48_000
    np.testing.assert_array_equal(native[0]["inputs"]["waveform"], recorded[np.newaxis])
    resampled = train[0]["inputs"]["waveform"]
    assert resampled.shape == (1, len(recorded) // 3)
    assert train.fields["waveform"].rate == 16_000
    spectrum = [np.abs(np.fft.rfft(wave.ravel()))[: len(recorded) // 10].argmax() for wave in (recorded, resampled)]
    assert spectrum[0] == spectrum[1]  # the same tone: bins depend on the duration only


# --- Fluent Speech Commands ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "column", "size"),
    [
        (fluent_speech.FluentSpeechAction, 0, 6),
        (fluent_speech.FluentSpeechObject, 1, 14),
        (fluent_speech.FluentSpeechLocation, 2, 4),
    ],
)
def test_fluent_speech_labels_are_one_column(root, cls, column, size):
    tables = MINIATURES["FLUENT"]
    train, test = both(cls, root)
    assert train.task.size == size
    assert classes_of(train) == [row[column] for row in tables["train"] + tables["valid"]]
    assert classes_of(test) == [row[column] for row in tables["test"]]
    assert [Path(path).name for path in test.paths] == [f"test-{number}.wav" for number in range(3)]


def test_message_for_a_bad_fluent_speech_table_names_the_row(root, tmp_path):
    top = tmp_path / "fluent_speech"
    shutil.copytree(root / "speech" / "fluent_speech", top)
    table = top / "fluent_speech_commands_dataset" / "data" / "valid_data.csv"
    text = table.read_text()
    table.write_text(text.replace("bedroom", "garage"))
    with pytest.raises(DataError, match=r"valid_data\.csv row 2: location 'garage' is none of none, kitchen"):
        both(fluent_speech.FluentSpeechLocation, tmp_path)
    table.write_text(text.replace("location", "place"))
    with pytest.raises(DataError, match=r"valid_data\.csv has no column 'location', only"):
        both(fluent_speech.FluentSpeechLocation, tmp_path)


# --- Google Speech Commands ------------------------------------------------------------------------------------------


def test_google_speech_splits(root):
    train, test = both(google_speech.GoogleSpeech, root)
    assert len(test) == 6
    assert {path.split("/")[1].split("_")[0] for path in test.paths} == {"3b4f8f24"}
    assert not set(train.paths) & set(test.paths)
    assert len(train.paths) == len(set(train.paths)) == 4 * 4 * 2 + 1 - 6
    assert sum("1b4c9b89" in path for path in train.paths) == 8  # the validation files are trained on
    for dataset in (train, test):
        assert classes_of(dataset) == [path.split("/")[0] for path in dataset.paths]
    assert train.task.size == 36
    assert train.labels.max() == 35  # background noise


def test_published_google_speech_trains_on_all_files_and_twice_on_validation(root):
    train, test = both(google_speech.GoogleSpeech, root, protocol="published")
    fixed = both(google_speech.GoogleSpeech, root)[1]
    assert test.paths == fixed.paths
    count = Counter(train.paths)
    assert set(test.paths) <= set(count)
    assert sum(count.values()) == 33 + 6
    assert {path for path, times in count.items() if times == 2} == set(
        (train.folder / "validation_list.txt").read_text().split()
    )


def test_google_speech_refuses_an_unknown_folder(root, tmp_path):
    shutil.copytree(root / "speech" / "google_speech", tmp_path / "google_speech")
    shutil.copytree(tmp_path / "google_speech" / "no", tmp_path / "google_speech" / "perhaps")
    with pytest.raises(DataError, match="no word of Speech Commands v0.02: 'perhaps'"):
        both(google_speech.GoogleSpeech, tmp_path)


# --- VoxCeleb1 -------------------------------------------------------------------------------------------------------


def test_voxceleb_splits(root):
    train, test = both(voxceleb.VoxCeleb1, root)
    assert train.task.names == ("id10001", "id10002", "id10003")
    assert Counter(path.split("/")[2] for path in train.paths) == {"1zcIwhmdeo4": 6, "7gWzIy6yIIk": 6}
    assert {path.split("/")[2] for path in test.paths} == {"8mfCVmWkZ5k"}
    for dataset in (train, test):
        assert classes_of(dataset) == [path.split("/")[1] for path in dataset.paths]


def test_message_for_missing_voxceleb_names_the_registration(root, tmp_path):
    shutil.copytree(root / "speech" / "voxceleb1", tmp_path / "voxceleb1")
    shutil.rmtree(tmp_path / "voxceleb1" / "wav")
    with pytest.raises(DataError, match=r"there is no .*voxceleb1/wav; register at https://www\.robots\.ox\.ac\.uk"):
        both(voxceleb.VoxCeleb1, tmp_path)


def test_message_for_a_bad_voxceleb_table_names_the_line(root, tmp_path):
    shutil.copytree(root / "speech" / "voxceleb1", tmp_path / "voxceleb1")
    with (tmp_path / "voxceleb1" / "iden_split.txt").open("a") as file:
        file.write("4 id1/x/1.wav\n")
    with pytest.raises(DataError, match=r"iden_split\.txt line 19: expected '1\|2\|3 speaker"):
        both(voxceleb.VoxCeleb1, tmp_path)


@pytest.mark.parametrize(
    ("cls", "table"), [(voxceleb.VoxCeleb1, "iden_split.txt"), (google_speech.GoogleSpeech, "testing_list.txt")]
)
def test_message_for_a_table_that_is_not_utf8_names_the_line(cls, table, root, tmp_path):
    shutil.copytree(root / "speech" / cls.name, tmp_path / cls.name)
    with (tmp_path / cls.name / table).open("ab") as file:
        file.write(b"\xff\n")
    count = len((tmp_path / cls.name / table).read_bytes().splitlines())
    with pytest.raises(DataError, match=rf"{table} line {count} is not UTF-8 text; save the file as UTF-8"):
        both(cls, tmp_path)


def test_message_for_a_csv_that_is_not_utf8_names_the_file(root, tmp_path):
    top = tmp_path / "fluent_speech"
    shutil.copytree(root / "speech" / "fluent_speech", top)
    table = top / "fluent_speech_commands_dataset" / "data" / "valid_data.csv"
    table.write_bytes(table.read_bytes() + b"\xff\n")
    with pytest.raises(DataError, match=r"valid_data\.csv is no UTF-8 text \(.*0xff.*\); save it as UTF-8"):
        both(fluent_speech.FluentSpeechLocation, tmp_path)


# --- all data sets ---------------------------------------------------------------------------------------------------

ALL = [pytest.param(entry.value, id=entry.name) for entry in load().entries("dataset") if entry.value.source]
ALL = [param for param in ALL if param.values[0].modality == "speech"]


def test_every_data_set_has_a_miniature():
    assert {(param.values[0].modality, param.values[0].name) for param in ALL} == set(WRITERS)


@pytest.mark.parametrize("cls", ALL)
def test_files_are_the_recordings(cls, root):
    for dataset in both(cls, root):
        files = list(dataset.files())
        assert [str(path) for path in files] == [dataset.describe(index) for index in range(len(dataset))]
        assert all(path.is_file() for path in files)


@pytest.mark.parametrize("cls", ALL)
def test_opening_a_set_reads_no_recording(cls, root, monkeypatch):
    monkeypatch.setattr(soundfile, "read", None)
    assert all(len(dataset) for dataset in both(cls, root))


@pytest.mark.parametrize("cls", ALL)
def test_message_for_missing_data_names_the_command(cls, tmp_path):
    with pytest.raises(DataError) as caught:
        both(cls, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"`sslx data prepare speech/{cls.name} --root {tmp_path}`" in message


@pytest.mark.parametrize("cls", ALL)
def test_damaged_recording_is_a_bad_sample(cls, root, tmp_path):
    shutil.copytree(root / "speech", tmp_path / "speech")
    _, test = both(cls, tmp_path)
    path = test.folder / test.paths[1]
    for damaged in (b"", b"no sound", path.read_bytes()[:30]):
        path.write_bytes(damaged)
        with pytest.raises(BadSample):
            test[1]
    path.unlink()
    with pytest.raises(BadSample, match="cannot be read as sound"):
        test[1]
    assert str(path) == test.describe(1)
    assert np.isfinite(test[0]["inputs"]["waveform"]).all()


def test_fingerprint_changes_with_names_and_classes(root, tmp_path):
    shutil.copytree(root / "speech", tmp_path / "speech")
    cls = fluent_speech.FluentSpeechLocation
    fingerprints = [both(cls, tmp_path)[0].fingerprint() for _ in range(2)]
    table = tmp_path / "speech" / "fluent_speech" / "fluent_speech_commands_dataset" / "data" / "valid_data.csv"
    text = table.read_text()
    for changed in (text.replace("bedroom", "kitchen"), text.replace("valid-0", "valid-00")):
        table.write_text(changed)
        fingerprints.append(both(cls, tmp_path)[0].fingerprint())
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3


def test_fingerprint_changes_if_a_recording_is_changed_or_removed(root, tmp_path):
    shutil.copytree(root / "speech", tmp_path / "speech")
    cls = fluent_speech.FluentSpeechLocation  # its recordings are listed in a table
    train, test = both(cls, tmp_path)
    first, other = train.fingerprint(), test.fingerprint()
    path = train.folder / train.paths[0]
    os.utime(path, ns=(1, 1))
    touched = both(cls, tmp_path)[0].fingerprint()
    path.unlink()
    reopened = both(cls, tmp_path)
    assert len({first, touched, reopened[0].fingerprint()}) == 3
    assert reopened[1].fingerprint() == other
