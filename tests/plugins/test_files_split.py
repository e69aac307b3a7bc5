"""Data set `files`: the split rule, and the validation split of every modality."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from ssl_core import ConfigError, DataError, Dataset, SslxError
from ssl_plugins.datasets._io.splitting import (
    EXCLUDED,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Codes,
    SampleMetadata,
    split_rows,
    split_windows,
)
from ssl_plugins.datasets._io.user_data import UserDataOptions
from ssl_plugins.datasets.user.files_captions import CaptionFiles
from ssl_plugins.datasets.user.files_images import ImageFiles, MedicalImageFiles, MultispectralFiles, WaferFiles
from ssl_plugins.datasets.user.files_sequences import ProteinFiles, SequenceFiles
from ssl_plugins.datasets.user.files_series import SeriesFiles
from ssl_plugins.datasets.user.files_speech import SpeechFiles
from ssl_plugins.datasets.user.files_tables import TableFiles
from ssl_plugins.datasets.user.files_text import MultilingualTextFiles, TextFiles

CLASSES = (
    CaptionFiles, ImageFiles, MedicalImageFiles, MultilingualTextFiles, MultispectralFiles, ProteinFiles,
    SequenceFiles, SeriesFiles, SpeechFiles, TableFiles, TextFiles, WaferFiles,
)  # fmt: skip
WRITERS = runpy.run_path(str(Path(__file__).parents[1] / "miniatures" / "own.py"))["WRITERS"]
NAMES = ("a", "b", "c", "10", "9", "x y")


def codes_of(values: Sequence[str] | None) -> Codes | None:
    if values is None:
        return None
    names = tuple(sorted(set(values)))
    return Codes(np.array([names.index(value) for value in values], np.int32), names)


def metadata_of(
    count: int,
    label: Sequence[str] | None = None,
    group: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
) -> SampleMetadata:
    return SampleMetadata(count, "sample {}".format, codes_of(label), codes_of(group), codes_of(split))


def options_of(**values: Any) -> UserDataOptions:
    return UserDataOptions(root="x", **values)


def columns(count: int, names: Sequence[str] = NAMES) -> st.SearchStrategy[list[str] | None]:
    return st.none() | full_columns(count, names)


def full_columns(count: int, names: Sequence[str] = NAMES) -> st.SearchStrategy[list[str]]:
    bytes_of = st.binary(min_size=count, max_size=count)  # much faster to draw than a list of names
    return bytes_of.map(lambda values: [names[value % len(names)] for value in values])


@st.composite
def samples(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 60))
    return {"count": count, "label": draw(columns(count)), "group": draw(columns(count))}


fractions = st.floats(0.05, 0.95)


def two_way_split(
    count: int, label: Sequence[str] | None, group: Sequence[str] | None, split: Sequence[str] | None, fraction: float,
    test_groups: Sequence[str], train_groups: Sequence[str],
) -> list[str | None]:  # fmt: skip
    """The rule of version 0.1, which had no validation split, sample by sample: "train", "test" or None."""
    if split is not None:
        return list(split)

    def share(total: int) -> int:
        return min(max(1, round(fraction * total)), total - 1) if total > 1 else 0

    random = np.random.RandomState(42)
    if group is not None:
        groups = sorted(set(group))
        test = set(test_groups)
        if not test and train_groups:
            test = set(groups) - set(train_groups)
        elif not test:
            test = {groups[i] for i in random.permutation(len(groups))[: share(len(groups))]}
        train = set(train_groups) or set(groups) - test
        return ["test" if name in test else "train" if name in train else None for name in group]
    result: list[str | None] = ["train"] * count
    labels = label or [""] * count
    for name in sorted(set(labels)):
        rows = [row for row in range(count) if labels[row] == name]
        for i in random.permutation(len(rows))[: share(len(rows))]:
            result[rows[i]] = "test"
    return result


def is_valid(label: Sequence[str] | None, split: Sequence[str | None]) -> bool:
    """Whether no split is empty and each class of the test split is in training."""
    if not {"train", "test"} <= set(split):
        return False
    pairs = set(zip(label or [""] * len(split), split, strict=True))
    return all((name, "train") in pairs for name, part in pairs if part == "test")


# --- the rule -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=samples(), fraction=fractions, draw=st.data())
def test_splits_without_validation_are_those_of_version_0_1(data: dict[str, Any], fraction: float, draw: Any) -> None:
    """Without options or names of a validation split, train and test are what they were before it existed."""
    split = draw.draw(columns(data["count"], ("train", "test")))
    test_groups: list[str] = []
    train_groups: list[str] = []
    if data["group"] is not None and split is None:
        roles = draw.draw(st.lists(st.sampled_from(["", "test", "train"]), min_size=len(NAMES), max_size=len(NAMES)))
        groups = sorted(set(data["group"]))
        test_groups = [name for name, role in zip(groups, roles, strict=False) if role == "test"]
        train_groups = [name for name, role in zip(groups, roles, strict=False) if role == "train"]
    assume(data["group"] is None or split is not None or len(set(data["group"])) > 1)
    metadata = metadata_of(**data, split=split)
    options = options_of(test_fraction=fraction, test_groups=test_groups, train_groups=train_groups)
    expected = two_way_split(**data, split=split, fraction=fraction, test_groups=test_groups, train_groups=train_groups)
    if not is_valid(data["label"], expected):
        with pytest.raises(DataError):
            split_rows(metadata, options)
        return
    codes = split_rows(metadata, options)
    assert [None if code == EXCLUDED else SPLITS[code] for code in codes] == expected


@settings(max_examples=150, deadline=None)
@given(data=samples(), test_fraction=fractions, validation_fraction=fractions)
def test_split_properties(data: dict[str, Any], test_fraction: float, validation_fraction: float) -> None:
    metadata = metadata_of(**data)
    options = options_of(test_fraction=test_fraction, validation_fraction=validation_fraction)
    try:
        split = split_rows(metadata, options)
    except DataError:
        assume(False)
    assert set(split.tolist()) == {TRAIN, VALIDATION, TEST}  # disjoint, complete, none empty
    np.testing.assert_array_equal(split, split_rows(metadata_of(**data), options))
    if data["group"] is not None:
        for name in set(data["group"]):
            assert len(set(split[np.array(data["group"]) == name].tolist())) == 1
    if data["label"] is not None:
        labels = np.array(data["label"])
        assert set(labels[split != TRAIN]) <= set(labels[split == TRAIN])
        if data["group"] is None:  # stratified: the share holds within each class
            for name in set(data["label"]):
                training = np.sum((labels == name) & (split != TEST))
                count = np.sum((labels == name) & (split == VALIDATION))
                expected = min(max(1, round(validation_fraction * training)), training - 1) if training > 1 else 0
                assert count == expected


@settings(max_examples=150, deadline=None)
@given(data=samples(), test_fraction=fractions, validation_fraction=fractions)
def test_test_split_does_not_depend_on_validation(
    data: dict[str, Any], test_fraction: float, validation_fraction: float
) -> None:
    metadata = metadata_of(**data)
    try:
        split = split_rows(metadata, options_of(test_fraction=test_fraction, validation_fraction=validation_fraction))
    except DataError:
        assume(False)
    without = split_rows(metadata, options_of(test_fraction=test_fraction))
    np.testing.assert_array_equal(split == TEST, without == TEST)
    np.testing.assert_array_equal(split == EXCLUDED, without == EXCLUDED)


@settings(max_examples=100, deadline=None)
@given(data=samples(), draw=st.data())
def test_validation_groups_are_the_validation_split(data: dict[str, Any], draw: Any) -> None:
    data["group"] = draw.draw(full_columns(data["count"]))
    groups = sorted(set(data["group"]))
    assume(len(groups) > 2)
    test, validation, *others = draw.draw(st.permutations(groups))
    train_groups = draw.draw(st.lists(st.sampled_from(others), unique=True))
    options = options_of(test_groups=[test], train_groups=train_groups, validation_groups=[validation])
    try:
        split = split_rows(metadata_of(**data), options)
    except DataError:
        assume(False)
    train = set(train_groups) or set(others)
    for code, names in ((TEST, {test}), (VALIDATION, {validation}), (TRAIN, train)):
        np.testing.assert_array_equal(split == code, np.isin(data["group"], sorted(names)))


@settings(max_examples=100, deadline=None)
@given(data=samples(), fraction=fractions, draw=st.data())
def test_named_train_and_validation_without_test(data: dict[str, Any], fraction: float, draw: Any) -> None:
    """The test split is cut from the training part as if that were all data; the named validation split stays."""
    names = ("train", "train", "val", "Valid", "validation", "dev")
    split_names = draw.draw(full_columns(data["count"], names))
    is_train = np.array([name == "train" for name in split_names])
    assume(is_train.any() and not is_train.all())
    options = options_of(test_fraction=fraction)
    try:
        split = split_rows(metadata_of(**data, split=split_names), options)
    except DataError:
        assume(False)
    np.testing.assert_array_equal(split == VALIDATION, ~is_train)
    rows = np.flatnonzero(is_train)
    part = {key: None if data[key] is None else [data[key][row] for row in rows] for key in ("label", "group")}
    np.testing.assert_array_equal(split[rows], split_rows(metadata_of(len(rows), **part), options))


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 500), window=st.integers(1, 60), stride=st.integers(1, 60), test_fraction=fractions,
    validation_fraction=st.just(0.0) | fractions,
)  # fmt: skip
def test_windows_of_a_sequence(
    length: int, window: int, stride: int, test_fraction: float, validation_fraction: float
) -> None:
    begin = np.arange(0, length - window + 1, stride)
    options = options_of(test_fraction=test_fraction, validation_fraction=validation_fraction)
    record, lengths = np.zeros(len(begin), np.int64), np.full(len(begin), length)
    split = split_windows(metadata_of(1), record, begin, window, lengths, options)
    cut = math.floor(length * (1 - test_fraction))
    np.testing.assert_array_equal(split == TEST, begin >= cut)
    ends = {code: [-1, *(begin[split == code] + window)] for code in (TRAIN, VALIDATION)}
    starts = {code: [length, *begin[split == code]] for code in (VALIDATION, TEST)}
    assert max(ends[TRAIN]) <= min(starts[VALIDATION])
    assert max(ends[VALIDATION]) <= min(starts[TEST])
    if validation_fraction == 0:
        np.testing.assert_array_equal(split == TRAIN, begin + window <= cut)
        assert VALIDATION not in split


@pytest.mark.parametrize(
    ("error", "part", "data", "options"),
    [
        (ConfigError, "dataset.validation_groups needs groups", {}, {"validation_groups": "a"}),
        (
            ConfigError, "validation_groups names the validation split", {"group": "abcd"},
            {"validation_groups": "a", "validation_fraction": 0.5},
        ),
        (ConfigError, "no group 'z'; known groups: a, b, c, d", {"group": "abcd"}, {"validation_groups": "z"}),
        (
            ConfigError, "'a' is in both dataset.validation_groups and dataset.test_groups", {"group": "abcd"},
            {"validation_groups": "a", "test_groups": "a"},
        ),
        (
            ConfigError, "'a' is in both dataset.validation_groups and dataset.train_groups", {"group": "abcd"},
            {"validation_groups": "a", "train_groups": "a"},
        ),
        (
            ConfigError, "group 'a' is in the test split; choose another, or name the groups of the test split",
            {"group": "abcd"}, {"validation_groups": "a", "train_groups": "b,c"},
        ),
        (
            ConfigError, "the data name the validation split", {"split": ["train", "val", "test", "test"]},
            {"validation_fraction": 0.5},
        ),
        (DataError, "split is 'exam', it must be train, validation or test", {"split": ["train", "exam"] * 2}, {}),
        (DataError, "no sample is left for the validation split", {"label": "abab"}, {"validation_fraction": 0.5}),
        (DataError, "fewer than two groups are left for training", {"group": "aabb"}, {"validation_fraction": 0.5}),
        (
            DataError, "class 'b' is only in the validation and test split (e.g. sample 1)",
            {"label": "abab", "split": ["train", "dev", "train", "test"]}, {},
        ),
    ],
)  # fmt: skip
def test_contradictions_are_refused(
    error: type[SslxError], part: str, data: dict[str, Any], options: dict[str, Any]
) -> None:
    with pytest.raises(error) as error_info:
        split_rows(metadata_of(4, **data), options_of(**options))
    assert part in str(error_info.value)
    assert "\n" not in str(error_info.value)


# --- data sets ------------------------------------------------------------------------------------------------------


def write_recordings(folder: Path) -> None:
    for number in range(24):
        path = folder / ("no", "yes")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(80, number / 100), 8000)


def writer_of(cls: type[Dataset]) -> Callable[[Path], None]:
    writer: Callable[[Path], None] = WRITERS.get((cls.modality, "files"), write_recordings)
    return writer


def open_splits(cls: type[Dataset], root: Path, names: Sequence[Any] = SPLITS, **options: Any) -> list[Any]:
    parsed = cls.Options(root=str(root), **options)  # type: ignore[call-arg]
    return [cls(parsed, name) for name in names]


def descriptions(dataset: Dataset) -> set[str]:
    return {dataset.describe(index) for index in range(len(dataset))}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", ["val", "Valid", "validation", "DEV"])
def test_folders_are_the_splits(tmp_path: Path, cls: type[Dataset], name: str) -> None:
    for folder in ("train", name, "Test"):
        writer_of(cls)(tmp_path / folder)
    for dataset, folder in zip(open_splits(cls, tmp_path), ("train", name, "Test"), strict=True):
        assert dataset.splits == ("train", "validation", "test")
        assert dataset.warnings == ()
        assert len(dataset)
        assert all(f"/{folder}/" in text for text in descriptions(dataset))
        assert dataset.task is not None or cls in (SequenceFiles, ProteinFiles)
        assert dataset[0]["inputs"].keys() == dataset.fields.keys()


@pytest.mark.parametrize("cls", CLASSES)
def test_test_split_is_cut_where_only_validation_is_named(tmp_path: Path, cls: type[Dataset]) -> None:
    for folder in ("train", "val"):
        writer_of(cls)(tmp_path / folder)
    train, validation, test = open_splits(cls, tmp_path)
    assert train.splits == ("train", "validation", "test")
    assert train.warnings == ("the data name a validation and no test split: the test split is cut from training",)
    assert all("/val/" in text for text in descriptions(validation))
    assert all("/train/" in text for text in descriptions(train) | descriptions(test))
    assert descriptions(train).isdisjoint(descriptions(test))
    alone = open_splits(cls, tmp_path / "train", ("test",))[0]
    assert descriptions(test) == descriptions(alone)  # the split of train/ by itself


@pytest.mark.parametrize("cls", CLASSES)
def test_validation_fraction(tmp_path: Path, cls: type[Dataset]) -> None:
    writer_of(cls)(tmp_path)
    plain_train, plain_test = open_splits(cls, tmp_path, ("train", "test"))
    assert plain_train.splits == ("train", "test")
    train, validation, test = open_splits(cls, tmp_path, validation_fraction=0.3)
    assert train.splits == validation.splits == test.splits == ("train", "validation", "test")
    assert descriptions(test) == descriptions(plain_test)
    assert descriptions(train).isdisjoint(descriptions(validation))
    assert descriptions(train) | descriptions(validation) == descriptions(plain_train)
    assert len(validation)
    assert len({dataset.fingerprint() for dataset in (train, validation, test)}) == 3
    with pytest.raises(DataError, match=r"no validation split; set dataset\.validation_fraction"):
        open_splits(cls, tmp_path, ("validation",))


@pytest.mark.parametrize("folders", [("val", "test"), ("train", "val", "dev"), ("train", "val", "eval")])
def test_ambiguous_folders_are_refused(
    tmp_path: Path, assert_refused: Callable[..., None], folders: Sequence[str]
) -> None:
    for folder in folders:
        write_recordings(tmp_path / folder)
    message = f"holds the folders {', '.join(sorted(folders))}; call those to use train, val and test"
    assert_refused(SpeechFiles, tmp_path, message)


def test_pattern_and_table_name_validation(tmp_path: Path) -> None:
    for number in range(12):
        name = f"{('train', 'dev', 'test')[number % 3]}_{number}.png"
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / name)
    by_pattern = open_splits(ImageFiles, tmp_path, label_pattern=r"(?P<split>[a-z]+)_\d")
    assert [len(dataset) for dataset in by_pattern] == [4, 4, 4]
    assert all("dev_" in text for text in descriptions(by_pattern[1]))
    paths = sorted(path.name for path in tmp_path.glob("*.png"))
    pd.DataFrame({"path": paths, "split": ["Validation"] * 4 + ["test"] * 4 + ["train"] * 4}).to_csv(
        tmp_path / "table.csv", index=False
    )
    by_table = open_splits(ImageFiles, tmp_path / "table.csv")
    assert [descriptions(dataset) for dataset in by_table] == [
        {str(tmp_path / name) for name in names} for names in (paths[8:], paths[:4], paths[4:8])
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_validation_rows_of_root_stay_with_a_test_root(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(9)], "split": ["train", "val", "test"] * 3})
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{ending}"
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_json(path, orient="records", lines=True)
    train, validation, test = open_splits(TextFiles, tmp_path / f"a.{ending}", test_root=str(tmp_path / f"b.{ending}"))
    assert [validation[i]["inputs"]["text"].item() for i in range(3)] == ["text 1", "text 4", "text 7"]
    assert (len(train), len(validation), len(test)) == (6, 3, 9)
    assert all(str(tmp_path / "b") in text for text in descriptions(test))


def test_validation_folder_of_root_stays_with_a_test_root(tmp_path: Path) -> None:
    for folder in ("root/train", "root/val", "other"):
        writer_of(TableFiles)(tmp_path / folder)
    datasets = open_splits(TableFiles, tmp_path / "root", test_root=str(tmp_path / "other"))
    for dataset, folder in zip(datasets, ("root/train", "root/val", "other"), strict=True):
        assert all(f"/{folder}/" in text for text in descriptions(dataset))
        assert len(dataset) == 40


# --- npz ------------------------------------------------------------------------------------------------------------


def write_npz(path: Path, counts: dict[str, int], key: str = "images") -> dict[str, Any]:
    """Write an array of images and one of labels for each prefix."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for prefix, count in counts.items():
        arrays[f"{prefix}{key}"] = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{prefix}labels"] = (np.arange(count) % 2)[:, None]
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("prefix", ["val_", "valid_", "validation_", "dev_"])
@pytest.mark.parametrize(("cls", "key"), [(MedicalImageFiles, "images"), (SeriesFiles, "series")])
def test_npz_with_validation_arrays(tmp_path: Path, prefix: str, cls: type[Dataset], key: str) -> None:
    arrays = write_npz(tmp_path / "a.npz", {"train_": 12, "test_": 5, prefix: 4}, key)
    for dataset, name in zip(open_splits(cls, tmp_path / "a.npz"), ("train_", prefix, "test_"), strict=True):
        assert dataset.splits == ("train", "validation", "test")
        values = [next(iter(dataset[i]["inputs"].values())).reshape(8, 8) for i in range(len(dataset))]
        np.testing.assert_array_equal(values, arrays[name + key])
        assert [dataset[i]["label"] for i in range(len(dataset))] == arrays[f"{name}labels"].ravel().tolist()


