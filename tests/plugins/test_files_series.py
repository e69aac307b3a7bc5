"""Data set `files` for time series: windows, splits of whole series, sorting by time, arrays, errors."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from ssl_plugins.datasets._io.series import windows as series_windows
from ssl_plugins.datasets.user.files_series import SeriesFiles


def long_table(series=6, rows=50):
    """Channel x counts the rows of a series, channel y is its index; the rows are shuffled."""
    frame = pd.DataFrame(
        {
            "id": np.repeat([f"p{i}" for i in range(series)], rows),
            "moment": np.tile(np.arange(rows), series),
            "x": np.tile(np.arange(rows), series) + 0.5,
            "y": np.repeat(np.arange(series), rows),
            "label": np.repeat([("run", "walk")[i % 2] for i in range(series)], rows),
        }
    )
    return frame.sample(frac=1, random_state=0)


def write(path, frame):
    frame.to_csv(path, index=False)
    return path


def test_windows_are_sorted_and_within_one_series(tmp_path, open_both):
    path = write(tmp_path / "a.csv", long_table())
    datasets = open_both(SeriesFiles, path, time="moment", window=20, stride=10)
    assert datasets[0].fields["series"].shape == (2, 20)
    seen = []
    for dataset in datasets:
        people = set()
        for index in range(len(dataset)):
            sample = dataset[index]
            x, y = sample["inputs"]["series"]
            np.testing.assert_array_equal(np.diff(x), 1)
            assert (y == y[0]).all()
            assert sample["label"] == y[0] % 2
            people.add(int(y[0]))
            seen.append((int(y[0]), float(x[0])))
        assert dataset.task.names == ("run", "walk")
        if dataset is datasets[1]:
            assert len(people) == 2  # one of each class, whole
    assert sorted(seen) == [(p, s + 0.5) for p in range(6) for s in (0, 10, 20, 30)]
    assert len(datasets[1]) == 8
    assert pickle.loads(pickle.dumps(datasets[1]))[2]["label"] == datasets[1][2]["label"]


def test_dates_sort_like_numbers(tmp_path, open_both):
    frame = long_table()
    frame["moment"] = pd.Timestamp("2024-02-28") + pd.to_timedelta(frame["moment"], unit="h")
    train, _ = open_both(SeriesFiles, write(tmp_path / "a.csv", frame), time="moment", window=50)
    np.testing.assert_array_equal(train[0]["inputs"]["series"][0], np.arange(50) + 0.5)


def test_end_of_a_single_series_is_the_test_split(tmp_path, open_both):
    frame = pd.DataFrame({"x": np.arange(100.0)})
    train, test = open_both(SeriesFiles, write(tmp_path / "a.csv", frame), window=10, stride=5, test_fraction=0.3)
    last = max(train[i]["inputs"]["series"].max() for i in range(len(train)))
    first = min(test[i]["inputs"]["series"].min() for i in range(len(test)))
    assert (last, first) == (69, 70)
    assert test.describe(0) == f"{tmp_path / 'a.csv'} row 71 to 80"


def test_series_of_one_id_in_several_files_share_a_split(tmp_path, open_both):
    """Six people on two days, one file for each day: no person is in both splits."""
    for day in range(2):
        write(tmp_path / f"day{day}.csv", long_table())
    train, test = open_both(SeriesFiles, tmp_path, time="moment", window=25)
    people = [{int(split[i]["inputs"]["series"][1][0]) for i in range(len(split))} for split in (train, test)]
    assert people[0] & people[1] == set()
    assert people[0] | people[1] == set(range(6))
    assert (len(train), len(test)) == (4 * len(people[0]), 4 * len(people[1]))
    write(tmp_path / "day2.csv", long_table(series=1))
    train, test = open_both(SeriesFiles, tmp_path / "day2.csv", time="moment", window=10)  # a single series
    assert len(test)


@pytest.mark.parametrize("person", ["p0", "p1", "p2"])
def test_ids_without_a_window_are_not_drawn_for_the_test_split(tmp_path, open_both, person):
    """One of three people, on three days each, has too few rows for a window."""
    for day in range(3):
        frame = long_table(series=3)
        write(tmp_path / f"day{day}.csv", frame[(frame["id"] != person) | (frame["moment"] < 5)].drop(columns="label"))
    train, test = open_both(SeriesFiles, tmp_path, time="moment", window=25)
    assert len(train)
    assert len(test)


def test_warning_counts_series_shorter_than_a_window(tmp_path, open_both):
    frame = long_table()
    whole = open_both(SeriesFiles, write(tmp_path / "a.csv", frame), time="moment", window=20)
    assert whole[0].warnings == ()
    cut = frame[~frame["id"].isin(["p1", "p2"]) | (frame["moment"] < 19)]
    train, _ = open_both(SeriesFiles, write(tmp_path / "b.csv", cut), time="moment", window=20)
    assert train.warnings == ("2 of 6 series have less than 20 rows and are left out",)


def test_one_file_per_series_with_groups_from_names(tmp_path, open_both):
    for who in range(4):
        for take in range(2):
            frame = pd.DataFrame({"x": np.arange(30.0), "label": ["sit"] * 17 + ["go"] * 13, "note": "a"})
            write(tmp_path / f"s{who}_{take}.csv", frame)
    train, test = open_both(
        SeriesFiles, tmp_path, window=10, label_pattern=r"(?P<group>s\d)_\d", test_groups="s2", label_share=0.8
    )
    assert {test.describe(i).split("/")[-1][:2] for i in range(len(test))} == {"s2"}
    assert len(test) == 4  # the middle one of three windows is mixed
    assert len(train) == 12
    assert train.warnings == ("8 of 24 windows of mixed labels are left out",)
    assert train.fields["series"].shape == (1, 10)


@pytest.mark.parametrize("ending", ["npz", "npy"])
def test_arrays(tmp_path, open_both, ending):
    x = np.random.default_rng(0).normal(size=(20, 3, 32)).astype(np.float32)
    if ending == "npy":
        np.save(tmp_path / "a.npy", x)
    else:
        np.savez(tmp_path / "a.npz", series=x, labels=np.arange(20) % 2, groups=np.arange(20) // 4)
    datasets = open_both(SeriesFiles, tmp_path / f"a.{ending}")
    assert datasets[0].fields["series"].shape == (3, 32)
    for dataset in datasets:
        number = int(dataset.describe(0).rsplit(" ", 1)[1]) - 1
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[0]["inputs"]["series"], x[number])
    assert (datasets[0].task is None) == (ending == "npy")


def test_error_messages(tmp_path, assert_refused):
    frame = long_table()
    path = write(tmp_path / "a.csv", frame)
    assert_refused(SeriesFiles, path, "no series has 320 rows, the longest has 50", "dataset.window")
    assert_refused(SeriesFiles, path, "no column 'z'", "dataset.channels", channels="x,z", window=10)
    text = frame.astype(str)
    text.iloc[6, 2] = "lost"
    assert_refused(SeriesFiles, write(tmp_path / "b.csv", text), "b.csv row 7: column 'x' holds 'lost'", window=10)
    text = frame.astype(str)
    text.iloc[6, 1] = "noon"
    assert_refused(
        SeriesFiles, write(tmp_path / "c.csv", text), "c.csv row 7: column 'moment'", time="moment", window=10
    )
    changing = frame.sort_index()
    changing["group"] = np.arange(len(frame)) // 70
    assert_refused(SeriesFiles, write(tmp_path / "d.csv", changing), "the group changes within a series", window=10)
    np.savez(tmp_path / "e.npz", series=np.zeros((4, 2, 9)), labels=np.zeros(3))
    assert_refused(SeriesFiles, tmp_path / "e.npz", "has 4 samples, but 3 labels")


@pytest.mark.parametrize("kind", ["time of day", "duration", "date", "timestamp"])
def test_parquet_times_sort_like_numbers(tmp_path, open_both, kind):
    frame = long_table(rows=20)
    days = pd.to_timedelta(frame["moment"] * 3601, unit="s")
    stamp = pd.Timestamp("2024-02-28") + (days * 24 if kind == "date" else days)
    frame["moment"] = {
        "duration": days, "timestamp": stamp, "date": stamp.dt.date, "time of day": stamp.dt.time
    }[kind]  # fmt: skip
    frame.to_parquet(tmp_path / "a.parquet")
    train, _ = open_both(SeriesFiles, tmp_path / "a.parquet", time="moment", window=20)
    np.testing.assert_array_equal(train[0]["inputs"]["series"][0], np.arange(20) + 0.5)


def test_missing_and_unsortable_times_are_refused(tmp_path, assert_refused):
    frame = long_table(rows=20).reset_index(drop=True)
    frame["moment"] = pd.to_timedelta(frame["moment"], unit="s")
    frame.loc[4, "moment"] = pd.NaT
    frame.to_parquet(tmp_path / "a.parquet")
    assert_refused(SeriesFiles, tmp_path / "a.parquet", "a.parquet row 5: column 'moment'", time="moment", window=20)
    frame["moment"] = [[1, 2]] * len(frame)
    frame.to_parquet(tmp_path / "b.parquet")
    assert_refused(
        SeriesFiles, tmp_path / "b.parquet", "b.parquet: column 'moment' is of type list", time="moment", window=20
    )


@pytest.mark.parametrize("task", ["auto", "number"])
def test_numeric_label_of_a_window_is_the_mean_of_its_rows(tmp_path, open_both, assert_refused, task):
    frame = long_table()
    frame["label"] = frame["y"] * 10 + frame["moment"] + (0.25 if task == "auto" else 0)
    path = write(tmp_path / "a.csv", frame)
    for dataset in open_both(SeriesFiles, path, time="moment", window=20, stride=10, task=task):
        assert dataset.task.kind == "number"
        for index in range(len(dataset)):
            x, y = dataset[index]["inputs"]["series"].astype(np.float64)
            assert dataset[index]["label"] == pytest.approx((y * 10 + x - (0.25 if task == "auto" else 0.5)).mean())
    assert_refused(
        SeriesFiles, path, " and in all other windows less than 50% of the rows have one label", "dataset.task=number",
        time="moment", window=20, task="classes",
    )  # fmt: skip


def test_numeric_labels_of_arrays(tmp_path, open_both, assert_refused):
    x = np.random.default_rng(0).normal(size=(20, 3, 32)).astype(np.float32)
    np.savez(tmp_path / "a.npz", series=x, labels=np.arange(20) + 0.5)
    np.savez(tmp_path / "b.npz", series=x, labels=np.arange(20))
    for name, task, step in (("a", "auto", 0.5), ("b", "number", 0)):
        for dataset in open_both(SeriesFiles, tmp_path / f"{name}.npz", task=task):
            assert dataset.task.kind == "number"
            for index in range(len(dataset)):
                assert dataset[index]["label"] == int(dataset.describe(index).rsplit(" ", 1)[1]) - 1 + step
    np.savez(tmp_path / "c.npz", series=x)
    assert_refused(SeriesFiles, tmp_path / "c.npz", "c.npz sample 1 has no label that is a number", task="number")
    path = write(tmp_path / "d.csv", long_table().drop(columns="label"))
    assert_refused(
        SeriesFiles, path, "d.csv row 1 has no label that is a number", "dataset.label", task="number", window=10
    )


def test_one_label_per_array_of_a_folder(tmp_path, open_both):
    for i in range(4):
        (tmp_path / "rw"[i % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "rw"[i % 2] / f"{i}.npy", np.full((3, 2, 9), i % 2))
    train, _ = open_both(SeriesFiles, tmp_path)
    assert train.task.names == ("r", "w")
    assert all(train[i]["label"] == train[i]["inputs"]["series"][0, 0] for i in range(len(train)))


@pytest.mark.parametrize(("classes", "run_length"), [(3, 1), (3, 40), (500, 1), (500, 7)])
def test_majority_label_of_a_window(classes, run_length, monkeypatch):
    monkeypatch.setattr(series_windows, "MAX_BLOCK_ROWS", 100)  # several blocks of windows
    random = np.random.default_rng(classes + run_length)
    codes = np.repeat(random.integers(0, classes, 700), run_length)[:700].astype(np.int32)
    begin = np.sort(random.integers(0, 700 - 24 + 1, 90))
    labels, share = series_windows.majority_labels(codes, np.append(begin, 700 - 24), 24)
    for i, start in enumerate([*begin, 700 - 24]):
        names, counts = np.unique(codes[start : start + 24], return_counts=True)
        assert (labels[i], share[i] * 24) == (names[counts.argmax()], counts.max())


def test_majority_labels_with_100_000_classes():
    codes = np.arange(100_000, dtype=np.int32)
    labels, share = series_windows.majority_labels(codes, np.arange(0, 99_900, 50), 100)
    np.testing.assert_array_equal(labels, np.arange(0, 99_900, 50))
    assert (share == 0.01).all()


def test_arrays_that_are_not_series_are_refused(tmp_path, assert_refused):
    np.savez(tmp_path / "a.npz", pixels=np.zeros(4), offset=np.arange(5), height=np.ones(4, int), width=np.ones(4, int))
    assert_refused(SeriesFiles, tmp_path / "a.npz", "a.npz holds pixels, offset, height and width", "wafer maps")
    np.savez(tmp_path / "b.npz", series=np.zeros((4, 2, 3, 9)))
    assert_refused(SeriesFiles, tmp_path / "b.npz", "b.npz holds float64 of shape (4, 2, 3, 9); time series are arrays")
    np.savez(tmp_path / "c.npz", series=np.zeros((4, 9), "U3"))
    assert_refused(SeriesFiles, tmp_path / "c.npz", "c.npz holds <U3 of shape (4, 9)")
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "d.npy", np.zeros((4, 2, 9)))
    np.save(tmp_path / "in" / "e.npy", np.zeros((4, 3, 9)))
    assert_refused(SeriesFiles, tmp_path / "in", "e.npy: samples are of 3 channels, those of", "d.npy of 2 channels")


@pytest.mark.parametrize("label", ["run", "0.5"])
def test_runs(tmp_path, run_files, label):
    frame = long_table(rows=96)
    if label == "0.5":
        frame["label"] = frame["x"]
    path = write(tmp_path / "a.csv", frame)
    assert run_files("time-series", path, "--set", "dataset.window=32", "--set", "dataset.time=moment")["scores"]


def test_real_phone_and_watch_data(tmp_path, shared_data, open_both):
    for folder in (shared_data / "sp_sw_har" / "DATA").glob("s[0-9][0-9]"):
        (tmp_path / folder.name).symlink_to(folder)
    train, test = open_both(
        SeriesFiles, tmp_path, drop_columns="timestamp", window=100, stride=50, label_share=0.8,
        label_pattern=r"(?P<group>s\d\d)_\d\d_s[pw]\.csv",
        test_groups="s19,s20,s21,s22,s23",
    )  # fmt: skip
    assert train.fields["series"].shape == (6, 100)
    assert train.task.size == 5
    assert 1500 < len(train) + len(test) < 3500
