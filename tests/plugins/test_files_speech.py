"""Data set `files` for speech: labels, groups, splits, rates, errors."""

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


def open_both(root: Path, **options: Any) -> tuple[SpeechFiles, SpeechFiles]:
    parsed = SpeechFiles.Options(root=str(root), **options)
    return SpeechFiles(parsed, "train"), SpeechFiles(parsed, "test")


def names(dataset: SpeechFiles) -> list[str]:
    return [entry.name for entry in dataset.entries]


def assert_refused(error: type[SslxError], root: Path, *parts: str, **options: Any) -> None:
    """Check that opening each split fails with a one-line message that holds all `parts`."""
    for split in ("train", "test"):
        with pytest.raises(error) as error_info:
            SpeechFiles(SpeechFiles.Options(root=str(root), **options), split)
        message = str(error_info.value)
        assert "\n" not in message
        assert [part for part in parts if part not in message] == [], message


DIGITS = [f"{digit}_{speaker}_{take}.wav" for digit in (0, 1, 10) for speaker in ("ann", "bo", "cy") for take in (0, 1)]
DIGIT = r"(?P<label>\d+)_(?P<group>[a-z]+)_\d+"
SPEAKER = r"\d+_(?P<label>[a-z]+)_(?P<group>\d+)"


# --- labels ---------------------------------------------------------------------------------------------------------


def test_subfolders_are_classes(tmp_path: Path) -> None:
    write(tmp_path, [f"{word}/deep/{i}.wav" for word in ("yes", "no") for i in range(10)])
    train, test = open_both(tmp_path)
    assert train.task is not None
    assert train.task.names == ("no", "yes")
    assert train.task.metric == "accuracy"
    for dataset, count in ((train, 8), (test, 2)):
        labels = [dataset[i]["label"] for i in range(len(dataset))]
        assert labels == [train.task.names.index(name.split("/")[0]) for name in names(dataset)]
        assert [labels.count(0), labels.count(1)] == [count, count]  # the same share of every class


@pytest.mark.parametrize(
    "files", [["a.wav", "b.wav", "c.wav"], ["x/a.wav", "x/b.wav"], ["x/a.wav", "y/b.wav", "c.wav"]]
)
def test_no_task_without_classes(tmp_path: Path, files: list[str]) -> None:
    train, test = open_both(write(tmp_path, files), test_fraction=0.5)
    assert train.task is None
    assert test.task is None
    assert train[0]["label"] is None
    assert len(train) + len(test) == len(files)


def test_label_and_group_from_pattern(tmp_path: Path) -> None:
    train, test = open_both(write(tmp_path, DIGITS), label_pattern=DIGIT, test_groups=("bo",))
    assert train.task is not None
    assert train.task.names == ("0", "1", "10")  # numerical order
    assert {entry.group for entry in train.entries} == {"ann", "cy"}
    assert {entry.group for entry in test.entries} == {"bo"}
    for dataset in (train, test):
        for i, name in enumerate(names(dataset)):
            assert train.task.names[dataset[i]["label"]] == name.split("_")[0]


def test_other_named_groups_are_ignored_and_the_whole_path_is_searched(tmp_path: Path) -> None:
    write(tmp_path, [f"{who}/{what}-{i}.wav" for who in ("p1", "p2", "p3") for what in ("a", "b") for i in (0, 1)])
    train, test = open_both(tmp_path, label_pattern=r"^(?P<group>p\d)/(?P<label>\w)-(\d)")
    assert train.task is not None
    assert train.task.names == ("a", "b")
    assert {entry.group for entry in train.entries}.isdisjoint(entry.group for entry in test.entries)


def test_pattern_with_only_a_group_gives_no_labels(tmp_path: Path) -> None:
    train, test = open_both(write(tmp_path, DIGITS), label_pattern=r"_(?P<group>[a-z]+)_")
    assert train.task is None
    assert len({entry.group for entry in test.entries}) == 1


def test_hidden_and_other_files_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, ["a.wav", "b.flac", "c.OGG", "._a.wav", ".cache/d.wav"])
    (tmp_path / "notes.txt").write_text("not audio")
    train, test = open_both(tmp_path, test_fraction=0.4)
    assert sorted(names(train) + names(test)) == ["a.wav", "b.flac", "c.OGG"]
    train, test = open_both(tmp_path, extensions=("flac", ".ogg"), test_fraction=0.5)
    assert sorted(names(train) + names(test)) == ["b.flac", "c.OGG"]