def test_npz_with_a_test_root(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"train_": 12, "val_": 4, "test_": 5})
    write_npz(tmp_path / "b.npz", {"train_": 3, "val_": 2, "test_": 7})
    datasets = open_splits(ImageFiles, tmp_path / "a.npz", test_root=str(tmp_path / "b.npz"))
    assert [len(dataset) for dataset in datasets] == [12, 4, 7]


@pytest.mark.parametrize(("prefixes", "counts"), [(("val_",), [8, 4, 2]), (("val_", "test_"), [10, 4, 4])])
def test_npz_with_an_unprefixed_training_array(tmp_path: Path, prefixes: Sequence[str], counts: list[int]) -> None:
    write_npz(tmp_path / "a.npz", {"": 10} | dict.fromkeys(prefixes, 4))
    assert [len(dataset) for dataset in open_splits(ImageFiles, tmp_path / "a.npz")] == counts


# --- windows --------------------------------------------------------------------------------------------------------


def test_validation_windows_are_the_end_of_the_training_part(tmp_path: Path) -> None:
    pd.DataFrame({"x": np.arange(100.0)}).to_csv(tmp_path / "a.csv", index=False)
    datasets = open_splits(
        SeriesFiles, tmp_path / "a.csv", window=10, stride=5, test_fraction=0.2, validation_fraction=0.25
    )
    ranges = [
        (min(values), max(values))
        for dataset in datasets
        for values in [np.concatenate([dataset[i]["inputs"]["series"][0] for i in range(len(dataset))])]
    ]
    assert ranges == [(0, 59), (60, 79), (80, 99)]
    (tmp_path / "a.txt").write_text("ACGT" * 25 + "\n")
    datasets = open_splits(
        SequenceFiles, tmp_path / "a.txt", window=10, stride=5, test_fraction=0.2, validation_fraction=0.25
    )
    begin = [[int(text.split(" letters ")[1].split()[0]) for text in descriptions(dataset)] for dataset in datasets]
    assert [(min(numbers), max(numbers)) for numbers in begin] == [(1, 51), (61, 71), (81, 91)]


