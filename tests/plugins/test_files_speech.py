"""Data set `files` for speech: labels, groups, splits, rates, and refusals that name the culprit."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from ssl_core import BadSample, ConfigError, DataError, SslxError
from ssl_plugins.datasets.user.files_speech import SpeechFiles


def tone(seconds: float = 0.2, rate: int = 8000, pitch: float = 500.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def write(folder: Path, names: Iterable[str], rate: int = 8000) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone(rate=rate), rate)
    return folder


def both(root: Path, **options: Any) -> tuple[SpeechFiles, SpeechFiles]:
    made = SpeechFiles.Options(root=str(root), **options)
    return SpeechFiles(made, "train"), SpeechFiles(made, "test")


def names(dataset: SpeechFiles) -> list[str]:
    return [item.name for item in dataset.items]


def refused(error: type[SslxError], root: Path, *parts: str, **options: Any) -> None:
    """Both splits refuse, in one line that holds all `parts`."""
    for split in ("train", "test"):
        with pytest.raises(error) as caught:
            SpeechFiles(SpeechFiles.Options(root=str(root), **options), split)
        message = str(caught.value)
        assert "\n" not in message
        assert [part for part in parts if part not in message] == [], message


DIGITS = [f"{digit}_{speaker}_{take}.wav" for digit in (0, 1, 10) for speaker in ("ann", "bo", "cy") for take in (0, 1)]
DIGIT = r"(?P<label>\d+)_(?P<group>[a-z]+)_\d+"
SPEAKER = r"\d+_(?P<label>[a-z]+)_(?P<group>\d+)"


# --- labels ---------------------------------------------------------------------------------------------------------


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    write(tmp_path, [f"{word}/deep/{i}.wav" for word in ("yes", "no") for i in range(10)])
    train, test = both(tmp_path)
    assert train.task is not None
    assert train.task.names == ("no", "yes")
    assert train.task.metric == "accuracy"
    for dataset, each in ((train, 8), (test, 2)):
        labels = [dataset[i]["label"] for i in range(len(dataset))]
        assert labels == [train.task.names.index(name.split("/")[0]) for name in names(dataset)]
        assert [labels.count(0), labels.count(1)] == [each, each]  # the share holds in every class


@pytest.mark.parametrize(
    "files", [["a.wav", "b.wav", "c.wav"], ["x/a.wav", "x/b.wav"], ["x/a.wav", "y/b.wav", "c.wav"]]
)
def test_without_classes_there_is_no_label(tmp_path: Path, files: list[str]) -> None:
    train, test = both(write(tmp_path, files), test_fraction=0.5)
    assert train.task is None
    assert test.task is None
    assert train[0]["label"] is None
    assert len(train) + len(test) == len(files)


def test_pattern_names_label_and_group(tmp_path: Path) -> None:
    train, test = both(write(tmp_path, DIGITS), label_pattern=DIGIT, test_groups=("bo",))
    assert train.task is not None
    assert train.task.names == ("0", "1", "10")  # numbers by size
    assert {item.group for item in train.items} == {"ann", "cy"}
    assert {item.group for item in test.items} == {"bo"}
    for dataset in (train, test):
        for i, name in enumerate(names(dataset)):
            assert train.task.names[dataset[i]["label"]] == name.split("_")[0]


def test_other_named_groups_are_ignored_and_the_whole_path_is_searched(tmp_path: Path) -> None:
    write(tmp_path, [f"{who}/{what}-{i}.wav" for who in ("p1", "p2", "p3") for what in ("a", "b") for i in (0, 1)])
    train, test = both(tmp_path, label_pattern=r"^(?P<group>p\d)/(?P<label>\w)-(?P<take>\d)")
    assert train.task is not None
    assert train.task.names == ("a", "b")
    assert {item.group for item in train.items}.isdisjoint(item.group for item in test.items)


def test_pattern_with_a_group_alone_leaves_the_data_unlabelled(tmp_path: Path) -> None:
    train, test = both(write(tmp_path, DIGITS), label_pattern=r"_(?P<group>[a-z]+)_")
    assert train.task is None
    assert len({item.group for item in test.items}) == 1


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, ["a.wav", "b.flac", "c.OGG", "._a.wav", ".cache/d.wav"])
    (tmp_path / "notes.txt").write_text("nothing to hear")
    train, test = both(tmp_path, test_fraction=0.4)
    assert sorted(names(train) + names(test)) == ["a.wav", "b.flac", "c.OGG"]
    train, test = both(tmp_path, extensions=("flac", ".ogg"), test_fraction=0.5)
    assert sorted(names(train) + names(test)) == ["b.flac", "c.OGG"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", ["a.wav", "b.wav"])
    root = write(tmp_path / "root", ["c.wav"])
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked" / "back").symlink_to(root)
    train, test = both(root, test_fraction=0.4)
    assert sorted(names(train) + names(test)) == ["c.wav", "linked/a.wav", "linked/b.wav"]


# --- tables ---------------------------------------------------------------------------------------------------------


def table(folder: Path, suffix: str = ".csv", **columns: list[Any]) -> Path:
    frame = pd.DataFrame(columns)
    path = folder / f"table{suffix}"
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_labels_groups_and_splits(tmp_path: Path, suffix: str) -> None:
    paths = [f"wavs/{i}.wav" for i in range(6)]
    write(tmp_path, paths)
    labels = ["b", "a"] * 3
    train, test = both(table(tmp_path, suffix, path=paths, label=labels, split=["train"] * 4 + ["test"] * 2))
    assert (names(train), names(test)) == (paths[:4], paths[4:])
    assert [train[i]["label"] for i in range(4)] == [1, 0, 1, 0]
    train, test = both(table(tmp_path, suffix, path=paths, label=labels, group=[1, 1, 2, 2, 3, 3]), test_groups=(2,))
    assert names(test) == paths[2:4]


def test_table_of_paths_alone(tmp_path: Path) -> None:
    paths = [f"{i}.wav" for i in range(5)]
    train, test = both(table(write(tmp_path, paths), path=[str(tmp_path / paths[0]), *paths[1:]]))
    assert train.task is None
    assert (len(train), len(test)) == (4, 1)


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    paths = [f"{i}.wav" for i in range(4)]
    write(tmp_path, paths)
    refused(DataError, table(tmp_path, file=paths), "no column 'path'", "file")
    refused(DataError, table(tmp_path, path=[*paths[:3], "gone.wav"]), "gone.wav", "row 4")
    refused(DataError, table(tmp_path, path=paths, label=["a", None, "b", "b"]), "row 2", "label")
    refused(DataError, table(tmp_path, path=paths, group=["a", "a", "b", None]), "row 4", "group")
    refused(DataError, table(tmp_path, path=paths, split=["train", "test", "dev", "train"]), "'dev'", "train or test")
    refused(DataError, table(tmp_path, path=[]), "no rows")
    whole = table(tmp_path, path=paths, group=["a", "a", "b", "b"], split=["train", "train", "test", "test"])
    refused(ConfigError, whole, "split", "test_groups", test_groups=("a",))
    (tmp_path / "empty.csv").write_text("")
    refused(DataError, tmp_path / "empty.csv", "empty.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    refused(DataError, tmp_path / "bad.parquet", "bad.parquet")


# --- splits ---------------------------------------------------------------------------------------------------------


def test_split_depends_on_names_only(tmp_path: Path) -> None:
    files = [f"{word}/{i:02}.wav" for word in ("a", "b") for i in range(20)]
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, files)
    random.Random(0).shuffle(files)
    write(second, files)
    assert [names(one) for one in both(first)] == [names(one) for one in both(second)]
    train, test = both(first, test_fraction=0.3)
    assert (len(train), len(test)) == (28, 12)
    assert set(names(train)).isdisjoint(names(test))


def test_whole_groups_are_held_out(tmp_path: Path) -> None:
    files = [f"{speaker}{i}.wav" for speaker in "abcdefghij" for i in range(3)]
    train, test = both(write(tmp_path, files), label_pattern=r"(?P<group>[a-j])\d", test_fraction=0.3)
    held = {item.group for item in test.items}
    assert len(held) == 3
    assert held.isdisjoint(item.group for item in train.items)
    assert len(train) + len(test) == 30


def test_named_training_groups_leave_the_others_out(tmp_path: Path) -> None:
    write(tmp_path, DIGITS)
    train, test = both(tmp_path, label_pattern=DIGIT, test_groups=("bo",), train_groups=("cy",))
    assert {item.group for item in train.items} == {"cy"}
    assert {item.group for item in test.items} == {"bo"}
    train, test = both(tmp_path, label_pattern=DIGIT, train_groups=("cy",))
    assert {item.group for item in test.items} == {"ann", "bo"}


@pytest.mark.parametrize("given", ["0,1", ("0", "1"), [0, 1]])
def test_groups_as_they_come_from_the_command_line(given: Any) -> None:
    assert SpeechFiles.Options(root="x", test_groups=given).test_groups == ("0", "1")
    assert SpeechFiles.Options(root="x", test_groups=0).test_groups == ("0",)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_formats(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, np.stack([tone(), 0 * tone()], axis=1), 8000)  # the first channel counts
    write(tmp_path, ["b.wav"])
    made = both(tmp_path, test_fraction=0.5)
    dataset = next(one for one in made if names(one) == [name])
    waveform = dataset[0]["inputs"]["waveform"]
    assert waveform.dtype == np.float32
    assert waveform.shape == (1, 1600)
    assert np.abs(waveform[0] - tone()).max() < (0.1 if name.endswith("ogg") else 1e-3)


def test_the_common_rate_wins_and_others_are_resampled(tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.wav" for i in range(6)])
    write(tmp_path, ["high.wav"], rate=16_000)
    for dataset in both(tmp_path):
        assert dataset.fields["waveform"].rate == 8000.0  # type: ignore[union-attr]
        assert any("8000 Hz" in note for note in dataset.warnings)
        for i, name in enumerate(names(dataset)):
            waveform = dataset[i]["inputs"]["waveform"][0]
            assert abs(len(waveform) - 1600) <= 1
            middle = slice(200, 1400)
            assert np.abs(waveform[middle] - tone()[middle]).max() < 0.02, name


def test_asked_for_rate(tmp_path: Path) -> None:
    train, _ = both(write(tmp_path, ["a.wav", "b.wav"]), rate=16_000, test_fraction=0.5)
    assert train.fields["waveform"].rate == 16_000.0  # type: ignore[union-attr]
    assert train[0]["inputs"]["waveform"].shape == (1, 3200)


def test_one_rate_needs_no_note(tmp_path: Path) -> None:
    assert both(write(tmp_path, ["a.wav", "b.wav"]), test_fraction=0.5)[0].warnings == ()


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is no sound at all" * 10])
def test_corrupt_file_is_a_bad_sample_that_is_named(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, [f"{i}.wav" for i in range(4)])
    (tmp_path / "broken.wav").write_bytes(content)
    dataset, index = next((one, names(one).index("broken.wav")) for one in both(tmp_path) if "broken.wav" in names(one))
    with pytest.raises(BadSample) as caught:
        dataset[index]
    assert "\n" not in str(caught.value)
    assert dataset.describe(index) == str(tmp_path / "broken.wav")


def test_a_link_to_nothing_is_a_bad_sample_that_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "root", [f"{i}.wav" for i in range(4)])
    (root / "gone.wav").symlink_to(tmp_path / "elsewhere.wav")

    def opened() -> SpeechFiles:
        return next(one for one in both(root, test_fraction=0.4) if "gone.wav" in names(one))

    dataset = opened()
    index = names(dataset).index("gone.wav")
    before = dataset.fingerprint()
    with pytest.raises(BadSample, match="cannot be read as sound"):
        dataset[index]
    assert dataset.describe(index) == str(root / "gone.wav")
    write(tmp_path, ["elsewhere.wav"])
    assert opened().fingerprint() != before
    assert opened()[index]["inputs"]["waveform"].shape == (1, 1600)


def test_samples_that_are_not_finite(tmp_path: Path) -> None:
    write(tmp_path, ["a.wav"])
    wave = tone()
    wave[10] = np.nan
    soundfile.write(tmp_path / "b.wav", wave, 8000, subtype="FLOAT")
    made = both(tmp_path, test_fraction=0.5)
    dataset = next(one for one in made if names(one) == ["b.wav"])
    with pytest.raises(BadSample, match="NaN"):
        dataset[0]


def test_index_twice_and_pickle(tmp_path: Path) -> None:
    train, _ = both(write(tmp_path, DIGITS), label_pattern=DIGIT)
    copy = pickle.loads(pickle.dumps(train))
    for i in (0, len(train) - 1):
        for other in (train, copy):
            assert np.array_equal(train[i]["inputs"]["waveform"], other[i]["inputs"]["waveform"])
            assert train[i]["label"] == other[i]["label"]


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    write(tmp_path, DIGITS)

    def mark() -> str:
        return both(tmp_path, label_pattern=DIGIT, test_groups=("bo",))[0].fingerprint()

    first = mark()
    assert mark() == first
    os.utime(tmp_path / DIGITS[0], ns=(1, 1))
    second = mark()
    soundfile.write(tmp_path / "0_ann_2.wav", tone(), 8000)
    assert len({first, second, mark()}) == 3
    assert both(tmp_path, label_pattern=SPEAKER, test_groups=("0",))[0].fingerprint() != mark()


def test_relative_root_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", ["a.wav", "b.wav"])
    monkeypatch.chdir(tmp_path)
    options = SpeechFiles.Options(root="data", test_fraction=0.5)
    saved = SpeechFiles.Options(**options.model_dump(mode="json"))
    monkeypatch.chdir("/")
    assert len(SpeechFiles(saved, "train")) == 1


# --- refusals -------------------------------------------------------------------------------------------------------


def test_roots_that_cannot_be_used(tmp_path: Path) -> None:
    refused(DataError, tmp_path / "gone", "gone", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(DataError, tmp_path / "empty", "empty", ".wav")
    (tmp_path / "notes.txt").write_text("nothing to hear")
    refused(DataError, tmp_path / "notes.txt", "notes.txt", ".csv")
    write(tmp_path / "one", ["a.wav"])
    refused(DataError, tmp_path / "one", "test split")


def test_nothing_but_corrupt_files(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(b"no sound")
    refused(DataError, tmp_path, "none of the 3", "0.wav")


def test_patterns_that_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path, [*DIGITS, "readme.wav"])
    refused(ConfigError, tmp_path, "(?P<label", "regular expression", label_pattern="(?P<label")
    refused(ConfigError, tmp_path, "names neither", label_pattern=r"(?P<digit>\d)_")
    refused(ConfigError, tmp_path, "1 of 19", "readme.wav", label_pattern=DIGIT)
    refused(ConfigError, tmp_path, "19 of 19", label_pattern=r"(?P<label>\d\d\d)")
    refused(ConfigError, tmp_path, "readme.wav", label_pattern=r"(?P<label>\d)?_?(?P<group>[a-z]+)")


def test_groups_that_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path, DIGITS)
    refused(ConfigError, tmp_path, "'an'", "did you mean 'ann'", label_pattern=DIGIT, test_groups=("an",))
    refused(ConfigError, tmp_path, "'dee'", "ann, bo, cy", label_pattern=DIGIT, train_groups=("dee",))
    both_sides = {"test_groups": ("bo",), "train_groups": ("bo",)}
    refused(ConfigError, tmp_path, "'bo'", "both", label_pattern=DIGIT, **both_sides)
    everyone = ("ann", "bo", "cy")
    refused(DataError, tmp_path, "train split", label_pattern=DIGIT, test_groups=everyone)
    refused(ConfigError, tmp_path, "groups", test_groups=("ann",))
    refused(DataError, tmp_path, "one group only", label_pattern=r"(?P<group>\.wav)")


def test_class_in_the_test_split_only(tmp_path: Path) -> None:
    write(tmp_path, [*DIGITS, "7_bo_0.wav"])
    refused(DataError, tmp_path, "'7'", "7_bo_0.wav", label_pattern=DIGIT, test_groups=("bo",))
    train, test = both(tmp_path, label_pattern=DIGIT, test_groups=("ann",))  # in training only is no fault
    assert train.task == test.task
    assert train.task is not None
    assert train.task.names == ("0", "1", "7", "10")


def test_file_that_went_away(tmp_path: Path) -> None:
    train, _ = both(write(tmp_path / "data", ["a.wav", "b.wav"]), test_fraction=0.5)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadSample):
        train[0]