def test_symbolic_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", ["a.wav", "b.wav"])
    root = write(tmp_path / "root", ["c.wav"])
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked" / "back").symlink_to(root)
    train, test = open_both(root, test_fraction=0.4)
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
    train, test = open_both(table(tmp_path, suffix, path=paths, label=labels, split=["train"] * 4 + ["test"] * 2))
    assert (names(train), names(test)) == (paths[:4], paths[4:])
    assert [train[i]["label"] for i in range(4)] == [1, 0, 1, 0]
    train, test = open_both(
        table(tmp_path, suffix, path=paths, label=labels, group=[1, 1, 2, 2, 3, 3]), test_groups=(2,)
    )
    assert names(test) == paths[2:4]


def test_table_of_paths_alone(tmp_path: Path) -> None:
    paths = [f"{i}.wav" for i in range(5)]
    train, test = open_both(table(write(tmp_path, paths), path=[str(tmp_path / paths[0]), *paths[1:]]))
    assert train.task is None
    assert (len(train), len(test)) == (4, 1)


def test_invalid_tables(tmp_path: Path) -> None:
    paths = [f"{i}.wav" for i in range(4)]
    write(tmp_path, paths)
    assert_refused(DataError, table(tmp_path, clip=paths), "no column of paths", "only clip", "dataset.path_column")
    assert_refused(DataError, table(tmp_path, path=["x.wav", "gone.wav"]), "none of the 2 files", "row 1: x.wav")
    assert_refused(DataError, table(tmp_path, path=paths, group=["a", "a", "b", None]), "has no group")
    assert_refused(
        DataError,
        table(tmp_path, path=paths, split=["train", "test", "exam", "train"]),
        "'exam'",
        "train, validation or test",
    )
    assert_refused(DataError, table(tmp_path, path=[]), "no rows")
    whole = table(tmp_path, path=paths, group=["a", "a", "b", "b"], split=["train", "train", "test", "test"])
    assert_refused(ConfigError, whole, "split", "test_groups", test_groups=("a",))
    (tmp_path / "empty.csv").write_text("")
    assert_refused(DataError, tmp_path / "empty.csv", "empty.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    assert_refused(DataError, tmp_path / "bad.parquet", "bad.parquet")


# --- splits ---------------------------------------------------------------------------------------------------------


def test_split_depends_on_names_only(tmp_path: Path) -> None:
    files = [f"{word}/{i:02}.wav" for word in ("a", "b") for i in range(20)]
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, files)
    random.Random(0).shuffle(files)
    write(second, files)
    assert [names(one) for one in open_both(first)] == [names(one) for one in open_both(second)]
    train, test = open_both(first, test_fraction=0.3)
    assert (len(train), len(test)) == (28, 12)
    assert set(names(train)).isdisjoint(names(test))


def test_groups_are_not_divided(tmp_path: Path) -> None:
    files = [f"{speaker}{i}.wav" for speaker in "abcdefghij" for i in range(3)]
    train, test = open_both(write(tmp_path, files), label_pattern=r"(?P<group>[a-j])\d", test_fraction=0.3)
    test_groups = {entry.group for entry in test.entries}
    assert len(test_groups) == 3
    assert test_groups.isdisjoint(entry.group for entry in train.entries)
    assert len(train) + len(test) == 30


def test_other_groups_are_excluded_if_both_sides_are_named(tmp_path: Path) -> None:
    write(tmp_path, DIGITS)
    train, test = open_both(tmp_path, label_pattern=DIGIT, test_groups=("bo",), train_groups=("cy",))
    assert {entry.group for entry in train.entries} == {"cy"}
    assert {entry.group for entry in test.entries} == {"bo"}
    train, test = open_both(tmp_path, label_pattern=DIGIT, train_groups=("cy",))
    assert {entry.group for entry in test.entries} == {"ann", "bo"}