def test_ids_are_whole_in_the_validation_split(tmp_path: Path) -> None:
    rows = [f"{person},{step}.5" for person in range(10) for step in range(20)]
    for day in range(2):
        (tmp_path / f"day{day}.csv").write_text("\n".join(["id,x", *rows]) + "\n")
    people = [
        {(int(text.split("row ")[1].split()[0]) - 1) // 20 for text in descriptions(dataset)}
        for dataset in open_splits(SeriesFiles, tmp_path, window=10, validation_fraction=0.25)
    ]
    assert [len(names) for names in people] == [6, 2, 2]
    assert set().union(*people) == set(range(10))


def test_validation_groups_without_groups_are_refused(tmp_path: Path, assert_refused: Callable[..., None]) -> None:
    (tmp_path / "a.txt").write_text("ACGT" * 25 + "\n")
    pd.DataFrame({"x": np.arange(100.0)}).to_csv(tmp_path / "a.csv", index=False)
    for cls, name in ((SequenceFiles, "a.txt"), (SeriesFiles, "a.csv")):
        message = "dataset.validation_groups needs groups"
        assert_refused(cls, tmp_path / name, message, window=10, validation_groups="a")


def test_the_end_of_training_is_the_test_split_where_only_validation_is_named(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / "series" / folder).mkdir(parents=True)
        pd.DataFrame({"x": np.arange(100.0)}).to_csv(tmp_path / "series" / folder / "a.csv", index=False)
        (tmp_path / "bases" / folder).mkdir(parents=True)
        (tmp_path / "bases" / folder / "a.txt").write_text("ACGT" * 25 + "\n")
    for cls, root in ((SeriesFiles, tmp_path / "series"), (SequenceFiles, tmp_path / "bases")):
        train, validation, test = open_splits(cls, root, window=10)
        assert len(train.warnings) == 1
        assert (len(train), len(validation), len(test)) == (8, 10, 2)
        assert all("/val/" in text for text in descriptions(validation))
        with pytest.raises(ConfigError, match="the data name the validation split"):
            open_splits(cls, root, window=10, validation_fraction=0.5)


def test_an_id_in_several_training_files_is_whole_where_only_validation_is_named(tmp_path: Path) -> None:
    rows = [f"{person},{step}.5" for person in range(5) for step in range(10)]
    for name in ("train/day0", "train/day1", "val/day2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,x", *rows]) + "\n")
    train, validation, test = open_splits(SeriesFiles, tmp_path, window=10)
    assert (len(train), len(validation), len(test)) == (8, 5, 2)
    assert {text.split(" row ")[1] for text in descriptions(train)}.isdisjoint(
        text.split(" row ")[1] for text in descriptions(test)
    )


def test_run_with_a_validation_split(tmp_path: Path, run_files: Callable[..., dict[str, Any]]) -> None:
    frame = pd.DataFrame(
        {"x": np.arange(40) % 7, "label": np.arange(40) % 2, "site": [f"site{i % 5}" for i in range(40)]}
    )
    frame.to_csv(tmp_path / "patients.csv", index=False)
    options = ("dataset.group=site", "dataset.test_groups=site1,site2", "dataset.validation_groups=site3")
    report = run_files("tabular", tmp_path / "patients.csv", *(part for text in options for part in ("--set", text)))
    assert report["scores"]