@pytest.mark.parametrize("value", ["0,1", ("0", "1"), [0, 1]])
def test_group_options_accept_command_line_values(value: Any) -> None:
    assert SpeechFiles.Options(root="x", test_groups=value).test_groups == ("0", "1")
    assert SpeechFiles.Options(root="x", test_groups=0).test_groups == ("0",)


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_formats(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, np.stack([tone(), 0 * tone()], axis=1), 8000)
    write(tmp_path, ["b.wav"])
    datasets = open_both(tmp_path, test_fraction=0.5, channel=0)
    dataset = next(one for one in datasets if names(one) == [name])
    waveform = dataset[0]["inputs"]["waveform"]
    assert waveform.dtype == np.float32
    assert waveform.shape == (1, 1600)
    assert np.abs(waveform[0] - tone()).max() < (0.1 if name.endswith("ogg") else 1e-3)


def test_other_rates_are_resampled_to_the_most_common(tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.wav" for i in range(6)])
    write(tmp_path, ["high.wav"], rate=16_000)
    for dataset in open_both(tmp_path):
        assert dataset.fields["waveform"].rate == 8000.0  # type: ignore[union-attr]
        assert any("8000 Hz" in warning for warning in dataset.warnings)
        for i, name in enumerate(names(dataset)):
            waveform = dataset[i]["inputs"]["waveform"][0]
            assert abs(len(waveform) - 1600) <= 1
            middle = slice(200, 1400)
            assert np.abs(waveform[middle] - tone()[middle]).max() < 0.02, name


def test_rate_option(tmp_path: Path) -> None:
    train, _ = open_both(write(tmp_path, ["a.wav", "b.wav"]), rate=16_000, test_fraction=0.5)
    assert train.fields["waveform"].rate == 16_000.0  # type: ignore[union-attr]
    assert train[0]["inputs"]["waveform"].shape == (1, 3200)


def test_no_warning_with_a_single_rate(tmp_path: Path) -> None:
    assert open_both(write(tmp_path, ["a.wav", "b.wav"]), test_fraction=0.5)[0].warnings == ()


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is not audio" * 10])
def test_corrupt_file_is_a_bad_sample(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, [f"{i}.wav" for i in range(4)])
    (tmp_path / "broken.wav").write_bytes(content)
    dataset, index = next(
        (one, names(one).index("broken.wav")) for one in open_both(tmp_path) if "broken.wav" in names(one)
    )
    with pytest.raises(BadSample) as error_info:
        dataset[index]
    assert "\n" not in str(error_info.value)
    assert dataset.describe(index) == str(tmp_path / "broken.wav")


def test_dangling_link_is_a_bad_sample(tmp_path: Path) -> None:
    root = write(tmp_path / "root", [f"{i}.wav" for i in range(4)])
    (root / "gone.wav").symlink_to(tmp_path / "elsewhere.wav")

    def opened() -> SpeechFiles:
        return next(one for one in open_both(root, test_fraction=0.4) if "gone.wav" in names(one))

    dataset = opened()
    index = names(dataset).index("gone.wav")
    before = dataset.fingerprint()
    with pytest.raises(BadSample, match="cannot be read as audio"):
        dataset[index]
    assert dataset.describe(index) == str(root / "gone.wav")
    write(tmp_path, ["elsewhere.wav"])
    assert opened().fingerprint() != before
    assert opened()[index]["inputs"]["waveform"].shape == (1, 1600)


def test_non_finite_values_are_a_bad_sample(tmp_path: Path) -> None:
    write(tmp_path, ["a.wav"])
    wave = tone()
    wave[10] = np.nan
    soundfile.write(tmp_path / "b.wav", wave, 8000, subtype="FLOAT")
    datasets = open_both(tmp_path, test_fraction=0.5)
    dataset = next(one for one in datasets if names(one) == ["b.wav"])
    with pytest.raises(BadSample, match="NaN"):
        dataset[0]


def test_pickle(tmp_path: Path) -> None:
    train, _ = open_both(write(tmp_path, DIGITS), label_pattern=DIGIT)
    copy = pickle.loads(pickle.dumps(train))
    for i in (0, len(train) - 1):
        for other in (train, copy):
            assert np.array_equal(train[i]["inputs"]["waveform"], other[i]["inputs"]["waveform"])
            assert train[i]["label"] == other[i]["label"]


def test_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    write(tmp_path, DIGITS)

    def fingerprint() -> str:
        return open_both(tmp_path, label_pattern=DIGIT, test_groups=("bo",))[0].fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    os.utime(tmp_path / DIGITS[0], ns=(1, 1))
    second = fingerprint()
    soundfile.write(tmp_path / "0_ann_2.wav", tone(), 8000)
    assert len({first, second, fingerprint()}) == 3
    assert open_both(tmp_path, label_pattern=SPEAKER, test_groups=("0",))[0].fingerprint() != fingerprint()


def test_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", ["a.wav", "b.wav"])
    monkeypatch.chdir(tmp_path)
    options = SpeechFiles.Options(root="data", test_fraction=0.5)
    saved = SpeechFiles.Options(**options.model_dump(mode="json"))
    monkeypatch.chdir("/")
    assert len(SpeechFiles(saved, "train")) == 1


# --- refusals -------------------------------------------------------------------------------------------------------


def test_invalid_roots(tmp_path: Path) -> None:
    assert_refused(DataError, tmp_path / "gone", "gone", "does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(DataError, tmp_path / "empty", "empty", ".wav")
    (tmp_path / "notes.txt").write_text("not audio")
    assert_refused(DataError, tmp_path / "notes.txt", "notes.txt", ".csv")
    write(tmp_path / "one", ["a.wav"])
    assert_refused(DataError, tmp_path / "one", "test split")


def test_only_corrupt_files(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(b"not audio")
    assert_refused(DataError, tmp_path, "none of the 3", "0.wav")


def test_invalid_patterns(tmp_path: Path) -> None:
    write(tmp_path, [*DIGITS, "readme.wav"])
    assert_refused(ConfigError, tmp_path, "(?P<label", "regular expression", label_pattern="(?P<label")
    assert_refused(ConfigError, tmp_path, "names neither", label_pattern=r"(\d)_")
    assert_refused(
        ConfigError,
        tmp_path,
        "the name 'groups' of a group has no meaning; did you mean 'group'",
        label_pattern=r"(?P<label>\d)_(?P<groups>\w)",
    )
    assert_refused(ConfigError, tmp_path, "1 of 19", "readme.wav", label_pattern=DIGIT)
    assert_refused(ConfigError, tmp_path, "19 of 19", label_pattern=r"(?P<label>\d\d\d)")
    assert_refused(ConfigError, tmp_path, "readme.wav", label_pattern=r"(?P<label>\d)?_?(?P<group>[a-z]+)")


def test_invalid_groups(tmp_path: Path) -> None:
    write(tmp_path, DIGITS)
    assert_refused(ConfigError, tmp_path, "'an'", "did you mean 'ann'", label_pattern=DIGIT, test_groups=("an",))
    assert_refused(ConfigError, tmp_path, "'dee'", "ann, bo, cy", label_pattern=DIGIT, train_groups=("dee",))
    both_sides = {"test_groups": ("bo",), "train_groups": ("bo",)}
    assert_refused(ConfigError, tmp_path, "'bo'", "both", label_pattern=DIGIT, **both_sides)
    everyone = ("ann", "bo", "cy")
    assert_refused(DataError, tmp_path, "train split", label_pattern=DIGIT, test_groups=everyone)
    assert_refused(ConfigError, tmp_path, "groups", test_groups=("ann",))
    assert_refused(DataError, tmp_path, "one group only", label_pattern=r"(?P<group>\.wav)")


def test_class_only_in_the_test_split(tmp_path: Path) -> None:
    write(tmp_path, [*DIGITS, "7_bo_0.wav"])
    assert_refused(DataError, tmp_path, "'7'", "7_bo_0.wav", label_pattern=DIGIT, test_groups=("bo",))
    train, test = open_both(
        tmp_path, label_pattern=DIGIT, test_groups=("ann",)
    )  # a class only in the training split is valid
    assert train.task == test.task
    assert train.task is not None
    assert train.task.names == ("0", "1", "7", "10")


def test_deleted_file_is_a_bad_sample(tmp_path: Path) -> None:
    train, _ = open_both(write(tmp_path / "data", ["a.wav", "b.wav"]), test_fraction=0.5)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(BadSample):
        train[0]
